// Matrix products against three loops, all transposes and batch forms, with derivatives to order 2.
#include "ops_numbers.hpp"
#include <ttr/core/parallel.hpp>

using namespace ttr;
using namespace ttr::test;

namespace {

// c[i, r, s] = sum_q a b, reading the stored layouts; a batch of 0 means the operand is shared
std::vector<double> three_loops(const Tensor& a, const Tensor& b, bool ta, bool tb, int64_t batch, int64_t m, int64_t n, int64_t k) {
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  std::vector<double> c(size_t(std::max<int64_t>(batch, 1) * m * n));
  for (int64_t i = 0; i < std::max<int64_t>(batch, 1); ++i)
    for (int64_t r = 0; r < m; ++r)
      for (int64_t s = 0; s < n; ++s) {
        double total = 0;
        for (int64_t q = 0; q < k; ++q) {
          const int64_t at = (a.rank() > 2 ? i * m * k : 0) + (ta ? q * m + r : r * k + q);
          const int64_t bt = (b.rank() > 2 ? i * k * n : 0) + (tb ? s * k + q : q * n + s);
          total += x[size_t(at)] * y[size_t(bt)];
        }
        c[size_t((i * m + r) * n + s)] = total;
      }
  return c;
}

Shape stored(int64_t batch, int64_t rows, int64_t columns, bool transposed) {
  const int64_t r = transposed ? columns : rows, c = transposed ? rows : columns;
  return batch ? Shape{batch, r, c} : Shape{r, c};
}

}  // namespace

TEST_SUITE("ops_matmul") {
  TEST_CASE("every layout equals three loops, and its derivatives equal differences to order 2") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32})
      for (const auto& [batch_a, batch_b] : {std::pair<int64_t, int64_t>{0, 0}, {3, 3}, {3, 0}, {0, 3}})
        for (const bool ta : {false, true})
          for (const bool tb : {false, true})
            for (const auto& [m, n, k] : {std::tuple<int64_t, int64_t, int64_t>{4, 5, 3}, {1, 5, 7}, {4, 1, 2}, {1, 1, 1}}) {
              CAPTURE(batch_a); CAPTURE(batch_b); CAPTURE(ta); CAPTURE(tb); CAPTURE(m); CAPTURE(n); CAPTURE(k); CAPTURE(std::string(name_of(dtype)));
              const Tensor a = random_tensor(stored(batch_a, m, k, ta), 1, dtype), b = random_tensor(stored(batch_b, k, n, tb), 2, dtype);
              const Tensor c = matmul(a, b, ta, tb);
              const int64_t batch = std::max(batch_a, batch_b);
              CHECK(c.shape() == (batch ? Shape{batch, m, n} : Shape{m, n}));
              CHECK(worst(c, three_loops(a, b, ta, tb, batch, m, n, k)) < tolerance(dtype, 1e-14, 1e-6));
              if (dtype != Dtype::f64) continue;
              const GradCheck g = check([&](const Tensors& x) { return matmul(x[0], x[1], ta, tb); }, {a, b});
              CAPTURE(g.where);
              CHECK(g.within(1e-8));
            }
  }

  TEST_CASE("large products, alone and batched, on any number of threads") {
    const int before = thread_count();
    const Tensor a = random_tensor({2, 130, 257}, 1, Dtype::f32), b = random_tensor({2, 257, 190}, 2, Dtype::f32), w = random_tensor({190, 257}, 3, Dtype::f32);
    for (const int threads : {1, 2, 5}) {
      set_thread_count(threads);
      CHECK(worst(matmul(a, b), three_loops(a, b, false, false, 2, 130, 190, 257)) < 2e-5);
      CHECK(worst(matmul(a, w, false, true), three_loops(a, w, false, true, 2, 130, 190, 257)) < 2e-5);
    }
    set_thread_count(before);
  }

  TEST_CASE("four axes, and sizes of zero") {
    const Tensor a = random_tensor({2, 3, 4, 5}, 1), b = random_tensor({2, 3, 5, 2}, 2);
    CHECK(worst(matmul(a, b), three_loops(a, b, false, false, 6, 4, 2, 5)) < 1e-14);
    CHECK(check([](const Tensors& x) { return matmul(x[0], x[1], true, false); }, {random_tensor({2, 3, 4, 5}, 1), random_tensor({4, 2}, 2)}).within(1e-8));
    CHECK(worst(matmul(zeros({3, 0}, {Dtype::f64}), zeros({0, 2}, {Dtype::f64})), std::vector<double>(6, 0.0)) == 0);
    CHECK(matmul(zeros({0, 3, 4}), zeros({4, 2})).shape() == Shape{0, 3, 2});
    const Tensors d = gradients([](const Tensors& x) { return matmul(x[0], x[1]); }, {zeros({0, 3, 4}), zeros({4, 2})});
    CHECK(worst(d[1], std::vector<double>(8, 0.0)) == 0);
  }

  TEST_CASE("project is the product, cut: values, gradients of every subset of its parts, order 2") {
    const Tensor x = random_tensor({2, 5, 6}, 1);
    for (const std::vector<int64_t>& weights : {std::vector<int64_t>{8}, {3, 5}, {4, 3, 1}, {3, 1, 4}})   // their rows; narrow ones are joined
      for (const int64_t wide : {0, 40}) {                                                               // rows of one more weight in front of them
        std::vector<int64_t> sizes{3, 1, 4};
        if (weights.size() == 3 && weights[0] == 4) sizes = {4, 3, 1};
        Tensors inputs{x};
        if (wide) inputs.push_back(random_tensor({wide, 6}, 9)), sizes.insert(sizes.begin(), wide);
        for (const int64_t rows : weights) inputs.push_back(random_tensor({rows, 6}, uint64_t(rows) + 2));
        const auto weights_of = [](const Tensors& in) { return Tensors(in.begin() + 1, in.end()); };
        const auto projected = [=](const Tensors& in) { return project(in[0], weights_of(in), sizes); };
        const auto cut = [=](const Tensors& in) { return split(matmul(in[0], concat(weights_of(in), 0), false, true), -1, sizes); };
        const Tensors ys = projected(inputs), want = cut(inputs);
        const int parts = int(sizes.size());
        REQUIRE(int(ys.size()) == parts);
        for (size_t i = 0; i < ys.size(); ++i) CHECK(worst(ys[i], want[i]) < 1e-14);
        for (int subset = 1; subset < 1 << parts; ++subset) {
          CAPTURE(subset); CAPTURE(wide); CAPTURE(weights.size());
          const auto some = [=](const Tensors& ys) {
            Tensors kept;
            for (int i = 0; i < parts; ++i)
              if (subset >> i & 1) kept.push_back(ys[size_t(i)] * double(i + 1));
            return concat(kept, 2);
          };
          const Function f = [=](const Tensors& in) { return some(projected(in)); }, g = [=](const Tensors& in) { return some(cut(in)); };
          const Tensors d = gradients(f, inputs), expected = gradients(g, inputs);
          for (size_t i = 0; i < inputs.size(); ++i) CHECK(worst(d[i], expected[i]) < 1e-13);
          if (wide == 0) CHECK(check(f, inputs).within(1e-7));
        }
      }
    const Tensor w = zeros({8, 6}, like(x));
    CHECK(message([&] { project(x, {w}, {3, 4}); }) == "[project] sizes add up to 7, need 8: each weight is cut by sizes of its own, and all of it is");
    CHECK(message([&] { project(x, {w, w}, {3, 13}); }) == "[project] sizes add up to 16, need 8: each weight is cut by sizes of its own, and all of it is");
    CHECK(message([&] { project(x, {w}, {8, 1}); }) == "[project] sizes add up to 9, need 8: each weight is cut by sizes of its own, and all of it is");
    CHECK(message([&] { project(x, {zeros({8, 5}, like(x))}, {8}); }) == "[project] a weight is [8, 5], needs [rows, 6]: a column for each of x [2, 5, 6]");
  }

  TEST_CASE("errors name both shapes") {
    CHECK(message([] { matmul(zeros({2, 3}), zeros({4, 5})); }) == "[matmul] inner size of a [2, 3] is 3, needs 4 as in b [4, 5]; transpose one operand");
    CHECK(message([] { matmul(zeros({2, 3}), zeros({4, 3}), true, true); }) ==
          "[matmul] inner size of a [2, 3] transposed is 2, needs 3 as in b [4, 3] transposed; transpose one operand");
    CHECK(message([] { matmul(zeros({2, 2, 3}), zeros({4, 3, 5})); }) ==
          "[matmul] leading axes of a [2, 2, 3] are [2], needs [4] as in b [4, 3, 5]; broadcast_to or drop them on one side");
    CHECK(message([] {
            matmul(zeros({3}), zeros({3, 5}));
          }) == "[matmul] a is [3], needs at least two axes [..., m, k]; reshape a vector to a row or a column");
    CHECK(message([] { matmul(zeros({2, 3}), zeros({3, 5}, {Dtype::f64})); }).find("dtypes are f32 and f64") != std::string::npos);
  }
}
