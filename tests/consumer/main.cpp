// An experiment of somebody else: an inner optimizer of their own, inside a language model that learns to count in steps it must guess.
#include <cmath>
#include <fmt/core.h>
#include <ttr/core/ops.hpp>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/weights.hpp>
#include <ttr/optim/trainer.hpp>
using namespace ttr;

struct Limited {   // p = p - step_size limit tanh(g / limit)
  static constexpr const char* name = "limited";
  static constexpr int memories = 0;
  double limit = 1;
  void each(auto&& f) { f("limit", limit); }
  template <class X, class R> void operator()(X& p, const X& g, const R& rate) const {
    using std::tanh;
    p = p - rate.step_size * (limit * tanh(g / limit));
  }
};

struct Batch {   // i32 [B, T]: x, x + s, x + 2s, ... modulo 8
  Tensor input, target;
  void each(auto&& f) { f("input", input), f("target", target); }
};

Batch counting(int seed) {
  constexpr int B = 8, T = 12;
  std::vector<int32_t> input, target;
  for (int r = 0; r < B; ++r)
    for (int t = 0; t < T; ++t)
      for (auto* list : {&input, &target}) list->push_back((seed + r + (t + (list == &target)) * (1 + r % 3)) % 8);
  return {from_vector(input, {B, T}), from_vector(target, {B, T})};
}

int main() {
  const Recipe mine{GeometricWeights{}, LinearMap{}, Descend<Limited>{.at = decayed, .rule = Limited{.limit = 0.5}}};
  LanguageModel model({.vocab = 8, .dim = 16, .blocks = 1, .heads = 2, .mixer = mine}, /*seed=*/1);
  Trainer trainer(model, AdamW{.decay = 0}, [](const auto& m, const Batch& b) { return cross_entropy(m(b.input), b.target); });
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    last = trainer.step(counting(step), {.rate = 0.01, .clip = 1}).loss();
    if (step == 0) first = last;
  }
  fmt::print("{}: loss {:.2f} at the start, {:.2f} after 30 steps\n", mine.text(), first, last);
  return last < first - 0.5 ? 0 : 1;
}
