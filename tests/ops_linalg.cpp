// Cholesky, triangular and symmetric solves: what they return times what they were given, blocks and batches, derivatives to order 2.
#include "ops_numbers.hpp"
#include <ttr/core/parallel.hpp>

using namespace ttr;
using namespace ttr::test;

namespace {

Tensor positive(const Shape& shape, uint64_t seed, Dtype dtype = Dtype::f64) {   // X X^T / n + 1
  const Tensor x = random_tensor(shape, seed, dtype);
  return matmul(x, x, false, true) / double(shape[-1]) + identity(shape[-1], {dtype, cpu_device});
}
Tensor triangle(const Shape& shape, uint64_t seed, bool upper, Dtype dtype = Dtype::f64) {   // well conditioned
  const Tensor x = tril(random_tensor(shape, seed, dtype) / double(shape[-1])) + identity(shape[-1], {dtype, cpu_device}) * 1.5;
  return upper ? transpose(x, -1, -2) : x;
}

}  // namespace

TEST_SUITE("ops_linalg") {
  TEST_CASE("cholesky: L L^T is the input, zeros above, only the lower triangle is read") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32})
      for (const int64_t n : {1, 2, 5, 16, 63, 64, 65, 130, 200}) {
        CAPTURE(n); CAPTURE(std::string(name_of(dtype)));
        const Tensor a = positive({3, n, n}, 1, dtype), l = cholesky(a);
        CHECK(worst(matmul(l, l, false, true), a) < tolerance(dtype, 1e-13, 1e-5));
        CHECK(worst(tril(l), l) == 0);
        CHECK(worst(cholesky(tril(a) + transpose(tril(random_tensor({3, n, n}, 5, dtype), -1), -1, -2)), l) == 0);
      }
  }

  TEST_CASE("cholesky of what is not positive definite is NaN from that row on, and nothing else") {
    for (const int64_t n : {4, 150}) {
      std::vector<double> a(size_t(n * n), 0.0);
      for (int64_t i = 0; i < n; ++i) a[size_t(i * n + i)] = i == n - 2 ? -1.0 : 4.0;
      const std::vector<double> l = cholesky(from_vector(a, {n, n})).to_vector<double>();
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j) {
          const double got = l[size_t(i * n + j)];
          if (i >= n - 2 && j >= n - 2 && j <= i) CHECK(std::isnan(got));
          else CHECK(got == (i == j ? 2.0 : 0.0));
        }
    }
    CHECK(std::isnan(cholesky(zeros({1, 1})).item()));
    CHECK(std::isnan(solve(zeros({2, 2}), ones({2, 1})).to_vector<double>()[0]));
  }

  TEST_CASE("solve_triangular: the product gives back the right side, in every form") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32})
      for (const bool upper : {false, true})
        for (const bool transposed : {false, true})
          for (const int64_t n : {1, 5, 64, 65, 130})
            for (const int64_t m : {1, 2, 7, 129}) {
              CAPTURE(upper); CAPTURE(transposed); CAPTURE(n); CAPTURE(m); CAPTURE(std::string(name_of(dtype)));
              const Tensor l = triangle({2, n, n}, 1, upper, dtype), b = random_tensor({2, n, m}, 2, dtype);
              const Tensor x = solve_triangular(l, b, upper, transposed);
              CHECK(worst(matmul(l, x, transposed), b) < tolerance(dtype, 1e-13, 1e-5));
              const Tensor noise = random_tensor({2, n, n}, 3, dtype);   // the other triangle is not read
              const Tensor other = upper ? l + tril(noise, -1) : l + (noise - tril(noise));
              CHECK(worst(solve_triangular(other, b, upper, transposed), x) == 0);
            }
  }

  TEST_CASE("solve: a x is b") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32})
      for (const int64_t n : {1, 6, 64, 100})
        for (const int64_t m : {1, 5}) {
          const Tensor a = positive({2, 2, n, n}, 1, dtype), b = random_tensor({2, 2, n, m}, 2, dtype);
          CHECK(worst(matmul(a, solve(a, b)), b) < tolerance(dtype, 1e-13, 1e-5));
        }
  }

  TEST_CASE("derivatives to order 2") {
    const Tensor a = positive({2, 4, 4}, 1), b = random_tensor({2, 4, 3}, 2);
    const GradCheck c = check([](const Tensors& x) { return cholesky(x[0]); }, {a});
    CAPTURE(c.where);
    CHECK(c.within(1e-8));
    for (const bool upper : {false, true})
      for (const bool transposed : {false, true}) {
        const GradCheck t = check([&](const Tensors& x) { return solve_triangular(x[0], x[1], upper, transposed); }, {triangle({2, 4, 4}, 3, upper), b});
        CAPTURE(t.where);
        CHECK(t.within(1e-8));
      }
    // among symmetric matrices
    const GradCheck s = check([](const Tensors& x) { return solve((x[0] + transpose(x[0], -1, -2)) * 0.5, x[1]); }, {a, b});
    CAPTURE(s.where);
    CHECK(s.within(1e-8));
    const Tensors d = gradients([](const Tensors& x) { return solve(x[0], x[1]); }, {a, b});
    CHECK(worst(d[0], transpose(d[0], -1, -2)) == 0);
  }

  TEST_CASE("a solve equals the two halves of its factor, and differentiates the same") {
    const Tensor a = positive({3, 70, 70}, 1), b = random_tensor({3, 70, 2}, 2);
    const Function whole = [](const Tensors& x) { return solve((x[0] + transpose(x[0], -1, -2)) * 0.5, x[1]); };
    const Function halves = [](const Tensors& x) {
      const Tensor l = cholesky((x[0] + transpose(x[0], -1, -2)) * 0.5);
      return solve_triangular(l, solve_triangular(l, x[1]), false, true);
    };
    CHECK(worst(whole({a, b}), halves({a, b})) < 1e-13);
    const Tensors d = gradients(whole, {a, b}), e = gradients(halves, {a, b});
    CHECK(worst(d[0], e[0]) < 1e-12);
    CHECK(worst(d[1], e[1]) < 1e-12);
  }

  TEST_CASE("the same bits for any number of threads") {
    const int before = thread_count();
    const Tensor a = positive({1, 140, 140}, 1, Dtype::f32), b = random_tensor({1, 140, 300}, 2, Dtype::f32);
    std::vector<std::vector<float>> found;
    for (const int threads : {1, 2, 7}) {
      set_thread_count(threads);
      found.push_back(solve(a, b).to_vector<float>());
    }
    set_thread_count(before);
    CHECK(found[1] == found[0]);
    CHECK(found[2] == found[0]);
  }

  TEST_CASE("errors name both shapes") {
    CHECK(message([] { cholesky(zeros({2, 3})); }) == "[cholesky] a is [2, 3], needs square matrices [..., n, n]");
    CHECK(message([] {
            solve(zeros({3, 3}), zeros({4, 1}));
          }) == "[solve] b is [4, 1], needs the leading axes of a [3, 3] and 3 rows [..., 3, m]; a vector is a matrix of one column");
    CHECK(message([] { solve_triangular(zeros({2, 3, 3}), zeros({3, 1})); }) ==
          "[solve_triangular] b is [3, 1], needs the leading axes of l [2, 3, 3] and 3 rows [..., 3, m]; a vector is a matrix of one column");
  }
}
