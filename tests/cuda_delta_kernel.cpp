// The CUDA kernels of the stem `delta` against the token recurrence in f64, on every shape of delta_reference.hpp, in f64, f32 and bf16.
#include <doctest/doctest.h>

#if TTR_WITH_CUDA
#include <ttr/tests/delta_reference.hpp>
#include <ttr/tests/device_buffers.hpp>

using namespace ttr;

namespace {

template <class T> DeltaAnswer run(const DeltaProblem& p, int only = -1) {   // only: the one gradient asked for, of kDeltaParts
  DeltaRun<T> r(p);
  DeviceBuffers device;
  const DeltaForward<T> forward = forward_arguments(r, device);
  REQUIRE(cuda::delta_forward(forward, device.scratch(cuda::delta_workspace(forward)), cuda::stream()) == Status::ok);
  DeltaBackward<T> backward = backward_arguments(r, forward, device);
  if (only >= 0) {
    if (only != 2) backward.dq = {};
    if (only != 3) backward.dk = {};
    if (only != 4) backward.dv = {};
    if (only != 5) backward.d_decay = nullptr;
    if (only != 6) backward.d_write = nullptr;
    if (only != 7) backward.d_erase = nullptr;
    if (only != 8) backward.d_memory_in = nullptr;
  }
  REQUIRE(cuda::delta_backward(backward, device.scratch(cuda::delta_workspace(backward)), cuda::stream()) == Status::ok);
  CHECK(device.download());
  return r.answer();
}

}  // namespace

TEST_SUITE("cuda_delta_kernel") {
  TEST_CASE("f64 agrees with the token recurrence on outputs and every gradient") {
    if (no_gpu()) return;
    uint64_t seed = 0;
    for (const DeltaShape& shape : delta_shapes()) {
      const DeltaProblem p = delta_problem(shape, ++seed);
      CHECK(delta_mismatch(run<double>(p), delta_answer(p), shape, seed, 1e-10, 1e-9) == "");
    }
  }

  TEST_CASE("f32 agrees with f64 as the CPU's does") {
    if (no_gpu()) return;
    uint64_t seed = 100;
    for (const DeltaShape& shape : delta_shapes()) {
      const DeltaProblem p = rounded<float>(delta_problem(shape, ++seed));
      CHECK(delta_mismatch(run<float>(p), delta_answer(p), shape, seed, 5e-6, 1e-5) == "");
    }
  }

  TEST_CASE("bf16 agrees with f64 of the rounded inputs within 4 x 2^-8") {
    if (no_gpu()) return;
    uint64_t seed = 200;
    for (const DeltaShape& shape : delta_shapes()) {
      const DeltaProblem p = rounded<bf16>(delta_problem(shape, ++seed));
      CHECK(delta_mismatch(run<bf16>(p), delta_answer(p), shape, seed, 4.0 / 256, 4.0 / 256) == "");
    }
  }

  TEST_CASE("the same bits twice; what comes later does not change what came before") {
    if (no_gpu()) return;
    const DeltaShape shape{{2, 130, 4, 2, 1, 60, 33}, DeltaDecay::negative, true, true};
    const DeltaProblem p = delta_problem(shape, 8);
    const DeltaAnswer once = run<float>(p), again = run<float>(p);
    for (const DeltaPart& x : kDeltaParts) {
      CAPTURE(x.name);
      CHECK(once.*x.part == again.*x.part);
    }
    DeltaProblem changed = delta_problem({{1, 130, 2, 2, 2, 60, 33}, DeltaDecay::positive, false, true}, 8);
    const DeltaAnswer before = run<float>(changed);
    const DeltaProblem other = delta_problem(changed.shape, 9);
    const int64_t t = 70;
    for (auto leaf : {&DeltaProblem::q, &DeltaProblem::k, &DeltaProblem::v, &DeltaProblem::decay, &DeltaProblem::write, &DeltaProblem::erase}) {
      const int64_t from = int64_t((changed.*leaf).size()) / 130 * t;
      std::copy((other.*leaf).begin() + from, (other.*leaf).end(), (changed.*leaf).begin() + from);
    }
    const DeltaAnswer after = run<float>(changed);
    CHECK(std::equal(before.y.begin(), before.y.begin() + t * 66, after.y.begin()));
    CHECK(before.y[size_t(t * 66)] != after.y[size_t(t * 66)]);
  }

  TEST_CASE("a gradient asked for alone is the one asked for together") {
    if (no_gpu()) return;
    const DeltaProblem p = delta_problem({{2, 70, 4, 2, 1, 20, 12}, DeltaDecay::negative, false, true}, 11);
    const DeltaAnswer all = run<double>(p);
    for (int only = 2; only <= 8; ++only) {
      const DeltaAnswer one = run<double>(p, only);
      for (int i = 2; i <= 8; ++i) {
        const std::vector<double>& got = one.*kDeltaParts[i].part;
        CAPTURE(kDeltaParts[i].name);
        if (i == only) CHECK(got == all.*kDeltaParts[i].part);
        else CHECK(std::all_of(got.begin(), got.end(), [](double x) { return std::isnan(x); }));
      }
    }
  }

  TEST_CASE("sizes and workspaces that cannot be are refused") {
    if (no_gpu()) return;
    DeltaRun<double> r(delta_problem({{1, 5, 4, 2, 1, 4, 4}, DeltaDecay::none, false, false}, 1));
    DeviceBuffers device;
    DeltaForward<double> a = forward_arguments(r, device);
    a.size.key_heads = 3;
    CHECK(cuda::delta_forward(a, device.scratch(1 << 16), cuda::stream()) == Status::bad_size);
    if (cuda::delta_workspace(forward_arguments(r, device)) > 0) {
      a.size.key_heads = 2;
      CHECK(cuda::delta_forward(a, {}, cuda::stream()) == Status::small_workspace);
    }
  }
}
#else
TEST_SUITE("cuda_delta_kernel") {
  TEST_CASE("skipped") { MESSAGE("skipped: built without CUDA"); }
}
#endif
