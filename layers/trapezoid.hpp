// Trapezoid: the trapezoidal rule for the flow dM/dt = A M - gradient, which weighs the gradient where the step began and where it ends.
//
//   p = a p - (1 - lambda) Delta a g_{t-1} - lambda Delta g_t,   a = exp(log_decay)       Mamba-3 (2026)
//
// The weights have forgotten by a before the rule runs. From the initial point of a linear memory g = -v k^T: each pair is written twice, half
// now and half one token later. lambda = 1 is Euler's rule with the step Delta: Mamba-2.
#pragma once
#include <ttr/core/ops.hpp>
#include <ttr/layers/slot.hpp>

namespace ttr {

struct Trapezoid {
  static constexpr const char* name = "trapezoid";
  static constexpr int memories = 1;   // the last gradient
  std::vector<Slot> slots() const {
    return {{"log_decay", Per::token, {}, log_of_unit, -0.05},
            {"delta", Per::token, {}, positive, 0.5},
            {"trapezoid", Per::token, {}, unit_interval, 0.5}};
  }
  template <class R> void operator()(Tensor& p, const Tensor& g, Tensor& m, const R& rate) const {
    const Tensor delta = rate.slot("delta"), now = rate.slot("trapezoid") * delta;
    p = p - rate.step_size * ((delta - now) * exp(rate.slot("log_decay")) * m + now * g);
    m = g;
  }
};

}   // namespace ttr
