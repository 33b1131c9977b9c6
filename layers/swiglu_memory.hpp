// m(k) = W_1 (silu(W_0 k) (W_2 k)): a gated perceptron as the memory (LaCT, arXiv 2505.23884); the initial weights are learned.
//   paces   each matrix learns at a pace of its own: slots step_size_0, step_size_1, step_size_2, times the optimizer's step
#pragma once
#include <ttr/layers/functions.hpp>

namespace ttr {

struct SwiGlu {
  static constexpr const char* name = "swiglu";
  int64_t hidden = 64;
  PairLoss loss_of = PairLoss::squared;
  bool paces = false;
  void each(auto&& f) { f("hidden", hidden), f("loss", loss_of), f("paces", paces); }
  std::vector<Slot> slots() const;
  Pack init(const View&) const;   // weight_0 [N, H, K], weight_1 [N, V, H], weight_2 [N, H, K]
  Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const;
  Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const;

 private:
  Tensor apply(const Pack& theta, const Tensor& x) const;   // [N, K] -> [N, V]
};

}   // namespace ttr
