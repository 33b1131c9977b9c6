// Softmax weights along a path of reflections (PaTH, arXiv 2505.16381): gamma_i = exp(q_t' H_t H_{t-1} ... H_{i+1} k_i), H_s = I - path_step_s w_s w_s'
// with w the slot path_key as it is given (published with unit length). forget: times prod a_s (slot log_decay).
#pragma once
#include <ttr/layers/weights.hpp>

namespace ttr {

struct PathWeights {
  static constexpr const char* name = "path";
  bool forget = false;
  void each(auto&& f) { f("forget", forget); }
  std::vector<Slot> slots() const;
  Weighing weigh(const View&) const;
};

}  // namespace ttr
