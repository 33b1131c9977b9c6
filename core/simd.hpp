// Vector code without a library and without -march: branch-free loops that the compiler vectorises, compiled once per instruction set.
//
//   TTR_SIMD_CLONES void scale(float* x, int64_t n, float a) { ... }     one binary, the best clone chosen when the program starts
//
// Clones are for plain functions; what they call in a loop must be always_inline (TTR_SIMD_INLINE) to be compiled with them.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#define TTR_SIMD_INLINE inline __attribute__((always_inline))

// The clones are chosen by a resolver that runs before a sanitizer is ready; clang spells and treats the attribute differently.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TTR_SIMD_CLONED 1
#define TTR_SIMD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define TTR_SIMD_CLONES
#endif

namespace ttr {

constexpr int64_t kSimdLanes = 16;   // floats of the widest register; rows padded to it have no remainder loop

// e^x = 2^(n-1) 2e^r with n = round(x / ln 2), |r| <= ln 2 / 2, and a polynomial for 2e^r. Relative error below 1e-7 where the result
// is a normal number; 0 from about -87 down (a subnormal factor would slow every product after it), infinity from 88.73 up, NaN stays NaN.
// The builtin, since std::bit_cast may be left a function of the build's own instructions: a call out of whole registers into SSE took 300 cycles.
TTR_SIMD_INLINE float fast_exp(float x) {
  x = x < -87.3f ? -87.3f : x;                           // n = -126, so that 2^(n-1) is written as 0
  x = x > 89.0f ? 89.0f : x;                             // n = 128: overflows to infinity
  constexpr float kShift = 0x1.8p23f;                    // adding it rounds to an integer, which then stands in the low bits
  const float shifted = x * 0x1.715476p+0f + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0x1.62e400p-1f) - n * 0x1.7f7d1cp-20f;   // ln 2 in two parts; the first has trailing zeros, so n times it is exact
  float p = 0x1.6a2416p-9f;                              // minimax for the relative error, fitted with the coefficients 2, 2 held fixed
  p = p * r + 0x1.1239f4p-6f;
  p = p * r + 0x1.5558f2p-4f;
  p = p * r + 0x1.555492p-2f;
  p = p * r + 0x1.fffffcp-1f;
  p = p * r + 2.0f;
  p = p * r + 2.0f;
  const uint32_t whole = __builtin_bit_cast(uint32_t, shifted) - __builtin_bit_cast(uint32_t, kShift);   // n, modulo 2^32
  return p * __builtin_bit_cast(float, (whole + 126u) << 23);
}

TTR_SIMD_INLINE double fast_exp(double x) { return std::exp(x); }

// e^x and e^x - 1 for x <= 0, each to 1e-7 of itself: 2^(n-1) (2e^r - 2) + (2^n - 1) keeps its digits where x is nearly 0. NaN stays NaN.
template <class T> struct ExpPair { T whole, less_one; };
TTR_SIMD_INLINE ExpPair<float> fast_exp_pair(float x) {
  x = x < -87.3f ? -87.3f : x;
  constexpr float kShift = 0x1.8p23f;
  const float shifted = x * 0x1.715476p+0f + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0x1.62e400p-1f) - n * 0x1.7f7d1cp-20f;
  float p = 0x1.6a2416p-9f;                              // the polynomial of fast_exp, less its last 2
  p = p * r + 0x1.1239f4p-6f;
  p = p * r + 0x1.5558f2p-4f;
  p = p * r + 0x1.555492p-2f;
  p = p * r + 0x1.fffffcp-1f;
  p = p * r + 2.0f;
  p = p * r;
  const uint32_t whole = __builtin_bit_cast(uint32_t, shifted) - __builtin_bit_cast(uint32_t, kShift);
  const float half = __builtin_bit_cast(float, (whole + 126u) << 23);   // 2^(n-1)
  return {half * (p + 2.0f), half * p + (2.0f * half - 1.0f)};
}

TTR_SIMD_INLINE ExpPair<double> fast_exp_pair(double x) { return {std::exp(x), std::expm1(x)}; }

TTR_SIMD_INLINE float fast_sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

}  // namespace ttr
