// WindowWeights: the last `window` tokens matter, each as much as its slot says (the Omega rule, ATLAS, arXiv 2505.23735).
//
//   gamma_i = window_weight_i  for  t - window < i <= t,  else 0
//
// For a learner that takes the gradient over the visible pairs (descend[over=visible]) log_decay is the weight decay of the memory itself,
// beside the window; decay = false leaves it out, and then a solver may take these weights too.
#pragma once
#include <ttr/layers/recipe.hpp>

namespace ttr {

struct WindowWeights {
  static constexpr const char* name = "window";
  int64_t window = 4;   // tokens, the newest included
  bool decay = true;
  void each(auto&& f) { f("window", window), f("decay", decay); }
  std::vector<Slot> slots() const;
  int64_t reach() const { return window; }
  Pack discount(const Pack& theta, const Pack& initial, const View&, const Shift&) const;
  Weighing weigh(const View&) const;
};

}   // namespace ttr
