// Conjugate gradients from zero for all tokens of a span at once (normal_equations_span.hpp; arXiv 2506.05233). No H_r is ever formed:
//
//   (A_r p_r)_r = since (P H0) + (pairs o (P K^T)) K + rho P diag(ridge),   pairs_rs = D_rs w_s (s <= r)
//
// so an iteration is three matrix products for the whole span. Each row has its own step sizes, and stands still once its residual is below
// tolerance times its right-hand side (or is exactly zero); the span is done when every row stands still, at the latest after `steps`.
// CUDA twin: iterate of cuda/normal_equations.cu.
#include <ttr/layers/normal_equations_span.hpp>

#include <algorithm>

#include <ttr/core/blas.hpp>

namespace ttr::least_squares {
namespace {

constexpr int64_t kLanes = 16;

template <class T> TTR_SIMD_INLINE T dot(const T* __restrict a, const T* __restrict b, int64_t n) {
  T part[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) part[l] += a[i + l] * b[i + l];
  T sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (int64_t width = kLanes / 2; width > 0; width /= 2)
    for (int64_t l = 0; l < width; ++l) part[l] += part[l + width];
  return sum + part[0];
}

template <class T> struct Slab {
  T *residual, *direction, *image, *decayed, *gram, *pairs;
  int64_t count;
  Slab(T* at, int64_t K) {   // two sets of right-hand sides
    Pieces<T> p{at};
    residual = p.take(2 * C * K);
    direction = p.take(2 * C * K);
    image = p.take(2 * C * K);
    decayed = p.take(2 * C * K);
    gram = p.take(2 * C * C);
    pairs = p.take(C * C);
    count = int64_t(p.used);
  }
};

template <class T> TTR_SIMD_INLINE void solve_span(const Span<T>& span, T* x, int64_t sets, int64_t steps, T tolerance, T* at) {
  const int64_t K = span.K, c = span.count, n = sets * c, stride = span.width();
  const Slab<T> m(at, K);
  T squared[2 * C], enough[2 * C];   // |residual|^2; where a row stands still
  bool going[2 * C];
  for (int64_t r = 0; r < c; ++r)
    for (int64_t s = 0; s < c; ++s) m.pairs[r * C + s] = s <= r ? span.between[r * C + s] * span.write[s] : T(0);
  int64_t left = 0;
  for (int64_t r = 0; r < n; ++r) {
    T* const row = x + r * K;
    std::copy_n(row, K, m.residual + r * K);
    std::copy_n(row, K, m.direction + r * K);
    squared[r] = dot(row, row, K);
    enough[r] = tolerance * tolerance * squared[r];
    going[r] = squared[r] > enough[r] || squared[r] != squared[r];
    left += going[r];
    std::fill_n(row, K, T(0));
  }
  for (int64_t step = 0; step < steps && left > 0; ++step) {
    for (int64_t r = 0; r < n; ++r) {
      const T* __restrict p = m.direction + r * K;
      T* __restrict to = m.decayed + r * K;
      T* __restrict image = m.image + r * K;
      const T since = span.since[r % c], rho = span.rho[r % c];
      for (int64_t j = 0; j < K; ++j) to[j] = since * p[j];
      for (int64_t j = 0; j < K; ++j) image[j] = rho * span.ridge[j] * p[j];
    }
    gemm<T>(false, false, n, K, K, T(1), m.decayed, K, span.moments, K, T(1), m.image, K);
    gemm<T>(false, true, n, c, K, T(1), m.direction, K, span.kv, stride, T(0), m.gram, C);
    for (int64_t r = 0; r < n; ++r) {
      T* __restrict row = m.gram + r * C;
      const T* __restrict pair = m.pairs + r % c * C;
      for (int64_t s = 0; s < c; ++s) row[s] *= pair[s];
    }
    gemm<T>(false, false, n, K, c, T(1), m.gram, C, span.kv, stride, T(1), m.image, K);
    for (int64_t r = 0; r < n; ++r) {
      if (!going[r]) continue;
      T* __restrict p = m.direction + r * K;
      T* __restrict residual = m.residual + r * K;
      const T* __restrict image = m.image + r * K;
      T* __restrict row = x + r * K;
      const T curvature = dot(p, image, K);
      if (curvature <= 0) {   // the residual has arrived at zero
        going[r] = false, --left;
        continue;
      }
      const T alpha = squared[r] / curvature;
      for (int64_t j = 0; j < K; ++j) row[j] += alpha * p[j];
      for (int64_t j = 0; j < K; ++j) residual[j] -= alpha * image[j];
      const T next = dot(residual, residual, K);
      const T beta = next / squared[r];
      squared[r] = next;
      if (next <= enough[r]) {
        going[r] = false, --left;
        continue;
      }
      for (int64_t j = 0; j < K; ++j) p[j] = residual[j] + beta * p[j];
    }
  }
}

TTR_SIMD_CLONES void solve_f32(const Span<float>& span, float* x, int64_t sets, int64_t steps, float tolerance, float* slab) {
  solve_span(span, x, sets, steps, tolerance, slab);
}
void solve_f64(const Span<double>& span, double* x, int64_t sets, int64_t steps, double tolerance, double* slab) {
  solve_span(span, x, sets, steps, tolerance, slab);
}

}  // namespace

int64_t by_iteration_slab(int64_t key_dim) { return Slab<float>(nullptr, key_dim).count; }
void solve_by_iteration(const Span<float>& span, float* x, int64_t sets, int64_t steps, float tolerance, float* slab) {
  solve_f32(span, x, sets, steps, tolerance, slab);
}
void solve_by_iteration(const Span<double>& span, double* x, int64_t sets, int64_t steps, double tolerance, double* slab) {
  solve_f64(span, x, sets, steps, tolerance, slab);
}

}  // namespace ttr::least_squares
