// Ranges and ticks of a plot.
#include <ttr/apps/plot.hpp>
#include <algorithm>
#include <cmath>
#include <limits>
#include <ttr/core/error.hpp>
#include <ttr/core/whole_file.hpp>

namespace ttr {

double Frame::across(double x) const { return ((log_x ? std::log10(x) : x) - x_low) / (x_high - x_low); }
double Frame::up(double y) const { return (y - y_low) / (y_high - y_low); }
bool Frame::shows(double x, double y) const { return std::isfinite(x) && std::isfinite(y) && (!log_x || x > 0); }

std::vector<double> nice_ticks(double low, double high, int count) {
  if (!(high > low)) return {low};
  const double rough = (high - low) / std::max(count, 1);
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double multiple : {1.0, 2.0, 5.0}) {
    if (multiple * power >= rough * (1 - 1e-9)) {
      step = multiple * power;
      break;
    }
  }
  std::vector<double> ticks;
  const double slack = 1e-9 * (high - low);
  for (double n = std::ceil((low - slack) / step); n * step <= high + slack && ticks.size() < 100; ++n)
    ticks.push_back(n == 0 ? 0.0 : n * step);
  return ticks;
}

std::vector<double> nice_log_ticks(double low, double high, int count) {
  const double slack = 1e-9 + 1e-9 * std::abs(high);
  for (const std::vector<double>& multiples : {std::vector<double>{1, 2, 5}, std::vector<double>{1}}) {
    std::vector<double> ticks;
    for (double decade = std::floor(low); decade <= high + slack; ++decade) {
      for (const double multiple : multiples) {
        const double at = decade + std::log10(multiple);
        if (at >= low - slack && at <= high + slack) ticks.push_back(multiple * std::pow(10.0, decade));
      }
    }
    if (ticks.size() >= 2 && static_cast<int>(ticks.size()) <= 2 * std::max(count, 1)) return ticks;
  }
  std::vector<double> ticks;   // less than an octave, or very many decades
  for (const double at : nice_ticks(low, high, count)) ticks.push_back(std::pow(10.0, at));
  return ticks;
}

std::vector<std::string> tick_texts(const std::vector<double>& ticks) {
  double largest = 0, gap = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < ticks.size(); ++i) {
    largest = std::max(largest, std::abs(ticks[i]));
    if (i > 0) gap = std::min(gap, std::abs(ticks[i] - ticks[i - 1]));
  }
  bool even = true;
  for (std::size_t i = 1; i < ticks.size(); ++i) even = even && std::abs(ticks[i] - ticks[i - 1] - gap) < 1e-6 * gap;
  if (!std::isfinite(gap)) gap = largest > 0 ? largest : 1;
  const auto spelled = [&](double value, double unit, const char* suffix) {
    const int decimals = std::clamp(static_cast<int>(std::ceil(-std::log10(gap / unit) - 1e-6)), 0, 9);
    std::string text = fmt::format("{:.{}f}", value / unit, decimals);
    if (text.find('.') != std::string::npos && (!even || suffix[0] != 0)) {   // 1.5k, 2k and 0.5, 1, 10; but 0.5, 1.0, 1.5
      text.erase(text.find_last_not_of('0') + 1);
      if (text.back() == '.') text.pop_back();
    }
    return text + (value == 0 ? "" : suffix);
  };
  std::vector<std::string> texts;
  for (const double tick : ticks) {
    const double unit_of = std::abs(tick);
    if (largest >= 1e13 || largest < 1e-4)
      texts.push_back(tick == 0 ? "0" : fmt::format("{:.3g}", tick));
    else if (largest >= 1e4 && unit_of >= 1e9)
      texts.push_back(spelled(tick, 1e9, "G"));
    else if (largest >= 1e4 && unit_of >= 1e6)
      texts.push_back(spelled(tick, 1e6, "M"));
    else if (largest >= 1e4 && unit_of >= 1e3)
      texts.push_back(spelled(tick, 1e3, "k"));
    else
      texts.push_back(spelled(tick, 1, ""));
  }
  return texts;
}

Frame frame_of(const Plot& plot, int x_ticks, int y_ticks) {
  Frame frame;
  frame.log_x = plot.log_x;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double x_low = kInfinity, x_high = -kInfinity, y_low = kInfinity, y_high = -kInfinity;
  for (const Series& series : plot.series) {
    if (series.x.size() != series.y.size()) {
      throw refuse("plot", "series {} has {} x and {} y, needs as many of each", series.name, series.x.size(), series.y.size());
    }
    for (std::size_t i = 0; i < series.x.size(); ++i) {
      if (!frame.shows(series.x[i], series.y[i])) continue;
      const double x = plot.log_x ? std::log10(series.x[i]) : series.x[i];
      x_low = std::min(x_low, x), x_high = std::max(x_high, x);
      y_low = std::min(y_low, series.y[i]), y_high = std::max(y_high, series.y[i]);
    }
  }
  frame.empty = x_low > x_high;
  for (const Line& line : plot.lines) {
    if (std::isfinite(line.y)) y_low = std::min(y_low, line.y), y_high = std::max(y_high, line.y);
  }
  if (x_low > x_high) x_low = 0, x_high = 1;
  if (y_low > y_high) y_low = 0, y_high = 1;
  if (y_low < plot.y_most) y_high = std::min(y_high, plot.y_most);
  // A single value still needs a range around it.
  if (x_low == x_high) x_low -= 0.5, x_high += 0.5;
  if (!(y_high - y_low > 1e-12 * std::max(std::abs(y_low), std::abs(y_high)))) {
    const double around = y_low == 0 ? 1 : 0.1 * std::abs(y_low);
    y_low -= around, y_high += around;
  }
  // Halves before the difference: the ends of the range of a double would overflow it.
  frame.x_low = x_low, frame.x_high = x_high;
  const double margin = 0.08 * (0.5 * y_high - 0.5 * y_low);
  frame.y_low = y_low - margin, frame.y_high = y_high + margin;
  frame.x_ticks = plot.log_x ? nice_log_ticks(frame.x_low, frame.x_high, x_ticks) : nice_ticks(frame.x_low, frame.x_high, x_ticks);
  frame.y_ticks = nice_ticks(frame.y_low, frame.y_high, y_ticks);
  return frame;
}

int best_point(const Series& series, const Frame& frame) {
  int best = -1;
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    if (frame.shows(series.x[i], series.y[i]) && (best < 0 || series.y[i] < series.y[static_cast<std::size_t>(best)]))
      best = static_cast<int>(i);
  }
  return best;
}

int text_columns(const std::string& text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

void write_svg(const std::string& path, const Plot& plot) { write_whole("plot", path, svg(plot)); }

}  // namespace ttr
