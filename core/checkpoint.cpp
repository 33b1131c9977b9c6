// checkpoint: trade time for memory. The node keeps f and its inputs; the backward runs f again, recorded, and sweeps that.
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>

namespace ttr {
namespace {

struct Checkpoint final : Node {
  explicit Checkpoint(std::function<Tensors(const Tensors&)> g) : f(std::move(g)) {}
  Tensors backward(const Sweep& s, bool create_graph) override {
    Tensors points = kept_inputs, needed;
    Recording on(true);
    for (size_t i = 0; i < points.size(); ++i) {
      if (!points[i].defined() || !is_floating(points[i].dtype())) continue;
      if (!create_graph) points[i] = detach(points[i]);
      if (s.needs(int(i))) needed.push_back(points[i] = alias(points[i]));
    }
    const Tensors all = f(points);
    Tensors ys, dys;
    for (size_t j = 0; j < all.size(); ++j)
      if (s.dy(int(j)).defined()) ys.push_back(all[j]), dys.push_back(s.dy(int(j)));
    const Tensors found = grad(ys, dys, needed, {.create_graph = create_graph, .consume = !create_graph});
    Tensors dxs(points.size());
    for (size_t i = 0, j = 0; i < dxs.size(); ++i)
      if (s.needs(int(i))) dxs[i] = found[j++];
    return dxs;
  }
  void forget() override { f = {}; }
  std::function<Tensors(const Tensors&)> f;
};

}  // namespace

Tensors checkpoint(const std::function<Tensors(const Tensors&)>& f, const Tensors& inputs) {
  Tensors ys;
  {
    Recording off(false);
    ys = f(inputs);
  }
  if (recording() && detail::any_tracked(inputs)) detail::attach(new Checkpoint(f), "checkpoint", ys, inputs, keep_inputs);
  return ys;
}

}  // namespace ttr
