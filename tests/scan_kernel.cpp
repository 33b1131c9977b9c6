// The CPU kernels of the stem `scan` against the token recurrence, on every shape of scan_reference.hpp.
#include <doctest/doctest.h>

#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>
#include <ttr/tests/scan_reference.hpp>

#define TTR_SIMD_EACH <ttr/apps/bench_exponentials.hpp>
#include <ttr/core/simd_sets.hpp>

using namespace ttr;

namespace {

const auto in_place = [](auto& x) { return x.data(); };

// Workspace that holds NaN, so that a read before a write shows.
std::vector<double> fresh(size_t bytes) { return std::vector<double>(bytes / sizeof(double) + 1, std::numeric_limits<double>::quiet_NaN()); }

template <class T> Status run_forward(const ScanForward<T>& a) {
  std::vector<double> work = fresh(cpu::scan_workspace(a));
  return cpu::scan_forward(a, {work.data(), cpu::scan_workspace(a)});
}
template <class T> Status run_backward(const ScanBackward<T>& a) {
  std::vector<double> work = fresh(cpu::scan_workspace(a));
  return cpu::scan_backward(a, {work.data(), cpu::scan_workspace(a)});
}

template <class T> ScanParts run(const ScanProblem& p) {
  ScanRun<T> r(p);
  const ScanForward<T> forward = forward_arguments(r, in_place);
  REQUIRE(run_forward(forward) == Status::ok);
  REQUIRE(run_backward(backward_arguments(r, forward, in_place)) == Status::ok);
  return r.answer();
}

double loss(const ScanProblem& p) {
  const ScanParts r = scan_answer(p);
  double sum = 0;
  for (size_t i = 0; i < r.at("y").size(); ++i) sum += r.at("y")[i] * p.x.at("dy")[i];
  if (p.x.contains("d_memory_out"))
    for (size_t i = 0; i < r.at("memory_out").size(); ++i) sum += r.at("memory_out")[i] * p.x.at("d_memory_out")[i];
  return sum;
}

struct ThreadCount {
  int before = thread_count();
  explicit ThreadCount(int count) { set_thread_count(count); }
  ~ThreadCount() { set_thread_count(before); }
};

const ScanShape kEach[] = {{{2, 70, 4, 4, 4, 1, 6}, ScanKind::value, true, true, true, true},
                           {{2, 70, 2, 2, 2, 1, 6}, ScanKind::rotation, false, true, true, true},
                           {{2, 70, 4, 2, 1, 5, 6}, ScanKind::entry, false, true, true, true},
                           {{2, 70, 4, 2, 1, 5, 6}, ScanKind::product, true, true, true, true},
                           {{2, 70, 4, 2, 1, 5, 6}, ScanKind::proximal, false, true, true, true}};

}  // namespace

TEST_SUITE("scan_kernel") {
  TEST_CASE("the reference's adjoint agrees with central differences") {
    for (ScanShape shape : kEach) {
      shape.size.tokens = 13, shape.size.value_dim = 4, shape.fused = false;
      ScanProblem p = scan_problem(shape, 3);
      const ScanParts r = scan_answer(p);
      for (const char* name : {"q", "k", "v", "gate", "rate", "memory_in"}) {
        if (!p.x.contains(name)) continue;
        CAPTURE(describe(shape));
        CAPTURE(name);
        std::vector<double> adjoint = r.at(std::string(name).size() > 1 ? "d_" + std::string(name) : "d" + std::string(name));
        std::vector<double>& leaf = p.x.at(name);
        if (adjoint.size() == 2 * leaf.size())   // learned once, for both sequences
          for (size_t i = 0; i < leaf.size(); ++i) adjoint[i] += adjoint[leaf.size() + i];
        std::vector<double> difference;
        for (double& x : leaf) {
          const double before = x, step = 1e-5;
          x = before + step;
          const double up = loss(p);
          x = before - step;
          difference.push_back((up - loss(p)) / (2 * step));
          x = before;
        }
        adjoint.resize(difference.size());
        CHECK(far_from(difference, adjoint) < 1e-8);
      }
    }
  }

  TEST_CASE("f64 agrees with the token recurrence on outputs and every gradient") {
    uint64_t seed = 0;
    for (const ScanShape& shape : scan_shapes()) {
      const ScanProblem p = scan_problem(shape, ++seed);
      CHECK(scan_mismatch(run<double>(p), scan_answer(p), shape, seed, 1e-12, 1e-11) == "");
    }
  }

  TEST_CASE("f32 agrees with f64") {
    uint64_t seed = 100;
    for (const ScanShape& shape : scan_shapes()) {
      const ScanProblem p = rounded<float>(scan_problem(shape, ++seed));
      CHECK(scan_mismatch(run<float>(p), run<double>(p), shape, seed, 2e-6, 4e-6) == "");
    }
  }

  TEST_CASE("a sequence cut anywhere, memory carried, is the sequence, to the last bit of its answers") {
    for (ScanShape shape : kEach) {
      shape.size.batch = 1, shape.fused = false, shape.documents = false;
      const ScanProblem p = scan_problem(shape, 7);
      const ScanParts whole = run<double>(p);
      for (const int64_t cut : {1, 50, 64, 69}) {
        CAPTURE(describe(shape));
        CAPTURE(cut);
        ScanProblem left = p, right = p;
        for (const char* name : {"q", "k", "v", "dy", "gate"}) {
          if (!p.x.contains(name) || (shape.kind == ScanKind::rotation && std::string(name) == "gate")) continue;
          const std::vector<double>& all = p.x.at(name);
          const auto at = all.begin() + int64_t(all.size()) / 70 * cut;
          left.x[name].assign(all.begin(), at), right.x[name].assign(at, all.end());
        }
        left.shape.size.tokens = cut, right.shape.size.tokens = 70 - cut;
        right.x["memory_in"] = run<double>(left).at("memory_out");
        const ScanParts last = run<double>(right);
        left.x["d_memory_out"] = last.at("d_memory_in");
        const ScanParts first = run<double>(left);
        std::vector<double> y = first.at("y"), dv = first.at("dv");
        y.insert(y.end(), last.at("y").begin(), last.at("y").end()), dv.insert(dv.end(), last.at("dv").begin(), last.at("dv").end());
        CHECK(far_from(y, whole.at("y")) < 1e-15);
        CHECK(last.at("memory_out") == whole.at("memory_out"));
        CHECK(far_from(dv, whole.at("dv")) < 1e-14);
        CHECK(far_from(first.at("d_memory_in"), whole.at("d_memory_in")) < 1e-14);
      }
    }
  }

  TEST_CASE("a gradient asked for alone is the one asked for together") {
    for (const ScanShape& shape : kEach) {
      const ScanProblem p = scan_problem(shape, 11);
      const ScanParts all = run<double>(p);
      for (const std::string only : {"dq", "dk", "dv", "d_gate", "d_rate", "d_memory_in", ""}) {
        ScanRun<double> r(p);
        const ScanForward<double> forward = forward_arguments(r, in_place);
        REQUIRE(run_forward(forward) == Status::ok);
        ScanBackward<double> a = backward_arguments(r, forward, in_place);
        ask_only(a, only);
        REQUIRE(run_backward(a) == Status::ok);
        for (const auto& [name, got] : r.answer()) {
          if (name[0] != 'd') continue;
          CAPTURE(describe(shape));
          CAPTURE(name);
          if (name == only) CHECK(got == all.at(name));
          else CHECK(std::all_of(got.begin(), got.end(), [](double x) { return std::isnan(x); }));
        }
      }
    }
  }

  TEST_CASE("memory_out and saved may be left out; columns between fused rows stay untouched") {
    for (const ScanShape& shape : kEach) {
      const ScanProblem p = scan_problem(shape, 12);
      ScanRun<double> r(p), s(p);
      const ScanForward<double> full = forward_arguments(r, in_place);
      ScanForward<double> bare = forward_arguments(s, in_place);
      bare.memory_out = bare.saved = nullptr;
      REQUIRE(run_forward(full) == Status::ok);
      REQUIRE(run_forward(bare) == Status::ok);
      CHECK(r.narrow.at("y") == s.narrow.at("y"));
      REQUIRE(run_backward(backward_arguments(r, full, in_place)) == Status::ok);
      const int64_t stride = r.stride.at("v");
      for (int64_t t = 0; t < 140; ++t) {
        CHECK(std::isnan(r.narrow.at("dv")[size_t(t * stride)]));
        CHECK(std::isnan(r.narrow.at("dv")[size_t(t * stride + stride - 1)]));
      }
    }
  }

  TEST_CASE("the number of threads does not change a bit") {
    for (ScanShape shape : kEach) {
      shape.size.value_dim = 70;
      const ScanProblem p = scan_problem(shape, 13);
      ScanParts one, three;
      {
        ThreadCount set(1);
        one = run<float>(rounded<float>(p));
      }
      {
        ThreadCount set(3);
        three = run<float>(rounded<float>(p));
      }
      CAPTURE(describe(shape));
      CHECK(one == three);
    }
  }

  TEST_CASE("a gate that forgets everything is no accident") {   // exp(-infinity) = 0, forwards and backwards
    for (const ScanKind kind : {ScanKind::value, ScanKind::entry}) {
      ScanProblem p = scan_problem({{1, 5, 1, 1, 1, kind == ScanKind::entry ? 4 : 1, 16}, kind, kind == ScanKind::value, false, true, false}, 14);
      for (size_t i = 0; i < p.x.at("gate").size(); i += 3) p.x.at("gate")[i] = -std::numeric_limits<double>::infinity();
      CHECK(scan_mismatch(run<double>(p), scan_answer(p), p.shape, 14, 1e-12, 1e-12) == "");
      CHECK(scan_mismatch(run<float>(p), scan_answer(rounded<float>(p)), p.shape, 14, 1e-6, 1e-6) == "");
    }
  }

  TEST_CASE("a pair of exponentials keeps its digits near 0 and far from it") {
    for (const float x : {0.0f, -1e-7f, -1e-3f, -0.2f, -0.35f, -0.36f, -1.0f, -7.5f, -30.0f, -86.0f}) {
      const ExpPair<float> e = fast_exp_pair(x);
      CHECK(std::abs(e.whole - std::exp(double(x))) <= 2e-7 * std::exp(double(x)));
      CHECK(std::abs(e.less_one - std::expm1(double(x))) <= -2e-7 * std::expm1(double(x)));
    }
    CHECK(fast_exp_pair(-std::numeric_limits<float>::infinity()).whole == 0);
    CHECK(fast_exp_pair(-std::numeric_limits<float>::infinity()).less_one == -1);
    CHECK(std::isnan(fast_exp_pair(std::numeric_limits<float>::quiet_NaN()).whole));
  }

  TEST_CASE("exponentials of whole registers are exact to 1.3e-7, and 0 or NaN at the ends") {
    for (auto* const run : {TTR_SIMD_BEST(exponentials), plain::exponentials}) {
      double error = 0;
      std::vector<float> x(16), y(16);
      for (double z = -126; z <= 1; z += 1e-3) {
        for (size_t i = 0; i < x.size(); ++i) x[i] = float(z + 6e-5 * double(i));
        run(x.data(), y.data(), int64_t(x.size()));
        for (size_t i = 0; i < x.size(); ++i) error = std::max(error, std::abs(double(y[i]) / std::exp2(double(x[i])) - 1));
      }
      CHECK(error < 1.3e-7);
      x = {0, -0.0f, 1, -1, -126, -127, -128, -1e9f, -1e38f, -std::numeric_limits<float>::infinity(), std::nanf(""), -std::nanf(""), -126.5f, 0, 0, 0};
      run(x.data(), y.data(), int64_t(x.size()));
      CHECK(std::vector<float>(y.begin(), y.begin() + 10) == std::vector<float>{1, 1, 2, 0.5f, 0x1p-126f, 0, 0, 0, 0, 0});
      CHECK((std::isnan(y[10]) && std::isnan(y[11])));
      CHECK((y[12] >= 0 && y[12] <= 0x1p-126f));
    }
  }

  TEST_CASE("no tokens: memories pass through") {
    for (const ScanKind kind : {ScanKind::value, ScanKind::rotation, ScanKind::proximal}) {
      std::vector<double> in(16, 2), out(16, 0), gates(16, 0), work(1 << 18);
      ScanForward<double> f;
      f.size = {1, 0, 1, 1, 1, kind == ScanKind::proximal ? 4 : 1, kind == ScanKind::proximal ? 4 : 16}, f.kind = kind;
      f.gate = f.rate = gates.data(), f.memory_in = in.data(), f.memory_out = out.data();
      REQUIRE(cpu::scan_forward(f, {work.data(), work.size() * sizeof(double)}) == Status::ok);
      CHECK(out == in);
      ScanBackward<double> a;
      a.size = f.size, a.kind = kind, a.gate = a.rate = gates.data();
      a.d_memory_out = in.data(), a.d_memory_in = out.data();
      out.assign(16, 0);
      REQUIRE(cpu::scan_backward(a, {work.data(), work.size() * sizeof(double)}) == Status::ok);
      CHECK(out == in);
    }
  }

  TEST_CASE("sizes and workspaces that cannot be are refused") {
    ScanRun<double> r(scan_problem({{1, 5, 4, 2, 1, 4, 4}, ScanKind::product, true, false, false, false}, 1));
    ScanForward<double> a = forward_arguments(r, in_place);
    CHECK(cpu::scan_forward(a, {}) == Status::small_workspace);
    a.size.key_heads = 3;
    CHECK(cpu::scan_forward(a, {}) == Status::bad_size);
    a.size.key_heads = 0;
    CHECK(cpu::scan_forward(a, {}) == Status::bad_size);
    a.size.key_heads = 2, a.kind = ScanKind::value;   // without keys, but with a key size
    CHECK(cpu::scan_forward(a, {}) == Status::bad_size);
    a.size = {1, 5, 1, 1, 1, 1, 5}, a.kind = ScanKind::rotation;   // half a complex number
    CHECK(cpu::scan_forward(a, {}) == Status::bad_size);
  }
}
