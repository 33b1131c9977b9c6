// Softmax, logsumexp and the norms against plain loops, their kernels against their definitions, derivatives to order 2.
#include "ops_numbers.hpp"
#include <ttr/core/parallel.hpp>

using namespace ttr;
using namespace ttr::test;

namespace {

using Row = std::function<std::vector<double>(const std::vector<double>&)>;

std::vector<double> by_row(const Tensor& x, const Row& f) {
  const std::vector<double> all = x.to_vector<double>();
  const auto n = size_t(x.size(-1));
  std::vector<double> y;
  for (size_t r = 0; r * n < all.size(); ++r) {
    const std::vector<double> row = f({all.begin() + long(r * n), all.begin() + long((r + 1) * n)});
    y.insert(y.end(), row.begin(), row.end());
  }
  return y;
}

std::vector<double> softmax_row(const std::vector<double>& x) {
  double total = 0;
  for (const double v : x) total += std::exp(v);
  std::vector<double> y;
  for (const double v : x) y.push_back(total > 0 ? std::exp(v) / total : 0);
  return y;
}

Row norm_row(bool centred, std::vector<double> w, std::vector<double> b, double eps) {
  return [=](const std::vector<double>& x) {
    double mean = 0, square = 0;
    for (const double v : x) mean += centred ? v / double(x.size()) : 0;
    for (const double v : x) square += (v - mean) * (v - mean) / double(x.size());
    std::vector<double> y;
    for (size_t i = 0; i < x.size(); ++i) y.push_back((x[i] - mean) / std::sqrt(square + eps) * (w.empty() ? 1 : w[i]) + (b.empty() ? 0 : b[i]));
    return y;
  };
}

constexpr int64_t kSizes[] = {1, 2, 15, 16, 17, 64, 130};

}  // namespace

TEST_SUITE("ops_norm") {
  TEST_CASE("softmax equals a plain loop; its kernel equals its definition") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32})
      for (const int64_t n : kSizes) {
        CAPTURE(n); CAPTURE(std::string(name_of(dtype)));
        const Tensor x = random_tensor({3, 2, n}, 1, dtype) * 6.0;
        CHECK(worst(softmax(x), by_row(x, softmax_row)) < tolerance(dtype, 1e-14, 3e-7));
        CHECK(kernel_against_define([](const Tensors& x) { return softmax(x[0]); }, {x}) < tolerance(dtype, 1e-14, 1e-6));
        if (dtype == Dtype::f64 && n < 20) CHECK(check([](const Tensors& x) { return softmax(x[0]); }, {x}).within(1e-8));
      }
  }

  TEST_CASE("softmax of large numbers and of -inf") {
    const double inf = INFINITY;
    for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
      const Tensor x = from_vector<double>({1e4, 1e4, -inf, -inf, -inf, -inf, -inf, 0, -1e4}, {3, 3}, {dtype, cpu_device});
      CHECK(worst(softmax(x), std::vector<double>{0.5, 0.5, 0, 0, 0, 0, 0, 1, 0}) < 1e-7);
      const Tensors kernel = gradients([](const Tensors& x) { return softmax(x[0]); }, {x});
      CHECK(kernel_against_define([](const Tensors& x) { return softmax(x[0]); }, {x}) < 1e-6);
      for (const int64_t i : {2, 3, 4, 5, 6}) CHECK(kernel[0].to_vector<double>()[size_t(i)] == 0);   // no gradient through -inf, and no NaN
      CHECK(std::isnan(softmax(from_vector<double>({-inf, NAN}, {1, 2}, {dtype, cpu_device})).to_vector<double>()[1]));
    }
  }

  TEST_CASE("logsumexp") {
    const Tensor x = random_tensor({3, 4, 5}, 1) * 5.0;
    const std::vector<double> v = x.to_vector<double>();
    for (int axis : {0, 1, 2}) {
      const Tensor y = logsumexp(x, axis, true);
      CHECK(y.shape() == x.shape().with(axis, 1));
      CHECK(logsumexp(x, axis).shape() == x.shape().erase(axis));
      CHECK(worst(sum(exp(x - y), axis), std::vector<double>(size_t(60 / x.size(axis)), 1.0)) < 1e-14);
      CHECK(check([&](const Tensors& x) { return logsumexp(x[0], axis); }, {x}).within(1e-7));
    }
    const Tensor empty_row = from_vector<double>({-INFINITY, -INFINITY, 1000, 1000}, {2, 2});
    CHECK(worst(logsumexp(empty_row, -1), std::vector<double>{-INFINITY, 1000 + std::log(2.0)}) < 1e-14);
    const Tensors d = gradients([](const Tensors& x) { return logsumexp(x[0], -1); }, {empty_row});
    CHECK(d[0].to_vector<double>()[0] == 0);
    CHECK(d[0].to_vector<double>()[2] != 0);
  }

  TEST_CASE("rms_norm and layer_norm equal plain loops; their kernels equal their definitions") {
    for (const bool centred : {false, true})
      for (const Dtype dtype : {Dtype::f64, Dtype::f32})
        for (const int64_t n : kSizes)
          for (const int given : {0, 1, 2, 3}) {   // bit 0: weight, bit 1: bias
            if (!centred && given > 1) continue;
            CAPTURE(centred); CAPTURE(n); CAPTURE(given); CAPTURE(std::string(name_of(dtype)));
            const Tensor x = random_tensor({2, 3, n}, 1, dtype) * 2.0 + 0.5, w = random_tensor({n}, 2, dtype), b = random_tensor({n}, 3, dtype);
            Tensors inputs{x};
            if (given & 1) inputs.push_back(w);
            if (given & 2) inputs.push_back(b);
            const Function f = [=](const Tensors& in) {
              const Tensor weight = given & 1 ? in[1] : Tensor(), bias = given & 2 ? in.back() : Tensor();
              return centred ? layer_norm(in[0], weight, bias, 1e-3) : rms_norm(in[0], weight, 1e-3);
            };
            const Row plain = norm_row(centred, given & 1 ? w.to_vector<double>() : std::vector<double>{},
                                       given & 2 ? b.to_vector<double>() : std::vector<double>{}, 1e-3);
            CHECK(worst(f(inputs), by_row(x, plain)) < tolerance(dtype, 1e-13, 2e-6));
            CHECK(kernel_against_define(f, inputs) < tolerance(dtype, 1e-12, 2e-5));
            if (dtype != Dtype::f64 || n > 17) continue;
            const GradCheck g = check(f, inputs);
            CAPTURE(g.where);
            CHECK(g.within(1e-5));   // rows of one or two numbers bend sharply near eps, where the differences themselves err
          }
  }

  TEST_CASE("d_weight has the same bits for any number of threads") {
    const int before = thread_count();
    const Tensor x = random_tensor({700, 65}, 1, Dtype::f32), w = random_tensor({65}, 2, Dtype::f32), b = random_tensor({65}, 3, Dtype::f32);
    std::vector<Tensors> found;
    for (const int threads : {1, 2, 7}) {
      set_thread_count(threads);
      found.push_back(gradients([](const Tensors& in) { return layer_norm(in[0], in[1], in[2]); }, {x, w, b}));
    }
    set_thread_count(before);
    for (size_t i = 0; i < 3; ++i)
      for (const Tensors& f : found) CHECK(f[i].to_vector<float>() == found[0][i].to_vector<float>());
    const Tensors wide = gradients([](const Tensors& in) { return layer_norm(in[0], in[1], in[2]); },
                                   {cast(x, Dtype::f64), cast(w, Dtype::f64), cast(b, Dtype::f64)});
    CHECK(worst(found[0][1], wide[1]) < 2e-5);
    CHECK(worst(found[0][2], wide[2]) < 2e-5);
  }

  TEST_CASE("l2_norm has length one, and derivatives to order 2") {
    const Tensor x = random_tensor({4, 6}, 1);
    CHECK(worst(sum(square(l2_norm(x, 0)), -1), std::vector<double>(4, 1.0)) < 1e-14);
    CHECK(check([](const Tensors& x) { return l2_norm(x[0], 1e-2); }, {x}).within(1e-8));
    CHECK(kernel_against_define([](const Tensors& x) { return l2_norm(x[0], 1e-2); }, {x}) < 1e-14);
    CHECK(worst(l2_norm(x, 0.5), x * rsqrt(sum(square(x), -1, true) + 0.5)) < 1e-14);
  }

  TEST_CASE("add_rms_norm is a sum and its norm, in one pass and in its derivatives") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32})
      for (const int64_t n : kSizes) {
        CAPTURE(n);
        const Tensor x = random_tensor({3, 2, n}, 1, dtype), y = random_tensor({3, 2, n}, 2, dtype), w = random_tensor({n}, 3, dtype);
        const Tensors both = add_rms_norm(x, y, w);
        CHECK(worst(both[0], x + y) == 0);
        CHECK(worst(both[1], rms_norm(x + y, w)) < tolerance(dtype, 1e-14, 1e-6));
        for (const int outputs : {1, 2, 3}) {   // only the sum flows on, only the norm, both
          CAPTURE(outputs);
          const auto f = [&](const Tensors& in) {
            const Tensors out = add_rms_norm(in[0], in[1], in[2]);
            return outputs == 1 ? out[0] : outputs == 2 ? out[1] : out[0] * out[1];
          };
          const auto apart = [&](const Tensors& in) {
            const Tensor sum = in[0] + in[1], normed = rms_norm(sum, in[2]);
            return outputs == 1 ? sum + 0.0 * sum_to(in[2], {}) : outputs == 2 ? normed : sum * normed;
          };
          const Tensors d = gradients(f, {x, y, w}), want = gradients(apart, {x, y, w});
          for (size_t i = 0; i < 3; ++i)
            if (i < 2 || outputs > 1) CHECK(worst(d[i], want[i]) < tolerance(dtype, 1e-13, 2e-5));
        }
        if (dtype == Dtype::f64 && n < 20) {
          const auto all = [](const Tensors& in) { return concat(add_rms_norm(in[0], in[1], in[2]), 0); };
          CHECK(check(all, {x, y, w}).within(1e-7));
        }
      }
    CHECK(message([] { add_rms_norm(ones({2, 3}), ones({2, 4}), ones({3})); }) ==
          "[add_rms_norm] y is [2, 4], needs the shape of x [2, 3], at least one axis");
    CHECK(message([] { add_rms_norm(ones({2, 3}), ones({2, 3}), {}); }) == "[add_rms_norm] weight is undefined, needs [3]; give ones for no scale");
  }

  TEST_CASE("no rows") {
    CHECK(softmax(zeros({0, 3})).shape() == Shape{0, 3});
    const Tensors d = gradients([](const Tensors& in) { return rms_norm(in[0], in[1]); }, {zeros({0, 3}), ones({3})});
    CHECK(worst(d[1], std::vector<double>(3, 0.0)) == 0);
  }

  TEST_CASE("errors name what is given and what is needed") {
    CHECK(message([] { rms_norm(zeros({2, 3}), zeros({4})); }) == "[rms_norm] weight is [4], needs [3], the last axis of x [2, 3]");
    CHECK(message([] { layer_norm(zeros({2, 3}), zeros({3}), zeros({1, 3})); }) == "[layer_norm] bias is [1, 3], needs [3], the last axis of x [2, 3]");
    CHECK(message([] { softmax(zeros({})); }) == "[softmax] x is a scalar, needs at least one axis");
    CHECK(message([] { softmax(zeros({2}, {Dtype::i32})); }) == "[softmax] dtype is i32, needs a floating one; cast first");
  }
}
