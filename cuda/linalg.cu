// Batched Cholesky factorisation and triangular solve, CUDA, level 1. CPU twin: core/ops/linalg_cpu.cpp.
// A block owns one matrix (one matrix and up to 32 right-hand sides) and works in global memory, which the cache holds at these sizes.
#include <ttr/core/ops/linalg_kernel.hpp>
#include <ttr/cuda/block.hpp>
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {
namespace {

constexpr int kThreads = 256;

// l_ij = (a_ij - sum_{k<j} l_ik l_jk) / l_jj, column by column; a warp owns one row of the column, its lanes share the sum.
// A pivot that is not positive becomes NaN and spreads to the rest of its row and the rows below.
template <class T> __global__ void __launch_bounds__(kThreads) cholesky_kernel(int64_t batch, int64_t n, const T* a, T* l) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int64_t m = blockIdx.x; m < batch; m += gridDim.x) {
    const T* A = a + m * n * n;   // [n, n]
    T* L = l + m * n * n;         // [n, n]
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = j + warp; i < n; i += warps) {
        T sum = 0;
        for (int64_t k = lane; k < j; k += 32) sum += L[i * n + k] * L[j * n + k];
        sum = warp_fold<Add>(sum);
        if (lane == 0) L[i * n + j] = A[i * n + j] - sum;
      }
      __syncthreads();   // column j is complete, not yet divided
      const T square = L[j * n + j];
      const T pivot = square > 0 ? sqrt(square) : T(NAN);
      __syncthreads();   // everyone has read the square
      for (int64_t i = j + threadIdx.x; i < n; i += blockDim.x) L[i * n + j] = i == j ? pivot : L[i * n + j] / pivot;
      __syncthreads();   // column j is read by the next columns
    }
    for (int64_t i = threadIdx.x; i < n * n; i += blockDim.x)
      if (i % n > i / n) L[i] = 0;
  }
}

// op(L) X = B by substitution: once x_i is known, it leaves the rows that are not. Block (columns, lanes): thread (c, r) owns column c of
// every lanes-th row. `forward`: from the first row, op(L) is lower triangular.
template <class T>
__global__ void __launch_bounds__(kThreads) solve_kernel(int64_t batch, int64_t n, int64_t m, bool forward, bool transpose, const T* l, const T* b, T* x) {
  const int64_t tiles = (m + blockDim.x - 1) / blockDim.x;
  for (int64_t work = blockIdx.x; work < batch * tiles; work += gridDim.x) {
    const int64_t matrix = work / tiles, c = work % tiles * blockDim.x + threadIdx.x;
    const T* L = l + matrix * n * n;       // [n, n]
    const T* B = b + matrix * n * m + c;   // column c of [n, m]
    T* X = x + matrix * n * m + c;
    const bool mine = c < m;
    if (mine)
      for (int64_t i = threadIdx.y; i < n; i += blockDim.y) X[i * m] = B[i * m];
    for (int64_t step = 0; step < n; ++step) {
      const int64_t i = forward ? step : n - 1 - step;
      __syncthreads();   // row i has lost all the rows before it
      const T value = mine ? X[i * m] / L[i * n + i] : T(0);
      __syncthreads();   // everyone has read row i
      if (!mine) continue;
      if (threadIdx.y == 0) X[i * m] = value;
      for (int64_t left = threadIdx.y; left < n - 1 - step; left += blockDim.y) {
        const int64_t r = forward ? i + 1 + left : left;
        X[r * m] -= (transpose ? L[i * n + r] : L[r * n + i]) * value;
      }
    }
  }
}

}  // namespace

template <class T> Status cholesky(int64_t batch, int64_t n, const T* a, T* l, Stream stream) {
  if (batch < 0 || n < 0) return Status::bad_size;
  if (batch == 0 || n == 0) return Status::ok;
  return launch(cholesky_kernel<T>, grid_for(batch, 1), kThreads, 0, stream, batch, n, a, l);
}

template <class T>
Status solve_triangular(int64_t batch, int64_t n, int64_t m, bool upper, bool transpose, const T* l, const T* b, T* x, Stream stream) {
  if (batch < 0 || n < 0 || m < 0) return Status::bad_size;
  if (batch == 0 || n == 0 || m == 0) return Status::ok;
  unsigned columns = 1;
  while (columns < 32 && columns < m) columns *= 2;
  const dim3 block(columns, kThreads / columns);
  return launch(solve_kernel<T>, grid_for(batch * divide_up(m, columns), 1), block, 0, stream, batch, n, m, upper == transpose, transpose, l, b, x);
}

template Status cholesky<float>(int64_t, int64_t, const float*, float*, Stream);
template Status cholesky<double>(int64_t, int64_t, const double*, double*, Stream);
template Status solve_triangular<float>(int64_t, int64_t, int64_t, bool, bool, const float*, const float*, float*, Stream);
template Status solve_triangular<double>(int64_t, int64_t, int64_t, bool, bool, const double*, const double*, double*, Stream);

}  // namespace ttr::cuda
