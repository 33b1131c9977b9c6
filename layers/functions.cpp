// Function classes: losses, reads and designs of constants, linear maps, perceptrons and local polynomials.
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/functions.hpp>

namespace ttr {

Tensor apply_matrix(const Tensor& m, const Tensor& x) {
  if (m.rank() == 2) return matmul(x, m, false, true);
  return reshape(matmul(m, reshape(x, {x.size(0), x.size(1), 1})), {m.size(0), m.size(1)});
}
Tensor half_square(const Tensor& x) { return sum(square(x), -1) * 0.5; }
Tensor dot(const Tensor& a, const Tensor& b) { return sum(a * b, -1); }

namespace {
Tensor row(const Tensor& x) { return reshape(x, {x.size(0), 1, x.size(1)}); }       // [N, D] -> [N, 1, D]
Tensor column(const Tensor& x) { return reshape(x, {x.count(), 1}); }               // [N] -> [N, 1]
}  // namespace

// -- Constant --------------------------------------------------------------------------------------------------------------------------------
Pack Constant::init(const View& view) const { return {{{"value", zeros({view.rows(), view.value_dim()}, view.options())}}}; }
Tensor Constant::loss(const Pack& theta, const Pack&, const View& view, int64_t i) const { return half_square(theta["value"] - view.pair("v", i)); }
Tensor Constant::read(const Pack& theta, const View&, const Tensor&) const { return theta["value"]; }
Design Constant::design(const View& view) const {
  return {ones({view.rows(), view.count(), 1}, view.options()), ones({view.rows(), 1, 1}, view.options())};
}
Tensor Constant::penalty(const View& view, const Tensor&) const { return zeros({1, 1}, view.options()); }
Pack Constant::solved(const Tensor& solution) const { return {{{"value", reshape(solution, {solution.size(0), solution.size(2)})}}}; }

// -- LinearMap -------------------------------------------------------------------------------------------------------------------------------
std::vector<Slot> LinearMap::slots() const {
  std::vector<Slot> list = feature.slots();
  if (tied) list.push_back(unread("k"));
  if (erase == Erase::separate || erase == Erase::two) list.push_back({"erase_key", Per::write, {key_size}});
  if (erase == Erase::two) list.push_back({"erase_write", Per::write, {key_size}});
  if (erase == Erase::gated) {
    list.push_back({"erase_gate", Per::write, {key_size}, unit_interval, 0.5});
    list.push_back({"value_gate", Per::write, {value_size}, unit_interval, 0.5});
  }
  if (bonus) list.push_back({"bonus", Per::head, {key_size}, any_value, 0.5, true, true, Start::zigzag});
  if (learned) list.push_back({"initial_memory", Per::head, {value_size, key_size}});
  return list;
}
Pack LinearMap::init(const View& view) const {
  const int64_t p = feature->size(view);
  Pack theta{{{"memory", learned ? view.head("initial_memory") : zeros({view.rows(), view.value_dim(), p}, view.options())}}};
  if (normaliser != Normaliser::none) theta.set("normalizer", zeros({view.rows(), p}, view.options()));
  return theta;
}
Tensor LinearMap::raw_key(const View& view, int64_t i) const { return tied ? -expm1(view.pair("log_decay", i)) : view.pair("k", i); }
Tensor LinearMap::key(const View& view, int64_t i) const { return feature->map(raw_key(view, i), view, view.token_of(i)); }
Tensor LinearMap::query(const View& view) const { return feature->map(view.now("q"), view, view.time()); }

Tensor LinearMap::loss(const Pack& theta, const Pack& point, const View& view, int64_t i) const {
  const Tensor &m = theta["memory"], k = key(view, i), v = view.pair("v", i);
  Tensor loss;
  switch (erase) {
    case Erase::key: loss = half_square(apply_matrix(m, k) - v); break;
    case Erase::separate: loss = dot(apply_matrix(point["memory"], view.pair("erase_key", i)) - v, apply_matrix(m, k)); break;
    case Erase::gated:
      loss = dot(apply_matrix(point["memory"], view.pair("erase_gate", i) * k) - view.pair("value_gate", i) * v, apply_matrix(m, k));
      break;
    case Erase::two:   // minus the write (M alpha) beta^T + v k^T
      loss = -dot(apply_matrix(point["memory"], view.pair("erase_key", i)), apply_matrix(m, view.pair("erase_write", i))) - dot(v, apply_matrix(m, k));
      break;
    case Erase::transposed: loss = half_square(reshape(matmul(row(v), m), {m.size(0), m.size(2)}) - k); break;
  }
  if (normaliser != Normaliser::none) loss = loss + 0.5 * square(dot(theta["normalizer"], k) - 1.0);
  return loss;
}

Tensor LinearMap::read(const Pack& theta, const View& view, const Tensor& log_scale) const {
  const Tensor q = query(view);
  Tensor y = apply_matrix(theta["memory"], q);
  if (bonus) y = y + view.now("v") * column(dot(view.head("bonus") * raw_key(view, view.pairs() - 1), view.now("q")));
  if (normaliser == Normaliser::none) return y;
  Tensor z = dot(theta["normalizer"], q);
  switch (normaliser) {
    case Normaliser::none: break;
    case Normaliser::sum: z = z + eps; break;
    case Normaliser::clamp: z = maximum(z, eps); break;
    case Normaliser::max1:   // memory and normalizer are divided by exp(log_scale), so 1 is too
      z = maximum(abs(z), log_scale.defined() ? exp(-log_scale) : ones(z.shape(), like(z))) + eps;
      break;
  }
  return y / column(z);
}

Design LinearMap::design(const View& view) const {
  Tensors rows;
  for (int64_t i = view.first(); i < view.pairs(); ++i) rows.push_back(key(view, i));
  return {stack(rows, 1), row(query(view))};
}
Tensor LinearMap::penalty(const View& view, const Tensor& ridge) const {
  const int64_t p = feature->size(view), given = ridge.size(1);
  if (given != 1 && given != p) throw refuse("linear", "ridge has {} numbers, needs 1 or {}, one a feature", given, p);
  return diagonal_matrix(broadcast_to(ridge, {view.rows(), p}));
}
Pack LinearMap::solved(const Tensor& solution) const { return {{{"memory", transpose(solution, 1, 2)}}}; }

Tensor score(PairLoss loss, const Tensor& m, const Tensor& v) {
  switch (loss) {
    case PairLoss::squared: return half_square(m - v);
    case PairLoss::mean: return mean(square(m - v), -1);
    case PairLoss::dot: return -dot(m, v);
  }
  return {};
}

// -- Mlp -------------------------------------------------------------------------------------------------------------------------------------
Tensor activate(Activation a, const Tensor& x) {
  switch (a) {
    case Activation::gelu: return gelu(x);
    case Activation::silu: return silu(x);
    case Activation::tanh: return tanh(x);
    case Activation::relu: return relu(x);
    case Activation::identity: return x;
  }
  return x;
}
std::vector<Slot> Mlp::slots() const {
  return {{"initial_weight_1", Per::head, {hidden, key_size}}, {"initial_weight_2", Per::head, {value_size, hidden}}};
}
Pack Mlp::init(const View& view) const { return {{{"weight_1", view.head("initial_weight_1")}, {"weight_2", view.head("initial_weight_2")}}}; }
Tensor Mlp::apply(const Pack& theta, const Tensor& x) const {
  return apply_matrix(theta["weight_2"], activate(activation, apply_matrix(theta["weight_1"], x)));
}
Tensor Mlp::loss(const Pack& theta, const Pack&, const View& view, int64_t i) const {
  return score(loss_of, apply(theta, view.pair("k", i)), view.pair("v", i));
}
Tensor Mlp::read(const Pack& theta, const View& view, const Tensor&) const { return apply(theta, view.now("q")); }

// -- Polynomial ------------------------------------------------------------------------------------------------------------------------------
int64_t Polynomial::size(int64_t d) const { return degree == 0 ? 1 : degree == 1 ? 1 + d : 1 + d + d * (d + 1) / 2; }
Tensor Polynomial::features(const Tensor& z) const {
  if (degree < 0 || degree > 2) throw refuse("polynomial", "degree is {}, needs 0, 1 or 2", degree);
  const int64_t d = z.size(2);
  Tensors parts{ones({z.size(0), z.size(1), 1}, like(z))};
  if (degree >= 1) parts.push_back(z);
  if (degree >= 2) {
    parts.push_back(square(z));
    for (int64_t i = 0; i + 1 < d; ++i) parts.push_back(slice(z, 2, i, i + 1) * slice(z, 2, i + 1, d) * std::sqrt(2.0));
  }
  return concat(parts, 2);
}
Pack Polynomial::init(const View& view) const {
  return {{{"coefficients", zeros({view.rows(), size(view.key_dim()), view.value_dim()}, view.options())}}};
}
Tensor Polynomial::loss(const Pack& theta, const Pack&, const View& view, int64_t i) const {
  const Tensor phi = features(row(view.pair("k", i) - view.now("q")));                               // [N, 1, P]
  const Tensor m = matmul(phi, theta["coefficients"]);                                               // [N, 1, V]
  return half_square(reshape(m, {view.rows(), view.value_dim()}) - view.pair("v", i));
}
Tensor Polynomial::read(const Pack& theta, const View& view, const Tensor&) const {
  return reshape(slice(theta["coefficients"], 1, 0, 1), {view.rows(), view.value_dim()});
}
Design Polynomial::design(const View& view) const {
  const Tensor q = row(view.now("q"));
  return {features(view.all("k") - q), features(q - q)};
}
Tensor Polynomial::penalty(const View& view, const Tensor& ridge) const {
  const int64_t n = view.rows(), d = view.key_dim(), given = ridge.size(1);
  if (given != 1 && given != degree) throw refuse("polynomial", "ridge has {} numbers, needs 1 or {}, one a degree", given, degree);
  Tensors parts{zeros({n, 1}, view.options())};
  if (degree >= 1) parts.push_back(broadcast_to(slice(ridge, 1, 0, 1), {n, d}));
  if (degree >= 2) parts.push_back(broadcast_to(slice(ridge, 1, given - 1, given), {n, d * (d + 1) / 2}));
  return diagonal_matrix(concat(parts, 1));
}
Pack Polynomial::solved(const Tensor& solution) const { return {{{"coefficients", solution}}}; }

namespace detail {
template const FunctionModel* hold<FunctionHolder<Constant>>(Constant);
template const FunctionModel* hold<FunctionHolder<LinearMap>>(LinearMap);
template const FunctionModel* hold<FunctionHolder<Mlp>>(Mlp);
template const FunctionModel* hold<FunctionHolder<Polynomial>>(Polynomial);
}  // namespace detail

}  // namespace ttr
