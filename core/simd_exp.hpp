// Exponentials of whole registers, for exponents that are not above 127 (decays have none above 0). Included by what simd_sets.hpp compiles, once a
// set, hence without a guard.
//
// 2^z = 2^n 2^r. With eight lanes or more n = round(8 z) / 8, the lanes of one register are the table of 2^(i/8), and 2^r - 1, |r| <= 1/16, is
// three terms; with four lanes n is whole and 2^r, |r| <= 1/2, has seven. Relative error below 1.3e-7, on average 3e-8.
// Below 2^-126 the digits go, from 2^-127 down the answer is 0, and NaN stays NaN.
#include <ttr/core/simd_vector.hpp>

namespace ttr::TTR_SIMD_SET {
namespace {

// lanes of x below the limit become it; NaN stays
TTR_SIMD_INLINE Vec<float> at_least(float limit, Vec<float> x) {
  const Vec<float> least = Vec<float>{} + limit;
#if defined(__x86_64__) && TTR_SIMD_BYTES == 64
  return Vec<float>(_mm512_maskz_max_ps(__mmask16(-1), __m512(least), __m512(x)));   // the second operand where one is NaN
#elif defined(__x86_64__) && TTR_SIMD_BYTES == 32
  return Vec<float>(_mm256_max_ps(__m256(least), __m256(x)));
#elif defined(__x86_64__)
  return Vec<float>(_mm_max_ps(__m128(least), __m128(x)));
#else
  return x < least ? least : x;
#endif
}

TTR_SIMD_INLINE Vec<double> at_least(double limit, Vec<double> x) { return x < limit ? Vec<double>{} + limit : x; }

typedef typename IndexRegister<float>::type Bits;
template <class> struct EighthTable;
template <int... L> struct EighthTable<std::integer_sequence<int, L...>> {
  static constexpr uint32_t of_eighth[8] = {0x3f800000, 0x3f8b95c2, 0x3f9837f0, 0x3fa5fed7, 0x3fb504f3, 0x3fc5672a, 0x3fd744fd, 0x3feac0c7};
  // 2^(i/8) less what i leaves in the mantissa when n is shifted into the exponent
  static constexpr Bits bits = {int32_t(of_eighth[L % 8] - (uint32_t(L % 8) << 20))...};
};

// 2^(n + r): n stands in the low bits of `shifted`, in eighths or whole
constexpr bool kEighths = Register<float>::lanes >= 8;
constexpr float kExpShift = kEighths ? 0x1.8p20f : 0x1.8p23f;   // adding it rounds to what n may be
TTR_SIMD_INLINE Vec<float> exp2_of(Vec<float> shifted, Vec<float> r) {
  const Bits n = Bits(shifted);
  if constexpr (kEighths) {
    typedef EighthTable<std::make_integer_sequence<int, int(Register<float>::lanes)>> Table;
    const Vec<float> whole = Vec<float>((n << 20) + pick_lanes(Table::bits, n));
    return whole * (r * (0x1.62e432p-1f + r * (0x1.ec0c32p-3f + r * 0x1.c6a004p-5f))) + whole;
  } else {
    Vec<float> p = 0x1.41fbb8p-13f * r + 0x1.5f3e54p-10f;
    p = p * r + 0x1.3b2d4cp-7f;
    p = p * r + 0x1.c6aee8p-5f;
    p = p * r + 0x1.ebfbdcp-3f;
    p = p * r + 0x1.62e430p-1f;
    p = p * r + 1.0f;
    return p * Vec<float>((n + 127) << 23);
  }
}

TTR_SIMD_INLINE Vec<float> exp2_lanes(Vec<float> z) {
  z = at_least(-127.0f, z);
  const Vec<float> shifted = z + kExpShift;
  return exp2_of(shifted, z - (shifted - kExpShift));
}
TTR_SIMD_INLINE Vec<float> exp_lanes(Vec<float> x) {   // ln 2 in two parts, so that all digits of x count; not finite from 88.7 up
  const Vec<float> most = Vec<float>{} + 89.0f;
  x = at_least(-88.0296919f, x > most ? most : x);
  const Vec<float> shifted = x * 0x1.715476p+0f + kExpShift, n = shifted - kExpShift;
  return exp2_of(shifted, ((x - n * 0x1.62e400p-1f) - n * 0x1.7f7d1cp-20f) * 0x1.715476p+0f);
}
TTR_SIMD_INLINE Vec<double> exp2_lanes(Vec<double> z) {
  for (int l = 0; l < int(Register<double>::lanes); ++l) z[l] = std::exp2(z[l]);
  return z;
}
TTR_SIMD_INLINE Vec<double> exp_lanes(Vec<double> x) {
  for (int l = 0; l < int(Register<double>::lanes); ++l) x[l] = std::exp(x[l]);
  return x;
}

// 1 / (1 + e^-x) at x and at -x, each to its own digits; relative error 2e-7 and |x| times 1e-7.
template <class T> struct Sigmoid { Vec<T> at_x, at_minus_x; };
template <class T> TTR_SIMD_INLINE Sigmoid<T> sigmoid_lanes(Vec<T> x) {
  constexpr T kLeast = sizeof(T) == 4 ? -87 : -700;   // e^-x stays finite
  const Vec<T> e = exp2_lanes(at_least(kLeast, x) * T(-1.4426950408889634)), part = T(1) / (T(1) + e);
  return {part, e * part};
}

// e^x and e^x - 1 for x <= 0, each to 1e-7 of itself: fast_exp_pair of simd.hpp, a register at a time
template <class T> struct PairLanes { Vec<T> whole, less_one; };
TTR_SIMD_INLINE PairLanes<float> exp_pair_lanes(Vec<float> x) {
  x = at_least(-87.3f, x);
  const Vec<float> shifted = x * 0x1.715476p+0f + 0x1.8p23f, n = shifted - 0x1.8p23f;
  const Vec<float> r = (x - n * 0x1.62e400p-1f) - n * 0x1.7f7d1cp-20f;
  Vec<float> p = 0x1.6a2416p-9f * r + 0x1.1239f4p-6f;
  p = p * r + 0x1.5558f2p-4f;
  p = p * r + 0x1.555492p-2f;
  p = p * r + 0x1.fffffcp-1f;
  p = p * r + 2.0f;
  p = p * r;
  const Vec<float> half = Vec<float>((Bits(shifted) + 126) << 23);   // 2^(n-1): what the shift adds in high bits falls out
  return {half * (p + 2.0f), half * p + (2.0f * half - 1.0f)};
}
TTR_SIMD_INLINE PairLanes<double> exp_pair_lanes(Vec<double> x) {
  PairLanes<double> y;
  for (int l = 0; l < int(Register<double>::lanes); ++l) y.whole[l] = std::exp(x[l]), y.less_one[l] = std::expm1(x[l]);
  return y;
}

}  // namespace
}  // namespace ttr::TTR_SIMD_SET
