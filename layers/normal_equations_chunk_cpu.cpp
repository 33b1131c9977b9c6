// One factorisation for all tokens of a span, where A_r = a_r A_{r-1} + w_r k_r k_r^T, so A_r = since_r (A_0 + sum_{s <= r} k_s k_s^T / n_s) with
// n_s = since_s / w_s (normal_equations_span.hpp; the LDL^T form of docs/layers/normal_equations.md, square roots taken so that no D remains):
//
//   A_0 = U_0^T U_0         ~ marks rows times U_0^{-1}:  K~ = K U_0^{-1},  Q~ = Q U_0^{-1},  M~ = F_0 U_0^{-1}      (there A_0 is the identity)
//   diag(n) + K~ K~^T = U^T U                            [c, c]
//   [E | W] = U^{-T} [V - K~ M~^T | K~]                  [c, V + K]: what each token really writes, and along which direction
//   Y  = Q~ M~^T + tril(Q~ W^T) E                        since M_r = M_0 + sum_{s <= r} e_s w_s^T, recursive least squares without its recursion
//   X~ = (Q~ - tril(Q~ W^T) W) / since                   x_r = A_r^{-1} q_r
//   S~ = dY M~ + tril(dY E^T) W                          s_r = A_r^{-1} F_r^T dy_r = M_r^T dy_r
//   [X; S] = [X~; S~] U_0^{-T}
// A token of weight 0 has n infinite: its row of E and W is 0, nothing else changes.
#include <ttr/layers/normal_equations_span.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

#include <ttr/core/blas.hpp>
#include <ttr/core/simd_rows.hpp>

namespace ttr::least_squares {
namespace {

constexpr int64_t kBlock = 16;

template <class T> TTR_SIMD_INLINE void scale_row(T* __restrict x, T by, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= by;
}

// a [n, stride], upper triangle, becomes U with a = U^T U but for its diagonal, whose inverses go to pivots [n].
// A pivot that is not positive becomes NaN and spreads.
template <class T> TTR_SIMD_INLINE void factor(T* a, int64_t n, int64_t stride, T* pivots) {
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    if (begin > 0)
      gemm<T>(true, false, end - begin, n - begin, begin, T(-1), a + begin, stride, a + begin, stride, T(1), a + begin * stride + begin, stride);
    for (int64_t j = begin; j < end; ++j) {   // from the block's first column, so that loops run over whole registers; nobody reads below the diagonal
      T* const row = a + j * stride;
      subtract_rows(row + begin, a + begin * stride + begin, stride, a + begin * stride + j, stride, j - begin, n - begin);
      pivots[j] = row[j] > 0 ? 1 / std::sqrt(row[j]) : std::numeric_limits<T>::quiet_NaN();
      scale_row(row + begin, pivots[j], n - begin);
    }
  }
}

// to [n, stride] <- U^{-1}, upper triangular, zeros below.
template <class T> TTR_SIMD_INLINE void invert(const T* u, const T* pivots, int64_t n, int64_t stride, T* to) {
  for (int64_t i = 0; i < n; ++i) std::fill_n(to + i * stride, n, T(0)), to[i * stride + i] = 1;
  for (int64_t begin = (n - 1) / kBlock * kBlock; begin >= 0; begin -= kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    if (end < n)
      gemm<T>(false, false, end - begin, n - end, n - end, T(-1), u + begin * stride + end, stride, to + end * stride + end, stride, T(0),
              to + begin * stride + end, stride);
    for (int64_t i = end - 1; i >= begin; --i) {
      T* const row = to + i * stride;
      subtract_rows(row + begin, to + (i + 1) * stride + begin, stride, u + i * stride + i + 1, 1, end - 1 - i, n - begin);
      scale_row(row + begin, pivots[i], n - begin);
    }
  }
}

// x [c, n] <- U^{-T} x
template <class T> TTR_SIMD_INLINE void solve_transposed(const T* u, const T* pivots, T* x, int64_t c, int64_t n) {
  for (int64_t begin = 0; begin < c; begin += kBlock) {
    const int64_t end = std::min(c, begin + kBlock);
    if (begin > 0) gemm<T>(true, false, end - begin, n, begin, T(-1), u + begin, C, x, n, T(1), x + begin * n, n);
    for (int64_t r = begin; r < end; ++r) {
      subtract_rows(x + r * n, x + begin * n, n, u + begin * C + r, C, r - begin, n);
      scale_row(x + r * n, pivots[r], n);
    }
  }
}

// to [rows, n] <- from [rows, n] u, and from u^T: u upper triangular, so half of its columns need half of the product.
template <class T>
TTR_SIMD_INLINE void times(const T* from, int64_t from_stride, int64_t rows, T by, const T* u, int64_t n, T* to, int64_t to_stride) {
  const int64_t half = n >= 2 * kBlock ? n / 2 / kBlock * kBlock : n;
  gemm<T>(false, false, rows, half, half, by, from, from_stride, u, n, T(0), to, to_stride);
  if (half < n) gemm<T>(false, false, rows, n - half, n, by, from, from_stride, u + half, n, T(0), to + half, to_stride);
}
template <class T> TTR_SIMD_INLINE void times_transposed(const T* from, int64_t rows, const T* u, int64_t n, T* to) {
  const int64_t half = n >= 2 * kBlock ? n / 2 / kBlock * kBlock : n;
  gemm<T>(false, true, rows, half, n, T(1), from, n, u, n, T(0), to, n);
  if (half < n) gemm<T>(false, true, rows, n - half, n - half, T(1), from + half, n, u + half * n + half, n, T(0), to + half, n);
}

// Rows r of x keep columns s <= r.
template <class T> TTR_SIMD_INLINE void keep_lower(T* x, int64_t c) {
  for (int64_t r = 0; r < c; ++r)
    for (int64_t s = r + 1; s < c; ++s) x[r * C + s] = 0;
}

template <class T> struct Slab {
  T *u0, *inverse, *pivots, *memory, *asked, *gram, *wrote, *reach, *out;
  int64_t count;
  Slab(T* at, int64_t K, int64_t V) {
    Pieces<T> p{at};
    u0 = p.take(K * K);            // A_0, then U_0                                      [K, K]
    inverse = p.take(K * K);       // U_0^{-1}                                           [K, K]
    pivots = p.take(std::max(K, C));
    memory = p.take(V * K);        // M~                                                 [V, K]
    asked = p.take(2 * C * K);     // Q~ over dY M~, then X~ over S~                     [2C, K]
    gram = p.take(C * C);          // diag(n) + K~ K~^T, then U                          [C, C]
    wrote = p.take(C * (K + V));   // E | W                                              [C, V + K]
    reach = p.take(2 * C * C);     // tril(Q~ W^T) over tril(dY E^T)                     [2C, C]
    out = p.take(C * K);           // K~                                                 [C, K]
    count = int64_t(p.used);
  }
};

// Everything up to tril(Q~ W^T).
template <class T> TTR_SIMD_INLINE void prepare(const Span<T>& span, const T* q, int64_t q_stride, T scale, const Slab<T>& m) {
  const int64_t K = span.K, V = span.V, c = span.count, width = span.width(), skip = std::min(span.skip, c);
  for (int64_t i = 0; i < K; ++i) {
    std::copy_n(span.moments + i * K + i, K - i, m.u0 + i * K + i);
    m.u0[i * K + i] += span.rho_before * span.ridge[i];
  }
  factor(m.u0, K, K, m.pivots);
  invert(m.u0, m.pivots, K, K, m.inverse);

  T* const key = m.out;
  times(span.kv, width, c, T(1), m.inverse, K, key, K);
  times(span.moments + K * K, K, V, T(1), m.inverse, K, m.memory, K);
  std::fill_n(m.asked, skip * K, T(0));
  if (skip < c) times(q, q_stride, c - skip, scale, m.inverse, K, m.asked + skip * K, K);

  gemm<T>(false, true, c, c, K, T(1), key, K, key, K, T(0), m.gram, C);
  for (int64_t r = 0; r < c; ++r) {
    m.gram[r * C + r] += span.write[r] > 0 ? span.since[r] / span.write[r] : std::numeric_limits<T>::infinity();
    std::copy_n(span.kv + r * width + K, V, m.wrote + r * width);
    std::copy_n(key + r * K, K, m.wrote + r * width + V);
  }
  gemm<T>(false, true, c, V, K, T(-1), key, K, m.memory, K, T(1), m.wrote, width);
  factor(m.gram, c, C, m.pivots);
  solve_transposed(m.gram, m.pivots, m.wrote, c, width);
  gemm<T>(false, true, c, c, K, T(1), m.asked, K, m.wrote + V, width, T(0), m.reach, C);
  keep_lower(m.reach, c);
}

template <class T>
TTR_SIMD_INLINE void answer(const Span<T>& span, const T* q, int64_t q_stride, T scale, T* y, int64_t y_stride, T* at) {
  const int64_t K = span.K, V = span.V, c = span.count, width = span.width(), skip = span.skip;
  const Slab<T> m(at, K, V);
  prepare(span, q, q_stride, scale, m);
  gemm<T>(false, true, c - skip, V, K, T(1), m.asked + skip * K, K, m.memory, K, T(0), y, y_stride);
  gemm<T>(false, false, c - skip, V, c, T(1), m.reach + skip * C, C, m.wrote, width, T(1), y, y_stride);
}

// dy [c, ...], rows of tokens that are not asked being zero; x over s [2c, K].
template <class T>
TTR_SIMD_INLINE void adjoint(const Span<T>& span, const T* q, int64_t q_stride, T scale, const T* dy, int64_t dy_stride, T* x, T* at) {
  const int64_t K = span.K, V = span.V, c = span.count, width = span.width();
  const Slab<T> m(at, K, V);
  prepare(span, q, q_stride, scale, m);
  for (int64_t r = 0; r < c; ++r) scale_row(m.reach + r * C, T(-1), c);
  gemm<T>(false, false, c, K, V, T(1), dy, dy_stride, m.memory, K, T(0), m.asked + c * K, K);
  gemm<T>(false, true, c, c, V, T(1), dy, dy_stride, m.wrote, width, T(0), m.reach + c * C, C);
  keep_lower(m.reach + c * C, c);
  gemm<T>(false, false, 2 * c, K, c, T(1), m.reach, C, m.wrote + V, width, T(1), m.asked, K);
  for (int64_t r = 0; r < c; ++r) scale_row(m.asked + r * K, 1 / span.since[r], K);
  times_transposed(m.asked, 2 * c, m.inverse, K, x);
}

TTR_SIMD_CLONES void answer_f32(const Span<float>& s, const float* q, int64_t q_stride, float scale, float* y, int64_t y_stride, float* at) {
  answer(s, q, q_stride, scale, y, y_stride, at);
}
void answer_f64(const Span<double>& s, const double* q, int64_t q_stride, double scale, double* y, int64_t y_stride, double* at) {
  answer(s, q, q_stride, scale, y, y_stride, at);
}
TTR_SIMD_CLONES void adjoint_f32(const Span<float>& s, const float* q, int64_t q_stride, float scale, const float* dy, int64_t dy_stride, float* x, float* at) {
  adjoint(s, q, q_stride, scale, dy, dy_stride, x, at);
}
void adjoint_f64(const Span<double>& s, const double* q, int64_t q_stride, double scale, const double* dy, int64_t dy_stride, double* x,
                                 double* at) {
  adjoint(s, q, q_stride, scale, dy, dy_stride, x, at);
}

}  // namespace

int64_t by_chunk_slab(int64_t key_dim, int64_t value_dim) { return Slab<float>(nullptr, key_dim, value_dim).count; }
void answer_by_chunk(const Span<float>& s, const float* q, int64_t q_stride, float scale, float* y, int64_t y_stride, float* slab) {
  answer_f32(s, q, q_stride, scale, y, y_stride, slab);
}
void answer_by_chunk(const Span<double>& s, const double* q, int64_t q_stride, double scale, double* y, int64_t y_stride, double* slab) {
  answer_f64(s, q, q_stride, scale, y, y_stride, slab);
}
void adjoint_by_chunk(const Span<float>& s, const float* q, int64_t q_stride, float scale, const float* dy, int64_t dy_stride, float* x, float* slab) {
  adjoint_f32(s, q, q_stride, scale, dy, dy_stride, x, slab);
}
void adjoint_by_chunk(const Span<double>& s, const double* q, int64_t q_stride, double scale, const double* dy, int64_t dy_stride, double* x, double* slab) {
  adjoint_f64(s, q, q_stride, scale, dy, dy_stride, x, slab);
}

}  // namespace ttr::least_squares
