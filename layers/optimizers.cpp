// Optimizers that look at all visible pairs (solves, conjugate gradients, full-batch steps) and the closed proximal step.
#include <ttr/core/ops.hpp>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/optimizers.hpp>

namespace ttr {

Tensor detail::per_row(const Tensor& x, const Tensor& p) {
  Shape s = x.shape();
  while (s.rank() < p.rank()) s.push_back(1);
  return reshape(x, s);
}

Tensor detail::with_row_norms(const Tensor& p, const Tensor& model) {
  const auto norm = [](const Tensor& x) {   // [N, R, 1]; a row of zeros has norm 0 and no direction to flow along
    const Tensor s = sum(square(x), -1, true), some = less(zeros({}, like(s)), s);
    return where(some, sqrt(where(some, s, ones(s.shape(), like(s)))), zeros(s.shape(), like(s)));
  };
  return p * (norm(model) / (norm(p) + 1e-5));
}

std::vector<Slot> Proximal::slots() const {
  return {{"step_size", Per::write, diagonal ? std::vector<Extent>{value_size} : std::vector<Extent>{}, positive, 1}};
}
State Proximal::advance(const State& s, const Regression& r) const {
  State next = s;
  next.theta = r.discount(s.theta, s.initial);
  for (int64_t i = r.newest(); i < r.view().pairs(); ++i) {
    const Tensor phi = r.features(i);                                                  // [N, P]
    const Tensor delta = r.view().pair("step_size", i);                                // [N], or [N, V]
    const Tensor step = delta / (1.0 + delta * detail::per_row(dot(phi, phi), delta));
    Pack g;
    if (!diagonal) g = r.gradient(next.theta, i);
    else {                                                                             // -v phi^T + M (phi phi)
      Pack nothing = next.theta;
      for (auto& [part, p] : nothing.parts) p = zeros(p.shape(), like(p));
      g = r.gradient(nothing, i);
      for (size_t j = 0; j < g.parts.size(); ++j) {
        Tensor& d = g.parts[j].second;
        if (d.rank() != 3) throw refuse("proximal", "{} has shape {}, needs a memory [N, V, P] for diagonal=true", g.parts[j].first, to_string(d.shape()));
        d = d + next.theta.parts[j].second * reshape(square(phi), {phi.size(0), 1, phi.size(1)});
      }
    }
    for (size_t j = 0; j < g.parts.size(); ++j) {
      Tensor& p = next.theta.parts[j].second;
      p = p - detail::per_row(step, p) * g.parts[j].second;
    }
  }
  return next;
}

std::vector<Slot> ridge_slots(Ridge ridge, RidgePer per) {
  if (ridge == Ridge::none) return {};
  std::vector<Extent> shape;
  if (per == RidgePer::channel) shape = {key_size};
  if (per == RidgePer::degree) shape = {2};
  return {{"ridge", Per::head, shape, positive, 1}};
}

System normal_equations(const Regression& r, Ridge ridge, int64_t chunk, const Tensor& targets) {
  const Weighing w = r.weigh();
  const Design d = r.design();
  const View& view = r.view();
  const int64_t n = view.rows(), pairs = view.count();
  const Tensor gamma = reshape(w.relative, {n, pairs, 1});
  Tensor lambda;                                                                       // [N, 1] or [N, R]
  if (ridge != Ridge::none) {
    const Tensor given = view.head("ridge");
    lambda = given.rank() == 1 ? reshape(given, {n, 1}) : given;
    Tensor strength;                                                                   // [N], on the scale of `relative`
    if (ridge == Ridge::relative) strength = sum(w.relative, 1);
    if (ridge == Ridge::decaying) strength = w.prior;
    if (ridge == Ridge::refreshed) {
      if (chunk < 1) throw refuse("exact", "chunk is {}, needs at least 1 token", chunk);
      const int64_t start = view.token_of(view.pairs() - 1) - view.position(view.token_of(view.pairs() - 1)) % chunk;
      strength = r.weigh(view.since(start)).prior;
    }
    if (ridge == Ridge::constant && w.log_scale.defined()) strength = exp(-w.log_scale);
    if (strength.defined()) lambda = lambda * reshape(strength, {n, 1});
  }
  if (d.dual) {   // (Gamma Phi + lambda) theta = Gamma V, made symmetric: theta = R x, (R Phi R + lambda) x = R V with R = Gamma^{1/2}
    const Tensor root = sqrt(gamma);
    Tensor a = root * d.phi * reshape(root, {n, 1, pairs});
    if (lambda.defined()) a = a + diagonal_matrix(broadcast_to(lambda, {n, pairs}));
    return {a, root * targets, root};
  }
  const Tensor weighted = d.phi * gamma;                                               // Gamma Phi
  const Tensor a = matmul(weighted, d.phi, true), b = matmul(weighted, targets, true);
  return {lambda.defined() ? a + r.penalty(lambda) : a, b};
}

Tensor System::solution() const {
  const Tensor x = solve(a, b);
  return scale.defined() ? scale * x : x;
}

std::vector<Slot> Exact::slots() const { return ridge_slots(ridge, per); }
State Exact::advance(const State& s, const Regression& r) const {
  State next = s;
  next.theta = s.initial;
  if (r.view().pairs() == 0) return next;
  next.theta = r.solved(normal_equations(r, ridge, chunk, r.targets()).solution());
  return next;
}

std::vector<Slot> ConjugateGradient::slots() const { return ridge_slots(ridge, per); }
State ConjugateGradient::advance(const State& s, const Regression& r) const {
  State next = s;
  next.theta = s.initial;
  if (r.view().pairs() == 0) return next;
  const System system = normal_equations(r, ridge, chunk, r.targets());
  const Tensor asked = transpose(r.design().query, 1, 2);                               // [N, P, 1]
  const Tensor query = system.scale.defined() ? asked * system.scale : asked;           // y = asked^T theta = query^T x
  const auto inner = [](const Tensor& u, const Tensor& v) { return sum(u * v, 1, true); };   // [N, 1, 1]
  Tensor x = zeros(query.shape(), like(query)), residual = query, p = query, rr = inner(query, query);
  const Tensor zero = zeros(rr.shape(), like(rr)), one = ones(rr.shape(), like(rr));
  for (int64_t i = 0; i < steps; ++i) {
    const Tensor ap = matmul(system.a, p), pap = inner(p, ap);
    const Tensor going = less(zero, pap);                                               // a residual of exactly 0 has arrived
    const Tensor alpha = where(going, rr / where(going, pap, one), zero);
    x = x + alpha * p;
    residual = residual - alpha * ap;
    const Tensor rr_next = inner(residual, residual);
    const Tensor beta = where(less(zero, rr), rr_next / where(less(zero, rr), rr, one), zero);
    p = residual + beta * p;
    rr = rr_next;
  }
  const Tensor y = matmul(x, system.b, true);                                           // [N, 1, V]
  // The smallest memory that gives this answer to this query.
  next.theta = r.solved(matmul(asked, y) / inner(asked, asked));
  return next;
}

std::vector<Slot> GradientSteps::slots() const { return {{"step_size", Per::head, {}, positive, 0.1}}; }
State GradientSteps::advance(const State& s, const Regression& r) const {
  State next = s;
  next.theta = s.initial;
  if (r.view().pairs() == 0) return next;
  const Weighing w = r.weigh();
  for (int64_t n = 0; n < steps; ++n) {
    const Pack g = r.gradient(next.theta, w);
    for (size_t j = 0; j < g.parts.size(); ++j) {
      Tensor& p = next.theta.parts[j].second;
      p = p - detail::per_row(r.view().head("step_size"), p) * g.parts[j].second;
    }
  }
  return next;
}

namespace detail {
template void OptionList::operator()<Point>(const char*, const Point&);
template void OptionList::operator()<Rate>(const char*, const Rate&);
template void OptionList::operator()<Over>(const char*, const Over&);
template void OptionList::operator()<Apply>(const char*, const Apply&);
template const OptimizerModel* hold<OptimizerHolder<Exact>>(Exact);
template const OptimizerModel* hold<OptimizerHolder<ConjugateGradient>>(ConjugateGradient);
template const OptimizerModel* hold<OptimizerHolder<GradientSteps>>(GradientSteps);
template const OptimizerModel* hold<OptimizerHolder<Proximal>>(Proximal);
template const OptimizerModel* hold<OptimizerHolder<Descend<Sgd>>>(Descend<Sgd>);
template const OptimizerModel* hold<OptimizerHolder<Descend<Momentum>>>(Descend<Momentum>);
template const OptimizerModel* hold<OptimizerHolder<Descend<AdamW>>>(Descend<AdamW>);
}  // namespace detail

}  // namespace ttr
