// Weights of our own: a series with a season, where what happened one period ago says more than what happened yesterday. The memory is a
// weighted mean of all past values (Constant, Exact); we only say which of them count, and learn how much from the forecast's error.
#include <cmath>
#include <numbers>
#include <ttr/core/ops.hpp>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/weights.hpp>
#include <ttr/optim/trainer.hpp>
using namespace ttr;

struct SeasonalWeights {   // gamma_i = exp(sharpness (cos(2 pi age_i / period) - 1))
  static constexpr const char* name = "seasonal";
  double period = 7;
  void each(auto&& f) { f("period", period); }
  std::vector<Slot> slots() const { return {unread("q"), unread("k"), {"sharpness", Per::head, {}, positive, 1}}; }
  Weighing weigh(const View& view) const {
    std::vector<double> fit;   // of each visible pair's age with the season, at most 0
    for (int64_t i = 0; i < view.pairs(); ++i) fit.push_back(std::cos(2 * std::numbers::pi * double(view.time() - i) / period) - 1);
    return {.relative = exp(reshape(view.head("sharpness"), {view.rows(), 1}) * from_vector(fit, {1, view.pairs()}, view.options()))};   // [N, pairs]
  }
};

constexpr int64_t B = 32, T = 56;

Tensor series(uint64_t seed) {   // [B, T, 1, 1]: seven levels, drawn anew for every row, and noise of deviation 0.5
  const Tensor levels = normal({B, 1, 7}, seed, 0), noise = normal({B, T}, seed, 1, 0, 0.5);
  return reshape(reshape(broadcast_to(levels, {B, T / 7, 7}), {B, T}) + noise, {B, T, 1, 1});
}

struct Forecast {   // the value at t from those before it: strict
  Recipe recipe;
  Parameter raw{zeros({1})};   // log of the sharpness
  Tensor operator()(const Tensor& v) const {   // the mean square error of the second half
    Slots slots{{"v", v}};
    for (const Slot& s : recipe.slots())
      if (s.name == "sharpness") slots["sharpness"] = exp(*raw);
    const Tensor y = remember(recipe, {.slots = slots}).y;   // [B, T, 1, 1]
    return mean(square(slice(y - v, 1, T / 2, T)));
  }
  void each(auto&& f) { f("raw", raw); }
};

int main() {
  const Reading strict{.read = Read::strict};
  Forecast seasonal{Recipe(SeasonalWeights{}, Constant{}, Exact{}, strict)}, even{Recipe(EvenWeights{}, Constant{}, Exact{}, strict)};
  Trainer trainer(seasonal, AdamW{.decay = 0}, [](const auto& m, const Tensor& v) { return m(v); });
  for (uint64_t step = 0; step < 40; ++step) trainer.step(series(step), {.rate = 0.1});
  const Tensor fresh = series(1000);
  const double ours = seasonal(fresh).item(), theirs = even(fresh).item();
  fmt::print("mean square error: even weights {:.3f}, seasonal {:.3f} (sharpness {:.1f}); the noise alone is 0.25\n", theirs, ours,
             exp(*seasonal.raw).item());
  return ours < 0.4 && theirs > 0.8 ? 0 : 1;
}
