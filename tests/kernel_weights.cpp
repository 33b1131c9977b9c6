// Every option of kernel weights on the CPU, and what local linear attention promises beside agreeing with fold.
#include "kernel_weights.hpp"

using namespace ttr;

TEST_SUITE("kernel_weights") {
  TEST_CASE("every option of kernel weights, over constants and over lines, agrees with fold") {
    CHECK(kernel_weights::compare(cpu_device, {Dtype::f64, Dtype::f32}, "softmax_attention/cpu-blocked", "softmax_attention/cpu-local-linear") == 120);
  }
}
