// Gated units against plain loops, their kernels against their definitions, derivatives to order 2.
#include "ops_numbers.hpp"

using namespace ttr;
using namespace ttr::test;

TEST_SUITE("ops_gated") {
  TEST_CASE("gated and swiglu equal plain loops, at every width") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32})
      for (const int64_t n : {1, 15, 16, 17, 130}) {
        CAPTURE(n);
        const Tensor x = random_tensor({3, 2, n}, 1, dtype), gate = random_tensor({3, 2, n}, 2, dtype) * 6.0;
        const std::vector<double> a = x.to_vector<double>(), g = gate.to_vector<double>();
        std::vector<double> want(a.size());
        for (size_t i = 0; i < a.size(); ++i) want[i] = a[i] * g[i] / (1 + std::exp(-g[i]));
        CHECK(worst(gated(x, gate), want) < tolerance(dtype, 1e-15, 2e-6));
        CHECK(worst(swiglu(concat({gate, x}, 2)), want) < tolerance(dtype, 1e-15, 2e-6));
        const auto f = [](const Tensors& in) { return gated(in[0], in[1]); };
        const auto h = [](const Tensors& in) { return swiglu(in[0]); };
        CHECK(kernel_against_define(f, {x, gate}) < tolerance(dtype, 1e-14, 5e-6));
        CHECK(kernel_against_define(h, {concat({gate, x}, 2)}) < tolerance(dtype, 1e-14, 5e-6));
        if (dtype == Dtype::f64 && n < 20) {
          CHECK(check(f, {x, gate}).within(1e-7));
          CHECK(check(h, {concat({gate, x}, 2)}).within(1e-7));
        }
      }
  }

  TEST_CASE("only one side needs its gradient") {
    const Tensor x = random_tensor({4, 9}, 1), gate = random_tensor({4, 9}, 2);
    const Tensors both = gradients([](const Tensors& in) { return gated(in[0], in[1]); }, {x, gate});
    CHECK(worst(gradients([&](const Tensors& in) { return gated(in[0], gate); }, {x})[0], both[0]) < 1e-15);
    CHECK(worst(gradients([&](const Tensors& in) { return gated(x, in[0]); }, {gate})[0], both[1]) < 1e-15);
  }

  TEST_CASE("far gates neither overflow nor lose the slope") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
      const Tensor x = ones({4}, {dtype, cpu_device}), gate = from_vector<double>({-1e4, -100, 100, 1e4}, {4}, {dtype, cpu_device});
      CHECK(worst(gated(x, gate), std::vector<double>{0, 0, 100, 1e4}) < 1e-6);
      const Tensors d = gradients([](const Tensors& in) { return sum(gated(in[0], in[1])); }, {x, gate});
      for (const Tensor& one : d)
        for (const double v : one.to_vector<double>()) CHECK(std::isfinite(v));
    }
  }

  TEST_CASE("errors and no rows") {
    CHECK(swiglu(ones({0, 8})).shape() == Shape{0, 4});
    CHECK(message([] { swiglu(ones({2, 3})); }) == "[swiglu] gate_up is [2, 3], needs an even last axis: gate and up, side by side");
    CHECK(message([] { gated(ones({2, 3}), ones({3, 2})); }) == "[gated] gate is [3, 2], needs the shape of x [2, 3]; reshape it");
  }
}
