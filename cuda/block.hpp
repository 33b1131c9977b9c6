// What the threads of one block do together: sums and maxima in a fixed order, and the launch's shared memory.
#pragma once
#include <cuda_runtime.h>
#include <ttr/core/border.hpp>

namespace ttr::cuda {

constexpr size_t kSharedBytes = 48 * 1024;   // what a launch may ask for without opting in

template <class A> __device__ inline A* shared_memory() {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  return reinterpret_cast<A*>(shared_bytes);
}

template <class A> __device__ inline A minus_infinity() { return -A(INFINITY); }

struct Add {
  template <class A> static __device__ A nothing() { return 0; }
  template <class A> static __device__ A fold(A a, A b) { return a + b; }
};
struct Larger {   // NaN wins
  template <class A> static __device__ A nothing() { return minus_infinity<A>(); }
  template <class A> static __device__ A fold(A a, A b) { return (a >= b || a != a) ? a : b; }
};

// Every lane gets the result; the butterfly pairs lanes the same way each time, so it repeats bit for bit.
template <class F, class A> __device__ inline A warp_fold(A v) {
  for (int distance = 16; distance > 0; distance >>= 1) v = F::fold(v, __shfl_xor_sync(0xffffffffu, v, distance));
  return v;
}

// Every thread gets the result. Called by all threads of a one-dimensional block of whole warps.
template <class F, class A> __device__ inline A block_fold(A v) {
  v = warp_fold<F>(v);
  if (blockDim.x == 32) return v;
  __shared__ A parts[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  __syncthreads();   // the previous call may still be reading parts
  if (lane == 0) parts[warp] = v;
  __syncthreads();   // parts is complete
  return warp_fold<F>(lane < int(blockDim.x / 32) ? parts[lane] : F::template nothing<A>());
}
template <class A> __device__ inline A block_sum(A v) { return block_fold<Add>(v); }
template <class A> __device__ inline A block_max(A v) { return block_fold<Larger>(v); }

// Threads for a block that owns one row of n.
inline unsigned threads_for_row(int64_t n) { return n <= 256 ? 32 : n <= 1024 ? 128 : n <= 8192 ? 256 : 1024; }

}  // namespace ttr::cuda
