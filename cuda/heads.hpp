// What kernels share in which a block owns one head of one sequence and its whole memory [V, K]. Four neighbouring threads (a quad) own one
// row of it: thread `lane` of the quad holds columns lane, lane + 4, ..., so a row's dot product is a loop and two shuffles. When rows
// outnumber quads, a quad takes every (threads / 4)-th row. In a backward the same quads also serve as owners of columns.
// Rows are padded to 4 mod 8 elements, which puts the 8 rows x 4 columns a warp touches at once in different banks.
#pragma once
#include <ttr/cuda/shared.hpp>

namespace ttr::cuda {

constexpr int kWarp = 32;
constexpr int kQuad = 4;

TTR_BOTH constexpr int64_t row_stride(int64_t key_dim) { return (key_dim + 3) / 8 * 8 + 4; }

template <class W> __device__ W quad_sum(W x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Who a thread is: index 0 .. quads-1 of its quad, lane 0 .. 3 inside it.
struct Place {
  int quad, lane, quads;
};
__device__ inline Place place() { return {int(threadIdx.x) / kQuad, int(threadIdx.x) % kQuad, int(blockDim.x) / kQuad}; }

// Each thread moves the entries it owns (so no barrier is needed before it reads them again): to [V, to_stride] <- from [V,
// from_stride], or 0.
template <class W> __device__ void copy_rows(W* to, int64_t to_stride, const W* from, int64_t from_stride, int V, int K) {
  const Place me = place();
  for (int i = me.quad; i < V; i += me.quads)
    for (int j = me.lane; j < K; j += kQuad) to[i * to_stride + j] = from ? from[i * from_stride + j] : W(0);
}

// to [rows, few, D] <- the sum over the many / few heads that share a row of from [rows, many, D]. A thread owns one element of to.
template <class T> __global__ void sum_heads_kernel(const Wide<T>* from, Rows<T> to, int64_t rows, int64_t many, int64_t few, int64_t dim) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= rows * few * dim) return;
  const int64_t token = index / (few * dim), head = index / dim % few, d = index % dim, share = many / few;
  Wide<T> sum = 0;
  for (int64_t h = head * share; h < (head + 1) * share; ++h) sum += from[(token * many + h) * dim + d];
  store(to.at + token * to.token_stride + head * dim + d, sum);
}
template <class T> Status sum_heads(const Wide<T>* from, Rows<T> to, int64_t rows, int64_t many, int64_t few, int64_t dim, Stream stream) {
  constexpr int threads = 256;
  if (rows == 0) return Status::ok;
  return launch(sum_heads_kernel<T>, dim3(unsigned(divide_up(rows * few * dim, threads))), dim3(threads), 0, stream, from, to, rows, many, few, dim);
}

// Four threads a row, whole warps.
inline unsigned quads_for(int64_t rows) {
  const int64_t threads = divide_up(rows * kQuad, kWarp) * kWarp;
  return unsigned(threads < 1024 ? threads : 1024);
}

// One block a head. No heads: nothing to do.
template <class... P>
Status launch_heads(void (*kernel)(P...), int64_t blocks, unsigned threads, size_t shared_bytes, Stream stream, std::type_identity_t<P>... arguments) {
  if (blocks == 0) return Status::ok;
  if (blocks > 0x7fffffff) return Status::bad_size;
  const Status allowed = allow_shared(kernel, shared_bytes);
  return allowed == Status::ok ? launch(kernel, dim3(unsigned(blocks)), dim3(threads), shared_bytes, stream, arguments...) : allowed;
}

}  // namespace ttr::cuda
