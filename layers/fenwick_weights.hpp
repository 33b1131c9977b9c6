// FenwickWeights: geometric weights times a number per level of a Fenwick partition of the prefix (log-linear attention, arXiv 2506.04761).
//
//   gamma_i = level_scale_t[level(t, i)] prod_{i < s <= t} exp(log_decay_s)
//
// level(t, t) = 0; if bit l - 1 of t is set, level l holds the tokens [(t >> l) << l, (t >> (l - 1)) << (l - 1)): buckets of 1, 2, 4, ...
// tokens, older ones larger. The numbers belong to the query's token, so no step on the parameters can say these weights: fold refits at
// every token.
#pragma once
#include <ttr/layers/recipe.hpp>

namespace ttr {

struct FenwickWeights {
  static constexpr const char* name = "fenwick";
  int64_t levels = 12;   // enough for 2^(levels - 1) tokens
  void each(auto&& f) { f("levels", levels); }
  std::vector<Slot> slots() const {
    return {{"log_decay", Per::token, {}, log_of_unit, -0.05}, {"level_scale", Per::token, {levels}, positive, 1}};
  }
  Weighing weigh(const View&) const;
};

int64_t fenwick_level(int64_t t, int64_t i);   // 0 <= i <= t, positions in the sequence

}   // namespace ttr
