// The CUDA kernels of the stem `normal_equations` against direct solves in f64, on every case of normal_equations_reference.hpp.
#include <doctest/doctest.h>

#if TTR_WITH_CUDA
#include <ttr/tests/device_buffers.hpp>
#include <ttr/tests/normal_equations_reference.hpp>

using namespace ttr;

namespace {

template <class T> NormalAnswer run(const NormalData& p, int only = -1) {   // only: the one gradient asked for, of kNormalParts
  NormalRun<T> r(p);
  DeviceBuffers device;
  const NormalForward<T> forward = forward_arguments(r, device);
  REQUIRE(cuda::normal_equations_forward(forward, device.scratch(cuda::normal_equations_workspace(forward)), cuda::stream()) == Status::ok);
  NormalBackward<T> backward = backward_arguments(r, forward, device);
  if (only >= 0) {
    if (only != 1) backward.dq = {};
    if (only != 2) backward.dk = {};
    if (only != 3) backward.dv = {};
    if (only != 4) backward.d_log_decay = nullptr;
    if (only != 5) backward.d_write = nullptr;
    if (only != 6) backward.d_ridge = nullptr;
  }
  REQUIRE(cuda::normal_equations_backward(backward, device.scratch(cuda::normal_equations_workspace(backward)), cuda::stream()) == Status::ok);
  CHECK(device.download());
  return r.answer();
}

template <class T> void agree(uint64_t seed, double allowed) {
  if (no_gpu()) return;
  for (const NormalCase& shape : normal_cases()) {
    const NormalData p = rounded<T>(normal_data(shape, ++seed));
    CHECK(normal_mismatch(run<T>(p), normal_answer(p), shape, seed, allowed) == "");
  }
}

}  // namespace

TEST_SUITE("cuda_normal_equations_kernel") {
  TEST_CASE("f64 agrees with direct solves on outputs and every gradient") { agree<double>(0, 1e-11); }
  TEST_CASE("f32 agrees with f64 as the CPU's does") { agree<float>(100, 2e-5); }
  TEST_CASE("bf16 agrees with f64 of the rounded inputs within 4 x 2^-8") { agree<bf16>(200, 4.0 / 256); }

  TEST_CASE("the same bits twice; a gradient asked for alone is the one asked for together") {
    if (no_gpu()) return;
    NormalCase shape{{.batch = 2, .tokens = 70, .past = 3, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 9, .value_dim = 6}, RidgePolicy::decaying,
                     NormalMethod::token, true, true, true};
    const NormalData p = normal_data(shape, 12);
    const NormalAnswer all = run<float>(p), again = run<float>(p);
    for (const NormalPart& x : kNormalParts) CHECK(all.*x.part == again.*x.part);
    for (int only = 1; only <= 6; ++only) {
      const NormalAnswer one = run<float>(p, only);
      for (int i = 1; i <= 6; ++i) {
        const std::vector<double>& got = one.*kNormalParts[i].part;
        CAPTURE(kNormalParts[i].name);
        if (i == only) CHECK(got == all.*kNormalParts[i].part);
        else CHECK(std::all_of(got.begin(), got.end(), [](double x) { return std::isnan(x); }));
      }
    }
  }

  TEST_CASE("sizes and workspaces that cannot be are refused") {
    if (no_gpu()) return;
    NormalRun<double> r(normal_data({{.batch = 1, .tokens = 5, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 4, .value_dim = 4}}, 1));
    DeviceBuffers device;
    NormalForward<double> a = forward_arguments(r, device);
    CHECK(cuda::normal_equations_forward(a, {}, cuda::stream()) == Status::small_workspace);
    a.size.key_heads = 3;
    CHECK(cuda::normal_equations_forward(a, device.scratch(1 << 16), cuda::stream()) == Status::bad_size);
  }
}
#else
TEST_SUITE("cuda_normal_equations_kernel") {
  TEST_CASE("skipped") { MESSAGE("skipped: built without CUDA"); }
}
#endif
