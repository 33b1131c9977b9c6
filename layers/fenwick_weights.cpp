#include <bit>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fenwick_weights.hpp>
#include <ttr/layers/weights.hpp>

namespace ttr {

// The highest bit in which t and i differ is set in t, and everything above it is common: that bit's level holds i.
int64_t fenwick_level(int64_t t, int64_t i) { return std::bit_width(uint64_t(t ^ i)); }

Weighing FenwickWeights::weigh(const View& view) const {
  const int64_t now = view.position(view.time());
  if (view.pairs() == 0) return {.relative = zeros({view.rows(), 0}, view.options())};
  if (const int64_t oldest = fenwick_level(now, 0); oldest >= levels)
    throw refuse("fenwick", "levels is {}, needs {} at token {}", levels, oldest + 1, now);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < view.pairs(); ++i) {
    const int64_t then = view.position(view.token_of(i));
    if (then > now) throw refuse("fenwick", "token {} is visible at token {}, needs visible=prefix", then, now);
    ids.push_back(int32_t(fenwick_level(now, then)));
  }
  const Tensor levels_of = to_device(from_vector(ids, {view.pairs()}, {Dtype::i32, cpu_device}), view.options().device);
  return {.relative = gather(view.now("level_scale"), 1, levels_of) * exp(log_products(view, "log_decay"))};
}

}   // namespace ttr
