// The preconditioned step: one system with the penalty, solved or approximated.
#include <ttr/core/ops.hpp>
#include <ttr/layers/nystrom.hpp>

namespace ttr {

State Nystrom::advance(const State& s, const Regression& r) const {
  State next = s;
  next.theta = s.initial;
  const View& view = r.view();
  if (view.count() == 0) return next;
  const Weighing w = r.weigh();
  Tensor gamma = w.relative;                                                            // [N, pairs]
  if (w.log_scale.defined()) gamma = gamma * reshape(exp(w.log_scale), {view.rows(), 1});
  const Tensor weighted = r.design().phi * reshape(gamma, {view.rows(), view.count(), 1});
  next.theta = r.solved(divide(r.penalty(ones({view.rows(), 1}, view.options())), matmul(weighted, r.targets(), true)));
  return next;
}

Tensor Nystrom::divide(const Tensor& gram, const Tensor& b) const {
  const int64_t p = gram.size(-1);
  const Tensor eye = identity(p, like(gram));
  const Tensor a = gram + eye * jitter;
  const auto largest = [](const Tensor& sums) { return reshape(max(sums, 1), {sums.size(0), 1, 1}); };   // [N, P] -> [N, 1, 1]
  if (inverse == Inverse::exact) return solve(a, b);
  if (inverse == Inverse::newton) {
    Tensor x = a * (1.8 / square(largest(sum(gram, 2))));
    for (int64_t i = 0; i < steps; ++i) x = 2.0 * x - matmul(matmul(x, a), x);
    return matmul(x, b);
  }
  const Tensor d = rsqrt(sum(a, 2, true));                                              // [N, P, 1]
  const Tensor scaled = d * a * reshape(d, {d.size(0), 1, p});                          // D A D
  Tensor x = transpose(scaled, 1, 2) / largest(sum(scaled, 1));
  for (int64_t i = 0; i < steps; ++i) {
    const Tensor ax = matmul(scaled, x);
    x = matmul(x, 13.0 * eye - matmul(ax, 15.0 * eye - matmul(ax, 7.0 * eye - ax))) * 0.25;
  }
  return d * matmul(x, d * b);
}

}  // namespace ttr
