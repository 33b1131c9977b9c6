// An exponential moving average: gamma_i = (1 - g_i) prod_{s > i} g_s with the slot gate, g in (0, 1) (gated RFA, arXiv 2103.02143).
#pragma once
#include <ttr/layers/recipe.hpp>

namespace ttr {

struct MovingAverage {
  static constexpr const char* name = "moving_average";
  std::vector<Slot> slots() const { return {{"gate", Per::token, {}, unit_interval, 0.9}}; }
  Pack discount(const Pack& theta, const Pack& initial, const View&, const Shift&) const;
  Weighing weigh(const View&) const;
  Tensor strength(const View&, int64_t i, const Shift&) const;
};

}  // namespace ttr
