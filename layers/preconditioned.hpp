// Preconditioned: gradient descent whose step is larger along key channels that were seen less (arXiv 2604.21100).
//
//   c_t = exp(curvature_log_decay_t) c_{t-1} + curvature_step_t phi phi        [P], online second moments of the features
//   l = log(c + eps) - curvature_scale,  P = base^{-l / (1 + |l|)}            each in (1 / base, base)
//   M <- a M - step_size (M phi - v) (P phi)^T                                  erases along phi, writes along P phi
//
// base = 1 is the gated delta rule; the inverse Gram matrix instead of P is recursive least squares. base <= 2 keeps the step stable for
// unit keys and step sizes in (0, 1).
#pragma once
#include <ttr/layers/recipe.hpp>

namespace ttr {

struct Preconditioned {
  static constexpr const char* name = "preconditioned";
  static constexpr Demand demand = Demand::streamed;
  double base = 1.5, eps = 1e-6;
  void each(auto&& f) { f("base", base), f("eps", eps); }
  std::vector<Slot> slots() const {
    return {{"step_size", Per::write, {}, unit_interval, 0.5},
            {"curvature_log_decay", Per::token, {}, log_of_unit, -0.05},
            {"curvature_step", Per::write, {}, unit_interval, 0.5},
            {"curvature_scale", Per::head, {}, any_value, -0.2}};
  }
  State start(State s) const;
  State advance(const State&, const Regression&) const;
};

}   // namespace ttr
