// Reductions and running sums: values against plain loops, derivatives to order 2, the same bits for any number of threads, rounding that does not grow with n.
#include <cmath>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>
#include <ttr/core/parallel.hpp>

using namespace ttr;

namespace {

const Options kF64{Dtype::f64, cpu_device};
constexpr double kInfinity = std::numeric_limits<double>::infinity();
Tensor noise(const Shape& shape, uint64_t stream) { return uniform(shape, 5, stream, -2, 2, kF64); }

struct Sizes {
  int64_t outer = 1, n = 1, inner = 1;
};
Sizes around(const Shape& shape, int axis) {
  Sizes s{1, shape[axis], 1};
  for (int i = 0; i < axis; ++i) s.outer *= shape[i];
  for (int i = axis + 1; i < shape.rank(); ++i) s.inner *= shape[i];
  return s;
}

template <class F> std::vector<double> loop(const Tensor& x, int axis, double start, F&& f) {
  const Sizes s = around(x.shape(), axis);
  const auto values = x.to_vector<double>();
  std::vector<double> y(size_t(s.outer * s.inner), start);
  for (int64_t o = 0; o < s.outer; ++o)
    for (int64_t i = 0; i < s.n; ++i)
      for (int64_t c = 0; c < s.inner; ++c)
        y[size_t(o * s.inner + c)] = f(y[size_t(o * s.inner + c)], values[size_t((o * s.n + i) * s.inner + c)]);
  return y;
}

void close(const Tensor& y, const std::vector<double>& want, double tolerance) {
  const auto got = y.to_vector<double>();
  REQUIRE(got.size() == want.size());
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i)
    worst = std::fmax(worst, got[i] == want[i] ? 0 : std::fabs(got[i] - want[i]) / std::fmax(1, std::fabs(want[i])));
  CHECK(worst <= tolerance);
}

const Shape shapes[] = {{7},       {3, 5},     {2, 3, 4}, {1, 1},     {130, 3},      {3, 130}, {2, 70, 200}, {5000},
                        {3, 5000}, {40, 2500}, {70000},   {9000, 16}, {2, 40000, 3}, {0, 3},   {3, 0},       {2, 0, 3}};

}   // namespace

TEST_SUITE("ops_reduce") {
  TEST_CASE("sum, mean, max, logsumexp over every axis equal plain loops") {
    for (const Shape& shape : shapes)
      for (int axis = 0; axis < shape.rank(); ++axis) {
        CAPTURE(to_string(shape));
        CAPTURE(axis);
        const Tensor x = noise(shape, 1), narrow = cast(x, Dtype::f32);
        const auto sums = loop(x, axis, 0, [](double a, double b) { return a + b; });
        const auto tops = loop(x, axis, -kInfinity, [](double a, double b) { return std::fmax(a, b); });
        auto logs = loop(x, axis, 0, [](double a, double b) { return a + std::exp(b); });
        for (double& v : logs) v = std::log(v);
        CHECK(sum(x, axis).shape() == shape.erase(axis));
        CHECK(sum(x, axis - shape.rank(), true).shape() == shape.with(axis, 1));
        close(sum(x, axis), sums, 1e-11);
        close(max(x, axis, true), tops, 0);
        close(logsumexp(x, axis), logs, 1e-12);
        if (shape[axis] > 0) {
          auto means = sums;
          for (double& v : means) v /= double(shape[axis]);
          close(mean(x, axis), means, 1e-12);
        }
        const auto narrow_sums = loop(narrow, axis, 0, [](double a, double b) { return a + b; });
        close(sum(narrow, axis), narrow_sums, 1e-4);
        close(max(narrow, axis), loop(narrow, axis, -kInfinity, [](double a, double b) { return std::fmax(a, b); }), 0);
      }
    const Tensor x = noise({3, 4}, 2);
    double total = 0;
    for (const double v : x.to_vector<double>()) total += v;
    CHECK(sum(x).shape() == Shape());
    CHECK(sum(x).item() == doctest::Approx(total));
    CHECK(mean(x).item() == doctest::Approx(total / 12));
    CHECK(sum(zeros({0})).item() == 0);
  }

  TEST_CASE("derivatives to order 2") {
    for (const Shape& shape : {Shape{4}, Shape{3, 4}, Shape{2, 3, 4}, Shape{3, 1}, Shape{0, 2}})
      for (int axis = 0; axis < shape.rank(); ++axis)
        for (const bool keep : {false, true}) {
          CAPTURE(to_string(shape));
          CAPTURE(axis);
          const Tensor x = noise(shape, 3);
          const auto check = [&](auto f) {
            const GradCheck found = check_grad([&](const Tensors& in) { return Tensors{f(in[0])}; }, {x}, 2);
            CAPTURE(found.where);
            CHECK(found.within(1e-8));
          };
          check([&](const Tensor& v) { return square(sum(v, axis, keep)); });
          check([&](const Tensor& v) { return square(sum(v)); });
          if (shape.count() > 0) check([&](const Tensor& v) { return exp(mean(v, axis, keep)) * mean(v); });
          if (shape.count() > 0) check([&](const Tensor& v) { return square(max(v, axis, keep)); });   // the maximum of nothing is -inf
          if (shape.count() > 0) check([&](const Tensor& v) { return logsumexp(v, axis, keep); });
          check([&](const Tensor& v) { return square(cumsum(v, axis)); });
          check([&](const Tensor& v) { return square(cumsum(v, axis, true)); });
        }
    CHECK(check_grad([](const Tensors& in) { return Tensors{square(sum_to(in[0], {3, 1}))}; }, {noise({2, 3, 4}, 4)}, 2).within(1e-8));
  }

  TEST_CASE("max shares its derivative equally among ties and keeps NaN") {
    const Tensor x = variable(from_vector(std::vector<double>{1, 3, 3, 2, 2, 2}, {2, 3}));
    const auto d = grad({max(x, 1)}, {from_vector(std::vector<double>{4, 6}, {2})}, {x})[0].to_vector<double>();
    CHECK(d == std::vector<double>{0, 2, 2, 2, 2, 2});
    std::vector<float> values(100, 1);
    values[37] = std::nanf("");
    CHECK(std::isnan(max(from_vector(values, {100}), 0).item()));
    CHECK(std::isnan(max(from_vector(values, {50, 2}), 0).to_vector<float>()[1]));
    CHECK(max(from_vector(values, {50, 2}), 0).to_vector<float>()[0] == 1);
  }

  TEST_CASE("logsumexp of infinities") {
    const Tensor x = variable(from_vector(std::vector<double>{-kInfinity, -kInfinity, 0, -kInfinity, kInfinity, 1, 1000, 1000}, {4, 2}));
    const Tensor y = logsumexp(x, 1);
    CHECK(y.to_vector<double>() == std::vector<double>{-kInfinity, 0, kInfinity, 1000 + std::log(2)});
    const auto d = grad({y}, {ones({4}, kF64)}, {x})[0].to_vector<double>();
    CHECK(d[0] == 0);
    CHECK(d[1] == 0);
    CHECK(d[2] == 1);
    CHECK(d[3] == 0);
    CHECK(d[6] == doctest::Approx(0.5));
  }

  TEST_CASE("sum_to undoes every broadcast") {
    const std::pair<Shape, Shape> cases[] = {{{2, 3, 4}, {4}}, {{2, 3, 4}, {3, 1}},    {{2, 3, 4}, {2, 1, 4}},
                                             {{2, 3, 4}, {}},  {{2, 3, 4}, {1, 3, 1}}, {{2, 3, 4}, {2, 3, 4}},
                                             {{1, 3}, {3}},    {{0, 3}, {3}},          {{4, 0}, {4, 1}}};
    for (const auto& [from, to] : cases) {
      CAPTURE(to_string(from));
      CAPTURE(to_string(to));
      const Tensor x = noise(from, 6);
      const auto values = x.to_vector<double>();
      const Tensor where_to = broadcast_to(from_vector(
                                               [&] {
                                                 std::vector<double> ids(size_t(to.count()));
                                                 for (size_t i = 0; i < ids.size(); ++i) ids[i] = double(i);
                                                 return ids;
                                               }(),
                                               to),
                                           from);
      std::vector<double> want(size_t(to.count()), 0.0);
      const auto target = where_to.to_vector<double>();
      for (size_t i = 0; i < values.size(); ++i) want[size_t(target[i])] += values[i];
      CHECK(sum_to(x, to).shape() == to);
      close(sum_to(x, to), want, 1e-13);
    }
    CHECK_THROWS_WITH(sum_to(zeros({2, 3}), {2}), "[sum_to] shape is [2, 3], needs one that [2] broadcasts to");
  }

  TEST_CASE("cumsum equals the plain loop in both directions") {
    for (const Shape& shape : shapes)
      for (int axis = 0; axis < shape.rank(); ++axis)
        for (const bool reverse : {false, true}) {
          const Tensor x = noise(shape, 8);
          const Sizes s = around(shape, axis);
          const auto values = x.to_vector<double>();
          std::vector<double> want = values;
          for (int64_t o = 0; o < s.outer; ++o)
            for (int64_t c = 0; c < s.inner; ++c)
              for (int64_t i = 1; i < s.n; ++i) {
                const int64_t t = reverse ? s.n - 1 - i : i, before = reverse ? t + 1 : t - 1;
                want[size_t((o * s.n + t) * s.inner + c)] += want[size_t((o * s.n + before) * s.inner + c)];
              }
          close(cumsum(x, axis, reverse), want, 1e-12);
        }
  }

  TEST_CASE("a sum has the same bits for any number of threads, and its error does not grow with n") {
    const int before = thread_count();
    for (const Shape& shape : {Shape{3000001}, Shape{200000, 3}, Shape{3, 200001}, Shape{2000, 513}}) {
      const Tensor x = uniform(shape, 1, 1);
      std::vector<std::vector<float>> results;
      for (const int threads : {1, 2, 5}) {
        set_thread_count(threads);
        std::vector<float> all = sum(x).to_vector<float>();
        for (int axis = 0; axis < shape.rank(); ++axis)
          for (const float v : sum(x, axis).to_vector<float>()) all.push_back(v);
        results.push_back(all);
      }
      CHECK(results[0] == results[1]);
      CHECK(results[0] == results[2]);
      double exact = 0;
      for (const float v : x.to_vector<float>()) exact += v;
      CHECK(std::fabs(results[0][0] - exact) < 5e-7 * exact);
      double columns = 0;
      for (const float v : sum(x, 0).to_vector<float>()) columns += v;
      CHECK(std::fabs(columns - exact) < 2e-6 * exact);
    }
    set_thread_count(before);
  }

  TEST_CASE("errors") {
    CHECK_THROWS_WITH(sum(zeros({2, 3}), 2), "[sum] axis is 2, needs one of a tensor of rank 2");
    CHECK_THROWS_WITH(sum(Tensor()), "[sum] x is undefined, needs a tensor");
    CHECK_THROWS_WITH(sum(zeros({2}, {Dtype::i32, cpu_device})), "[sum] dtype is i32, needs a floating one; cast first");
  }
}
