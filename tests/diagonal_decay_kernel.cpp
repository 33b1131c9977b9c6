// The CPU kernels of the stem `diagonal_decay` against the token recurrence, on every shape of diagonal_decay_reference.hpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include <ttr/core/parallel.hpp>
#include <ttr/tests/diagonal_decay_reference.hpp>

using namespace ttr;

namespace {

const auto in_place = [](auto& x) { return x.data(); };

// Workspace that holds NaN, so that a read before a write shows.
std::vector<double> fresh(size_t bytes) {
  return std::vector<double>(bytes / sizeof(double) + 1, std::numeric_limits<double>::quiet_NaN());
}

template <class T> Status run_forward(const DecayForward<T>& a) {
  std::vector<double> work = fresh(cpu::diagonal_decay_workspace(a));
  return cpu::diagonal_decay_forward(a, {work.data(), cpu::diagonal_decay_workspace(a)});
}
template <class T> Status run_backward(const DecayBackward<T>& a) {
  std::vector<double> work = fresh(cpu::diagonal_decay_workspace(a));
  return cpu::diagonal_decay_backward(a, {work.data(), cpu::diagonal_decay_workspace(a)});
}

template <class T> DecayAnswer run(const DecayProblem& p) {
  DecayRun<T> r(p);
  const DecayForward<T> forward = forward_arguments(r, in_place);
  REQUIRE(run_forward(forward) == Status::ok);
  REQUIRE(run_backward(backward_arguments(r, forward, in_place)) == Status::ok);
  return r.answer();
}

double loss(const DecayProblem& p) {
  const DecayAnswer r = decay_answer(p);
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

TEST_SUITE("diagonal_decay_kernel") {
  TEST_CASE("the reference's adjoint agrees with central differences") {
    int kinds = 0;
    for (const auto& [kind, tied] : {std::pair{DecayKind::head, false}, {DecayKind::channel, false}, {DecayKind::channel, true}})
      for (const bool strict : {false, true}) {
        DecayShape shape{.size = {1, 23, 4, tied ? 4 : 2, 1, 3, 4}, .kind = kind, .strict = strict, .tied = tied};
        shape.divide = Divide(kinds++ % 3), shape.floor = true;
        shape.bonus = shape.write = shape.segments = shape.carried = shape.size.normaliser = true;
        DecayProblem p = decay_problem(shape, 3);
        const DecayAnswer r = decay_answer(p);
        const std::pair<std::vector<double> DecayProblem::*, std::vector<double> DecayAnswer::*> leaves[] = {
            {&DecayProblem::q, &DecayAnswer::dq},
            {&DecayProblem::k, &DecayAnswer::dk},
            {&DecayProblem::v, &DecayAnswer::dv},
            {&DecayProblem::log_decay, &DecayAnswer::d_log_decay},
            {&DecayProblem::write, &DecayAnswer::d_write},
            {&DecayProblem::bonus, &DecayAnswer::d_bonus},
            {&DecayProblem::memory_in, &DecayAnswer::d_memory_in},
            {&DecayProblem::floor, &DecayAnswer::d_floor}};
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
    for (const DecayShape& shape : decay_shapes()) {
      const DecayProblem p = decay_problem(shape, ++seed);
      CHECK(decay_mismatch(run<double>(p), decay_answer(p), shape, seed, 1e-10, 1e-9) == "");
    }
  }

  TEST_CASE("f32 agrees with f64") {
    uint64_t seed = 100;
    for (const DecayShape& shape : decay_shapes()) {
      const DecayProblem p = rounded<float>(decay_problem(shape, ++seed));
      CHECK(decay_mismatch(run<float>(p), run<double>(p), shape, seed, 5e-6, 1e-5) == "");
    }
  }

  TEST_CASE("the gradient of a strong decay keeps its digits: each entry, not the largest alone") {
    for (const DecayKind kind : {DecayKind::head, DecayKind::channel})
      for (const bool strict : {false, true}) {
        const DecayShape shape{.size = {1, 40, 1, 1, 1, 16, 16}, .kind = kind, .range = DecayRange::strong, .strict = strict, .carried = true};
        const DecayProblem p = rounded<float>(decay_problem(shape, 5));
        const DecayAnswer got = run<float>(p), want = decay_answer(p);
        for (size_t i = 0; i < want.d_log_decay.size(); ++i) {
          CHECK(std::abs(want.d_log_decay[i]) < 1e-15);
          CHECK(std::abs(got.d_log_decay[i] - want.d_log_decay[i]) <= 1e-5 * 1e-20);   // exp(-50) is 2e-22
        }
      }
  }

  TEST_CASE("a decay far above 1 is not finite, rather than a number without sense") {
    for (const DecayKind kind : {DecayKind::head, DecayKind::channel}) {
      DecayProblem p = decay_problem({.size = {1, 1, 1, 1, 1, 16, 16}, .kind = kind, .carried = true}, 4);
      for (double& g : p.log_decay) g = 100;
      for (const double m : run<float>(p).memory_out) CHECK(!std::isfinite(m));
    }
  }

  TEST_CASE("a sequence cut anywhere, memory carried, is the sequence") {
    for (const bool strict : {false, true}) {
      DecayShape shape{.size = {2, 130, 2, 1, 2, 24, 20}, .kind = DecayKind::channel, .range = DecayRange::mixed, .strict = strict};
      shape.write = shape.fused = shape.carried = shape.size.normaliser = shape.floor = true, shape.divide = Divide::magnitude;
      const DecayProblem p = decay_problem(shape, 7);
      const DecayAnswer whole = run<double>(p);
      for (int64_t cut : {1, 50, 64, 129}) {
        DecayProblem left = slice(p, 0, cut), right = slice(p, cut, 130);
        right.memory_in = run<double>(left).memory_out;
        const DecayAnswer last = run<double>(right);
        left.d_memory_out = last.d_memory_in;
        const DecayAnswer first = run<double>(left);
        DecayAnswer joined = first;
        joined.memory_out = last.memory_out;
        for (auto part : {&DecayAnswer::y, &DecayAnswer::dq, &DecayAnswer::dk, &DecayAnswer::dv, &DecayAnswer::d_log_decay, &DecayAnswer::d_write,
                          &DecayAnswer::normaliser, &DecayAnswer::d_floor}) {
          const size_t width = (whole.*part).size() / (2 * 130);
          (joined.*part).clear();
          for (size_t b = 0; b < 2; ++b) {
            const auto &x = first.*part, &y = last.*part;
            (joined.*part).insert((joined.*part).end(), x.begin() + b * cut * width, x.begin() + (b + 1) * cut * width);
            (joined.*part).insert((joined.*part).end(), y.begin() + b * (130 - cut) * width, y.begin() + (b + 1) * (130 - cut) * width);
          }
        }
        CHECK(decay_mismatch(joined, whole, shape, 7, 1e-12, 1e-11) == "");
      }
    }
  }

  TEST_CASE("what comes later does not change what came before, bit for bit") {
    for (const DecayKind kind : {DecayKind::head, DecayKind::channel}) {
      const DecayShape shape{.size = {1, 130, 2, 2, 2, 60, 33}, .kind = kind, .write = true, .carried = true};
      DecayProblem p = decay_problem(shape, 8);
      const DecayAnswer before = run<double>(p);
      const DecayProblem other = decay_problem(shape, 9);
      const int64_t t = 70;
      for (auto leaf : {&DecayProblem::q, &DecayProblem::k, &DecayProblem::v, &DecayProblem::log_decay, &DecayProblem::write}) {
        const size_t from = (p.*leaf).size() / 130 * t;
        std::copy((other.*leaf).begin() + from, (other.*leaf).end(), (p.*leaf).begin() + from);
      }
      const DecayAnswer after = run<double>(p);
      const size_t width = 2 * 33;
      CHECK(std::memcmp(before.y.data(), after.y.data(), t * width * sizeof(double)) == 0);
      CHECK(before.y[t * width] != after.y[t * width]);
    }
  }

  TEST_CASE("a gradient asked for alone is the one asked for together") {
    for (const DecayKind kind : {DecayKind::head, DecayKind::channel}) {
      const DecayShape shape{.size = {2, 70, 4, 2, 1, 20, 12}, .kind = kind, .bonus = true, .write = true, .carried = true};
      const DecayProblem p = decay_problem(shape, 11);
      const DecayAnswer all = run<double>(p);
      for (int only = 0; only <= 7; ++only) {   // 7: none at all
        DecayRun<double> r(p);
        const DecayForward<double> forward = forward_arguments(r, in_place);
        REQUIRE(run_forward(forward) == Status::ok);
        DecayBackward<double> a = backward_arguments(r, forward, in_place);
        if (only != 0) a.dq = {};
        if (only != 1) a.dk = {};
        if (only != 2) a.dv = {};
        if (only != 3) a.d_log_decay = nullptr;
        if (only != 4) a.d_write = nullptr;
        if (only != 5) a.d_bonus = nullptr;
        if (only != 6) a.d_memory_in = nullptr;
        REQUIRE(run_backward(a) == Status::ok);
        const DecayAnswer one = r.answer();
        for (int i = 0; i < 7; ++i) {
          const std::vector<double>& got = one.*kDecayParts[i + 2].part;
          if (i == only) CHECK(got == all.*kDecayParts[i + 2].part);
          else CHECK(std::all_of(got.begin(), got.end(), [](double x) { return std::isnan(x); }));
        }
      }
    }
  }

  TEST_CASE("memory_out and saved may be left out; columns between fused rows stay untouched") {
    const DecayShape shape{.size = {1, 70, 2, 1, 1, 20, 12}, .fused = true};
    const DecayProblem p = decay_problem(shape, 12);
    DecayRun<double> r(p), s(p);
    const DecayForward<double> full = forward_arguments(r, in_place);
    DecayForward<double> bare = forward_arguments(s, in_place);
    bare.memory_out = bare.saved = nullptr;
    REQUIRE(run_forward(full) == Status::ok);
    REQUIRE(run_forward(bare) == Status::ok);
    CHECK(r.y == s.y);
    REQUIRE(run_backward(backward_arguments(r, full, in_place)) == Status::ok);
    for (int64_t t = 0; t < 70; ++t) {
      CHECK(std::isnan(r.dq[t * r.layout.q_stride]));
      CHECK(std::isnan(r.dq[t * r.layout.q_stride + r.layout.q_stride - 1]));
    }
  }

  TEST_CASE("pairs may be left out: the backward makes them again") {
    for (const DecayKind kind : {DecayKind::head, DecayKind::channel})
      for (const bool strict : {false, true}) {
        const DecayShape shape{.size = {2, 71, 4, 2, 4, 20, 24}, .kind = kind, .strict = strict, .bonus = true, .write = true, .carried = true};
        const DecayProblem p = decay_problem(shape, 14);
        DecayRun<double> r(p);
        r.pairs.clear();
        const DecayForward<double> forward = forward_arguments(r, in_place);
        REQUIRE(forward.pairs == nullptr);
        REQUIRE(run_forward(forward) == Status::ok);
        REQUIRE(run_backward(backward_arguments(r, forward, in_place)) == Status::ok);
        CHECK(decay_mismatch(r.answer(), decay_answer(p), shape, 14, 1e-12, 1e-12) == "");
      }
  }

  TEST_CASE("the number of threads does not change a bit") {
    const DecayProblem p = decay_problem({.size = {3, 100, 4, 2, 4, 32, 24}, .kind = DecayKind::channel, .write = true, .carried = true}, 13);
    DecayAnswer one, three;
    {
      ThreadCount set(1);
      one = run<double>(p);
    }
    {
      ThreadCount set(3);
      three = run<double>(p);
    }
    for (const DecayPart& x : kDecayParts) CHECK(one.*x.part == three.*x.part);
  }

  TEST_CASE("no tokens: memories pass through") {
    std::vector<double> in(16, 2), out(16, 0), work(1 << 17);
    DecayForward<double> f;
    f.size = {1, 0, 1, 1, 1, 4, 4};
    f.memory_in = in.data(), f.memory_out = out.data();
    REQUIRE(cpu::diagonal_decay_forward(f, {work.data(), work.size() * sizeof(double)}) == Status::ok);
    CHECK(out == in);
    DecayBackward<double> a;
    a.size = f.size;
    a.d_memory_out = in.data(), a.d_memory_in = out.data();
    out.assign(16, 0);
    REQUIRE(cpu::diagonal_decay_backward(a, {work.data(), work.size() * sizeof(double)}) == Status::ok);
    CHECK(out == in);
  }

  TEST_CASE("sizes and workspaces that cannot be are refused") {
    const DecayProblem p = decay_problem({.size = {1, 5, 4, 2, 1, 4, 4}}, 1);
    DecayRun<double> r(p);
    DecayForward<double> a = forward_arguments(r, in_place);
    CHECK(cpu::diagonal_decay_forward(a, {}) == Status::small_workspace);
    a.size.key_heads = 3;
    CHECK(cpu::diagonal_decay_forward(a, {}) == Status::bad_size);
    a.size.key_heads = 0;
    CHECK(cpu::diagonal_decay_forward(a, {}) == Status::bad_size);
  }

  TEST_CASE("the running scale: its recurrence, its restart, and where its gradient goes") {
    const std::vector<double> g{-1, -2, -0.5, -1, -1, -1}, w{0.5, -3, 2, -9, -9, 1}, initial{4};
    const std::vector<int32_t> ids{7, 7, 7, 7, 3, 3};
    std::vector<double> m(6), dg(6), dw(6), d_initial(1), dm{1, 10, 100, 1000, 1e4, 1e5};
    RunningScale<double> x{.batch = 1, .tokens = 6, .heads = 1, .log_decay = g.data(), .log_write = w.data(), .initial = initial.data(),
                           .segments = ids.data(), .scale = m.data(), .d_scale = dm.data(), .d_log_decay = dg.data(), .d_log_write = dw.data(),
                           .d_initial = d_initial.data()};
    REQUIRE(cpu::running_scale_forward(x) == Status::ok);
    CHECK(m == std::vector<double>{3, 1, 2, 1, -1, 1});
    REQUIRE(cpu::running_scale_backward(x) == Status::ok);
    CHECK(dg == std::vector<double>{11, 10, 0, 1000, 1e4, 0});
    CHECK(dw == std::vector<double>{0, 0, 1100, 0, 0, 1e5});
    CHECK(d_initial == std::vector<double>{11});
  }
}
