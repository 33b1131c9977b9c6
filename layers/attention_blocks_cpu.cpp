// The loops over a block of scores that the CPU kernels of attention share, one clone per instruction set; attention_blocks.hpp says what
// each does. Loops run over whole registers.
#include <ttr/layers/attention_blocks.hpp>

#include <cstring>

namespace ttr::cpu::attention {
namespace {

TTR_SIMD_INLINE int64_t hidden_columns(int64_t first, int64_t row, int64_t width) { return std::clamp<int64_t>(first + row, 0, width); }
TTR_SIMD_INLINE int64_t whole_registers(int64_t columns) { return columns / kSimdLanes * kSimdLanes; }

template <class T> TTR_SIMD_INLINE void clear_columns(T* s, int64_t end) {
  for (int64_t c = 0; c < end; c += kSimdLanes)
    for (int64_t l = 0; l < kSimdLanes; ++l) s[c + l] = 0;
}

// Scores of queries that must not see the key become -inf, before any exponential; columns before `begin` are cleared elsewhere.
template <class T>
TTR_SIMD_INLINE void hide_row(T* s, int64_t begin, int64_t hidden, int64_t width, const int32_t* query_segments, int32_t key_segment) {
  constexpr T kHidden = -std::numeric_limits<T>::infinity();
  if (begin < hidden)
    for (int64_t l = 0; l < kSimdLanes; ++l) s[begin + l] = l < hidden - begin ? kHidden : s[begin + l];
  if (query_segments != nullptr)
    for (int64_t c = begin; c < width; ++c) s[c] = query_segments[c] == key_segment ? s[c] : kHidden;
}

template <bool kBiased, class T>
TTR_SIMD_INLINE void mask_and_raise_rows(T* __restrict__ s, const Mask& m, const T* __restrict__ bias, T* __restrict__ top) {
  for (int64_t r = 0; r < m.n; ++r, s += m.width) {
    const int64_t hidden = hidden_columns(m.first, r, m.width), begin = whole_registers(hidden);
    const T added = kBiased ? bias[r] : T(0);
    hide_row(s, begin, hidden, m.width, m.query_segments, m.query_segments ? m.key_segments[r] : 0);
    for (int64_t c = begin; c < m.width; c += kSimdLanes)
      for (int64_t l = 0; l < kSimdLanes; ++l) {
        const T score = kBiased ? s[c + l] + added : s[c + l];
        top[c + l] = top[c + l] < score ? score : top[c + l];
      }
  }
}

template <class T>
TTR_SIMD_INLINE void lower_sums(const T* __restrict__ before, int64_t width, T* __restrict__ top, T* __restrict__ sum,
                                T* __restrict__ factor) {
  constexpr T kNothing = -std::numeric_limits<T>::infinity();
  for (int64_t c = 0; c < width; ++c) {
    const T shift = top[c] == kNothing ? T(0) : top[c];
    const T f = fast_exp(before[c] - shift);
    top[c] = shift;
    sum[c] *= f;
    factor[c] = f;
  }
}

template <bool kBiased, class T>
TTR_SIMD_INLINE void exponentiate_rows(T* __restrict__ s, const Mask& m, const T* __restrict__ bias, const T* __restrict__ top,
                                       T* __restrict__ sum) {
  for (int64_t r = 0; r < m.n; ++r, s += m.width) {
    const int64_t begin = whole_registers(hidden_columns(m.first, r, m.width));
    const T added = kBiased ? bias[r] : T(0);
    clear_columns(s, begin);
    for (int64_t c = begin; c < m.width; c += kSimdLanes)
      for (int64_t l = 0; l < kSimdLanes; ++l) {
        const T x = (kBiased ? s[c + l] + added : s[c + l]) - top[c + l];
        const T p = kBiased && x < kNothing ? T(0) : fast_exp(x);
        s[c + l] = p;
        sum[c + l] += p;
      }
  }
}

template <bool kBiased, class T>
TTR_SIMD_INLINE void differentiate_rows(T* __restrict__ s, T* __restrict__ dp, const Mask& m, const T* __restrict__ bias,
                                        const T* __restrict__ lse, const T* __restrict__ delta) {
  for (int64_t r = 0; r < m.n; ++r, s += m.width, dp += m.width) {
    const int64_t hidden = hidden_columns(m.first, r, m.width), begin = whole_registers(hidden);
    const T added = kBiased ? bias[r] : T(0);
    clear_columns(s, begin);
    clear_columns(dp, begin);
    hide_row(s, begin, hidden, m.width, m.query_segments, m.query_segments ? m.key_segments[r] : 0);
    for (int64_t c = begin; c < m.width; c += kSimdLanes)
      for (int64_t l = 0; l < kSimdLanes; ++l) {
        const T x = (kBiased ? s[c + l] + added : s[c + l]) - lse[c + l];
        const T p = kBiased && x < kNothing ? T(0) : fast_exp(x);   // P = exp(S + bias - lse)
        dp[c + l] = p * (dp[c + l] - delta[c + l]);                 // P = exp(S + bias - lse)
        s[c + l] = p;
      }
  }
}

template <class T> TTR_SIMD_INLINE T row_sum(const T* x, int64_t width) {   // width: whole registers
  T lane[kSimdLanes] = {};
  for (int64_t c = 0; c < width; c += kSimdLanes)
    for (int64_t l = 0; l < kSimdLanes; ++l) lane[l] += x[c + l];
  for (int64_t half = kSimdLanes / 2; half > 0; half /= 2)
    for (int64_t l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
}

template <class T>
TTR_SIMD_INLINE void multiply_rows(const T* from, int64_t from_stride, int64_t rows, int64_t dim, const T* factor, T* to,
                                   int64_t to_stride) {
  for (int64_t t = 0; t < rows; ++t, from += from_stride, to += to_stride) {
    const T f = factor[t];
    for (int64_t d = 0; d < dim; ++d) to[d] = f * from[d];
  }
}

// An 8 x 8 corner turned in registers: three rounds, each swapping the off-diagonal quarters of 8, 4 and 2.
template <class T> TTR_SIMD_INLINE void transpose_corner(const T* x, int64_t stride, T* columns, int64_t width) {
  typedef T Eight __attribute__((vector_size(8 * sizeof(T))));
  Eight a[8], b[8];
  for (int i = 0; i < 8; ++i) std::memcpy(&a[i], x + i * stride, sizeof(Eight));
  for (int i = 0; i < 4; ++i) {
    b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    b[i + 4] = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = i; j < i + 2; ++j) {
      a[j] = __builtin_shufflevector(b[j], b[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      a[j + 2] = __builtin_shufflevector(b[j], b[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 8; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; ++i) std::memcpy(columns + i * width, &b[i], sizeof(Eight));
}

template <class T>
TTR_SIMD_INLINE void transpose_rows(const T* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, T* columns) {
  const int64_t whole_rows = rows / 8 * 8, whole_dim = dim / 8 * 8;
  for (int64_t t = 0; t < whole_rows; t += 8) {
    for (int64_t d = 0; d < whole_dim; d += 8) transpose_corner(x + t * stride + d, stride, columns + d * width + t, width);
    for (int64_t d = whole_dim; d < dim; ++d)
      for (int64_t l = t; l < t + 8; ++l) columns[d * width + l] = x[l * stride + d];
  }
  if (whole_rows < width)
    for (int64_t d = 0; d < dim; ++d) {
      for (int64_t t = whole_rows; t < rows; ++t) columns[d * width + t] = x[t * stride + d];
      for (int64_t t = rows; t < width; ++t) columns[d * width + t] = 0;
    }
}

template <class T>
TTR_SIMD_INLINE void dot_rows(const T* a, int64_t a_stride, const T* b, int64_t b_stride, int64_t rows, int64_t dim, T* out) {
  for (int64_t t = 0; t < rows; ++t, a += a_stride, b += b_stride) {
    T lane[kSimdLanes] = {};
    int64_t d = 0;
    for (; d + kSimdLanes <= dim; d += kSimdLanes)
      for (int64_t l = 0; l < kSimdLanes; ++l) lane[l] += a[d + l] * b[d + l];
    T sum = 0;
    for (; d < dim; ++d) sum += a[d] * b[d];
    for (int64_t half = kSimdLanes / 2; half > 0; half /= 2)
      for (int64_t l = 0; l < half; ++l) lane[l] += lane[l + half];
    out[t] = sum + lane[0];
  }
}

}  // namespace

TTR_SIMD_CLONES void mask_and_raise(float* s, const Mask& m, const float* bias, float* top) {
  if (bias) mask_and_raise_rows<true>(s, m, bias, top);
  else mask_and_raise_rows<false>(s, m, bias, top);
}
void mask_and_raise(double* s, const Mask& m, const double* bias, double* top) {
  if (bias) mask_and_raise_rows<true>(s, m, bias, top);
  else mask_and_raise_rows<false>(s, m, bias, top);
}
TTR_SIMD_CLONES void lower(const float* before, int64_t width, float* top, float* sum, float* factor) {
  lower_sums(before, width, top, sum, factor);
}
void lower(const double* before, int64_t width, double* top, double* sum, double* factor) {
  lower_sums(before, width, top, sum, factor);
}
TTR_SIMD_CLONES void exponentiate(float* s, const Mask& m, const float* bias, const float* top, float* sum) {
  if (bias) exponentiate_rows<true>(s, m, bias, top, sum);
  else exponentiate_rows<false>(s, m, bias, top, sum);
}
void exponentiate(double* s, const Mask& m, const double* bias, const double* top, double* sum) {
  if (bias) exponentiate_rows<true>(s, m, bias, top, sum);
  else exponentiate_rows<false>(s, m, bias, top, sum);
}
TTR_SIMD_CLONES void differentiate(float* s, float* dp, const Mask& m, const float* bias, const float* lse, const float* delta) {
  if (bias) differentiate_rows<true>(s, dp, m, bias, lse, delta);
  else differentiate_rows<false>(s, dp, m, bias, lse, delta);
}
void differentiate(double* s, double* dp, const Mask& m, const double* bias, const double* lse, const double* delta) {
  if (bias) differentiate_rows<true>(s, dp, m, bias, lse, delta);
  else differentiate_rows<false>(s, dp, m, bias, lse, delta);
}
TTR_SIMD_CLONES void add_row_sums(const float* x, int64_t n, int64_t width, double* to, int64_t step) {
  for (int64_t r = 0; r < n; ++r) to[r * step] += double(row_sum(x + r * width, width));
}
void add_row_sums(const double* x, int64_t n, int64_t width, double* to, int64_t step) {
  for (int64_t r = 0; r < n; ++r) to[r * step] += double(row_sum(x + r * width, width));
}
TTR_SIMD_CLONES void multiply(const float* from, int64_t from_stride, int64_t rows, int64_t dim, const float* factor, float* to, int64_t to_stride) {
  multiply_rows(from, from_stride, rows, dim, factor, to, to_stride);
}
void multiply(const double* from, int64_t from_stride, int64_t rows, int64_t dim, const double* factor, double* to, int64_t to_stride) {
  multiply_rows(from, from_stride, rows, dim, factor, to, to_stride);
}
TTR_SIMD_CLONES void transpose(const float* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, float* columns) {
  transpose_rows(x, stride, rows, width, dim, columns);
}
void transpose(const double* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, double* columns) {
  transpose_rows(x, stride, rows, width, dim, columns);
}
TTR_SIMD_CLONES void dot(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows, int64_t dim, float* out) {
  dot_rows(a, a_stride, b, b_stride, rows, dim, out);
}
void dot(const double* a, int64_t a_stride, const double* b, int64_t b_stride, int64_t rows, int64_t dim, double* out) {
  dot_rows(a, a_stride, b, b_stride, rows, dim, out);
}

}  // namespace ttr::cpu::attention
