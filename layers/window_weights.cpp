#include <algorithm>
#include <ttr/core/ops.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/window_weights.hpp>

namespace ttr {

std::vector<Slot> WindowWeights::slots() const {
  std::vector<Slot> list{{"window_weight", Per::write, {}, unit_interval, 0.5}};
  if (decay) list.push_back({"log_decay", Per::token, {}, log_of_unit, -0.05});
  return list;
}

Pack WindowWeights::discount(const Pack& theta, const Pack&, const View& view, const Shift&) const {
  Pack next = theta;
  if (!decay) return next;
  const Tensor a = exp(view.now("log_decay"));
  for (auto& [part, p] : next.parts) p = p * detail::per_row(a, p);
  return next;
}

Weighing WindowWeights::weigh(const View& view) const {
  if (window < 1) throw refuse("window", "window is {}, needs at least 1 token", window);
  const int64_t first = std::max<int64_t>(0, (view.time() + 1 - window) * view.writes());
  if (first >= view.pairs()) return {.relative = zeros({view.rows(), view.pairs()}, view.options()), .first = view.pairs()};
  Tensors numbers;
  for (int64_t i = first; i < view.pairs(); ++i) numbers.push_back(view.pair("window_weight", i));
  return {.relative = pad(stack(numbers, 1), 1, first, 0), .first = first};
}

}   // namespace ttr
