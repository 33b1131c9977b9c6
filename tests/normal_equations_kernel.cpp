// The CPU kernels of the stem `normal_equations` against direct solves, on every case of normal_equations_reference.hpp; and what a least-squares
// memory must do whoever computes it.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include <ttr/core/parallel.hpp>
#include <ttr/tests/normal_equations_reference.hpp>

using namespace ttr;

namespace {

const auto in_place = [](auto& x) { return x.data(); };

// Workspace that holds NaN, so that a read before a write shows.
std::vector<double> fresh(size_t bytes) { return std::vector<double>(bytes / sizeof(double) + 1, std::numeric_limits<double>::quiet_NaN()); }

template <class T> Status run_forward(const NormalForward<T>& a) {
  const size_t bytes = cpu::normal_equations_workspace(a);
  std::vector<double> work = fresh(bytes);
  return cpu::normal_equations_forward(a, {work.data(), bytes});
}
template <class T> Status run_backward(const NormalBackward<T>& a) {
  const size_t bytes = cpu::normal_equations_workspace(a);
  std::vector<double> work = fresh(bytes);
  return cpu::normal_equations_backward(a, {work.data(), bytes});
}
template <class T> NormalAnswer run(const NormalData& p) {
  NormalRun<T> r(p);
  const NormalForward<T> forward = forward_arguments(r, in_place);
  REQUIRE(run_forward(forward) == Status::ok);
  REQUIRE(run_backward(backward_arguments(r, forward, in_place)) == Status::ok);
  return r.answer();
}

double loss(const NormalData& p) {
  const NormalAnswer r = normal_answer(p);
  double sum = 0;
  for (size_t i = 0; i < r.y.size(); ++i) sum += r.y[i] * p.dy[i];
  return sum;
}

NormalData with(NormalData p, NormalMethod method) {
  p.shape.method = method;
  return p;
}

struct ThreadCount {
  int before = thread_count();
  explicit ThreadCount(int count) { set_thread_count(count); }
  ~ThreadCount() { set_thread_count(before); }
};

}  // namespace

TEST_SUITE("normal_equations_kernel") {
  TEST_CASE("the reference's adjoint agrees with central differences") {
    for (const RidgePolicy policy : {RidgePolicy::constant, RidgePolicy::decaying, RidgePolicy::refreshed, RidgePolicy::relative}) {
      NormalCase shape{{.batch = 2, .tokens = 9, .past = 2, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 3, .value_dim = 2}, policy};
      shape.decays = shape.weighs = shape.documents = true, shape.refresh = 3, shape.least_decay = -0.5;
      NormalData p = normal_data(shape, 3);
      for (int64_t t = 6; t < 9; ++t) p.documents[size_t(t)] = 7;
      const NormalAnswer r = normal_answer(p);
      const std::pair<std::vector<double> NormalData::*, std::vector<double> NormalAnswer::*> leaves[] = {
          {&NormalData::q, &NormalAnswer::dq}, {&NormalData::k, &NormalAnswer::dk}, {&NormalData::v, &NormalAnswer::dv},
          {&NormalData::log_decay, &NormalAnswer::d_log_decay}, {&NormalData::write, &NormalAnswer::d_write}, {&NormalData::ridge, &NormalAnswer::d_ridge}};
      for (const auto& [leaf, adjoint] : leaves) {
        std::vector<double> difference, got = r.*adjoint;
        for (double& x : p.*leaf) {
          const double before = x, step = 1e-5;
          x = before + step;
          const double up = loss(p);
          x = before - step;
          difference.push_back((up - loss(p)) / (2 * step));
          x = before;
        }
        if (leaf == &NormalData::ridge) {   // one ridge for both sequences
          for (size_t i = 0; i < difference.size(); ++i) got[i] += got[i + difference.size()];
          got.resize(difference.size());
        }
        CHECK(distance(difference, got) < 1e-8);
      }
    }
  }

  TEST_CASE("f64 agrees with direct solves on outputs and every gradient") {
    uint64_t seed = 0;
    for (const NormalCase& shape : normal_cases()) {
      const NormalData p = normal_data(shape, ++seed);
      CHECK(normal_mismatch(run<double>(p), normal_answer(p), shape, seed, 1e-11) == "");
    }
  }

  TEST_CASE("f64 where the decay is strong: spans get short, a ridge that decays is soon gone") {
    for (const RidgePolicy policy : {RidgePolicy::decaying, RidgePolicy::refreshed}) {
      NormalCase shape{{.batch = 1, .tokens = 130, .heads = 2, .key_heads = 2, .value_heads = 2, .key_dim = 8, .value_dim = 5},
                       policy, NormalMethod::chunk, true};
      shape.least_decay = -0.8;
      const NormalData p = normal_data(shape, 77);
      const NormalAnswer want = normal_answer(p);
      CHECK(normal_mismatch(run<double>(p), want, shape, 77, 1e-9) == "");
      CHECK(normal_mismatch(run<double>(with(p, NormalMethod::token)), want, shape, 77, 1e-9) == "");
    }
  }

  TEST_CASE("f32 agrees with f64") {
    uint64_t seed = 100;
    for (const NormalCase& shape : normal_cases()) {
      const NormalData p = rounded<float>(normal_data(shape, ++seed));
      CHECK(normal_mismatch(run<float>(p), run<double>(p), shape, seed, 2e-5) == "");
    }
  }

  TEST_CASE("three ways, one answer: recursive least squares, a solve a token, conjugate gradients") {
    const NormalCase shape{{.batch = 2, .tokens = 100, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 20, .value_dim = 9}, RidgePolicy::constant,
                           NormalMethod::chunk, false, true};
    const NormalData p = normal_data(shape, 5);
    const NormalAnswer chunk = run<double>(p);
    CHECK(normal_mismatch(run<double>(with(p, NormalMethod::token)), chunk, shape, 5, 1e-12) == "");
    CHECK(normal_mismatch(run<double>(with(p, NormalMethod::iterative)), chunk, shape, 5, 1e-11) == "");
  }

  TEST_CASE("one conjugate gradient step from zero is |q|^2 / q.Aq times q") {
    NormalCase shape{{.batch = 1, .tokens = 40, .heads = 1, .key_heads = 1, .value_heads = 1, .key_dim = 7, .value_dim = 4}, RidgePolicy::constant,
                     NormalMethod::iterative, true, true};
    NormalData p = normal_data(shape, 6);
    p.steps = 1;
    NormalRun<double> r(p);
    REQUIRE(run_forward(forward_arguments(r, in_place)) == Status::ok);
    std::vector<double> H(49, 0.0), F(28, 0.0), want;
    for (int64_t t = 0; t < 40; ++t) {
      const double a = std::exp(p.log_decay[t]), w = p.write[t], *k = &p.k[t * 7], *v = &p.v[t * 4];
      double qq = 0, qAq = 0;
      for (int64_t i = 0; i < 7; ++i)
        for (int64_t j = 0; j < 7; ++j) {
          H[i * 7 + j] = a * H[i * 7 + j] + w * k[i] * k[j];
          qAq += p.q[t * 7 + i] * (H[i * 7 + j] + (i == j ? p.ridge[j] : 0)) * p.q[t * 7 + j];
        }
      for (int64_t j = 0; j < 7; ++j) qq += p.q[t * 7 + j] * p.q[t * 7 + j];
      for (int64_t i = 0; i < 4; ++i) {
        double y = 0;
        for (int64_t j = 0; j < 7; ++j) {
          F[i * 7 + j] = a * F[i * 7 + j] + w * v[i] * k[j];
          y += F[i * 7 + j] * p.q[t * 7 + j];
        }
        want.push_back(p.scale * qq / qAq * y);
      }
    }
    CHECK(distance(r.y, want) < 1e-13);
  }

  TEST_CASE("a token of weight zero leaves no trace") {
    for (const NormalMethod method : {NormalMethod::chunk, NormalMethod::token, NormalMethod::iterative}) {
      NormalCase shape{{.batch = 1, .tokens = 30, .heads = 1, .key_heads = 1, .value_heads = 1, .key_dim = 6, .value_dim = 4}, RidgePolicy::constant, method,
                       false, true};
      NormalData p = normal_data(shape, 8);
      for (const size_t t : {size_t(0), size_t(9), size_t(10), size_t(29)}) p.write[t] = 0;
      const NormalAnswer r = run<double>(p);
      CHECK(normal_mismatch(r, normal_answer(p), shape, 8, 1e-11) == "");
      NormalData other = p;
      for (size_t i = 0; i < 6; ++i) other.k[9 * 6 + i] = 100;
      CHECK(distance(run<double>(other).y, r.y) < 1e-13);
    }
  }

  TEST_CASE("a single pair is shrunk, orthonormal keys are recalled shrunk") {   // v (k.q) / (|k|^2 + ridge)
    NormalCase shape{{.batch = 1, .tokens = 4, .heads = 1, .key_heads = 1, .value_heads = 1, .key_dim = 4, .value_dim = 2}, RidgePolicy::constant,
                     NormalMethod::chunk};
    NormalData p = normal_data(shape, 9);
    p.ridge.assign(4, 0.25), p.scale = 1, p.k.assign(16, 0), p.q.assign(16, 0);
    for (size_t t = 0; t < 4; ++t) p.k[t * 4 + t] = 1, p.q[t * 4 + t / 2] = 1;   // token t asks for key t / 2
    const NormalAnswer r = run<double>(p);
    for (size_t t = 0; t < 4; ++t)
      for (size_t i = 0; i < 2; ++i) CHECK(r.y[t * 2 + i] == doctest::Approx(p.v[t / 2 * 2 + i] / 1.25).epsilon(1e-13));
  }

  TEST_CASE("what comes later does not change what came before, bit for bit") {
    for (const NormalMethod method : {NormalMethod::chunk, NormalMethod::token, NormalMethod::iterative}) {
      NormalCase shape{{.batch = 1, .tokens = 130, .heads = 2, .key_heads = 2, .value_heads = 2, .key_dim = 20, .value_dim = 9}, RidgePolicy::decaying, method,
                       true, true};
      NormalData p = normal_data(shape, 10);
      const NormalAnswer before = run<double>(p);
      const NormalData other = normal_data(shape, 11);
      const size_t t = 70;
      for (auto leaf : {&NormalData::q, &NormalData::k, &NormalData::v, &NormalData::log_decay, &NormalData::write}) {
        const size_t from = (p.*leaf).size() / 130 * t;
        std::copy((other.*leaf).begin() + int64_t(from), (other.*leaf).end(), (p.*leaf).begin() + int64_t(from));
      }
      const NormalAnswer after = run<double>(p);
      CHECK(std::memcmp(before.y.data(), after.y.data(), t * 18 * sizeof(double)) == 0);
      CHECK(before.y[t * 18] != after.y[t * 18]);
    }
  }

  TEST_CASE("a gradient asked for alone is the one asked for together") {
    for (const NormalMethod method : {NormalMethod::chunk, NormalMethod::token}) {
      NormalCase shape{{.batch = 2, .tokens = 70, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 9, .value_dim = 6},
                       RidgePolicy::decaying, method, true,
                       true};
      const NormalData p = normal_data(shape, 12);
      const NormalAnswer all = run<double>(p);
      for (int only = 0; only <= 6; ++only) {   // 6: none at all
        NormalRun<double> r(p);
        const NormalForward<double> forward = forward_arguments(r, in_place);
        REQUIRE(run_forward(forward) == Status::ok);
        NormalBackward<double> a = backward_arguments(r, forward, in_place);
        if (only != 0) a.dq = {};
        if (only != 1) a.dk = {};
        if (only != 2) a.dv = {};
        if (only != 3) a.d_log_decay = nullptr;
        if (only != 4) a.d_write = nullptr;
        if (only != 5) a.d_ridge = nullptr;
        REQUIRE(run_backward(a) == Status::ok);
        const NormalAnswer one = r.answer();
        for (int i = 0; i < 6; ++i) {
          const std::vector<double>& got = one.*kNormalParts[i + 1].part;
          if (i == only) CHECK(got == all.*kNormalParts[i + 1].part);
          else CHECK(std::all_of(got.begin(), got.end(), [](double x) { return std::isnan(x); }));
        }
      }
    }
  }

  TEST_CASE("the number of threads does not change a bit") {
    NormalCase shape{{.batch = 3, .tokens = 80, .heads = 4, .key_heads = 2, .value_heads = 4, .key_dim = 16, .value_dim = 12}, RidgePolicy::refreshed,
                     NormalMethod::chunk, true, true, true, 20};
    const NormalData p = normal_data(shape, 13);
    NormalAnswer one, three;
    {
      ThreadCount set(1);
      one = run<double>(p);
    }
    {
      ThreadCount set(3);
      three = run<double>(p);
    }
    for (const NormalPart& x : kNormalParts) CHECK(one.*x.part == three.*x.part);
  }

  TEST_CASE("sizes, methods and workspaces that cannot be are refused") {
    NormalRun<double> r(normal_data({{.batch = 1, .tokens = 5, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 4, .value_dim = 4}}, 1));
    NormalForward<double> a = forward_arguments(r, in_place);
    CHECK(cpu::normal_equations_forward(a, {}) == Status::small_workspace);
    a.size.key_heads = 3;
    CHECK(cpu::normal_equations_forward(a, {}) == Status::bad_size);
    a.size.key_heads = 2, a.size.past = 6;
    CHECK(cpu::normal_equations_forward(a, {}) == Status::bad_size);
    a.size.past = 0, a.policy = RidgePolicy::refreshed, a.refresh = 0;
    CHECK(cpu::normal_equations_forward(a, {}) == Status::bad_size);
    a.policy = RidgePolicy::relative, a.method = NormalMethod::chunk;   // no rank-one form
    CHECK(cpu::normal_equations_forward(a, {}) == Status::bad_size);
  }
}
