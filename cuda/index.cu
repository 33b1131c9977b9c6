// Gather, scatter-add, pick and put, CUDA. CPU twin: core/ops/index_cpu.cpp.
// scatter_add has no atomics: a block owns 256 columns of one destination row, looks for its id in tiles of 256 ids, and adds the matching
// rows in the order of ids. Cost: every destination row reads all ids (from L2), which vocabularies up to about 64k can afford.
#include <ttr/core/ops/index_kernel.hpp>
#include <ttr/cuda/block.hpp>
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {
namespace {

constexpr int kThreads = 256;

// A thread owns one element of y [outer, count, inner] at a time. Index: 32 bits where they suffice, since it is divided.
template <class T, class Index> __global__ void gather_kernel(Middle s, int64_t count, const int32_t* ids, const T* x, T* y) {
  const Index all = Index(s.outer * count * s.inner), inner = Index(s.inner), rows = Index(count);
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < int64_t(all); i += int64_t(gridDim.x) * blockDim.x) {
    const Index row = Index(i) / inner, column = Index(i) - row * inner, o = row / rows;
    const int64_t id = ids[row - o * rows];
    y[i] = id >= 0 && id < s.n ? x[(int64_t(o) * s.n + id) * s.inner + column] : T(0.0f);
  }
}

template <class T> __global__ void __launch_bounds__(kThreads) scatter_add_kernel(Middle s, int64_t count, const int32_t* ids, const T* x, T* y) {
  __shared__ int32_t matches[kThreads];   // positions within the tile, in order
  __shared__ int found[kThreads / 32];    // matches of each warp
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t columns = s.outer * s.inner, tiles = (columns + kThreads - 1) / kThreads;
  for (int64_t work = blockIdx.x; work < s.n * tiles; work += gridDim.x) {
    const int64_t row = work / tiles, c = work % tiles * kThreads + threadIdx.x;
    const int64_t o = c / s.inner, i = c % s.inner;
    Wide<T> sum = 0;
    for (int64_t tile = 0; tile < count; tile += kThreads) {
      const int64_t position = tile + threadIdx.x;
      const bool match = position < count && ids[position] == row;
      if (__syncthreads_count(match) == 0) continue;   // also: the previous tile's matches are used up
      const unsigned voters = __ballot_sync(0xffffffffu, match);
      if (lane == 0) found[warp] = __popc(voters);
      __syncthreads();   // found is complete
      int before = 0, total = 0;
      for (int w = 0; w < kThreads / 32; ++w) {
        if (w < warp) before += found[w];
        total += found[w];
      }
      if (match) matches[before + __popc(voters & ((1u << lane) - 1))] = threadIdx.x;
      __syncthreads();   // matches are complete
      if (c < columns) {
#pragma unroll 4
        for (int k = 0; k < total; ++k) sum += load(x + (o * count + tile + matches[k]) * s.inner + i);
      }
    }
    if (c < columns) store(y + (o * s.n + row) * s.inner + i, sum);
  }
}

template <class T> __global__ void pick_kernel(int64_t rows, int64_t n, const int32_t* ids, const T* x, T* y) {
  for (int64_t r = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; r < rows; r += int64_t(gridDim.x) * blockDim.x) {
    const int64_t id = ids[r];
    y[r] = id >= 0 && id < n ? x[r * n + id] : T(0.0f);
  }
}

// A block owns one row.
template <class T> __global__ void put_kernel(int64_t rows, int64_t n, const int32_t* ids, const T* x, T* y) {
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x)
    for (int64_t j = threadIdx.x; j < n; j += blockDim.x) y[r * n + j] = j == ids[r] ? x[r] : T(0.0f);
}

__global__ void count_labels_kernel(int64_t n, const int32_t* labels, float* y) {
  int count = 0;   // of this thread: n / 1024 fits
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) count += labels[i] >= 0;
  const double total = block_sum(double(count));
  if (threadIdx.x == 0) *y = float(total);
}

}  // namespace

template <class T> Status gather(Middle s, int64_t count, const int32_t* ids, const T* x, T* y, Stream stream) {
  if (s.outer < 0 || s.n < 0 || s.inner < 0 || count < 0) return Status::bad_size;
  const int64_t all = s.outer * count * s.inner;
  if (all == 0) return Status::ok;
  const auto kernel = all < (int64_t(1) << 31) ? gather_kernel<T, uint32_t> : gather_kernel<T, int64_t>;
  return launch(kernel, grid_for(all, kThreads, 1 << 16), kThreads, 0, stream, s, count, ids, x, y);
}

template <class T> Status scatter_add(Middle s, int64_t count, const int32_t* ids, const T* x, T* y, Stream stream) {
  if (s.outer < 0 || s.n < 0 || s.inner < 0 || count < 0) return Status::bad_size;
  if (s.outer == 0 || s.n == 0 || s.inner == 0) return Status::ok;
  return launch(scatter_add_kernel<T>, grid_for(s.n * divide_up(s.outer * s.inner, kThreads), 1), kThreads, 0, stream, s, count, ids, x, y);
}

template <class T> Status pick(int64_t rows, int64_t n, const int32_t* ids, const T* x, T* y, Stream stream) {
  if (rows < 0 || n < 0) return Status::bad_size;
  if (rows == 0) return Status::ok;
  return launch(pick_kernel<T>, grid_for(rows, kThreads), kThreads, 0, stream, rows, n, ids, x, y);
}

template <class T> Status put(int64_t rows, int64_t n, const int32_t* ids, const T* x, T* y, Stream stream) {
  if (rows < 0 || n < 0) return Status::bad_size;
  if (rows == 0 || n == 0) return Status::ok;
  return launch(put_kernel<T>, grid_for(rows, 1), threads_for_row(n), 0, stream, rows, n, ids, x, y);
}

Status count_labels(int64_t n, const int32_t* labels, float* y, Stream stream) {
  if (n < 0) return Status::bad_size;
  return launch(count_labels_kernel, 1, 1024, 0, stream, n, labels, y);
}

template Status gather<float>(Middle, int64_t, const int32_t*, const float*, float*, Stream);
template Status gather<double>(Middle, int64_t, const int32_t*, const double*, double*, Stream);
template Status gather<bf16>(Middle, int64_t, const int32_t*, const bf16*, bf16*, Stream);
template Status scatter_add<float>(Middle, int64_t, const int32_t*, const float*, float*, Stream);
template Status scatter_add<double>(Middle, int64_t, const int32_t*, const double*, double*, Stream);
template Status scatter_add<bf16>(Middle, int64_t, const int32_t*, const bf16*, bf16*, Stream);
template Status pick<float>(int64_t, int64_t, const int32_t*, const float*, float*, Stream);
template Status pick<double>(int64_t, int64_t, const int32_t*, const double*, double*, Stream);
template Status pick<bf16>(int64_t, int64_t, const int32_t*, const bf16*, bf16*, Stream);
template Status put<float>(int64_t, int64_t, const int32_t*, const float*, float*, Stream);
template Status put<double>(int64_t, int64_t, const int32_t*, const double*, double*, Stream);
template Status put<bf16>(int64_t, int64_t, const int32_t*, const bf16*, bf16*, Stream);

}  // namespace ttr::cuda
