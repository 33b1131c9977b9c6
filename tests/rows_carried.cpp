// A call in two parts, the second given the first's state, is one call: every published recipe that is causal.
#include <cmath>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/recipes.hpp>

namespace {

using namespace ttr;

// Values inside the slot's range, two heads.
Tensor draw(const Slot& slot, int64_t tokens, int64_t writes, uint64_t stream) {
  Shape shape;
  if (slot.per != Per::head && slot.per != Per::frozen) shape = {1, slot.per == Per::write ? tokens * writes : tokens};
  shape.push_back(2);
  for (const Extent& e : slot.shape) shape.push_back(e.at(4, 3));
  const Options f64{Dtype::f64, cpu_device};
  if (slot.range == any_value) return normal(shape, 11, stream, 0, 0.7, f64);
  return uniform(shape, 11, stream, std::isinf(slot.range.low) ? -0.5 : slot.range.low + 0.1, std::isinf(slot.range.high) ? 1 : slot.range.high - 0.05, f64);
}

}  // namespace

TEST_SUITE("rows_carried") {
  TEST_CASE("two calls that hand on their state answer as one") {
    constexpr int64_t tokens = 9, first = 5;
    for (const Published& p : published_recipes()) {
      const Recipe& recipe = p.recipe;
      if (recipe.reading().visible == Visible::everything) continue;
      CAPTURE(p.name);
      Arguments whole, before, after;
      uint64_t stream = 0;
      for (const Slot& slot : recipe.slots()) {
        const Tensor x = draw(slot, tokens, recipe.reading().writes, ++stream);
        whole.slots[slot.name] = before.slots[slot.name] = after.slots[slot.name] = x;
        if (slot.per == Per::head || slot.per == Per::frozen) continue;
        const int64_t cut = first * (slot.per == Per::write ? recipe.reading().writes : 1);
        before.slots[slot.name] = slice(x, 1, 0, cut), after.slots[slot.name] = slice(x, 1, cut, x.size(1));
      }
      try {
        const std::vector<double> y = fold(recipe, whole).y.to_vector<double>();
        before.want_state = true;
        const Answer half = fold(recipe, before);
        after.state = half.state;
        const std::vector<double> parts = concat({half.y, fold(recipe, after).y}, 1).to_vector<double>();
        double worst = 0;
        for (size_t i = 0; i < y.size(); ++i) worst = std::max(worst, std::abs(y[i] - parts[i]) / std::max(1.0, std::abs(y[i])));
        CHECK(worst < 1e-11);
      } catch (const std::exception& e) {
        FAIL_CHECK(p.name << ": " << e.what());
      }
    }
  }
}
