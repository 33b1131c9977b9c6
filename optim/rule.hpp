// Update rules: one template, two clocks. The same source runs inside a layer with Tensor (over tokens: fold), in the trainer with float
// (over steps, CPU) and with device float (one launch over all parameters). A border header.
//
//   rule(p, g, memories..., rate)   p: parameter, g: gradient; rate: fields the rule names below, as X or as plain numbers
//
// An elementwise rule acts on each number by itself. Muon reduces over the last two axes (optim/muon.hpp).
#pragma once
#include <cmath>
#include <ttr/core/border.hpp>

namespace ttr {

// Plain gradient descent. rate.step_size.
struct Sgd {
  static constexpr const char* name = "sgd";
  static constexpr int memories = 0;
  template <class X, class R> TTR_BOTH void operator()(X& p, const X& g, const R& rate) const {
    p = p - rate.step_size * g;
  }
};

// Heavy ball: S = eta S - theta g, p = p + S. rate.step_size (theta), rate.momentum (eta).
struct Momentum {
  static constexpr const char* name = "momentum";
  static constexpr int memories = 1;
  static constexpr bool momentum_by_slot = true;
  double momentum = 0.9;   // the trainer's clock; inside a layer it is a slot
  void each(auto&& f) { f("momentum", momentum); }
  template <class X, class R> TTR_BOTH void operator()(X& p, const X& g, X& m, const R& rate) const {
    m = rate.momentum * m - rate.step_size * g;
    p = p + m;
  }
};

// Adam with decoupled weight decay (arXiv 1711.05101). rate.step_size, rate.correct1 = 1 - beta1^t, rate.correct2 = 1 - beta2^t, rate.decay.
struct AdamW {
  static constexpr const char* name = "adamw";
  static constexpr int memories = 2;
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, decay = 0.1;
  void each(auto&& f) { f("beta1", beta1), f("beta2", beta2), f("eps", eps), f("decay", decay); }
  template <class X, class R> TTR_BOTH void operator()(X& p, const X& g, X& m, X& v, const R& rate) const {
    using std::sqrt;
    using A = typename R::Number;   // the width of constants: float, double; Tensor takes double
    m = A(beta1) * m + A(1 - beta1) * g;
    v = A(beta2) * v + A(1 - beta2) * (g * g);
    p = p - rate.step_size * ((m / rate.correct1) / (sqrt(v / rate.correct2) + A(eps)) + rate.decay * p);
  }
};

// Muon's step over a matrix (optim/muon.hpp), once its direction o is known: m = eta m + g, p = p - theta (o + decay p). Kernels run it like any rule;
// what is not of one number, the direction, is made before by optim/muon_adamw.cpp.
struct MuonStep {
  static constexpr int memories = 2;   // m, o
  double momentum = 0.95, decay = 0.1;
  template <class X, class R> TTR_BOTH void operator()(X& p, const X& g, X& m, X& o, const R& rate) const {
    m = rate.momentum * m + g;
    p = p - rate.step_size * (o + rate.decay * p);
  }
};

// Muon for the matrices between hidden vectors, AdamW for all else (K. Jordan 2024): embeddings, heads, filters, gains, biases. Each direction is
// orthogonal times 0.2 sqrt(max(R, D)), about as large as AdamW's (arXiv 2502.16982), so that one rate and one decay serve both.
struct MuonAdamW {
  static constexpr const char* name = "muon";
  static constexpr int memories = 2;
  double momentum = 0.95;   // Nesterov's
  AdamW others{};
  MuonStep matrices() const { return {momentum, others.decay}; }
};

}  // namespace ttr
