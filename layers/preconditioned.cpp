#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/preconditioned.hpp>

namespace ttr {

State Preconditioned::start(State s) const {
  for (const auto& [part, p] : s.theta.parts) {
    if (p.rank() != 3)
      throw refuse("preconditioned", "{} has shape {}, needs a memory [N, V, P] alone; take a linear function class", part,
                   to_string(p.shape()));
    s.memory.set("curvature", zeros({p.size(0), p.size(2)}, like(p)));
  }
  return s;
}

State Preconditioned::advance(const State& s, const Regression& r) const {
  const View& view = r.view();
  State next = s;
  next.theta = r.discount(s.theta, s.initial);
  Tensor c = exp(view.now("curvature_log_decay"));   // once a token
  c = reshape(c, {view.rows(), 1}) * s.memory["curvature"];
  for (int64_t i = r.newest(); i < view.pairs(); ++i) {
    const Tensor phi = r.features(i);   // [N, P]
    c = c + detail::per_row(view.pair("curvature_step", i), phi) * square(phi);
    const Tensor l = log(c + eps) - detail::per_row(view.head("curvature_scale"), phi);
    const Tensor precondition = exp(l / (1.0 + abs(l)) * -std::log(base));   // [N, P]
    const Pack g = r.gradient(next.theta, i);
    for (size_t j = 0; j < g.parts.size(); ++j) {
      Tensor& p = next.theta.parts[j].second;
      p = p - detail::per_row(view.pair("step_size", i), p) * g.parts[j].second * reshape(precondition, {view.rows(), 1, phi.size(1)});
    }
  }
  next.memory.set("curvature", c);
  return next;
}

}   // namespace ttr
