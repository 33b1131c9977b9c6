// Residual smoothing, token by token: what the earlier tokens already say about a value is taken off before it is stored.
#include <ttr/layers/boost.hpp>

namespace ttr {

std::vector<Slot> Boost::slots() const {
  std::vector<Slot> list = ridge_slots(ridge, per);
  list.push_back({"step_size", Per::write, {}, unit_interval, 0.5});
  return list;
}

State Boost::start(State s) const {
  const Tensor& any = s.theta.parts.at(0).second;
  s.memory.set("residuals", zeros({any.size(0), 0, 1}, like(any)));       // V is known at the first pair
  return s;
}

State Boost::advance(const State& s, const Regression& r) const {
  constexpr int64_t chunk = 1;
  const View& view = r.view();
  if (view.pairs() != (view.time() + 1) * view.writes())
    throw refuse("boost", "{} pairs are visible at token {}, needs read=inclusive and visible=prefix: each token corrects those before it",
                 view.pairs(), view.time());
  State next = s;
  Tensor u = s.memory["residuals"];                                       // [N, pairs before, V]
  const int64_t earlier = r.newest();
  Tensor newest = stack([&] {
    Tensors values;
    for (int64_t i = earlier; i < view.pairs(); ++i) values.push_back(view.pair("v", i));
    return values;
  }(), 1);                                                                // [N, writes, V]
  if (earlier > 0) {
    const View then = view.strictly_before();
    const Regression before = r.on(then);
    const Tensor answer = matmul(before.design().query, normal_equations(before, ridge, chunk, u).solution());   // [N, 1, V]
    Tensors steps;
    for (int64_t i = earlier; i < view.pairs(); ++i) steps.push_back(view.pair("step_size", i));
    newest = newest - reshape(stack(steps, 1), {view.rows(), view.writes(), 1}) * answer;
  }
  u = earlier > 0 ? concat({u, newest}, 1) : newest;
  next.memory.set("residuals", u);
  next.theta = r.solved(normal_equations(r, ridge, chunk, u).solution());
  return next;
}

State Amortized::advance(const State& s, const Regression& r) const {
  State next = s;
  next.theta = s.initial;
  const View& view = r.view();
  if (view.count() == 0) return next;
  const Design d = r.design();
  const int64_t n = view.rows(), features = d.phi.size(2);
  if (d.dual || features != view.key_dim() + 1)
    throw refuse("amortized", "the function class has {} features, needs {}: polynomial[degree=1]", features, view.key_dim() + 1);
  const Tensor w = r.weigh().relative;                                                   // [N, pairs]
  const Tensor p = reshape(w / sum(w, 1, true), {n, view.count(), 1});
  const Tensor z = slice(d.phi, 2, 1, features);                                         // k_i - q [N, pairs, K]
  const Tensor centred = z - sum(p * z, 1, true);
  const Tensor weights = p * (1.0 - matmul(centred, reshape(view.now("slope"), {n, view.key_dim(), 1})));
  const Tensor m0 = matmul(weights, r.targets(), true);                                  // [N, 1, V]
  next.theta = r.solved(pad(m0, 1, 0, features - 1));                                    // M_1 stays unsaid
  return next;
}

}  // namespace ttr
