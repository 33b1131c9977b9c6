// Dynamic shared memory beyond what a kernel gets without asking.
#pragma once
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {

constexpr size_t kSharedDefault = 48 * 1024;
constexpr size_t kSharedLimit = 96 * 1024;   // what every architecture from 8.0 on grants to a block that asks

// Call before a launch with that many bytes.
template <class... P> Status allow_shared(void (*kernel)(P...), size_t bytes) {
  if (bytes > kSharedLimit) return Status::bad_size;
  if (bytes <= kSharedDefault) return Status::ok;
  const cudaError_t error =
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  if (error != cudaSuccess) cudaGetLastError();   // a refusal must not be found by the next launch
  return status_of(error);
}

}  // namespace ttr::cuda
