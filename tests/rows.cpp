// Every published recipe against its independent reference: fold in f64 gives the same values, and its gradients of all inputs are those of
// central differences through the reference (two code paths that share no line).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/tests/row_recipe.hpp>
#include <ttr/tests/rows_reference.hpp>

namespace {

using namespace ttr;

// One head of one sequence as a call: [T, ...] -> [1, T, 1, ...], and [..] -> [1, ...] for what a head has once.
Tensor as_slot(const reference::Array& x, const Slot& slot) {
  Shape shape;
  size_t from = 0;
  if (slot.per == Per::token || slot.per == Per::write) shape = {1, x.shape.at(0)}, from = 1;
  shape.push_back(1);
  for (size_t i = from; i < x.shape.size(); ++i) shape.push_back(x.shape[i]);
  return from_vector(x.data, shape, {Dtype::f64, cpu_device});
}

Slots slots_of_row(const Recipe& recipe, const reference::Inputs& inputs) {
  Slots given;
  for (const auto& [name, x] : inputs) {
    const Slot* found = nullptr;
    const auto slots = recipe.slots();
    for (const Slot& s : slots) if (s.name == name) found = &s;
    if (!found) throw refuse("rows", "the reference has {}, needs a slot of {}", name, recipe.text());
    given[name] = as_slot(x, *found);
  }
  return given;
}

double worst(const std::vector<double>& a, const std::vector<double>& b) {
  double w = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double e = std::abs(a[i] - b[i]) / std::max(1.0, std::abs(b[i]));
    w = e <= w ? w : e;   // NaN is worst
  }
  return w;
}

bool wanted(const std::string& name) {   // TTR_ROWS=gla,mamba looks at these alone
  const char* only = std::getenv("TTR_ROWS");
  return !only || ("," + std::string(only) + ",").find("," + name + ",") != std::string::npos;
}

void check_row(const reference::Row& row, int64_t tokens) {
  CAPTURE(row.name);
  CAPTURE(tokens);
  reference::Inputs inputs = row.draw(tokens, 4, 3, 7);
  const Recipe recipe = recipe_of_row(row, inputs);
  CAPTURE(recipe.text());
  double worst_gradient = 0;
  Slots given = slots_of_row(recipe, inputs);
  Tensors xs;
  for (auto& [name, x] : given) xs.push_back(x = variable(x));
  const Answer answer = fold(recipe, {.slots = given});
  const reference::Array expected = row.run(inputs);
  REQUIRE(answer.y.count() == int64_t(expected.data.size()));
  const double worst_value = worst(answer.y.to_vector<double>(), expected.data);
  CHECK(worst_value < 1e-9);

  std::vector<double> weights(expected.data.size());
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = std::sin(1.0 + 3.7 * double(i));
  const Tensor dy = from_vector(weights, answer.y.shape(), {Dtype::f64, cpu_device});
  const Tensors dxs = grad({answer.y}, {dy}, xs);
  size_t which = 0;
  for (const auto& [name, x] : given) {
    CAPTURE(name);
    const std::vector<double> dx = dxs[which++].to_vector<double>();
    std::vector<double> direction(dx.size());
    for (size_t i = 0; i < direction.size(); ++i) direction[i] = std::cos(2.0 + 5.3 * double(i));
    double analytic = 0;
    for (size_t i = 0; i < dx.size(); ++i) analytic += dx[i] * direction[i];
    const auto at = [&](double h) {
      reference::Inputs moved = inputs;
      for (size_t i = 0; i < direction.size(); ++i) moved[name].data[i] += h * direction[i];
      const reference::Array y = row.run(moved);
      double total = 0;
      for (size_t i = 0; i < weights.size(); ++i) total += weights[i] * y.data[i];
      return total;
    };
    const double h = 1e-4;   // fourth order: the error is about h^4 + eps / h
    const double numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
    const double error = std::abs(analytic - numeric) / std::max({1.0, std::abs(analytic), std::abs(numeric)});
    CHECK(error < 1e-7);
    worst_gradient = error <= worst_gradient ? worst_gradient : error;
  }
  if (std::getenv("TTR_ROWS")) MESSAGE(row.name << " T=" << tokens << ": values " << worst_value << ", gradients " << worst_gradient);
}

}  // namespace

TEST_SUITE("rows") {
  TEST_CASE("every published row agrees with its independent reference, values and gradients") {
    for (const reference::Row& row : reference::rows())
      for (const int64_t tokens : {1, 9}) {
        if (!wanted(row.name)) continue;
        try {
          check_row(row, tokens);
        } catch (const std::exception& e) {
          FAIL_CHECK(row.name << ": " << std::string(e.what()));
        }
      }
  }
}
