// The moving average as a discount and as numbers.
#include <ttr/core/ops.hpp>
#include <ttr/layers/moving_average.hpp>
#include <ttr/layers/optimizers.hpp>

namespace ttr {

Pack MovingAverage::discount(const Pack& theta, const Pack&, const View& view, const Shift&) const {
  const Tensor g = view.now("gate");
  Pack next = theta;
  for (auto& [name, p] : next.parts) p = p * detail::per_row(g, p);
  return next;
}

Weighing MovingAverage::weigh(const View& view) const {
  Tensors newest_first;
  Tensor product = ones({view.rows()}, view.options());                   // of the gates of later tokens
  for (int64_t i = view.pairs() - 1; i >= view.first(); --i) {
    newest_first.push_back((1.0 - view.pair("gate", i)) * product);
    if (i == view.first() || view.token_of(i - 1) != view.token_of(i)) product = product * view.pair("gate", i);
  }
  if (newest_first.empty()) return {.relative = zeros({view.rows(), 0}, view.options())};
  return {.relative = reverse(stack(newest_first, 1), 1), .prior = product};
}

Tensor MovingAverage::strength(const View& view, int64_t i, const Shift&) const { return 1.0 - view.pair("gate", i); }

}  // namespace ttr
