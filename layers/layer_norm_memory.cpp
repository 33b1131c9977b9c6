#include <ttr/core/ops.hpp>
#include <ttr/layers/layer_norm_memory.hpp>

namespace ttr {

namespace {

// In primitives: the learner differentiates it, and the network differentiates the learner. z [N, V].
Tensor residual_norm(const Tensor& x, const Tensor& z, const View& view, double eps) {
  const Tensor centered = z - mean(z, -1, true);
  return x + view.head("norm_weight") * (centered * rsqrt(mean(square(centered), -1, true) + eps)) + view.head("norm_bias");
}

std::vector<Slot> norm_slots() { return {{"norm_weight", Per::head, {value_size}, any_value, 1}, {"norm_bias", Per::head, {value_size}}}; }

void check_square(const char* where, const View& view) {
  if (view.key_dim() != view.value_dim())
    throw refuse(where, "k has {} channels and v {}, needs as many: the memory answers k + LN(net(k))", view.key_dim(), view.value_dim());
}

}   // namespace

// -- NormedLinear ----------------------------------------------------------------------------------------------------------------------------
std::vector<Slot> NormedLinear::slots() const {
  std::vector<Slot> list{{"initial_weight", Per::head, {value_size, key_size}}, {"initial_bias", Per::head, {value_size}}};
  for (Slot& s : norm_slots()) list.push_back(std::move(s));
  return list;
}
Pack NormedLinear::init(const View& view) const {
  check_square(name, view);
  return {{{"weight", view.head("initial_weight")}, {"bias", view.head("initial_bias")}}};
}
Tensor NormedLinear::apply(const Pack& theta, const View& view, const Tensor& x) const {
  return residual_norm(x, apply_matrix(theta["weight"], x) + theta["bias"], view, eps);
}
Tensor NormedLinear::loss(const Pack& theta, const Pack&, const View& view, int64_t i) const {
  return half_square(apply(theta, view, view.pair("k", i)) - view.pair("v", i));
}
Tensor NormedLinear::read(const Pack& theta, const View& view, const Tensor&) const { return apply(theta, view, view.now("q")); }

// -- NormedMlp -------------------------------------------------------------------------------------------------------------------------------
std::vector<Slot> NormedMlp::slots() const {
  const Extent hidden{key_size, expand};
  std::vector<Slot> list{{"initial_weight_1", Per::head, {hidden, key_size}},
                         {"initial_bias_1", Per::head, {hidden}},
                         {"initial_weight_2", Per::head, {value_size, hidden}},
                         {"initial_bias_2", Per::head, {value_size}}};
  for (Slot& s : norm_slots()) list.push_back(std::move(s));
  return list;
}
Pack NormedMlp::init(const View& view) const {
  check_square(name, view);
  Pack theta;
  for (const char* part : {"weight_1", "bias_1", "weight_2", "bias_2"}) theta.set(part, view.head(std::string("initial_") + part));
  return theta;
}
Tensor NormedMlp::apply(const Pack& theta, const View& view, const Tensor& x) const {
  const Tensor hidden = gelu(apply_matrix(theta["weight_1"], x) + theta["bias_1"]);
  return residual_norm(x, apply_matrix(theta["weight_2"], hidden) + theta["bias_2"], view, eps);
}
Tensor NormedMlp::loss(const Pack& theta, const Pack&, const View& view, int64_t i) const {
  return half_square(apply(theta, view, view.pair("k", i)) - view.pair("v", i));
}
Tensor NormedMlp::read(const Pack& theta, const View& view, const Tensor&) const { return apply(theta, view, view.now("q")); }

}   // namespace ttr
