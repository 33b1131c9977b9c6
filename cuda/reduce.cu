// Reductions and running sums over the middle of [outer, n, inner], CUDA. CPU twin: core/ops/reduce_cpu.cpp.
//   rows      inner = 1: a warp (short n) or a block (long n) owns one sum
//   columns   inner > 1: a block owns 32 neighbouring sums, 8 threads each
// Where that gives too few blocks, n is cut into parts whose sums wait in `partial` for a second launch. Everything is added in an order
// that depends on the sizes alone, so results repeat bit for bit.
#include <ttr/core/ops/elementwise_kernel.hpp>
#include <ttr/core/ops/reduce_kernel.hpp>
#include <ttr/cuda/block.hpp>
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {
namespace {

constexpr int kLanes = 8;              // threads that share a column
constexpr int64_t kPartials = 1 << 16;
constexpr int64_t kBlocksWanted = 264; // two an SM of an H200
constexpr int64_t kLeastPart = 256;    // terms a part is worth

// Sums of parts between the two launches. One buffer is enough: kernels run on the one stream of the process.
__device__ double partial[kPartials];

// A null x reads, and a null y writes, the partial sums.
template <class S> __device__ const S* source(const S* x) { return x ? x : reinterpret_cast<const S*>(partial); }
template <class D> __device__ D* destination(D* y) { return y ? y : reinterpret_cast<D*>(partial); }

// x [outer, n] -> y [parts, outer]. A group of 32 (kWarp) or blockDim.x threads owns one (outer, part); blockDim.y groups a block.
template <class F, bool kWarp, class S, class D> __global__ void reduce_rows(int64_t outer, int64_t n, int64_t part, int64_t parts, const S* x, D* y) {
  using A = Wide<D>;
  for (int64_t r = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; r < outer * parts; r += int64_t(gridDim.x) * blockDim.y) {
    const int64_t o = r % outer, begin = r / outer * part, end = begin + part < n ? begin + part : n;
    A v = F::template nothing<A>();
#pragma unroll 4
    for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) v = F::fold(v, A(load(x + o * n + i)));
    v = kWarp ? warp_fold<F>(v) : block_fold<F>(v);
    if (threadIdx.x == 0) store(destination(y) + r, v);
  }
}

// x [outer, n, inner] -> y [parts, outer * inner]. Block (32, kLanes): thread (i, j) adds every kLanes-th term of column i from term j.
template <class F, class S, class D> __global__ void reduce_columns(Middle s, int64_t part, const S* x, D* y) {
  using A = Wide<D>;
  __shared__ A lanes[kLanes][32];
  const int64_t columns = s.outer * s.inner, begin = blockIdx.y * part, end = begin + part < s.n ? begin + part : s.n;
  for (int64_t tile = int64_t(blockIdx.x) * 32; tile < columns; tile += int64_t(gridDim.x) * 32) {
    const int64_t c = tile + threadIdx.x;
    A v = F::template nothing<A>();
    if (c < columns) {
      const S* at = source(x) + c / s.inner * s.n * s.inner + c % s.inner;
#pragma unroll 4
      for (int64_t i = begin + threadIdx.y; i < end; i += kLanes) v = F::fold(v, A(load(at + i * s.inner)));
    }
    lanes[threadIdx.y][threadIdx.x] = v;
    __syncthreads();   // all lanes of the tile are there
    if (threadIdx.y == 0 && c < columns) {
      for (int j = 1; j < kLanes; ++j) v = F::fold(v, lanes[j][threadIdx.x]);
      store(destination(y) + blockIdx.y * columns + c, v);
    }
    __syncthreads();   // read before the next tile writes
  }
}

template <class F, class S, class D> Status launch_columns(Middle s, int64_t parts, const S* x, D* y, Stream stream) {
  const dim3 grid(grid_for(s.outer * s.inner, 32), unsigned(parts));
  return launch(reduce_columns<F, S, D>, grid, dim3(32, kLanes), 0, stream, s, divide_up(s.n, parts), x, y);
}

template <class F, class S, class D> Status launch_rows(int64_t outer, int64_t n, int64_t parts, const S* x, D* y, Stream stream) {
  const int64_t part = divide_up(n, parts);
  if (part <= 1024) return launch(reduce_rows<F, true, S, D>, grid_for(outer * parts, 8), dim3(32, 8), 0, stream, outer, n, part, parts, x, y);
  return launch(reduce_rows<F, false, S, D>, grid_for(outer * parts, 1), dim3(part <= 8192 ? 256 : 1024), 0, stream, outer, n, part, parts, x, y);
}

template <class F, class T> Status reduce_with(Middle s, const T* x, T* y, Stream stream) {
  const int64_t columns = s.outer * s.inner, blocks = s.inner == 1 ? columns : divide_up(columns, 32);
  int64_t parts = divide_up(kBlocksWanted, blocks);
  if (parts > s.n / kLeastPart) parts = s.n / kLeastPart;
  if (parts > kPartials / columns) parts = kPartials / columns;
  if (parts <= 1) return s.inner == 1 ? launch_rows<F, T, T>(s.outer, s.n, 1, x, y, stream) : launch_columns<F, T, T>(s, 1, x, y, stream);
  using A = Wide<T>;
  A* const sums = nullptr;
  const Status first = s.inner == 1 ? launch_rows<F, T, A>(s.outer, s.n, parts, x, sums, stream) : launch_columns<F, T, A>(s, parts, x, sums, stream);
  if (first != Status::ok) return first;
  return launch_columns<F, A, T>(Middle{1, parts, columns}, 1, sums, y, stream);
}

// Block of whole warps owns one row: tiles of blockDim.x terms, scanned by warps, then by the sums of the warps before.
template <class T> __global__ void cumsum_rows(int64_t outer, int64_t n, bool reverse, const T* x, T* y) {
  using A = Wide<T>;
  __shared__ A sums[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  for (int64_t o = blockIdx.x; o < outer; o += gridDim.x) {
    A before = 0;   // the sum of all earlier tiles
    for (int64_t tile = 0; tile < n; tile += blockDim.x) {
      const int64_t i = tile + threadIdx.x, at = o * n + (reverse ? n - 1 - i : i);
      A v = i < n ? load(x + at) : A(0);
      for (int distance = 1; distance < 32; distance <<= 1) {
        const A left = __shfl_up_sync(0xffffffffu, v, distance);
        if (lane >= distance) v += left;
      }
      if (lane == 31) sums[warp] = v;
      __syncthreads();   // sums of all warps are there
      A earlier = 0, all = 0;
      for (int w = 0; w < warps; ++w) {
        if (w == warp) earlier = all;
        all += sums[w];
      }
      __syncthreads();   // read before the next tile writes
      if (i < n) store(y + at, before + earlier + v);
      before += all;
    }
  }
}

// A thread owns one column.
template <class T> __global__ void cumsum_columns(Middle s, bool reverse, const T* x, T* y) {
  using A = Wide<T>;
  for (int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; c < s.outer * s.inner; c += int64_t(gridDim.x) * blockDim.x) {
    const int64_t first = c / s.inner * s.n * s.inner + c % s.inner;
    A v = 0;
    for (int64_t i = 0; i < s.n; ++i) {
      const int64_t at = first + (reverse ? s.n - 1 - i : i) * s.inner;
      v += load(x + at);
      store(y + at, v);
    }
  }
}

}  // namespace

template <class T> Status reduce(Reduce op, Middle s, const T* x, T* y, Stream stream) {
  if (s.outer < 0 || s.n < 0 || s.inner < 0) return Status::bad_size;
  if (s.outer == 0 || s.inner == 0) return Status::ok;
  return op == Reduce::sum ? reduce_with<Add>(s, x, y, stream) : reduce_with<Larger>(s, x, y, stream);
}

template <class T> Status cumsum(Middle s, bool reverse, const T* x, T* y, Stream stream) {
  if (s.outer < 0 || s.n < 0 || s.inner < 0) return Status::bad_size;
  if (s.outer == 0 || s.n == 0 || s.inner == 0) return Status::ok;
  if (s.inner == 1) return launch(cumsum_rows<T>, grid_for(s.outer, 1), s.n <= 128 ? 32 : s.n <= 1024 ? 128 : 512, 0, stream, s.outer, s.n, reverse, x, y);
  return launch(cumsum_columns<T>, grid_for(s.outer * s.inner, 64), 64, 0, stream, s, reverse, x, y);
}

template Status reduce<float>(Reduce, Middle, const float*, float*, Stream);
template Status reduce<double>(Reduce, Middle, const double*, double*, Stream);
template Status reduce<bf16>(Reduce, Middle, const bf16*, bf16*, Stream);
template Status cumsum<float>(Middle, bool, const float*, float*, Stream);
template Status cumsum<double>(Middle, bool, const double*, double*, Stream);
template Status cumsum<bf16>(Middle, bool, const bf16*, bf16*, Stream);

}  // namespace ttr::cuda
