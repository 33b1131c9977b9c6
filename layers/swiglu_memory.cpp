#include <ttr/core/ops.hpp>
#include <ttr/layers/swiglu_memory.hpp>

namespace ttr {

std::vector<Slot> SwiGlu::slots() const {
  std::vector<Slot> list{{"initial_weight_0", Per::head, {hidden, key_size}},
                         {"initial_weight_1", Per::head, {value_size, hidden}},
                         {"initial_weight_2", Per::head, {hidden, key_size}}};
  if (paces)
    for (const char* s : {"step_size_0", "step_size_1", "step_size_2"}) list.push_back({s, Per::write, {}, positive, 0.001});
  return list;
}

Pack SwiGlu::init(const View& view) const {
  Pack theta;
  for (const char* part : {"weight_0", "weight_1", "weight_2"}) theta.set(part, view.head(std::string("initial_") + part));
  return theta;
}

Tensor SwiGlu::apply(const Pack& theta, const Tensor& x) const {
  return apply_matrix(theta["weight_1"], silu(apply_matrix(theta["weight_0"], x)) * apply_matrix(theta["weight_2"], x));
}

Tensor SwiGlu::loss(const Pack& theta, const Pack& point, const View& view, int64_t i) const {
  Pack moving = theta;
  if (paces)   // the same value, and every gradient times its pace: the weights are seen to move from the point at that pace
    for (auto& [part, w] : moving.parts) {
      const Tensor pace = reshape(view.pair("step_size_" + part.substr(part.size() - 1), i), {view.rows(), 1, 1});
      w = point[part] + pace * (w - point[part]);
    }
  return score(loss_of, apply(moving, view.pair("k", i)), view.pair("v", i));
}

Tensor SwiGlu::read(const Pack& theta, const View& view, const Tensor&) const { return apply(theta, view.now("q")); }

}   // namespace ttr
