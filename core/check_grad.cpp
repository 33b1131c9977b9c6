// check_grad: analytic against numeric directional derivatives, on random projections.
#include <cmath>
#include <ttr/core/ops.hpp>

namespace ttr {
namespace {

struct Random {   // splitmix64: directions only, nothing that a result depends on
  uint64_t state;
  double operator()() {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return double((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1;
  }
};

Tensor direction(const Tensor& x, Random& random) {
  std::vector<double> values(size_t(x.count()));
  for (double& v : values) v = random();
  return from_vector(values, x.shape(), like(x));
}

Tensor project(const Tensors& ys, const Tensors& on) {
  Tensor total;
  for (size_t j = 0; j < ys.size(); ++j) {
    if (!on[j].defined()) continue;
    Tensor part = sum(ys[j] * on[j]);
    total = total.defined() ? total + part : part;
  }
  return total;
}

}  // namespace

GradCheck check_grad(const std::function<Tensors(const Tensors&)>& f, const Tensors& inputs, int order, uint64_t seed, double step) {
  for (size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].dtype() != Dtype::f64)
      throw refuse("check_grad", "input {} is {}, needs f64: differences are useless in less", i, name_of(inputs[i].dtype()));
  Random random{seed};
  Recording on(true);
  Tensors xs;
  for (const Tensor& x : inputs) xs.push_back(variable(x));
  const Tensors ys = f(xs);
  Tensors weights(ys.size());
  for (size_t j = 0; j < ys.size(); ++j)
    if (is_floating(ys[j].dtype())) weights[j] = direction(ys[j], random);
  const Tensors dxs = grad({project(ys, weights)}, {}, xs);

  GradCheck check;
  for (size_t i = 0; i < xs.size(); ++i) {
    const Tensor u = direction(inputs[i], random);
    const double analytic = sum(dxs[i] * u).item();
    const auto at = [&](double h) {
      Tensors moved = inputs;
      moved[i] = inputs[i] + u * h;
      // f may differentiate inside, so it runs recorded on variables, as above.
      for (Tensor& x : moved) x = variable(x);
      return project(f(moved), weights).item();
    };
    const double numeric = (at(step) - at(-step)) / (2 * step);
    double error = std::abs(analytic - numeric) / std::max({1.0, std::abs(analytic), std::abs(numeric)});
    if (!(error == error)) error = INFINITY;
    if (error >= check.worst) {
      check.worst = error;
      check.where = fmt::format("order 1, input {}: analytic {}, numeric {}", i, analytic, numeric);
    }
  }
  if (order > 1) {
    const auto derivative = [&](const Tensors& points) { return grad({project(f(points), weights)}, {}, points, {.create_graph = true}); };
    GradCheck deeper = check_grad(derivative, inputs, order - 1, seed + 1, step);
    if (deeper.worst >= check.worst) {
      check.worst = deeper.worst;
      check.where = "derivative, " + deeper.where;
    }
  }
  return check;
}

}  // namespace ttr
