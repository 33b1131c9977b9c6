// Softmax over rows of n, CUDA: y = e^{x - max} / sum; backward dx = y (dy - sum y dy). CPU twin: core/ops/softmax_cpu.cpp.
// A block owns one row and each thread every blockDim.x-th element of it; a row that fits is read once and waits in shared memory (no
// barrier around it: a thread reads there only what it wrote). Longer rows are read again.
#include <ttr/core/ops/softmax_kernel.hpp>
#include <ttr/cuda/block.hpp>
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {
namespace {

template <class T> __global__ void softmax_forward_kernel(int64_t rows, int64_t n, bool fits, const T* x, T* y) {
  using A = Wide<T>;
  A* row = shared_memory<A>();   // [n] where it fits
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    A top = minus_infinity<A>(), sum = 0;
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
      const A v = load(x + r * n + j);
      if (fits) row[j] = v;
      top = Larger::fold(top, v);
    }
    top = block_max(top);
    if (top == minus_infinity<A>()) {
      for (int64_t j = threadIdx.x; j < n; j += blockDim.x) store(y + r * n + j, A(0));
      continue;
    }
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
      const A e = exp((fits ? row[j] : load(x + r * n + j)) - top);
      if (fits) row[j] = e;
      sum += e;
    }
    const A scale = 1 / block_sum(sum);
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) store(y + r * n + j, (fits ? row[j] : exp(load(x + r * n + j) - top)) * scale);
  }
}

template <class T> __global__ void softmax_backward_kernel(int64_t rows, int64_t n, bool fits, const T* y, const T* dy, T* dx) {
  using A = Wide<T>;
  A* row = shared_memory<A>();   // y, then dy: [2, n] where they fit
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    A dot = 0;
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
      const A p = load(y + r * n + j), d = load(dy + r * n + j);
      if (fits) row[j] = p, row[n + j] = d;
      dot += p * d;
    }
    dot = block_sum(dot);
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) {
      const A p = fits ? row[j] : load(y + r * n + j), d = fits ? row[n + j] : load(dy + r * n + j);
      store(dx + r * n + j, p * (d - dot));   // y = e^{x - max} / sum
    }
  }
}

}  // namespace

template <class T> Status softmax_forward(int64_t rows, int64_t n, const T* x, T* y, Stream stream) {
  if (rows < 0 || n < 0) return Status::bad_size;
  if (rows == 0 || n == 0) return Status::ok;
  const bool fits = n <= int64_t(kSharedBytes / 2 / sizeof(Wide<T>));   // half: two blocks an SM partition and room for the sums
  return launch(softmax_forward_kernel<T>, grid_for(rows, 1), threads_for_row(n), fits ? size_t(n) * sizeof(Wide<T>) : 0, stream, rows, n, fits, x, y);
}

template <class T> Status softmax_backward(int64_t rows, int64_t n, const T* y, const T* dy, T* dx, Stream stream) {
  if (rows < 0 || n < 0) return Status::bad_size;
  if (rows == 0 || n == 0) return Status::ok;
  const bool fits = 2 * n <= int64_t(kSharedBytes / 2 / sizeof(Wide<T>));
  return launch(softmax_backward_kernel<T>, grid_for(rows, 1), threads_for_row(n), fits ? size_t(2 * n) * sizeof(Wide<T>) : 0, stream, rows,
                n, fits, y, dy, dx);
}

template Status softmax_forward<float>(int64_t, int64_t, const float*, float*, Stream);
template Status softmax_forward<double>(int64_t, int64_t, const double*, double*, Stream);
template Status softmax_forward<bf16>(int64_t, int64_t, const bf16*, bf16*, Stream);
template Status softmax_backward<float>(int64_t, int64_t, const float*, const float*, float*, Stream);
template Status softmax_backward<double>(int64_t, int64_t, const double*, const double*, double*, Stream);
template Status softmax_backward<bf16>(int64_t, int64_t, const bf16*, const bf16*, bf16*, Stream);

}  // namespace ttr::cuda
