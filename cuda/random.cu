// Random fills and dropout, CUDA: the same sequences as core/random.cpp, element by element (Philox4x32-10, core/random_kernel.hpp).
// A thread owns whole Philox blocks: kPerBlock neighbouring elements of the sequence from ten rounds.
#include <ttr/core/random_kernel.hpp>
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {
namespace {

constexpr int kThreads = 256;

// f(words, values of the block's elements), then write(i, value) for those of elements [offset, offset + n), i from 0.
template <int kPer, class A, class F, class Write> __device__ void each_block(int64_t offset, int64_t n, F f, Write write) {
  const int64_t first = offset / kPer, blocks = (offset + n + kPer - 1) / kPer - first;
  for (int64_t b = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; b < blocks; b += int64_t(gridDim.x) * blockDim.x) {
    A values[kPer];
    f(uint64_t(first + b), values);
#pragma unroll
    for (int j = 0; j < kPer; ++j) {
      const int64_t i = (first + b) * kPer + j - offset;
      if (i >= 0 && i < n) write(i, values[j]);
    }
  }
}

__device__ inline void uniforms(Words words, float (&u)[4]) {
  for (int j = 0; j < 4; ++j) u[j] = uniform_of(words.at[j]);
}
__device__ inline void uniforms(Words words, double (&u)[2]) {
  for (int j = 0; j < 2; ++j) u[j] = uniform_of(words.at[2 * j], words.at[2 * j + 1]);
}
__device__ inline void normals(Words words, float (&z)[4]) {
  for (int j = 0; j < 4; j += 2) {
    const Pair<float> pair = normals_of(words.at[j], words.at[j + 1]);
    z[j] = pair.first, z[j + 1] = pair.second;
  }
}
__device__ inline void normals(Words words, double (&z)[2]) {
  const Pair<double> pair = normals_of(words);
  z[0] = pair.first, z[1] = pair.second;
}

template <class T> __global__ void __launch_bounds__(kThreads) uniform_kernel(Key key, int64_t offset, T* out, int64_t n, Wide<T> low, Wide<T> high) {
  using A = Wide<T>;
  constexpr int kPer = kPerBlock<A>;
  each_block<kPer, A>(offset, n, [&](uint64_t block, A (&u)[kPer]) { uniforms(philox(key, block), u); },
                      [&](int64_t i, A u) { store(out + i, between(low, high, u)); });
}

template <class T> __global__ void __launch_bounds__(kThreads) normal_kernel(Key key, int64_t offset, T* out, int64_t n, Wide<T> mean, Wide<T> deviation) {
  using A = Wide<T>;
  constexpr int kPer = kPerBlock<A>;
  each_block<kPer, A>(offset, n, [&](uint64_t block, A (&z)[kPer]) { normals(philox(key, block), z); },
                      [&](int64_t i, A z) { store(out + i, mean + deviation * z); });
}

// x null: ones. seed null: the key has it.
template <class T>
__global__ void __launch_bounds__(kThreads) dropout_kernel(Key key, int64_t offset, const T* x, T* y, int64_t n, float probability, Wide<T> kept,
                                                              const uint64_t* seed) {
  using A = Wide<T>;
  if (seed) key.seed = *seed;
  each_block<4, A>(
      offset, n,
      [&](uint64_t block, A (&factor)[4]) {
        const Words words = philox(key, block);
        for (int j = 0; j < 4; ++j) factor[j] = keep(words.at[j], probability) ? kept : A(0);
      },
      [&](int64_t i, A factor) { store(y + i, factor == 0 ? A(0) : x ? load(x + i) * factor : factor); });
}

unsigned grid(int64_t n, int per) { return grid_for(divide_up(n, per) + 1, kThreads, 1 << 16); }   // + 1: an offset inside a block

}  // namespace

template <class T> Status fill_uniform(Key key, int64_t offset, T* out, int64_t n, Wide<T> low, Wide<T> high, Stream stream) {
  if (n < 0 || offset < 0) return Status::bad_size;
  if (n == 0) return Status::ok;
  return launch(uniform_kernel<T>, grid(n, kPerBlock<Wide<T>>), kThreads, 0, stream, key, offset, out, n, low, high);
}

template <class T> Status fill_normal(Key key, int64_t offset, T* out, int64_t n, Wide<T> mean, Wide<T> deviation, Stream stream) {
  if (n < 0 || offset < 0) return Status::bad_size;
  if (n == 0) return Status::ok;
  return launch(normal_kernel<T>, grid(n, kPerBlock<Wide<T>>), kThreads, 0, stream, key, offset, out, n, mean, deviation);
}

template <class T> Status dropout(Key key, int64_t offset, const T* x, T* y, int64_t n, float probability, Wide<T> kept, Stream stream,
                                   const uint64_t* seed) {
  if (n < 0 || offset < 0) return Status::bad_size;
  if (n == 0) return Status::ok;
  return launch(dropout_kernel<T>, grid(n, 4), kThreads, 0, stream, key, offset, x, y, n, probability, kept, seed);
}

template <class T> Status fill_keep(Key key, int64_t offset, T* out, int64_t n, float probability, Wide<T> kept, Stream stream) {
  return dropout<T>(key, offset, nullptr, out, n, probability, kept, stream, nullptr);
}

template Status fill_uniform<float>(Key, int64_t, float*, int64_t, float, float, Stream);
template Status fill_uniform<double>(Key, int64_t, double*, int64_t, double, double, Stream);
template Status fill_uniform<bf16>(Key, int64_t, bf16*, int64_t, float, float, Stream);
template Status fill_normal<float>(Key, int64_t, float*, int64_t, float, float, Stream);
template Status fill_normal<double>(Key, int64_t, double*, int64_t, double, double, Stream);
template Status fill_normal<bf16>(Key, int64_t, bf16*, int64_t, float, float, Stream);
template Status fill_keep<float>(Key, int64_t, float*, int64_t, float, float, Stream);
template Status fill_keep<double>(Key, int64_t, double*, int64_t, float, double, Stream);
template Status fill_keep<bf16>(Key, int64_t, bf16*, int64_t, float, float, Stream);
template Status dropout<float>(Key, int64_t, const float*, float*, int64_t, float, float, Stream, const uint64_t*);
template Status dropout<double>(Key, int64_t, const double*, double*, int64_t, float, double, Stream, const uint64_t*);
template Status dropout<bf16>(Key, int64_t, const bf16*, bf16*, int64_t, float, float, Stream, const uint64_t*);

}  // namespace ttr::cuda
