// CPU gated unit over rows of n. Equations: gated_kernel.hpp. Outputs never overlap inputs.
#include <algorithm>
#include <ttr/core/ops/elementwise_kernel.hpp>
#include <ttr/core/ops/gated_kernel.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>

namespace ttr::cpu {
namespace {

constexpr int64_t kGrain = 16384;   // elements below which a second thread costs more than it gives

TTR_SIMD_INLINE float sigmoid_of(float x) { return fast_sigmoid(x); }
TTR_SIMD_INLINE double sigmoid_of(double x) { return element::sigmoid(x); }

template <class T> TTR_SIMD_INLINE void forward_row(int64_t n, const T* __restrict x, const T* __restrict gate, T* __restrict y) {   // all [n]
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * gate[i] * sigmoid_of(gate[i]);
}
template <class T>
TTR_SIMD_INLINE void backward_row(int64_t n, const T* __restrict x, const T* __restrict gate, const T* __restrict dy, T* __restrict dx, T* __restrict d_gate) {
  if (dx && d_gate)
    for (int64_t i = 0; i < n; ++i) {
      const T s = sigmoid_of(gate[i]);
      dx[i] = dy[i] * gate[i] * s;                              // y = x g s
      d_gate[i] = dy[i] * x[i] * s * (1 + gate[i] * (1 - s));   // y = x g s, s = sigmoid(g)
    }
  else if (dx) forward_row(n, dy, gate, dx);                    // y = x g s
  else if (d_gate)
    for (int64_t i = 0; i < n; ++i) {
      const T s = sigmoid_of(gate[i]);
      d_gate[i] = dy[i] * x[i] * s * (1 + gate[i] * (1 - s));   // y = x g s, s = sigmoid(g)
    }
}

template <class T> TTR_SIMD_INLINE void forward_rows(const GatedForward<T>& p, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) forward_row(p.n, p.x.at + r * p.x.token_stride, p.gate.at + r * p.gate.token_stride, p.y + r * p.n);
}
template <class T> TTR_SIMD_INLINE void backward_rows(const GatedBackward<T>& p, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r)
    backward_row(p.n, p.x.at + r * p.x.token_stride, p.gate.at + r * p.gate.token_stride, p.dy + r * p.n,
                 p.dx.at ? p.dx.at + r * p.dx.token_stride : nullptr, p.d_gate.at ? p.d_gate.at + r * p.d_gate.token_stride : nullptr);
}
TTR_SIMD_CLONES void forward_clones(const GatedForward<float>& p, int64_t begin, int64_t end) { forward_rows(p, begin, end); }
void forward_clones(const GatedForward<double>& p, int64_t begin, int64_t end) { forward_rows(p, begin, end); }
TTR_SIMD_CLONES void backward_clones(const GatedBackward<float>& p, int64_t begin, int64_t end) { backward_rows(p, begin, end); }
void backward_clones(const GatedBackward<double>& p, int64_t begin, int64_t end) { backward_rows(p, begin, end); }

int64_t rows_of_grain(int64_t n) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(n, 1)); }

}  // namespace

template <class T> Status gated_forward(const GatedForward<T>& p) {
  if (p.rows < 0 || p.n < 0) return Status::bad_size;
  parallel_for(p.rows, rows_of_grain(p.n), [&](int64_t begin, int64_t end) { forward_clones(p, begin, end); });
  return Status::ok;
}
template <class T> Status gated_backward(const GatedBackward<T>& p) {
  if (p.rows < 0 || p.n < 0) return Status::bad_size;
  parallel_for(p.rows, rows_of_grain(p.n), [&](int64_t begin, int64_t end) { backward_clones(p, begin, end); });
  return Status::ok;
}

template Status gated_forward<float>(const GatedForward<float>&);
template Status gated_forward<double>(const GatedForward<double>&);
template Status gated_backward<float>(const GatedBackward<float>&);
template Status gated_backward<double>(const GatedBackward<double>&);

}  // namespace ttr::cpu
