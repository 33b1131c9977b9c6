// The golden run of golden.hpp on the CPU, by kernels and by fold, and on a GPU.
#include "golden.hpp"

#include <doctest/doctest.h>
#include <ttr/core/dispatch.hpp>

using namespace ttr;

namespace {

void check(const std::vector<double>& losses, double tolerance) {
  REQUIRE(losses.size() == size_t(golden::kSteps));
  for (int i = 0; i < golden::kSteps; ++i) {
    CAPTURE(i);
    CAPTURE(fmt::format("{:.12f}", losses[size_t(i)]));
    CHECK(std::abs(losses[size_t(i)] - golden::kLosses[i]) <= tolerance);
  }
}

}  // namespace

TEST_SUITE("golden") {
  TEST_CASE("ten steps of a tiny model on the CPU give the stored losses, by kernels and by fold") {
    check(golden::train(cpu_device), 1e-6);
    check(golden::train(cpu_device, {"delta/cpu-chunk", "fold"}), 1e-6);
    check(golden::train(cpu_device, {"fold", "fold"}), 1e-9);
  }
}

TEST_SUITE("cuda_golden") {
  TEST_CASE("ten steps of a tiny model on the GPU give the losses of the CPU") {
    if constexpr (with_cuda) {
      if (cuda::device_count() == 0) {
        MESSAGE("skipped: " << std::string(cuda::device_problem()));
        return;
      }
      check(golden::train(cuda_device), 1e-5);
      check(golden::train(cuda_device, {"delta/cuda-recurrent", "fold"}), 1e-5);
    } else {
      MESSAGE("skipped: built without CUDA");
    }
  }
}
