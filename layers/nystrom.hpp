// One step from zero, preconditioned by the norm of the function class: theta = (G + jitter I)^{-1} Phi' Gamma V with G the penalty of a ridge of 1.
// On landmarks (kernel_expansion.hpp) G = kappa(L, L) and the answer is the smoother kappa(q, L) G^{-1} kappa(L, K) V: a Nystrom approximation of
// kappa(q, K) V. It holds no inverse of the data's own Gram matrix, so it is not the regression that Exact solves (docs/3-three-ingredients.md).
//
//   inverse  exact        a solve
//            newton       X <- 2 X - X A X from 1.8 / (largest row sum of G)^2 A, A = G + jitter I        (SOFT, arXiv 2110.11945)
//            third_order  X <- X/4 (13 I - AX (15 I - AX (7 I - AX))) from A' / largest column sum, A scaled to D A D with D = diag(A 1)^{-1/2}
//                         (Skyformer, arXiv 2111.00035)
#pragma once
#include <ttr/layers/recipe.hpp>

namespace ttr {

enum class Inverse { exact, newton, third_order };
template <> struct NamesOf<Inverse> {
  static constexpr Naming<Inverse> names[] = {{Inverse::exact, "exact"}, {Inverse::newton, "newton"}, {Inverse::third_order, "third_order"}};
};

struct Nystrom {
  static constexpr const char* name = "nystrom";
  static constexpr Demand demand = Demand::linear;
  double jitter = 0.01;
  Inverse inverse = Inverse::exact;
  int64_t steps = 20;   // of an iterated inverse
  void each(auto&& f) { f("jitter", jitter), f("inverse", inverse), f("steps", steps); }
  std::vector<Slot> slots() const { return {}; }
  State start(State s) const { return s; }
  State advance(const State&, const Regression&) const;

 private:
  Tensor divide(const Tensor& gram, const Tensor& b) const;   // (G + jitter I)^{-1} b: [N, P, P], [N, P, V]
};

}  // namespace ttr
