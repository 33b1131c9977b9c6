// Elementwise loops on the CPU: y_i = f(x_i), y_i = f(a_i, b_i), copies with strides. f32 and f64.
// In f32 the functions are branch-free polynomials (relative error below 2e-7 where the result is a normal number), compiled once per
// instruction set; in f64 they are the standard library's. Loops over elements may run in place, so they are declared independent (ivdep).
#include <algorithm>
#include <cstring>
#include <ttr/core/ops/elementwise_kernel.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>

namespace ttr::cpu {

namespace {

constexpr int64_t kGrain = 32768;   // elements below which a second thread costs more than it gives

// -- functions of one float ------------------------------------------------------------------------------------------------------------

// log x: x = 2^e m with m in [sqrt(1/2), sqrt 2), f = m - 1, s = f / (2 + f): log(1 + f) = 2 artanh s = f - f^2/2 + s (f^2/2 + R),
// R = 2 s^2 (s^2/3 + s^4/5 ...) of the series; |s| < 0.172, so what is left out is below 2e-9 of the result.
TTR_SIMD_INLINE float fast_log(float x) {
  constexpr float kSmallest = 0x1p-126f;
  const bool tiny = x < kSmallest;
  const float scaled = tiny ? x * 0x1p23f : x;
  const uint32_t bits = std::bit_cast<uint32_t>(scaled);
  const uint32_t shifted = bits - 0x3f3504f3u;   // sqrt(1/2)
  const float e = float(int32_t(shifted) >> 23) - (tiny ? 23.0f : 0.0f);
  const float f = std::bit_cast<float>((shifted & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
  const float s = f / (2.0f + f), z = s * s, half = 0.5f * f * f;
  const float series = z * (0x1.555556p-1f + z * (0.4f + z * (0x1.24924ap-2f + z * 0x1.c71c72p-3f)));   // 2/3, 2/5, 2/7, 2/9
  const float y = e * 0x1.62e400p-1f + (f - (half - (s * (half + series) + e * 0x1.7f7d1cp-20f)));      // ln 2 in two parts
  const float at_ends = x == 0 ? -std::numeric_limits<float>::infinity() : (x > 0 ? x : std::numeric_limits<float>::quiet_NaN());
  return (x > 0) & (x < std::numeric_limits<float>::infinity()) ? y : at_ends;
}

// log(1 + x) = log w + (x - (w - 1)) / w with w the rounded 1 + x.
TTR_SIMD_INLINE float fast_log1p(float x) {
  const float w = 1.0f + x;
  const float lost = (x - (w - 1.0f)) / w;
  return fast_log(w) + ((w > 0) & (w < std::numeric_limits<float>::infinity()) ? lost : 0.0f);
}

// e^x - 1 = 2^n (e^r - 1) + (2^n - 1); accurate near 0, where n = 0.
TTR_SIMD_INLINE float fast_expm1(float x) {
  x = x < -30.0f ? -30.0f : x;
  x = x > 89.0f ? 89.0f : x;   // n = 128: overflows to infinity; NaN stays NaN
  constexpr float kShift = 0x1.8p23f;
  const float shifted = x * 0x1.715476p+0f + kShift;
  const float n = shifted - kShift;
  const float r = (x - n * 0x1.62e400p-1f) - n * 0x1.7f7d1cp-20f;
  float p = 0x1.a01a02p-13f;     // 1/7!
  p = p * r + 0x1.6c16c2p-10f;   // 1/6!
  p = p * r + 0x1.111112p-7f;
  p = p * r + 0x1.555556p-5f;
  p = p * r + 0x1.555556p-3f;
  p = p * r + 0.5f;
  p = p * (r * r) + r;
  const uint32_t whole = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kShift);
  const float half_power = std::bit_cast<float>((whole + 126u) << 23);   // 2^(n-1): 2^128 is not a float
  return 2.0f * (half_power * p + (half_power - 0.5f));
}

TTR_SIMD_INLINE float fast_tanh(float x) {
  const float size = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0x7fffffffu);
  const float u = fast_expm1(-2.0f * size);
  const float y = -u / (2.0f + u);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(y) | (std::bit_cast<uint32_t>(x) & 0x80000000u));
}

// log(1 + e^x) = max(x, 0) + log(1 + u), u = e^-|x| in [0, 1]; log(1 + u) = 2 artanh s, s = u / (2 + u) <= 1/3: a series without cancellation.
TTR_SIMD_INLINE float fast_softplus(float x) {
  const float size = std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0x7fffffffu);
  const float u = fast_exp(-size), s = u / (2.0f + u), z = s * s;
  float p = 2.0f / 15;   // next term: below 2e-9 of the sum
  p = p * z + 2.0f / 13;
  p = p * z + 2.0f / 11;
  p = p * z + 2.0f / 9;
  p = p * z + 2.0f / 7;
  p = p * z + 2.0f / 5;
  p = p * z + 2.0f / 3;
  p = p * z + 2.0f;
  return (x > 0 ? x : 0.0f) + s * p;
}

TTR_SIMD_INLINE float fast_gelu_gate(float x) { return fast_sigmoid(2.0f * element::gelu_inner(x)); }   // (1 + tanh u) / 2 = sigmoid(2u)

template <Unary op> TTR_SIMD_INLINE float value(float x) {
  if constexpr (op == Unary::exp)
    return fast_exp(x);
  else if constexpr (op == Unary::expm1)
    return fast_expm1(x);
  else if constexpr (op == Unary::log)
    return fast_log(x);
  else if constexpr (op == Unary::log1p)
    return fast_log1p(x);
  else if constexpr (op == Unary::tanh)
    return fast_tanh(x);
  else if constexpr (op == Unary::sigmoid)
    return fast_sigmoid(x);
  else if constexpr (op == Unary::softplus)
    return fast_softplus(x);
  else if constexpr (op == Unary::logsigmoid)
    return -fast_softplus(-x);
  else if constexpr (op == Unary::silu)
    return x * fast_sigmoid(x);
  else if constexpr (op == Unary::gelu)
    return x * fast_gelu_gate(x);
  else if constexpr (op == Unary::elu1)
    return x > 0 ? x + 1 : fast_exp(x);
  else
    return element::apply(op, x);
}
template <Unary op> TTR_SIMD_INLINE double value(double x) { return element::apply(op, x); }

// What stays cheap in both types is said here too: the shared switch is too large for the compiler to inline into a loop.
template <Unary op, class T> TTR_SIMD_INLINE T one(T x) {
  if constexpr (op == Unary::neg)
    return -x;
  else if constexpr (op == Unary::abs)
    return x < 0 ? -x : x;
  else if constexpr (op == Unary::sqrt)
    return std::sqrt(x);
  else if constexpr (op == Unary::rsqrt)
    return 1 / std::sqrt(x);
  else if constexpr (op == Unary::square)
    return x * x;
  else if constexpr (op == Unary::relu)
    return x > 0 ? x : (x <= 0 ? T(0) : x);
  else if constexpr (op == Unary::sign)
    return x > 0 ? T(1) : (x < 0 ? T(-1) : x * 0);
  else
    return value<op>(x);
}

template <Binary op, class T> TTR_SIMD_INLINE T one(T a, T b) {
  if constexpr (op == Binary::add)
    return a + b;
  else if constexpr (op == Binary::sub)
    return a - b;
  else if constexpr (op == Binary::mul)
    return a * b;
  else if constexpr (op == Binary::div)
    return a / b;
  else if constexpr (op == Binary::max)
    return (a >= b) | (a != a) ? a : b;
  else if constexpr (op == Binary::min)
    return (a <= b) | (a != a) ? a : b;
  else if constexpr (op == Binary::less)
    return a < b ? T(1) : T(0);
  else if constexpr (op == Binary::less_equal)
    return a <= b ? T(1) : T(0);
  else if constexpr (op == Binary::equal)
    return a == b ? T(1) : T(0);
  else if constexpr (op == Binary::elu1_backward)
    return b * (a >= 1 ? T(1) : a);
  else if constexpr (op == Binary::silu_backward && std::is_same_v<T, float>) {
    const float s = fast_sigmoid(a);
    return b * (s * (1 + a * (1 - s)));
  } else if constexpr (op == Binary::gelu_backward && std::is_same_v<T, float>) {
    const float g = fast_gelu_gate(a);   // t = 2g - 1, so (1 + t) / 2 = g and (1 - t^2) / 2 = 2 g (1 - g)
    return b * (g + a * (2 * g * (1 - g)) * (0.7978845608028654f * (1 + 3 * 0.044715f * a * a)));
  } else
    return element::apply(op, a, b);
}

// -- loops --------------------------------------------------------------------------------------------------------------------------------

template <Unary op, class T> TTR_SIMD_INLINE void loop(int64_t n, const T* x, T* y) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) y[i] = one<op>(x[i]);
}

template <class T> TTR_SIMD_INLINE void unary_loop(Unary op, int64_t n, const T* x, T* y) {
  switch (op) {
    case Unary::neg:
      return loop<Unary::neg>(n, x, y);
    case Unary::abs:
      return loop<Unary::abs>(n, x, y);
    case Unary::exp:
      return loop<Unary::exp>(n, x, y);
    case Unary::expm1:
      return loop<Unary::expm1>(n, x, y);
    case Unary::log:
      return loop<Unary::log>(n, x, y);
    case Unary::log1p:
      return loop<Unary::log1p>(n, x, y);
    case Unary::sqrt:
      return loop<Unary::sqrt>(n, x, y);
    case Unary::rsqrt:
      return loop<Unary::rsqrt>(n, x, y);
    case Unary::square:
      return loop<Unary::square>(n, x, y);
    case Unary::sin:
      return loop<Unary::sin>(n, x, y);
    case Unary::cos:
      return loop<Unary::cos>(n, x, y);
    case Unary::tanh:
      return loop<Unary::tanh>(n, x, y);
    case Unary::sigmoid:
      return loop<Unary::sigmoid>(n, x, y);
    case Unary::softplus:
      return loop<Unary::softplus>(n, x, y);
    case Unary::logsigmoid:
      return loop<Unary::logsigmoid>(n, x, y);
    case Unary::relu:
      return loop<Unary::relu>(n, x, y);
    case Unary::sign:
      return loop<Unary::sign>(n, x, y);
    case Unary::silu:
      return loop<Unary::silu>(n, x, y);
    case Unary::gelu:
      return loop<Unary::gelu>(n, x, y);
    case Unary::elu1:
      return loop<Unary::elu1>(n, x, y);
  }
}
TTR_SIMD_CLONES void unary_clones(Unary op, int64_t n, const float* x, float* y) { unary_loop(op, n, x, y); }
void unary_clones(Unary op, int64_t n, const double* x, double* y) { unary_loop(op, n, x, y); }

// Rows of the innermost axis from `first` to `last`: row(offset of operand 0, 1, 2) is called in order.
template <class Row> TTR_SIMD_INLINE void walk_rows(const Broadcast& s, int64_t first, int64_t last, Row&& row) {
  const int outer = s.rank - 1;
  int64_t index[6] = {}, at[3] = {};
  int64_t rest = first;
  for (int d = outer - 1; d >= 0; --d) {
    index[d] = rest % s.size[d];
    rest /= s.size[d];
    for (int k = 0; k < 3; ++k) at[k] += index[d] * s.stride[k][d];
  }
  for (int64_t r = first; r < last; ++r) {
    row(r, at[0], at[1], at[2]);
    for (int d = outer - 1; d >= 0; --d) {
      for (int k = 0; k < 3; ++k) at[k] += s.stride[k][d];
      if (++index[d] < s.size[d]) break;
      for (int k = 0; k < 3; ++k) at[k] -= s.size[d] * s.stride[k][d];
      index[d] = 0;
    }
  }
}

// Out of the clones: memory in strides is not worth vectors.
template <Binary op, class T> [[gnu::noinline]] void strided_row(int64_t n, const T* a, int64_t step_a, const T* b, int64_t step_b, T* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = one<op>(a[i * step_a], b[i * step_b]);
}

template <Binary op, class T> TTR_SIMD_INLINE void row(int64_t n, const T* a, int64_t step_a, const T* b, int64_t step_b, T* y) {
  if (step_a == 1 && step_b == 1) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = one<op>(a[i], b[i]);
  } else if (step_a == 1 && step_b == 0) {
    const T c = *b;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = one<op>(a[i], c);
  } else if (step_a == 0 && step_b == 1) {
    const T c = *a;
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) y[i] = one<op>(c, b[i]);
  } else {
    strided_row<op>(n, a, step_a, b, step_b, y);
  }
}

template <Binary op, class T> TTR_SIMD_INLINE void rows(const Broadcast& s, int64_t first, int64_t last, const T* a, const T* b, T* y) {
  const int inner = s.rank - 1;
  const int64_t n = s.size[inner], step_a = s.stride[0][inner], step_b = s.stride[1][inner];
  walk_rows(
      s, first, last, [&](int64_t r, int64_t at_a, int64_t at_b, int64_t) __attribute__((always_inline)) {
        row<op>(n, a + at_a, step_a, b + at_b, step_b, y + r * n);
      });
}

template <class T>
TTR_SIMD_INLINE void binary_rows(Binary op, const Broadcast& s, int64_t first, int64_t last, const T* a, const T* b, T* y) {
  switch (op) {
    case Binary::add:
      return rows<Binary::add>(s, first, last, a, b, y);
    case Binary::sub:
      return rows<Binary::sub>(s, first, last, a, b, y);
    case Binary::mul:
      return rows<Binary::mul>(s, first, last, a, b, y);
    case Binary::div:
      return rows<Binary::div>(s, first, last, a, b, y);
    case Binary::max:
      return rows<Binary::max>(s, first, last, a, b, y);
    case Binary::min:
      return rows<Binary::min>(s, first, last, a, b, y);
    case Binary::pow:
      return rows<Binary::pow>(s, first, last, a, b, y);
    case Binary::less:
      return rows<Binary::less>(s, first, last, a, b, y);
    case Binary::less_equal:
      return rows<Binary::less_equal>(s, first, last, a, b, y);
    case Binary::equal:
      return rows<Binary::equal>(s, first, last, a, b, y);
    case Binary::silu_backward:
      return rows<Binary::silu_backward>(s, first, last, a, b, y);
    case Binary::gelu_backward:
      return rows<Binary::gelu_backward>(s, first, last, a, b, y);
    case Binary::elu1_backward:
      return rows<Binary::elu1_backward>(s, first, last, a, b, y);
  }
}
TTR_SIMD_CLONES void binary_clones(Binary op, const Broadcast& s, int64_t first, int64_t last, const float* a, const float* b, float* y) {
  binary_rows(op, s, first, last, a, b, y);
}
void binary_clones(Binary op, const Broadcast& s, int64_t first, int64_t last, const double* a, const double* b,
                                   double* y) {
  binary_rows(op, s, first, last, a, b, y);
}

template <int M, int A, int B, class T> TTR_SIMD_INLINE void select_row(int64_t n, const T* mask, const T* a, const T* b, T* y) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T taken = a[i * A], other = b[i * B];
    y[i] = mask[i * M] != 0 ? taken : other;
  }
}

template <class T>
TTR_SIMD_INLINE void select_rows(const Broadcast& s, int64_t first, int64_t last, const T* mask, const T* a, const T* b, T* y) {
  const int inner = s.rank - 1;
  const int64_t n = s.size[inner], m = s.stride[0][inner], p = s.stride[1][inner], q = s.stride[2][inner];
  walk_rows(
      s, first, last, [&](int64_t r, int64_t at_m, int64_t at_a, int64_t at_b) __attribute__((always_inline)) {
        const T *mr = mask + at_m, *ar = a + at_a, *br = b + at_b;
        T* yr = y + r * n;
        if (m == 1 && p == 1 && q == 1)
          select_row<1, 1, 1>(n, mr, ar, br, yr);
        else if (m == 1 && p == 1 && q == 0)
          select_row<1, 1, 0>(n, mr, ar, br, yr);
        else if (m == 1 && p == 0 && q == 1)
          select_row<1, 0, 1>(n, mr, ar, br, yr);
        else if (m == -1 && p == 1 && q == 0)
          select_row<-1, 1, 0>(n, mr, ar, br, yr);
        else
          for (int64_t i = 0; i < n; ++i) yr[i] = mr[i * m] != 0 ? ar[i * p] : br[i * q];
      });
}
TTR_SIMD_CLONES void select_clones(const Broadcast& s, int64_t first, int64_t last, const float* mask, const float* a, const float* b,
                                   float* y) {
  select_rows(s, first, last, mask, a, b, y);
}
void select_clones(const Broadcast& s, int64_t first, int64_t last, const double* mask, const double* a, const double* b,
                                   double* y) {
  select_rows(s, first, last, mask, a, b, y);
}

// Ranges of rows over the threads. One long row is cut into pieces instead: body(walk, first row, last row, offset of the piece in elements).
template <class F> void over_rows(const Broadcast& s, F&& body) {
  if (s.rank == 1) {
    parallel_for(s.count, kGrain, [&](int64_t begin, int64_t end) {
      Broadcast piece = s;
      piece.count = piece.size[0] = end - begin;
      body(piece, 0, 1, begin);
    });
  } else {
    const int64_t n = s.size[s.rank - 1];
    parallel_for(s.count / n, std::max<int64_t>(1, kGrain / n), [&](int64_t first, int64_t last) { body(s, first, last, 0); });
  }
}

template <class T, class S> TTR_SIMD_INLINE T convert(S x) {
  if constexpr (std::is_same_v<S, T>)
    return x;
  else if constexpr (std::is_same_v<S, bf16>)
    return static_cast<T>(float(x));
  else if constexpr (std::is_same_v<T, bf16>)
    return bf16(float(x));
  else
    return static_cast<T>(x);
}

template <class S, class T> void copy_row(int64_t n, const S* x, int64_t step_x, T* y, int64_t step_y) {
  if (step_y == 1 && step_x == 1) {
    if constexpr (std::is_same_v<S, T>)
      std::memcpy(y, x, size_t(n) * sizeof(T));
    else
      for (int64_t i = 0; i < n; ++i) y[i] = convert<T>(x[i]);
  } else if (step_y == 1 && step_x == 0) {
    std::fill(y, y + n, convert<T>(*x));
  } else {
    for (int64_t i = 0; i < n; ++i) y[i * step_y] = convert<T>(x[i * step_x]);
  }
}

// [rows, columns] where x is contiguous along rows and y along columns: small square blocks, so that both stay in the cache.
template <class S, class T>
void copy_transposed(int64_t rows, int64_t columns, const S* x, int64_t column_step_x, T* y, int64_t row_step_y) {
  constexpr int64_t kBlock = 16;
  for (int64_t c0 = 0; c0 < columns; c0 += kBlock) {
    const int64_t c1 = std::min(c0 + kBlock, columns);
    for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
      const int64_t r1 = std::min(r0 + kBlock, rows);
      for (int64_t r = r0; r < r1; ++r)
        for (int64_t c = c0; c < c1; ++c) y[r * row_step_y + c] = convert<T>(x[r + c * column_step_x]);
    }
  }
}

}   // namespace

template <class T> Status fill(int64_t n, double value, T* y) {
  T v;
  if constexpr (std::is_same_v<T, bf16>)
    v = bf16(value);
  else
    v = static_cast<T>(value);
  parallel_for(n, 4 * kGrain, [&](int64_t begin, int64_t end) { std::fill(y + begin, y + end, v); });
  return Status::ok;
}

template <class T> Status unary(Unary op, int64_t n, const T* x, T* y) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) { unary_clones(op, end - begin, x + begin, y + begin); });
  return Status::ok;
}

template <class T> Status binary(Binary op, const Broadcast& s, const T* a, const T* b, T* y) {
  if (s.count == 0) return Status::ok;
  over_rows(s, [&](const Broadcast& walk, int64_t first, int64_t last, int64_t at) {
    binary_clones(op, walk, first, last, a + at * walk.stride[0][0] * (walk.rank == 1), b + at * walk.stride[1][0] * (walk.rank == 1),
                  y + at);
  });
  return Status::ok;
}

template <class T> Status binary_scalar(Binary op, int64_t n, const T* a, double b, bool scalar_first, T* y) {
  if (n == 0) return Status::ok;
  const T number = T(b);
  Broadcast s;
  s.rank = 1;
  s.count = s.size[0] = n;
  s.stride[scalar_first ? 1 : 0][0] = 1;
  return scalar_first ? binary(op, s, &number, a, y) : binary(op, s, a, &number, y);
}

template <class T> Status select(const Broadcast& s, const T* mask, const T* a, const T* b, T* y) {
  if (s.count == 0) return Status::ok;
  over_rows(s, [&](const Broadcast& walk, int64_t first, int64_t last, int64_t at) {   // at is 0 unless there is one row
    select_clones(walk, first, last, mask + at * walk.stride[0][0], a + at * walk.stride[1][0], b + at * walk.stride[2][0], y + at);
  });
  return Status::ok;
}

template <class S, class T> Status copy(const Broadcast& s, const S* x, T* y) {
  if (s.count == 0) return Status::ok;
  const int inner = s.rank - 1;
  const int64_t n = s.size[inner], step_x = s.stride[0][inner], step_y = s.stride[1][inner];
  if (s.rank == 1) {
    parallel_for(n, kGrain,
                 [&](int64_t begin, int64_t end) { copy_row(end - begin, x + begin * step_x, step_x, y + begin * step_y, step_y); });
    return Status::ok;
  }
  int along = -1;   // the axis that x walks in order, when the innermost is not it
  if (step_y == 1 && step_x != 1 && step_x != 0)
    for (int d = 0; d < inner; ++d)
      if (s.stride[0][d] == 1) along = d;
  if (along < 0) {
    parallel_for(s.count / n, std::max<int64_t>(1, kGrain / n), [&](int64_t first, int64_t last) {
      walk_rows(s, first, last, [&](int64_t, int64_t at_x, int64_t at_y, int64_t) { copy_row(n, x + at_x, step_x, y + at_y, step_y); });
    });
    return Status::ok;
  }
  // The transposed plane is (along, innermost); every other axis is walked around it, in strips of its rows so that threads share it too.
  Broadcast around;
  for (int d = 0; d < inner; ++d)
    if (d != along) {
      around.size[around.rank] = s.size[d];
      for (int k = 0; k < 2; ++k) around.stride[k][around.rank] = s.stride[k][d];
      ++around.rank;
    }
  around.size[around.rank++] = 1;   // walk_rows leaves the innermost to its caller
  constexpr int64_t kStrip = 64;
  const int64_t rows = s.size[along], row_step_y = s.stride[1][along], strips = (rows + kStrip - 1) / kStrip;
  const int64_t planes = s.count / (n * rows);
  parallel_for(planes * strips, std::max<int64_t>(1, kGrain / (n * std::min(rows, kStrip))), [&](int64_t begin, int64_t end) {
    walk_rows(around, begin / strips, (end - 1) / strips + 1, [&](int64_t plane, int64_t at_x, int64_t at_y, int64_t) {
      const int64_t from = std::max(begin - plane * strips, int64_t(0)) * kStrip,
                    to = std::min(std::min(end - plane * strips, strips) * kStrip, rows);
      copy_transposed(to - from, n, x + at_x + from, step_x, y + at_y + from * row_step_y, row_step_y);
    });
  });
  return Status::ok;
}

template Status fill<float>(int64_t, double, float*);
template Status fill<double>(int64_t, double, double*);
template Status fill<bf16>(int64_t, double, bf16*);
template Status fill<int32_t>(int64_t, double, int32_t*);
template Status unary<float>(Unary, int64_t, const float*, float*);
template Status unary<double>(Unary, int64_t, const double*, double*);
template Status binary<float>(Binary, const Broadcast&, const float*, const float*, float*);
template Status binary<double>(Binary, const Broadcast&, const double*, const double*, double*);
template Status binary_scalar<float>(Binary, int64_t, const float*, double, bool, float*);
template Status binary_scalar<double>(Binary, int64_t, const double*, double, bool, double*);
template Status select<float>(const Broadcast&, const float*, const float*, const float*, float*);
template Status select<double>(const Broadcast&, const double*, const double*, const double*, double*);
template Status copy<float, float>(const Broadcast&, const float*, float*);
template Status copy<float, double>(const Broadcast&, const float*, double*);
template Status copy<float, bf16>(const Broadcast&, const float*, bf16*);
template Status copy<float, int32_t>(const Broadcast&, const float*, int32_t*);
template Status copy<double, float>(const Broadcast&, const double*, float*);
template Status copy<double, double>(const Broadcast&, const double*, double*);
template Status copy<double, bf16>(const Broadcast&, const double*, bf16*);
template Status copy<double, int32_t>(const Broadcast&, const double*, int32_t*);
template Status copy<bf16, float>(const Broadcast&, const bf16*, float*);
template Status copy<bf16, double>(const Broadcast&, const bf16*, double*);
template Status copy<bf16, bf16>(const Broadcast&, const bf16*, bf16*);
template Status copy<bf16, int32_t>(const Broadcast&, const bf16*, int32_t*);
template Status copy<int32_t, float>(const Broadcast&, const int32_t*, float*);
template Status copy<int32_t, double>(const Broadcast&, const int32_t*, double*);
template Status copy<int32_t, bf16>(const Broadcast&, const int32_t*, bf16*);
template Status copy<int32_t, int32_t>(const Broadcast&, const int32_t*, int32_t*);

}   // namespace ttr::cpu
