// Cross-entropy against a plain loop, ignored labels, none at all, its kernel against its definition, derivatives to order 2.
#include "ops_numbers.hpp"

using namespace ttr;
using namespace ttr::test;

namespace {

double plain(const Tensor& logits, const std::vector<int32_t>& labels, bool mean) {
  const std::vector<double> x = logits.to_vector<double>();
  const auto n = size_t(logits.size(-1));
  double total = 0;
  int counted = 0;
  for (size_t r = 0; r < labels.size(); ++r) {
    if (labels[r] < 0) continue;
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += std::exp(x[r * n + i]);
    total += std::log(sum) - x[r * n + size_t(labels[r])];
    ++counted;
  }
  return mean ? total / std::max(counted, 1) : total;
}

}  // namespace

TEST_SUITE("ops_loss") {
  TEST_CASE("values, gradients and second derivatives, with some labels ignored") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32})
      for (const int64_t n : {1, 5, 16, 63, 130})
        for (const bool mean : {true, false}) {
          CAPTURE(n); CAPTURE(mean); CAPTURE(std::string(name_of(dtype)));
          const std::vector<int32_t> ids{0, -1, int32_t(n - 1), int32_t(n / 2), -100, 0};
          const Tensor x = random_tensor({2, 3, n}, 1, dtype) * 4.0, labels = from_vector<int32_t>(ids, {2, 3});
          const Function f = [=](const Tensors& in) { return cross_entropy(in[0], labels, mean); };
          const Tensor loss = f({x});
          CHECK(loss.rank() == 0);
          CHECK(loss.dtype() == dtype);
          CHECK(std::abs(loss.item() - plain(x, ids, mean)) < tolerance(dtype, 1e-13, 4e-6));
          CHECK(kernel_against_define(f, {x}) < tolerance(dtype, 1e-14, 1e-6));
          if (dtype == Dtype::f64 && n < 20) CHECK(check(f, {x}).within(1e-7));
          const std::vector<double> d = gradients(f, {x})[0].to_vector<double>();
          for (int64_t i = 0; i < n; ++i) CHECK(d[size_t(n + i)] == 0);   // row 1 is ignored
        }
  }

  TEST_CASE("no labels at all: zero loss and zero gradient") {
    const Tensor x = random_tensor({3, 4}, 1, Dtype::f32), labels = from_vector<int32_t>({-1, -1, -2}, {3});
    for (const bool mean : {true, false}) {
      CHECK(cross_entropy(x, labels, mean).item() == 0);
      CHECK(worst(gradients([&](const Tensors& in) { return cross_entropy(in[0], labels, mean); }, {x})[0], std::vector<double>(12, 0.0)) == 0);
      CHECK(worst(gradients([&](const Tensors& in) { return cross_entropy(in[0], labels, mean); }, {x}, true)[0], std::vector<double>(12, 0.0)) == 0);
    }
    CHECK(label_count(labels).item() == 0);
    CHECK(label_count(from_vector<int32_t>({-1, 0, 7, 3}, {2, 2})).item() == 3);
  }

  TEST_CASE("an ignored row may hold anything; large logits do not overflow") {
    const Tensor x = from_vector<float>({NAN, NAN, INFINITY, 1e4f, -1e4f, 0}, {2, 3}), labels = from_vector<int32_t>({-1, 1}, {2});
    CHECK(cross_entropy(x, labels).item() == doctest::Approx(2e4));
    CHECK(worst(gradients([&](const Tensors& in) { return cross_entropy(in[0], labels, false); }, {x})[0] * 0.0, std::vector<double>(6, 0.0)) == 0);   // finite
    const Tensor masked = from_vector<float>({0, -INFINITY, 0}, {1, 3});
    CHECK(cross_entropy(masked, from_vector<int32_t>({2}, {1})).item() == doctest::Approx(std::log(2.0)));
  }

  TEST_CASE("errors name the label and where it stands") {
    CHECK(message([] { cross_entropy(zeros({2, 3}), from_vector<int32_t>({0, 3}, {2})); }) ==
          "[cross_entropy] label 1 of 2 is 3, needs less than 3, the number of classes; a negative label is ignored");
    CHECK(message([] { cross_entropy(zeros({2, 3}), from_vector<int32_t>({0}, {1})); }) ==
          "[cross_entropy] labels is [1], needs [2], the shape of logits [2, 3] without its last axis");
    CHECK(message([] {
            cross_entropy(zeros({2, 3}), zeros({2}));
          }) == "[cross_entropy] dtype of labels is f32, needs i32; make them with from_vector<int32_t>");
  }
}
