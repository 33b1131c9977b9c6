// What every .cu file needs around a launch: the native stream, the status of a call, grid sizes, loads and stores in the wide type.
#pragma once
#include <type_traits>
#include <cuda_runtime.h>
#include <ttr/core/border.hpp>

namespace ttr::cuda {

inline cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

inline thread_local const char* last_failure = "";   // what last_error() says

inline Status status_of(cudaError_t error) {
  if (error == cudaSuccess) return Status::ok;
  last_failure = cudaGetErrorString(error);
  return Status::launch_failed;
}
inline Status launch_status() { return status_of(cudaGetLastError()); }

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Blocks for `items`, `per_block` each. The kernels stride over the grid, so a limit costs nothing and keeps within the device's.
inline unsigned grid_for(int64_t items, int64_t per_block, int64_t most = int64_t(1) << 20) {
  const int64_t blocks = divide_up(items, per_block);
  return unsigned(blocks < most ? blocks : most);
}

template <class... P>
Status launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream, std::type_identity_t<P>... arguments) {
  kernel<<<grid, block, shared_bytes, native(stream)>>>(arguments...);
  return launch_status();
}

template <class T> __device__ inline Wide<T> load(const T* at) { return Wide<T>(*at); }
template <class T> __device__ inline void store(T* at, Wide<T> value) { *at = T(value); }

}  // namespace ttr::cuda
