// Gated unit y = x silu(g) over rows of n, CUDA. CPU twin: core/ops/gated_cpu.cpp. A thread strides over elements; nothing is shared.
#include <ttr/core/ops/elementwise_kernel.hpp>
#include <ttr/core/ops/gated_kernel.hpp>
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {
namespace {

constexpr int kThreads = 256;

template <class F> __device__ void each_element(int64_t rows, int64_t n, F f) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < rows * n; i += int64_t(gridDim.x) * kThreads) f(i, i / n, i % n);
}

template <class T> __global__ void __launch_bounds__(kThreads) gated_forward_kernel(const GatedForward<T> a) {
  each_element(a.rows, a.n, [&](int64_t i, int64_t r, int64_t j) {
    const Wide<T> g = load(a.gate.at + r * a.gate.token_stride + j);
    store(a.y + i, load(a.x.at + r * a.x.token_stride + j) * g * element::sigmoid(g));
  });
}

template <class T> __global__ void __launch_bounds__(kThreads) gated_backward_kernel(const GatedBackward<T> a) {
  each_element(a.rows, a.n, [&](int64_t i, int64_t r, int64_t j) {
    const Wide<T> g = load(a.gate.at + r * a.gate.token_stride + j), dy = load(a.dy + i), s = element::sigmoid(g);
    if (a.dx.at) store(a.dx.at + r * a.dx.token_stride + j, dy * g * s);   // y = x g s
    if (a.d_gate.at)
      store(a.d_gate.at + r * a.d_gate.token_stride + j, dy * load(a.x.at + r * a.x.token_stride + j) * s * (1 + g * (1 - s)));   // y = x g s, s = sigmoid(g)
  });
}

}  // namespace

template <class T> Status gated_forward(const GatedForward<T>& a, Stream stream) {
  if (a.rows < 0 || a.n < 0) return Status::bad_size;
  if (a.rows == 0 || a.n == 0) return Status::ok;
  return launch(gated_forward_kernel<T>, grid_for(a.rows * a.n, kThreads), kThreads, 0, stream, a);
}
template <class T> Status gated_backward(const GatedBackward<T>& a, Stream stream) {
  if (a.rows < 0 || a.n < 0) return Status::bad_size;
  if (a.rows == 0 || a.n == 0) return Status::ok;
  return launch(gated_backward_kernel<T>, grid_for(a.rows * a.n, kThreads), kThreads, 0, stream, a);
}

template Status gated_forward<float>(const GatedForward<float>&, Stream);
template Status gated_forward<double>(const GatedForward<double>&, Stream);
template Status gated_forward<bf16>(const GatedForward<bf16>&, Stream);
template Status gated_backward<float>(const GatedBackward<float>&, Stream);
template Status gated_backward<double>(const GatedBackward<double>&, Stream);
template Status gated_backward<bf16>(const GatedBackward<bf16>&, Stream);

}  // namespace ttr::cuda
