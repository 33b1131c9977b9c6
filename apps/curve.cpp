// The curve of a run.
#include <algorithm>
#include <cmath>
#include <ttr/apps/curve.hpp>
#include <ttr/apps/metrics.hpp>

namespace ttr {
namespace {

constexpr double kFall = 0.05;   // of the run

double highest(const Plot& plot, double from) {
  double y = -std::numeric_limits<double>::infinity();
  for (const Series& s : plot.series)
    for (size_t i = 0; i < s.x.size(); ++i)
      if (s.x[i] >= from && std::isfinite(s.y[i])) y = std::max(y, s.y[i]);
  for (const Line& line : plot.lines) y = std::max(y, line.y);
  return y;
}

}  // namespace

void add_yardsticks(Plot& plot, LossUnit unit, const Yardsticks& yardsticks) {
  const auto add = [&](const std::string& name, double nats_per_byte) {
    const double y = unit.of_nats_per_byte(nats_per_byte);
    plot.lines.push_back({fmt::format("{}: {:.3f}", name, y), y});
  };
  const auto& ngrams = yardsticks.ngrams;
  for (size_t order = 1; order < ngrams.size(); ++order)   // every second, and the best
    if (order % 2 == 1 || ngrams[order] == *std::min_element(ngrams.begin(), ngrams.end())) add(fmt::format("order {}", order), ngrams[order]);
  if (yardsticks.entropy) add("entropy", *yardsticks.entropy);
}

Plot curve_of(const std::string& metrics, const std::string& title, LossUnit unit, const Yardsticks& yardsticks) {
  const Metrics m = read_metrics(metrics);
  Plot plot{.title = title, .x_label = "step", .y_label = fmt::format("loss ({})", unit.label())};
  plot.series.push_back({.name = "training", .x = m.step, .y = unit.bits ? m.bits_per_byte : m.loss});
  plot.series.push_back({.name = "validation", .x = m.step, .y = unit.bits ? m.val_bits_per_byte : m.val_loss, .mark_best = true});
  add_yardsticks(plot, unit, yardsticks);
  const double last = m.step.empty() ? 0 : m.step.back(), most = highest(plot, kFall * last);
  if (m.step.size() >= 20 && most < highest(plot, 0)) plot.y_most = most;
  return plot;
}

}  // namespace ttr
