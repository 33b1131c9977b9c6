// Every option of kernel weights on a GPU; kernel_weights.hpp says how.
#include "kernel_weights.hpp"

#include <ttr/core/dispatch.hpp>

using namespace ttr;

TEST_SUITE("cuda_kernel_weights") {
  TEST_CASE("every option of kernel weights, over constants and over lines, agrees with fold") {
    if constexpr (with_cuda) {
      if (cuda::device_count() == 0) {
        MESSAGE("skipped: " << std::string(cuda::device_problem()));
        return;
      }
      CHECK(kernel_weights::compare(cuda_device, {Dtype::f64, Dtype::f32, Dtype::bf16}, "softmax_attention/cuda-streaming",
                                    "softmax_attention/cuda-local-linear") == 180);
    } else {
      MESSAGE("skipped: built without CUDA");
    }
  }
}
