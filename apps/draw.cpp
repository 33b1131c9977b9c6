// Drawing: the cuts, then the inverse of the distribution function.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>
#include <ttr/apps/draw.hpp>
#include <ttr/core/error.hpp>

namespace ttr {

void check_draw(const DrawOptions& c) {
  if (!(c.temperature >= 0 && std::isfinite(c.temperature))) throw refuse("sample", "temperature is {}, needs a number of at least 0", c.temperature);
  if (c.top_k < 0) throw refuse("sample", "top_k is {}, needs at least 0; 0 takes all", c.top_k);
  if (!(c.top_p > 0 && c.top_p <= 1)) throw refuse("sample", "top_p is {}, needs a number above 0 and at most 1; 1 takes all", c.top_p);
}

std::int32_t draw(std::span<const double> logits, const DrawOptions& c, double u) {
  const std::size_t n = logits.size();
  const std::size_t best = static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  if (c.temperature == 0) return static_cast<std::int32_t>(best);
  std::vector<double> p(n);
  for (std::size_t i = 0; i < n; ++i) p[i] = std::exp((logits[i] - logits[best]) / c.temperature);
  if ((c.top_k > 0 && static_cast<std::size_t>(c.top_k) < n) || c.top_p < 1) {
    std::vector<std::size_t> order(n);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
    std::size_t kept = c.top_k > 0 ? std::min(n, static_cast<std::size_t>(c.top_k)) : n;
    double total = 0, held = 0;
    for (std::size_t i = 0; i < kept; ++i) total += p[order[i]];
    for (std::size_t i = 0; i < kept; ++i)
      if ((held += p[order[i]]) >= c.top_p * total) kept = i + 1;
    for (std::size_t i = kept; i < n; ++i) p[order[i]] = 0;
  }
  std::partial_sum(p.begin(), p.end(), p.begin());
  const auto at = std::upper_bound(p.begin(), p.end(), u * p.back());
  return static_cast<std::int32_t>(at == p.end() ? best : static_cast<std::size_t>(at - p.begin()));
}

}  // namespace ttr
