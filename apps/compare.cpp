// Overlaying runs.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <ttr/apps/by_position.hpp>
#include <ttr/apps/compare.hpp>
#include <ttr/apps/metrics.hpp>
#include <ttr/apps/screen.hpp>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWhere = "plot";

// The folder's own name where that tells the runs apart, else the path as given.
std::vector<std::string> names_of(const std::vector<std::string>& runs) {
  std::vector<std::string> names;
  for (const std::string& run : runs) {
    const fs::path path = fs::path(run).lexically_normal();
    names.push_back((path.has_filename() ? path.filename() : path.parent_path().filename()).string());
  }
  for (size_t i = 0; i < names.size(); ++i)
    if (std::count(names.begin(), names.end(), names[i]) > 1) return runs;
  return names;
}

}  // namespace

int compare_runs(const CompareOptions& o) {
  const std::vector<std::string> names = names_of(o.runs);
  Plot plot;
  LossUnit unit;
  if (o.by_position) {
    std::vector<std::vector<Score>> all;
    for (const std::string& run : o.runs) {
      all.push_back(read_by_position((fs::path(run) / kByPosition).string() + ".csv"));
      const Score total = total_of(all.back());
      unit.bits = unit.bits || total.bytes != total.targets;
    }
    plot = by_position_plot("", {}, unit, {}, 0);
    plot.series.clear();
    for (size_t i = 0; i < all.size(); ++i) plot.series.push_back(by_position_series(names[i], all[i], unit));
  } else {
    std::vector<Metrics> all;
    for (const std::string& run : o.runs) {
      all.push_back(read_metrics((fs::path(run) / "metrics.jsonl").string()));
      const Metrics& m = all.back();
      unit.bits = unit.bits || std::any_of(m.val_bits_per_byte.begin(), m.val_bits_per_byte.end(), [](double v) { return std::isfinite(v); });
    }
    plot = {.title = "validation", .x_label = "step", .y_label = fmt::format("loss ({})", unit.label()), .log_x = o.log_x};
    for (size_t i = 0; i < all.size(); ++i) {
      const Metrics& m = all[i];
      Series series{.name = names[i], .x = m.step, .y = {}, .mark_best = true};
      for (size_t k = 0; k < m.step.size(); ++k)
        series.y.push_back(std::isfinite(m.val_bits_per_byte[k]) ? m.val_bits_per_byte[k] : unit.of_nats_per_byte(m.val_loss[k]));
      if (std::none_of(series.y.begin(), series.y.end(), [](double v) { return std::isfinite(v); }))
        throw refuse(kWhere, "run {} has no validation in its metrics.jsonl, needs at least one; leave it out", o.runs[i]);
      plot.series.push_back(std::move(series));
    }
  }
  write_svg(o.out, plot);
  fmt::print("{}\n", on_screen(plot));
  for (const Series& s : plot.series) {
    const auto best = std::min_element(s.y.begin(), s.y.end(), [](double a, double b) { return std::isnan(b) ? !std::isnan(a) : a < b; });
    fmt::print("  {:<32} {:.4f} {} at {} {:.0f}\n", s.name, *best, unit.label(), o.by_position ? "position" : "step", s.x[size_t(best - s.y.begin())]);
  }
  fmt::print("written to {}\n", o.out);
  return 0;
}

}  // namespace ttr
