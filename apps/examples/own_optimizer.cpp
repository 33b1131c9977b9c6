// Recall with an inner optimizer of our own: descent that looks ahead (Nesterov 1983), run over the tokens inside a layer. A sequence shows
// pairs of a key and a value, drawn anew each time, and then asks for the keys in another order. Only the memory can know the answers.
#include <algorithm>
#include <numeric>
#include <random>
#include <ttr/core/ops.hpp>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/memory.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/weights.hpp>
#include <ttr/optim/trainer.hpp>
using namespace ttr;

struct LookAhead {   // m = momentum m + g,  p = p - step_size (g + momentum m)
  static constexpr const char* name = "look_ahead";
  static constexpr int memories = 1;
  std::vector<Slot> slots() const { return {{"momentum", Per::token, {}, unit_interval, 0.1}}; }
  template <class X, class R> void operator()(X& p, const X& g, X& m, const R& rate) const {
    const X momentum = rate.slot("momentum");
    m = momentum * m + g;
    p = p - rate.step_size * (g + momentum * m);
  }
};

constexpr int64_t kRows = 16, kPairs = 6, kWords = 12, kDim = 32;

struct Recall {   // i32 [B, 2 kPairs] -> scores of the words at the second half [B, kPairs, kWords]
  Init init{1};
  Embedding key{{.count = kWords, .dim = kDim, .deviation = 1}, init}, value{{.count = kWords + 1, .dim = kDim, .deviation = 1}, init};
  MemoryLayer memory{{.dim = kDim, .recipe = Recipe(EvenWeights{}, LinearMap{}, Descend<LookAhead>{})}, init};
  Linear head{{.in = kDim, .out = kWords}, init};
  Tensor operator()(const Tensor& k, const Tensor& v) const { return slice(head(memory(key(k) + value(v))), 1, kPairs, 2 * kPairs); }
  void each(auto&& f) { f("key", key), f("value", value), f("memory", memory), f("head", head); }
};

struct Batch { Tensor keys, values, answers; };
Batch draw(std::mt19937& random) {
  std::vector<int32_t> keys, values, answers, words(kWords), order(kPairs), shown(kPairs);
  for (int64_t row = 0; row < kRows; ++row) {
    std::iota(words.begin(), words.end(), 0), std::iota(order.begin(), order.end(), 0);
    std::shuffle(words.begin(), words.end(), random), std::shuffle(order.begin(), order.end(), random);
    for (int32_t& v : shown) v = int32_t(random() % kWords);
    keys.insert(keys.end(), words.begin(), words.begin() + kPairs), values.insert(values.end(), shown.begin(), shown.end());
    for (const int32_t i : order) keys.push_back(words[size_t(i)]), values.push_back(kWords), answers.push_back(shown[size_t(i)]);
  }
  return {from_vector(keys, {kRows, 2 * kPairs}), from_vector(values, {kRows, 2 * kPairs}), from_vector(answers, {kRows, kPairs})};
}

int main() {
  Recall model;
  Trainer trainer(model, AdamW{.decay = 0}, [](const auto& m, const Batch& b) { return cross_entropy(m(b.keys, b.values), b.answers); });
  std::mt19937 random(1);
  for (int step = 0; step < 200; ++step) trainer.step(draw(random), {.rate = 0.01, .clip = 1});
  const Batch fresh = draw(random);
  const Tensor scores = model(fresh.keys, fresh.values);
  const double recalled = mean(equal(max(scores, -1), pick(scores, fresh.answers))).item();   // the answer's score is the largest
  fmt::print("recalled: {:.3f} of the values; by chance {:.3f}\n", recalled, 1.0 / kWords);
  return recalled > 0.9 ? 0 : 1;
}
