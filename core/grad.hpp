// Reverse-mode derivatives as a function. Tensors carry no gradient; recording is thread-local.
#pragma once
#include <functional>
#include <ttr/core/tensor.hpp>

namespace ttr {

// A leaf: the same values, and derivatives with respect to it exist from here on.
Tensor variable(const Tensor& x);

struct GradOptions {
  bool create_graph = false;    // record the sweep itself, so that its result can be differentiated again
  bool consume = false;         // free each saved value as the sweep passes it; the graph cannot be swept again
  std::function<void(size_t x, const Tensor& dx)> ready = nullptr;   // xs[x]'s derivative is final (its producers may still be pending)
};

// The vector-Jacobian products sum_j dys[j] . d ys[j] / d xs[i], shaped like xs[i]. Undefined dys[j] means ones (of a scalar ys[j]).
// An x that no y depends on gets zeros. xs must be tracked.
Tensors grad(const Tensors& ys, const Tensors& dys, const Tensors& xs, const GradOptions& = {});
Tensor grad(const Tensor& y, const Tensor& x, const GradOptions& = {});

bool recording();
// Recording off(false); turns recording off (or on) in this scope and thread.
class Recording {
 public:
  explicit Recording(bool on);
  ~Recording();
  Recording(const Recording&) = delete;

 private:
  bool before_;
};

// f(inputs) without its tape: f runs unrecorded now and again, recorded, inside the backward. Everything that needs a gradient must come
// through `inputs`; f must give the same values again.
Tensors checkpoint(const std::function<Tensors(const Tensors&)>& f, const Tensors& inputs);

struct GradCheck {
  double worst = 0;             // |analytic - numeric| / max(1, |analytic|, |numeric|), the worst over order and input
  std::string where;            // "order 2, input 1"
  bool within(double tolerance) const { return worst <= tolerance; }
};
// Projects f's outputs and the inputs' directions on random vectors and compares with central differences, in f64.
// order 2 checks the derivative of the derivative in the same way.
GradCheck check_grad(const std::function<Tensors(const Tensors&)>& f, const Tensors& inputs, int order = 1, uint64_t seed = 1, double step = 1e-5);

}  // namespace ttr
