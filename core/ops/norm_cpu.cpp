// CPU rms_norm and layer_norm over rows of n. Equations: norm_kernel.hpp.
// The backward cuts the rows into a number of parts that depends on the sizes alone, each with its own d_weight and d_bias, added up in order:
// the same bits for any number of threads.
#include <algorithm>
#include <cmath>
#include <ttr/core/ops/lanes.hpp>
#include <ttr/core/ops/norm_kernel.hpp>
#include <ttr/core/parallel.hpp>

namespace ttr::cpu {
namespace {

constexpr int64_t kParts = 32, kTogether = 16;

template <class T>
TTR_SIMD_INLINE void scale_row(int64_t n, const T* __restrict x, T mean, T rstd, const T* __restrict weight, const T* __restrict bias, T* __restrict y) {
  if (weight && bias) for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * rstd * weight[i] + bias[i];   // x, weight, bias, y [n]
  else if (weight) for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * rstd * weight[i];
  else if (bias) for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * rstd + bias[i];
  else for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * rstd;
}

template <class T> TTR_SIMD_INLINE void add_row(int64_t n, const T* x, const T* y, T* sum) {   // all [n]; sum may be x
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) sum[i] = x[i] + y[i];
}

// kTogether rows at a time: their roots and quotients are one vector's
template <bool centred, class T> TTR_SIMD_INLINE void forward_rows(const NormForward<T>& p, int64_t begin, int64_t end) {
  const T* const from = p.added ? p.sum : p.x;   // [rows, n]
  const T count = p.whole ? T(1) : T(p.n);
  for (int64_t first = begin; first < end; first += kTogether) {
    const int64_t rows = std::min(kTogether, end - first);
    T mean[kTogether] = {}, rstd[kTogether] = {};
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (first + r) * p.n;
      if (p.added) add_row(p.n, p.x + at, p.added + at, p.sum + at);
      if (centred) mean[r] = row_sum(p.n, from + at) / T(p.n);
      rstd[r] = row_square(p.n, from + at, mean[r]);
    }
    for (int64_t r = 0; r < kTogether; ++r) rstd[r] = 1 / std::sqrt(rstd[r] / count + p.eps);
    for (int64_t r = 0; r < rows; ++r) scale_row(p.n, from + (first + r) * p.n, mean[r], rstd[r], p.weight, p.bias, p.y + (first + r) * p.n);
    if (centred && p.mean) std::copy(mean, mean + rows, p.mean + first);
    if (p.rstd) std::copy(rstd, rstd + rows, p.rstd + first);
  }
}

// d_weight, d_bias [n]: this part's sums, overwritten; null where not needed
template <bool centred, class T>
TTR_SIMD_INLINE void backward_rows(const NormBackward<T>& p, int64_t begin, int64_t end, T* __restrict d_weight, T* __restrict d_bias) {
  const int64_t n = p.n;
  if (d_weight) std::fill(d_weight, d_weight + n, T(0));
  if (d_bias) std::fill(d_bias, d_bias + n, T(0));
  for (int64_t r = begin; r < end; ++r) {
    const T* x = p.x + r * n;     // [n]
    const T* dy = p.dy + r * n;   // [n]
    const T mean = centred ? p.mean[r] : T(0), rstd = p.rstd[r];
    if (p.dx) {
      T* __restrict dx = p.dx + r * n;   // [n]
      const T sum_g = !centred ? T(0) : p.weight ? row_dot(n, dy, p.weight) : row_sum(n, dy);   // g = dy w
      const T sum_gh = (row_dot(n, dy, x, p.weight) - mean * sum_g) * rstd;                  // h = (x - mean) r, sum g h
      const T share = sum_gh / (p.whole ? T(1) : T(n)), level = centred ? sum_g / T(n) : T(0);
      if (p.weight) for (int64_t i = 0; i < n; ++i) dx[i] = rstd * (dy[i] * p.weight[i] - level - (x[i] - mean) * rstd * share);   // y = (x - mean) r w
      else for (int64_t i = 0; i < n; ++i) dx[i] = rstd * (dy[i] - level - (x[i] - mean) * rstd * share);                          // y = (x - mean) r
      if (p.d_sum) add_row(n, dx, p.d_sum + r * n, dx);                                      // sum = x
    }
    if (d_weight) for (int64_t i = 0; i < n; ++i) d_weight[i] += dy[i] * (x[i] - mean) * rstd;   // y = (x - mean) r w + b
    if (d_bias) for (int64_t i = 0; i < n; ++i) d_bias[i] += dy[i];                              // y = (x - mean) r w + b
  }
}

TTR_SIMD_CLONES void forward_rms(const NormForward<float>& p, int64_t begin, int64_t end) { forward_rows<false>(p, begin, end); }
void forward_rms(const NormForward<double>& p, int64_t begin, int64_t end) { forward_rows<false>(p, begin, end); }
TTR_SIMD_CLONES void forward_layer(const NormForward<float>& p, int64_t begin, int64_t end) { forward_rows<true>(p, begin, end); }
void forward_layer(const NormForward<double>& p, int64_t begin, int64_t end) { forward_rows<true>(p, begin, end); }
TTR_SIMD_CLONES void backward_rms(const NormBackward<float>& p, int64_t begin, int64_t end, float* dw, float* db) {
  backward_rows<false>(p, begin, end, dw, db);
}
void backward_rms(const NormBackward<double>& p, int64_t begin, int64_t end, double* dw, double* db) {
  backward_rows<false>(p, begin, end, dw, db);
}
TTR_SIMD_CLONES void backward_layer(const NormBackward<float>& p, int64_t begin, int64_t end, float* dw, float* db) {
  backward_rows<true>(p, begin, end, dw, db);
}
void backward_layer(const NormBackward<double>& p, int64_t begin, int64_t end, double* dw, double* db) {
  backward_rows<true>(p, begin, end, dw, db);
}

int64_t parts_of(int64_t rows, int64_t n) { return std::clamp<int64_t>(rows * n / 8192, 1, std::min(kParts, std::max<int64_t>(rows, 1))); }

template <class T> void sum_parts(int64_t parts, int64_t n, const T* from, T* to) {   // from [parts, n], to [n]
  std::copy(from, from + n, to);
  for (int64_t p = 1; p < parts; ++p)
    for (int64_t i = 0; i < n; ++i) to[i] += from[p * n + i];
}

template <class T, class Forward> Status forward(const NormForward<T>& p, Forward f) {
  if (p.rows < 0 || p.n < 0) return Status::bad_size;
  parallel_for(p.rows, std::max<int64_t>(1, 16384 / std::max<int64_t>(p.n, 1)), [&](int64_t begin, int64_t end) { f(p, begin, end); });
  return Status::ok;
}

template <class T, class Backward> Status backward(const NormBackward<T>& p, Workspace w, Backward f) {
  if (p.rows < 0 || p.n < 0) return Status::bad_size;
  if (w.bytes < norm_workspace(p)) return Status::small_workspace;
  const int64_t parts = parts_of(p.rows, p.n);
  T* const sums = static_cast<T*>(w.at);                                          // [d_weight and d_bias, parts, n]
  T* const bias_sums = sums ? sums + (p.d_weight ? parts * p.n : 0) : nullptr;
  parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      f(p, p.rows * i / parts, p.rows * (i + 1) / parts, p.d_weight ? sums + i * p.n : nullptr, p.d_bias ? bias_sums + i * p.n : nullptr);
  });
  if (p.d_weight) sum_parts(parts, p.n, sums, p.d_weight);
  if (p.d_bias) sum_parts(parts, p.n, bias_sums, p.d_bias);
  return Status::ok;
}

}  // namespace

template <class T> size_t norm_workspace(const NormBackward<T>& p) {
  return sizeof(T) * size_t(((p.d_weight ? 1 : 0) + (p.d_bias ? 1 : 0)) * parts_of(p.rows, p.n) * p.n);
}
template <class T> Status rms_norm_forward(const NormForward<T>& p) { return forward(p, [](auto&&... a) { forward_rms(a...); }); }
template <class T> Status rms_norm_backward(const NormBackward<T>& p, Workspace w) { return backward(p, w, [](auto&&... a) { backward_rms(a...); }); }
template <class T> Status layer_norm_forward(const NormForward<T>& p) { return forward(p, [](auto&&... a) { forward_layer(a...); }); }
template <class T> Status layer_norm_backward(const NormBackward<T>& p, Workspace w) { return backward(p, w, [](auto&&... a) { backward_layer(a...); }); }

template size_t norm_workspace<float>(const NormBackward<float>&);
template size_t norm_workspace<double>(const NormBackward<double>&);
template Status rms_norm_forward<float>(const NormForward<float>&);
template Status rms_norm_forward<double>(const NormForward<double>&);
template Status rms_norm_backward<float>(const NormBackward<float>&, Workspace);
template Status rms_norm_backward<double>(const NormBackward<double>&, Workspace);
template Status layer_norm_forward<float>(const NormForward<float>&);
template Status layer_norm_forward<double>(const NormForward<double>&);
template Status layer_norm_backward<float>(const NormBackward<float>&, Workspace);
template Status layer_norm_backward<double>(const NormBackward<double>&, Workspace);

}  // namespace ttr::cpu
