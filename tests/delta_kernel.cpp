// The CPU kernels of the stem `delta` against the token recurrence, on every shape of delta_reference.hpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include <ttr/core/parallel.hpp>
#include <ttr/tests/delta_reference.hpp>

using namespace ttr;

namespace {

const auto in_place = [](auto& x) { return x.data(); };

// Workspace that holds NaN, so that a read before a write shows.
std::vector<double> fresh(size_t bytes) {
  return std::vector<double>(bytes / sizeof(double) + 1, std::numeric_limits<double>::quiet_NaN());
}

template <class T> Status run_forward(const DeltaForward<T>& a) {
  std::vector<double> work = fresh(cpu::delta_workspace(a));
  return cpu::delta_forward(a, {work.data(), cpu::delta_workspace(a)});
}
template <class T> Status run_backward(const DeltaBackward<T>& a) {
  std::vector<double> work = fresh(cpu::delta_workspace(a));
  return cpu::delta_backward(a, {work.data(), cpu::delta_workspace(a)});
}

template <class T> DeltaAnswer run(const DeltaProblem& p) {
  DeltaRun<T> r(p);
  const DeltaForward<T> forward = forward_arguments(r, in_place);
  REQUIRE(run_forward(forward) == Status::ok);
  REQUIRE(run_backward(backward_arguments(r, forward, in_place)) == Status::ok);
  return r.answer();
}

double loss(const DeltaProblem& p) {
  const DeltaAnswer r = delta_answer(p);
  double sum = 0;
  for (size_t i = 0; i < r.y.size(); ++i) sum += r.y[i] * p.dy[i];
  for (size_t i = 0; i < p.d_memory_out.size(); ++i) sum += r.memory_out[i] * p.d_memory_out[i];
  return sum;
}

struct ThreadCount {
  int before = thread_count();
  explicit ThreadCount(int count) { set_thread_count(count); }
  ~ThreadCount() { set_thread_count(before); }
};

}  // namespace

TEST_SUITE("delta_kernel") {
  TEST_CASE("the reference's adjoint agrees with central differences") {
    for (DeltaDecay decay : {DeltaDecay::zeros, DeltaDecay::negative}) {
      DeltaProblem p = delta_problem({{2, 7, 4, 2, 1, 3, 4}, decay, false, true}, 3);
      const DeltaAnswer r = delta_answer(p);
      const std::pair<std::vector<double> DeltaProblem::*, std::vector<double> DeltaAnswer::*> leaves[] = {
          {&DeltaProblem::q, &DeltaAnswer::dq},
          {&DeltaProblem::k, &DeltaAnswer::dk},
          {&DeltaProblem::v, &DeltaAnswer::dv},
          {&DeltaProblem::decay, &DeltaAnswer::d_decay},
          {&DeltaProblem::write, &DeltaAnswer::d_write},
          {&DeltaProblem::erase, &DeltaAnswer::d_erase},
          {&DeltaProblem::memory_in, &DeltaAnswer::d_memory_in}};
      for (const auto& [leaf, adjoint] : leaves) {
        REQUIRE((p.*leaf).size() == (r.*adjoint).size());
        std::vector<double> difference;
        for (double& x : p.*leaf) {
          const double before = x, step = 1e-5;
          x = before + step;
          const double up = loss(p);
          x = before - step;
          difference.push_back((up - loss(p)) / (2 * step));
          x = before;
        }
        CHECK(distance(difference, r.*adjoint) < 1e-8);
      }
    }
  }

  TEST_CASE("f64 agrees with the token recurrence on outputs and every gradient") {
    uint64_t seed = 0;
    for (const DeltaShape& shape : delta_shapes()) {
      const DeltaProblem p = delta_problem(shape, ++seed);
      CHECK(delta_mismatch(run<double>(p), delta_answer(p), shape, seed, 1e-10, 1e-9) == "");
    }
  }

  TEST_CASE("f32 agrees with f64") {
    uint64_t seed = 100;
    for (const DeltaShape& shape : delta_shapes()) {
      const DeltaProblem p = rounded<float>(delta_problem(shape, ++seed));
      CHECK(delta_mismatch(run<float>(p), run<double>(p), shape, seed, 5e-6, 1e-5) == "");
    }
  }

  TEST_CASE("a sequence cut anywhere, memory carried, is the sequence") {
    const DeltaShape shape{{2, 130, 2, 1, 2, 24, 20}, DeltaDecay::negative, true, true};
    const DeltaProblem p = delta_problem(shape, 7);
    const DeltaAnswer whole = run<double>(p);
    for (int64_t cut : {1, 50, 64, 129}) {
      DeltaProblem left = slice(p, 0, cut), right = slice(p, cut, 130);
      right.memory_in = run<double>(left).memory_out;
      const DeltaAnswer last = run<double>(right);
      left.d_memory_out = last.d_memory_in;
      const DeltaAnswer first = run<double>(left);
      DeltaAnswer joined = first;
      joined.memory_out = last.memory_out;
      for (auto part : {&DeltaAnswer::y, &DeltaAnswer::dq, &DeltaAnswer::dk, &DeltaAnswer::dv, &DeltaAnswer::d_decay, &DeltaAnswer::d_write,
                        &DeltaAnswer::d_erase}) {
        const size_t width = (whole.*part).size() / (2 * 130);
        (joined.*part).clear();
        for (size_t b = 0; b < 2; ++b) {
          const auto &x = first.*part, &y = last.*part;
          (joined.*part).insert((joined.*part).end(), x.begin() + b * cut * width, x.begin() + (b + 1) * cut * width);
          (joined.*part).insert((joined.*part).end(), y.begin() + b * (130 - cut) * width, y.begin() + (b + 1) * (130 - cut) * width);
        }
      }
      CHECK(delta_mismatch(joined, whole, shape, 7, 1e-12, 1e-11) == "");
    }
  }

  TEST_CASE("what comes later does not change what came before, bit for bit") {
    const DeltaShape shape{{1, 130, 2, 2, 2, 60, 33}, DeltaDecay::positive, false, true};
    DeltaProblem p = delta_problem(shape, 8);
    const DeltaAnswer before = run<double>(p);
    const DeltaProblem other = delta_problem(shape, 9);
    const int64_t t = 70;
    for (auto leaf :
         {&DeltaProblem::q, &DeltaProblem::k, &DeltaProblem::v, &DeltaProblem::decay, &DeltaProblem::write, &DeltaProblem::erase}) {
      const size_t from = (p.*leaf).size() / 130 * t;
      std::copy((other.*leaf).begin() + from, (other.*leaf).end(), (p.*leaf).begin() + from);
    }
    const DeltaAnswer after = run<double>(p);
    const size_t width = 2 * 33;
    CHECK(std::memcmp(before.y.data(), after.y.data(), t * width * sizeof(double)) == 0);
    CHECK(before.y[t * width] != after.y[t * width]);
  }

  TEST_CASE("a gradient asked for alone is the one asked for together") {
    const DeltaShape shape{{2, 70, 4, 2, 1, 20, 12}, DeltaDecay::negative, false, true};
    const DeltaProblem p = delta_problem(shape, 11);
    const DeltaAnswer all = run<double>(p);
    for (int only = 0; only <= 7; ++only) {   // 7: none at all
      DeltaRun<double> r(p);
      const DeltaForward<double> forward = forward_arguments(r, in_place);
      REQUIRE(run_forward(forward) == Status::ok);
      DeltaBackward<double> a = backward_arguments(r, forward, in_place);
      if (only != 0) a.dq = {};
      if (only != 1) a.dk = {};
      if (only != 2) a.dv = {};
      if (only != 3) a.d_decay = nullptr;
      if (only != 4) a.d_write = nullptr;
      if (only != 5) a.d_erase = nullptr;
      if (only != 6) a.d_memory_in = nullptr;
      REQUIRE(run_backward(a) == Status::ok);
      const DeltaAnswer one = r.answer();
      for (int i = 0; i < 7; ++i) {
        const std::vector<double>& got = one.*kDeltaParts[i + 2].part;
        if (i == only) CHECK(got == all.*kDeltaParts[i + 2].part);
        else CHECK(std::all_of(got.begin(), got.end(), [](double x) { return std::isnan(x); }));
      }
    }
  }

  TEST_CASE("memory_out and saved may be left out; columns between fused rows stay untouched") {
    const DeltaShape shape{{1, 70, 2, 1, 1, 20, 12}, DeltaDecay::positive, true, false};
    const DeltaProblem p = delta_problem(shape, 12);
    DeltaRun<double> r(p), s(p);
    const DeltaForward<double> full = forward_arguments(r, in_place);
    DeltaForward<double> bare = forward_arguments(s, in_place);
    bare.memory_out = bare.saved = nullptr;
    REQUIRE(run_forward(full) == Status::ok);
    REQUIRE(run_forward(bare) == Status::ok);
    CHECK(r.y == s.y);
    REQUIRE(run_backward(backward_arguments(r, full, in_place)) == Status::ok);
    const DeltaLayout l(shape);
    for (int64_t t = 0; t < 70; ++t) {
      CHECK(std::isnan(r.dq[t * l.q_stride]));
      CHECK(std::isnan(r.dq[t * l.q_stride + l.q_stride - 1]));
    }
  }

  TEST_CASE("the number of threads does not change a bit") {
    const DeltaShape shape{{3, 100, 4, 2, 4, 32, 24}, DeltaDecay::negative, false, true};
    const DeltaProblem p = delta_problem(shape, 13);
    DeltaAnswer one, three;
    {
      ThreadCount set(1);
      one = run<double>(p);
    }
    {
      ThreadCount set(3);
      three = run<double>(p);
    }
    for (const DeltaPart& x : kDeltaParts) CHECK(one.*x.part == three.*x.part);
  }

  TEST_CASE("no tokens: memories pass through") {
    const DeltaShape shape{{1, 0, 1, 1, 1, 4, 4}, DeltaDecay::none, false, false};
    std::vector<double> in(16, 2), out(16, 0), work(1 << 17);
    DeltaForward<double> f;
    f.size = shape.size;
    f.memory_in = in.data(), f.memory_out = out.data();
    REQUIRE(cpu::delta_forward(f, {work.data(), work.size() * sizeof(double)}) == Status::ok);
    CHECK(out == in);
    DeltaBackward<double> a;
    a.size = shape.size;
    a.d_memory_out = in.data(), a.d_memory_in = out.data();
    out.assign(16, 0);
    REQUIRE(cpu::delta_backward(a, {work.data(), work.size() * sizeof(double)}) == Status::ok);
    CHECK(out == in);
  }

  TEST_CASE("sizes and workspaces that cannot be are refused") {
    const DeltaProblem p = delta_problem({{1, 5, 4, 2, 1, 4, 4}, DeltaDecay::none, false, false}, 1);
    DeltaRun<double> r(p);
    DeltaForward<double> a = forward_arguments(r, in_place);
    CHECK(cpu::delta_forward(a, {}) == Status::small_workspace);
    a.size.key_heads = 3;
    CHECK(cpu::delta_forward(a, {}) == Status::bad_size);
    a.size.key_heads = 0;
    CHECK(cpu::delta_forward(a, {}) == Status::bad_size);
  }
}
