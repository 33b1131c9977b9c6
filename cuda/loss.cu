// Fused cross-entropy over rows of n classes, CUDA: loss_r = lse_r - x_r,label;  dx_rj = g (e^{x_rj - lse_r} - [j = label]).
// CPU twin: core/ops/loss_cpu.cpp. A block owns one row; the maximum and the sum are taken in one pass over memory:
// each thread keeps its own maximum and rescales its sum when that grows.
// The host cannot see labels on the device, so a label >= n makes its row's loss NaN and stops the training there.
#include <ttr/core/ops/loss_kernel.hpp>
#include <ttr/cuda/block.hpp>
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {
namespace {

template <class T> __global__ void cross_entropy_forward_kernel(int64_t rows, int64_t n, const T* x, const int32_t* labels, Wide<T>* loss, Wide<T>* lse) {
  using A = Wide<T>;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    A top = minus_infinity<A>(), sum = 0;
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
      const A v = load(x + r * n + j);
      const A larger = Larger::fold(top, v);
      if (larger == minus_infinity<A>()) continue;   // e^{-inf - -inf} would be NaN
      sum = sum * exp(top - larger) + exp(v - larger);
      top = larger;
    }
    const A row_top = block_max(top);
    const A row_sum = block_sum(sum == 0 ? A(0) : sum * exp(top - row_top));
    if (threadIdx.x != 0) continue;
    const A row_lse = row_top == minus_infinity<A>() ? row_top : row_top + log(row_sum);
    const int64_t label = labels[r];
    lse[r] = row_lse;
    loss[r] = label < 0 ? A(0) : label < n ? row_lse - load(x + r * n + label) : A(NAN);
  }
}

template <class T>
__global__ void cross_entropy_backward_kernel(int64_t rows, int64_t n, const T* x, const int32_t* labels, const Wide<T>* lse, const Wide<T>* d_loss, T* dx) {
  using A = Wide<T>;
  const A g = *d_loss;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const int64_t label = labels[r];
    const A row_lse = lse[r];
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x)
      store(dx + r * n + j, label < 0 ? A(0) : g * (exp(load(x + r * n + j) - row_lse) - (j == label ? A(1) : A(0))));   // loss = lse - x_label
  }
}

}  // namespace

template <class T> Status cross_entropy_forward(int64_t rows, int64_t n, const T* x, const int32_t* labels, Wide<T>* loss, Wide<T>* lse, Stream stream) {
  if (rows < 0 || n < 0) return Status::bad_size;
  if (rows == 0) return Status::ok;
  return launch(cross_entropy_forward_kernel<T>, grid_for(rows, 1), threads_for_row(n), 0, stream, rows, n, x, labels, loss, lse);
}

template <class T>
Status cross_entropy_backward(int64_t rows, int64_t n, const T* x, const int32_t* labels, const Wide<T>* lse, const Wide<T>* d_loss, T* dx, Stream stream) {
  if (rows < 0 || n < 0) return Status::bad_size;
  if (rows == 0 || n == 0) return Status::ok;
  return launch(cross_entropy_backward_kernel<T>, grid_for(rows, 1), threads_for_row(n), 0, stream, rows, n, x, labels, lse, d_loss, dx);
}

template Status cross_entropy_forward<float>(int64_t, int64_t, const float*, const int32_t*, float*, float*, Stream);
template Status cross_entropy_forward<double>(int64_t, int64_t, const double*, const int32_t*, double*, double*, Stream);
template Status cross_entropy_forward<bf16>(int64_t, int64_t, const bf16*, const int32_t*, float*, float*, Stream);
template Status cross_entropy_backward<float>(int64_t, int64_t, const float*, const int32_t*, const float*, const float*, float*, Stream);
template Status cross_entropy_backward<double>(int64_t, int64_t, const double*, const int32_t*, const double*, const double*, double*, Stream);
template Status cross_entropy_backward<bf16>(int64_t, int64_t, const bf16*, const int32_t*, const float*, const float*, bf16*, Stream);

}  // namespace ttr::cuda
