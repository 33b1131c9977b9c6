// In-context regression against the best there is. Each sequence has its own w ~ N(0, I) and shows pairs (k, w.k + noise); a memory predicts
// each value before seeing it. Bayes is ridge regression with the noise's variance as ridge: the recipe `mesa`, which learns that number here.
#include <ttr/core/ops.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/optim/trainer.hpp>
using namespace ttr;

constexpr int64_t B = 64, T = 24, K = 8;
constexpr double kNoise = 0.5;
struct Task { Tensor k, v; };   // [B, T, 1, K], [B, T, 1, 1]
Task draw(uint64_t seed) {
  const Tensor k = normal({B, T, K}, seed, 0), w = normal({B, K, 1}, seed, 1), noise = normal({B, T, 1}, seed, 2, 0, kNoise);
  return {reshape(k, {B, T, 1, K}), reshape(matmul(k, w) + noise, {B, T, 1, 1})};
}

Tensor by_position(const Tensor& y, const Task& task) { return mean(reshape(square(y - task.v), {B, T}), 0); }   // [T]

Tensor bayes(const Task& task) {   // the posterior mean's predictions, by direct solves
  const Tensor k = reshape(task.k, {B, T, K}), v = reshape(task.v, {B, T, 1});
  Tensors y{zeros({B, 1, 1})};
  for (int64_t t = 1; t < T; ++t) {
    const Tensor past = slice(k, 1, 0, t);   // [B, t, K]
    const Tensor w = solve(matmul(past, past, true) + kNoise * kNoise * identity(K), matmul(past, slice(v, 1, 0, t), true));   // [B, K, 1]
    y.push_back(matmul(slice(k, 1, t, t + 1), w));
  }
  return reshape(concat(y, 1), {B, T, 1, 1});
}

struct Learner {
  Recipe recipe;
  std::string slot;            // that its one number is for; "": the answer's scale
  Parameter raw{zeros({1})};   // before it is made positive
  Tensor operator()(const Task& task) const {
    const Tensor number = softplus(*raw);
    Slots slots{{"q", task.k}, {"k", task.k}, {"v", task.v}};
    if (!slot.empty()) slots[slot] = slot == "ridge" ? number : broadcast_to(number / K, {B, T, 1});
    const Tensor y = remember(recipe, {.slots = slots}).y;
    return slot.empty() ? y * number / T : y;
  }
  void each(auto&& f) { f("raw", raw); }
};

int main() {
  const Task fresh = draw(1000);
  const Tensor best = by_position(bayes(fresh), fresh);
  const auto row = [&](std::string_view name, const Tensor& error) {
    fmt::print("{:<18} {:>7.3f} {:>7.3f} {:>12.3f}\n", name, error.to_vector<double>()[8], error.to_vector<double>()[16], mean(error / mean(best)).item());
    return mean(error / mean(best)).item();
  };
  fmt::print("square error after       8      16   over Bayes\n");
  double mesa = row("Bayes", best);
  for (const auto& [name, slot] : {std::pair{"linear_attention", ""}, {"delta_net", "step_size"}, {"mesa", "ridge"}}) {
    Learner learner{published(name).recipe.with({.read = Read::strict}), slot};
    Trainer trainer(learner, AdamW{.decay = 0}, [](const auto& m, const Task& task) { return mean(by_position(m(task), task)); });
    for (uint64_t step = 0; step < 40; ++step) trainer.step(draw(step), {.rate = 0.1});
    mesa = row(name, by_position(learner(fresh), fresh));
  }
  return mesa < 1.05 ? 0 : 1;   // it came last
}
