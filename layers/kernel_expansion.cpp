// Kernel expansions: Gram matrices over the visible pairs or over landmarks.
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/kernel_expansion.hpp>

namespace ttr {

Tensor gaussian(const View& view, Bandwidth bandwidth, const Tensor& a, const Tensor& b) {
  const int64_t n = a.size(0), k = a.size(2);
  const Tensor difference = reshape(a, {n, a.size(1), 1, k}) - reshape(b, {n, 1, b.size(1), k});
  const Tensor distance = sum(square(difference), 3);                                                  // [N, n, m]
  if (bandwidth == Bandwidth::root) return exp(distance * (-0.5 / std::sqrt(double(k))));
  return exp(distance * reshape(-0.5 / square(view.head("bandwidth")), {n, 1, 1}));
}

namespace {

Tensor row(const Tensor& x) { return reshape(x, {x.size(0), 1, x.size(1)}); }                          // [N, K] -> [N, 1, K]

std::vector<Slot> bandwidth_slot(Bandwidth b) {
  if (b == Bandwidth::root) return {};
  return {{"bandwidth", Per::head, {}, positive, 1}};
}

// What the three classes share, given their centres [N, n, K].
Tensor value_at(const View& view, Bandwidth b, const Tensor& centres, const Tensor& x, const Pack& theta) {   // x [N, K] -> [N, V]
  return reshape(matmul(gaussian(view, b, row(x), centres), theta["coefficients"]), {view.rows(), view.value_dim()});
}
Tensor norm_in_space(const View& view, Bandwidth b, const Tensor& centres, const Tensor& ridge) {
  if (ridge.size(1) != 1) throw refuse("kernel_expansion", "ridge has {} numbers, needs 1", ridge.size(1));
  return gaussian(view, b, centres, centres) * reshape(ridge, {ridge.size(0), 1, 1});
}
Pack nothing(const View& view, int64_t centres) { return {{{"coefficients", zeros({view.rows(), centres, view.value_dim()}, view.options())}}}; }

}  // namespace

// -- KernelExpansion -------------------------------------------------------------------------------------------------------------------------
std::vector<Slot> KernelExpansion::slots() const { return bandwidth_slot(bandwidth); }
Pack KernelExpansion::init(const View& view) const { return nothing(view, view.count()); }
Tensor KernelExpansion::loss(const Pack& theta, const Pack&, const View& view, int64_t i) const {
  return half_square(value_at(view, bandwidth, view.all("k"), view.pair("k", i), theta) - view.pair("v", i));
}
Tensor KernelExpansion::read(const Pack& theta, const View& view, const Tensor&) const {
  if (view.count() == 0) return zeros({view.rows(), view.value_dim()}, view.options());
  return value_at(view, bandwidth, view.all("k"), view.now("q"), theta);
}
Design KernelExpansion::design(const View& view) const {
  const Tensor k = view.all("k");
  return {gaussian(view, bandwidth, k, k), gaussian(view, bandwidth, row(view.now("q")), k), true};
}
Tensor KernelExpansion::penalty(const View& view, const Tensor& ridge) const { return norm_in_space(view, bandwidth, view.all("k"), ridge); }

// -- Landmarks -------------------------------------------------------------------------------------------------------------------------------
std::vector<Slot> Landmarks::slots() const {
  std::vector<Slot> list = bandwidth_slot(bandwidth);
  list.push_back({"landmarks", Per::head, {any_size(32), key_size}});
  if (shared) list.push_back({"k", Per::write, {key_size}, any_value, 0, false});
  return list;
}
Pack Landmarks::init(const View& view) const {
  if (shared && view.carried())
    throw refuse("landmarks", "shared=true carries {} tokens, needs a call of its own; earlier queries are not kept", view.carried());
  return nothing(view, view.head("landmarks").size(1));
}
Tensor Landmarks::loss(const Pack& theta, const Pack&, const View& view, int64_t i) const {
  return half_square(value_at(view, bandwidth, view.head("landmarks"), view.pair(shared ? "q" : "k", i), theta) - view.pair("v", i));
}
Tensor Landmarks::read(const Pack& theta, const View& view, const Tensor&) const {
  return value_at(view, bandwidth, view.head("landmarks"), view.now("q"), theta);
}
Design Landmarks::design(const View& view) const {
  const Tensor centres = view.head("landmarks");
  return {gaussian(view, bandwidth, view.all(shared ? "q" : "k"), centres), gaussian(view, bandwidth, row(view.now("q")), centres)};
}
Tensor Landmarks::penalty(const View& view, const Tensor& ridge) const { return norm_in_space(view, bandwidth, view.head("landmarks"), ridge); }

// -- TokenLandmarks --------------------------------------------------------------------------------------------------------------------------
std::vector<Slot> TokenLandmarks::slots() const { return bandwidth_slot(bandwidth); }
Tensor TokenLandmarks::centres(const View& view) const {
  if (view.carried()) throw refuse("token_landmarks", "carries {} tokens, needs a call of its own; earlier queries are not kept", view.carried());
  if (view.writes() != 1) throw refuse("token_landmarks", "writes is {}, needs 1", view.writes());
  Tensors chosen;
  for (int64_t i = 0; i < 2 * view.count(); i += 2)
    chosen.push_back(i < view.count() ? view.pair("q", view.first() + i) : view.pair("k", view.first() + i - view.count()));
  return stack(chosen, 1);
}
Pack TokenLandmarks::init(const View& view) const { return nothing(view, view.count()); }
Tensor TokenLandmarks::loss(const Pack& theta, const Pack&, const View& view, int64_t i) const {
  return half_square(value_at(view, bandwidth, centres(view), view.pair("k", i), theta) - view.pair("v", i));
}
Tensor TokenLandmarks::read(const Pack& theta, const View& view, const Tensor&) const {
  if (view.count() == 0) return zeros({view.rows(), view.value_dim()}, view.options());
  return value_at(view, bandwidth, centres(view), view.now("q"), theta);
}
Design TokenLandmarks::design(const View& view) const {
  const Tensor c = centres(view);
  return {gaussian(view, bandwidth, view.all("k"), c), gaussian(view, bandwidth, row(view.now("q")), c)};
}
Tensor TokenLandmarks::penalty(const View& view, const Tensor& ridge) const { return norm_in_space(view, bandwidth, centres(view), ridge); }

}  // namespace ttr
