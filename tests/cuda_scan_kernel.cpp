// The CUDA kernels of the stem `scan` against the token recurrence in f64, on every shape of scan_reference.hpp, in f64, f32 and bf16.
#include <doctest/doctest.h>

#if TTR_WITH_CUDA
#include <ttr/tests/device_buffers.hpp>
#include <ttr/tests/scan_reference.hpp>

using namespace ttr;

namespace {

template <class T> ScanParts run(const ScanProblem& p, const char* only = nullptr) {   // only: the one gradient asked for
  ScanRun<T> r(p);
  DeviceBuffers device;
  const ScanForward<T> forward = forward_arguments(r, device);
  REQUIRE(cuda::scan_forward(forward, device.scratch(cuda::scan_workspace(forward)), cuda::stream()) == Status::ok);
  ScanBackward<T> backward = backward_arguments(r, forward, device);
  if (only) ask_only(backward, only);
  REQUIRE(cuda::scan_backward(backward, device.scratch(cuda::scan_workspace(backward)), cuda::stream()) == Status::ok);
  CHECK(device.download());
  return r.answer();
}

const ScanShape kEach[] = {{{2, 70, 4, 4, 4, 1, 6}, ScanKind::value, true, true, true, true},
                           {{2, 70, 2, 2, 2, 1, 6}, ScanKind::rotation, false, true, true, true},
                           {{2, 70, 4, 2, 1, 5, 6}, ScanKind::entry, false, true, true, true},
                           {{2, 70, 4, 2, 1, 5, 6}, ScanKind::product, true, true, true, true},
                           {{2, 70, 4, 2, 1, 5, 6}, ScanKind::proximal, false, true, true, true}};

}  // namespace

TEST_SUITE("cuda_scan_kernel") {
  TEST_CASE("f64 agrees with the token recurrence on outputs and every gradient") {
    if (no_gpu()) return;
    uint64_t seed = 0;
    for (const ScanShape& shape : scan_shapes()) {
      const ScanProblem p = scan_problem(shape, ++seed);
      CHECK(scan_mismatch(run<double>(p), scan_answer(p), shape, seed, 1e-12, 1e-11) == "");
    }
  }

  TEST_CASE("f32 agrees with f64 as the CPU's does") {
    if (no_gpu()) return;
    uint64_t seed = 100;
    for (const ScanShape& shape : scan_shapes()) {
      const ScanProblem p = rounded<float>(scan_problem(shape, ++seed));
      CHECK(scan_mismatch(run<float>(p), scan_answer(p), shape, seed, 2e-6, 4e-6) == "");
    }
  }

  TEST_CASE("bf16 agrees with f64 of the rounded inputs within 4 x 2^-8") {
    if (no_gpu()) return;
    uint64_t seed = 200;
    for (const ScanShape& shape : scan_shapes()) {
      const ScanProblem p = rounded<bf16>(scan_problem(shape, ++seed));
      CHECK(scan_mismatch(run<bf16>(p), scan_answer(p), shape, seed, 4.0 / 256, 4.0 / 256) == "");
    }
  }

  TEST_CASE("a memory that does not fit shared memory lies in the workspace") {
    if (no_gpu()) return;
    for (const ScanKind kind : {ScanKind::product, ScanKind::proximal}) {
      const ScanProblem p = scan_problem({{1, 12, 1, 1, 1, 130, 140}, kind, kind == ScanKind::product, false, true, false}, 5);
      CHECK(scan_mismatch(run<double>(p), scan_answer(p), p.shape, 5, 1e-12, 1e-11) == "");
    }
  }

  TEST_CASE("the same bits twice; a gradient asked for alone is the one asked for together") {
    if (no_gpu()) return;
    for (const ScanShape& shape : kEach) {
      const ScanProblem p = scan_problem(shape, 11);
      const ScanParts all = run<double>(p);
      CAPTURE(describe(shape));
      CHECK(run<double>(p) == all);
      for (const char* only : {"dq", "dk", "dv", "d_gate", "d_rate", "d_memory_in"})
        for (const auto& [name, got] : run<double>(p, only)) {
          if (name[0] != 'd') continue;
          CAPTURE(name);
          if (name == only) CHECK(got == all.at(name));
          else CHECK(std::all_of(got.begin(), got.end(), [](double x) { return std::isnan(x); }));
        }
    }
  }

  TEST_CASE("sizes and workspaces that cannot be are refused") {
    if (no_gpu()) return;
    ScanRun<double> r(scan_problem({{1, 5, 4, 2, 1, 4, 4}, ScanKind::product, true, false, false, false}, 1));
    DeviceBuffers device;
    const ScanForward<double> forward = forward_arguments(r, device);
    ScanForward<double> a = forward;
    a.size.key_heads = 3;
    CHECK(cuda::scan_forward(a, device.scratch(1 << 16), cuda::stream()) == Status::bad_size);
    const ScanBackward<double> backward = backward_arguments(r, forward, device);
    CHECK(cuda::scan_backward(backward, {}, cuda::stream()) == Status::small_workspace);
  }
}
#else
TEST_SUITE("cuda_scan_kernel") {
  TEST_CASE("skipped") { MESSAGE("skipped: built without CUDA"); }
}
#endif
