// How many pairs a memory of a given size holds: after each of n random pairs with unit keys in 16 dimensions, one of the pairs so far is asked for.
// Data for docs/site/draw.cpp: the mean of |answer - value|^2 / |value|^2.
#include <fmt/format.h>
#include <ttr/core/ops.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/vocabulary.hpp>

using namespace ttr;

int main() {
  constexpr int64_t B = 200, T = 40, K = 16;
  const Options f64{Dtype::f64, cpu_device};
  const Tensor k = l2_norm(normal({B, T, 1, K}, 1, 0, 0, 1, f64), 1e-12), v = normal({B, T, 1, K}, 1, 1, 0, 1, f64);
  // q_t is a key of a token up to t, drawn evenly; wanted its value
  const std::vector<double> draws = uniform({B, T}, 1, 2, 0, 1, f64).to_vector<double>(), keys = k.to_vector<double>(), values = v.to_vector<double>();
  std::vector<double> query(keys.size()), wanted(keys.size());
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t)
      for (int64_t d = 0; d < K; ++d) {
        const int64_t chosen = int64_t(draws[size_t(b * T + t)] * double(t + 1)), from = (b * T + chosen) * K + d, to = (b * T + t) * K + d;
        query[size_t(to)] = keys[size_t(from)], wanted[size_t(to)] = values[size_t(from)];
      }
  const Tensor q = from_vector(query, {B, T, 1, K}, f64), want = from_vector(wanted, {B, T, 1, K}, f64);
  fmt::print("title recall of one of n pairs, keys in {} dimensions\nx pairs stored\ny relative squared error, mean of {} runs\n", K, B);
  const auto draw = [&](const char* name, const std::string& recipe, const Slots& more) {
    Slots slots{{"q", q}, {"k", k}, {"v", v}};
    slots.insert(more.begin(), more.end());
    const Recording off(false);
    const Tensor y = remember(parse_recipe(recipe), {.slots = slots}).y;
    const std::vector<double> error = (sum(reshape(sum(square(y - want), 3), {B, T}), 0) / sum(reshape(sum(square(want), 3), {B, T}), 0)).to_vector<double>();
    fmt::print("series {}\n", name);
    for (int64_t t = 0; t < T; ++t) fmt::print("{} {:.4f}\n", t + 1, error[size_t(t)]);
  };
  draw("linear attention", "even / linear / descend[at=initial]", {});
  draw("delta net", "even / linear / descend", {{"step_size", ones({B, T, 1}, f64)}});
  draw("least squares", "even / linear / exact[ridge=constant]", {{"ridge", full({1}, 1e-6, f64)}});
  draw("softmax attention, scale 8", "kernel[scale=8] / constant / exact", {});
  return 0;
}
