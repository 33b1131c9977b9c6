// Residual smoothing (DeltaFormer, arXiv 2505.19488): a token stores not its value but what the memory of the earlier tokens got wrong,
//   u_t = v_t - step_size_t m_{t-1}(q_t),   m_t fitted to u_1 .. u_t,   y_t = m_t(q_t).
// As in the published code the earlier memory is asked at q_t, not at k_t. The stored residuals are the optimizer's own memory [N, pairs, V].
#pragma once
#include <ttr/layers/optimizers.hpp>

namespace ttr {

struct Boost {
  static constexpr const char* name = "boost";
  static constexpr Demand demand = Demand::linear;
  Ridge ridge = Ridge::none;
  RidgePer per = RidgePer::head;
  void each(auto&& f) { f("ridge", ridge), f("per", per); }
  std::vector<Slot> slots() const;
  State start(State) const;
  State advance(const State&, const Regression&) const;
};

// A learned slope in place of a solved one (Parallax, arXiv 2605.29157): of an affine memory m(k) = m_0 + M_1 (k - q) only m_0 is read, and
//   m_0 = sum_i p_i (1 - (k_i - mean).slope_t) v_i,   p = gamma / sum gamma, mean = sum p_i k_i.
// slope = C^{-1} (mean - q), C the weighted covariance plus the ridge, is local linear attention exactly (arXiv 2605.29157).
struct Amortized {
  static constexpr const char* name = "amortized";
  static constexpr Demand demand = Demand::linear;
  std::vector<Slot> slots() const { return {{"slope", Per::token, {key_size}}}; }
  State start(State s) const { return s; }
  State advance(const State&, const Regression&) const;
};

}  // namespace ttr
