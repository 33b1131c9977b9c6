// Host vectors that a kernel reads and writes on the device: uploaded when an argument struct is filled, downloaded after the kernel.
// Outputs start as the NaN their vectors hold, scratch as NaN in every byte, and a fence of 0xff behind each block must stay.
#pragma once
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <ttr/core/device_kernel.hpp>

namespace ttr {

// Says once a suite why nothing runs.
inline bool no_gpu() {
  if (cuda::device_count() > 0) return false;
  MESSAGE("skipped: " << std::string(cuda::device_problem()));
  return true;
}

class DeviceBuffers {
 public:
  DeviceBuffers() = default;
  DeviceBuffers(const DeviceBuffers&) = delete;
  ~DeviceBuffers() {
    for (const Block& b : blocks_) cuda::release(b.device);
  }

  template <class T> T* operator()(std::vector<T>& x) {
    Block block = fresh(x.size() * sizeof(T));
    block.host = x.data();
    REQUIRE(cuda::copy_to_device(block.device, x.data(), block.bytes) == Status::ok);
    blocks_.push_back(block);
    return static_cast<T*>(block.device);
  }
  Workspace scratch(size_t bytes) {
    if (bytes == 0) return {};
    blocks_.push_back(fresh(bytes));
    return {blocks_.back().device, bytes};
  }

  // Everything back into the vectors; true when nobody wrote behind a block.
  bool download() {
    REQUIRE(cuda::synchronise() == Status::ok);
    bool intact = true;
    for (const Block& b : blocks_) {
      if (b.host) REQUIRE(cuda::copy_to_host(b.host, b.device, b.bytes) == Status::ok);
      std::vector<unsigned char> fence(kFence);
      REQUIRE(cuda::copy_to_host(fence.data(), static_cast<unsigned char*>(b.device) + b.bytes, kFence) == Status::ok);
      for (const unsigned char c : fence) intact &= c == 0xff;
    }
    return intact;
  }

 private:
  struct Block { void* device = nullptr; void* host = nullptr; size_t bytes = 0; };
  static constexpr size_t kFence = 256;
  static Block fresh(size_t bytes) {
    Block b{cuda::allocate(bytes + kFence), nullptr, bytes};
    REQUIRE(b.device != nullptr);
    REQUIRE(cuda::set_bytes(b.device, 0xff, bytes + kFence, cuda::stream()) == Status::ok);
    return b;
  }
  std::vector<Block> blocks_;
};

}  // namespace ttr
