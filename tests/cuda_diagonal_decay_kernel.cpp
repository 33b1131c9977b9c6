// The CUDA kernels of the stem `diagonal_decay` against the token recurrence in f64, on every shape of diagonal_decay_reference.hpp, in f64, f32 and bf16.
#include <doctest/doctest.h>

#if TTR_WITH_CUDA
#include <ttr/tests/diagonal_decay_reference.hpp>
#include <ttr/tests/device_buffers.hpp>

using namespace ttr;

namespace {

template <class T> DecayAnswer run(const DecayProblem& p, int only = -1) {   // only: the one gradient asked for, of kDecayParts
  DecayRun<T> r(p);
  DeviceBuffers device;
  const DecayForward<T> forward = forward_arguments(r, device);
  REQUIRE(cuda::diagonal_decay_forward(forward, device.scratch(cuda::diagonal_decay_workspace(forward)), cuda::stream()) == Status::ok);
  DecayBackward<T> backward = backward_arguments(r, forward, device);
  if (only >= 0) {
    if (only != 2) backward.dq = {};
    if (only != 3) backward.dk = {};
    if (only != 4) backward.dv = {};
    if (only != 5) backward.d_log_decay = nullptr;
    if (only != 6) backward.d_write = nullptr;
    if (only != 7) backward.d_bonus = nullptr;
    if (only != 8) backward.d_memory_in = nullptr;
  }
  REQUIRE(cuda::diagonal_decay_backward(backward, device.scratch(cuda::diagonal_decay_workspace(backward)), cuda::stream()) == Status::ok);
  CHECK(device.download());
  return r.answer();
}

}  // namespace

TEST_SUITE("cuda_diagonal_decay_kernel") {
  TEST_CASE("f64 agrees with the token recurrence on outputs and every gradient") {
    if (no_gpu()) return;
    uint64_t seed = 0;
    for (const DecayShape& shape : decay_shapes()) {
      const DecayProblem p = decay_problem(shape, ++seed);
      CHECK(decay_mismatch(run<double>(p), decay_answer(p), shape, seed, 1e-10, 1e-9) == "");
    }
  }

  TEST_CASE("f32 agrees with f64 as the CPU's does") {
    if (no_gpu()) return;
    uint64_t seed = 100;
    for (const DecayShape& shape : decay_shapes()) {
      const DecayProblem p = rounded<float>(decay_problem(shape, ++seed));
      CHECK(decay_mismatch(run<float>(p), decay_answer(p), shape, seed, 5e-6, 1e-5) == "");
    }
  }

  TEST_CASE("bf16 agrees with f64 of the rounded inputs within 4 x 2^-8") {
    if (no_gpu()) return;
    uint64_t seed = 200;
    for (const DecayShape& shape : decay_shapes()) {
      const DecayProblem p = rounded<bf16>(decay_problem(shape, ++seed));
      CHECK(decay_mismatch(run<bf16>(p), decay_answer(p), shape, seed, 4.0 / 256, 4.0 / 256) == "");
    }
  }

  TEST_CASE("the same bits twice; what comes later does not change what came before") {
    if (no_gpu()) return;
    DecayShape shape{.size = {2, 130, 4, 2, 1, 60, 33}, .kind = DecayKind::channel, .range = DecayRange::mixed};
    shape.bonus = shape.write = shape.segments = shape.fused = shape.carried = true;
    const DecayProblem p = decay_problem(shape, 8);
    const DecayAnswer once = run<float>(p), again = run<float>(p);
    for (const DecayPart& x : kDecayParts) {
      CAPTURE(x.name);
      CHECK(once.*x.part == again.*x.part);
    }
    DecayProblem changed = decay_problem({.size = {1, 130, 2, 2, 2, 60, 33}, .write = true, .carried = true}, 8);
    const DecayAnswer before = run<float>(changed);
    const DecayProblem other = decay_problem(changed.shape, 9);
    const int64_t t = 70;
    for (auto leaf : {&DecayProblem::q, &DecayProblem::k, &DecayProblem::v, &DecayProblem::log_decay, &DecayProblem::write}) {
      const int64_t from = int64_t((changed.*leaf).size()) / 130 * t;
      std::copy((other.*leaf).begin() + from, (other.*leaf).end(), (changed.*leaf).begin() + from);
    }
    const DecayAnswer after = run<float>(changed);
    CHECK(std::equal(before.y.begin(), before.y.begin() + t * 66, after.y.begin()));
    CHECK(before.y[size_t(t * 66)] != after.y[size_t(t * 66)]);
  }

  TEST_CASE("a gradient asked for alone is the one asked for together") {
    if (no_gpu()) return;
    const DecayProblem p = decay_problem({.size = {2, 70, 4, 2, 1, 20, 12}, .bonus = true, .write = true, .carried = true}, 11);
    const DecayAnswer all = run<double>(p);
    for (int only = 2; only <= 8; ++only) {
      const DecayAnswer one = run<double>(p, only);
      for (int i = 2; i <= 8; ++i) {
        const std::vector<double>& got = one.*kDecayParts[i].part;
        CAPTURE(kDecayParts[i].name);
        if (i == only) CHECK(got == all.*kDecayParts[i].part);
        else CHECK(std::all_of(got.begin(), got.end(), [](double x) { return std::isnan(x); }));
      }
    }
  }

  TEST_CASE("the gradient of a strong decay keeps its digits") {
    if (no_gpu()) return;
    for (const DecayKind kind : {DecayKind::head, DecayKind::channel}) {
      const DecayShape shape{.size = {1, 40, 1, 1, 1, 16, 16}, .kind = kind, .range = DecayRange::strong, .carried = true};
      const DecayProblem p = rounded<float>(decay_problem(shape, 5));
      const DecayAnswer got = run<float>(p), want = decay_answer(p);
      for (size_t i = 0; i < want.d_log_decay.size(); ++i) CHECK(std::abs(got.d_log_decay[i] - want.d_log_decay[i]) <= 1e-25);   // exp(-50) is 2e-22
    }
  }

  TEST_CASE("the running scale: its recurrence, its restart, and where its gradient goes") {
    if (no_gpu()) return;
    std::vector<double> g{-1, -2, -0.5, -1, -1, -1}, w{0.5, -3, 2, -9, -9, 1}, initial{4};
    std::vector<int32_t> ids{7, 7, 7, 7, 3, 3};
    std::vector<double> m(6), dg(6), dw(6), d_initial(1), dm{1, 10, 100, 1000, 1e4, 1e5};
    DeviceBuffers device;
    RunningScale<double> x{.batch = 1, .tokens = 6, .heads = 1, .log_decay = device(g), .log_write = device(w), .initial = device(initial),
                           .segments = device(ids), .scale = device(m), .d_scale = device(dm), .d_log_decay = device(dg), .d_log_write = device(dw),
                           .d_initial = device(d_initial)};
    REQUIRE(cuda::running_scale_forward(x, cuda::stream()) == Status::ok);
    REQUIRE(cuda::running_scale_backward(x, cuda::stream()) == Status::ok);
    CHECK(device.download());
    CHECK(m == std::vector<double>{3, 1, 2, 1, -1, 1});
    CHECK(dg == std::vector<double>{11, 10, 0, 1000, 1e4, 0});
    CHECK(dw == std::vector<double>{0, 0, 1100, 0, 0, 1e5});
    CHECK(d_initial == std::vector<double>{11});
  }

  TEST_CASE("sizes and workspaces that cannot be are refused") {
    if (no_gpu()) return;
    DecayRun<double> r(decay_problem({.size = {1, 5, 4, 2, 1, 4, 4}}, 1));
    DeviceBuffers device;
    DecayForward<double> a = forward_arguments(r, device);
    a.size.key_heads = 3;
    CHECK(cuda::diagonal_decay_forward(a, device.scratch(1 << 16), cuda::stream()) == Status::bad_size);
    if (cuda::diagonal_decay_workspace(forward_arguments(r, device)) > 0) {
      a.size.key_heads = 2;
      CHECK(cuda::diagonal_decay_forward(a, {}, cuda::stream()) == Status::small_workspace);
    }
  }
}
#else
TEST_SUITE("cuda_diagonal_decay_kernel") {
  TEST_CASE("skipped") { MESSAGE("skipped: built without CUDA"); }
}
#endif
