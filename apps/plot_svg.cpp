// A plot as SVG: title, legend, grid, curves, dashed references whose labels stand in the right margin and never overlap, best point.
// Colours of curves are of middle lightness and hold on white and on black; the rest follows the reader's theme by a media query.
#include <ttr/apps/plot.hpp>
#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>
#include <fmt/core.h>
#include <ttr/apps/utf8.hpp>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

constexpr const char* kColours[] = {"#3b82c4", "#e07b39", "#3c9d6b", "#9567c4", "#cf5566", "#2aa3a8", "#a8862e", "#7a7f8a"};
constexpr const char* kDashes[] = {"", R"( stroke-dasharray="8 4")", R"( stroke-dasharray="2 5")"};   // for each round through the colours
constexpr double kCharacter = 6.6;   // width of one at 12 pixels, generous
constexpr double kLabelGap = 14;

const char* dash_of(std::size_t series) { return kDashes[series / std::size(kColours) % std::size(kDashes)]; }

// For XML: markup escaped, and what XML forbids (control characters, bytes that are not UTF-8) replaced.
std::string escape(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const Character at = character_at(text, i);
    if (at.bytes == 0 || at.code < 0x20 || at.code == 0xfffe || at.code == 0xffff) {
      out += "?";
      i += 1;
      continue;
    }
    const std::size_t length = static_cast<std::size_t>(at.bytes);
    const char c = text[i];
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out.append(text, i, length);
    i += length;
  }
  return out;
}

// The curve as "x,y x,y ...". Where points are denser than pixels, each column keeps its first, lowest, highest and last: the picture is
// the same.
std::string path_of(const Series& series, const Frame& frame, double left, double top, double wide, double high, std::size_t& shown) {
  struct Point {
    double x, y;
  };
  std::vector<Point> points, kept;
  for (std::size_t i = 0; i < series.x.size(); ++i) {
    if (!frame.shows(series.x[i], series.y[i])) continue;
    points.push_back({left + wide * frame.across(series.x[i]), top + high * (1 - frame.up(series.y[i]))});
  }
  shown = points.size();
  for (std::size_t i = 0; i < points.size();) {
    std::size_t end = i + 1;
    while (end < points.size() && std::floor(points[end].x) == std::floor(points[i].x)) ++end;
    const auto [low, top_most] =
        std::minmax_element(points.begin() + static_cast<std::ptrdiff_t>(i), points.begin() + static_cast<std::ptrdiff_t>(end),
                            [](const Point& a, const Point& b) { return a.y < b.y; });
    std::vector<std::size_t> chosen = {i, static_cast<std::size_t>(low - points.begin()),
                                       static_cast<std::size_t>(top_most - points.begin()), end - 1};
    std::sort(chosen.begin(), chosen.end());
    chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
    for (const std::size_t k : chosen) kept.push_back(points[k]);
    i = end;
  }
  std::string text;
  for (const Point& point : kept) text += fmt::format("{}{:.1f},{:.1f}", text.empty() ? "" : " ", point.x, point.y);
  return text;
}

// Heights for labels that want to stand at `wanted` (sorted), at least kLabelGap apart and inside [top, bottom] if they fit.
std::vector<double> spread(std::vector<double> wanted, double top, double bottom) {
  for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] = std::max(wanted[i], i == 0 ? top : wanted[i - 1] + kLabelGap);
  for (std::size_t i = wanted.size(); i-- > 0;)
    wanted[i] = std::min(wanted[i], i + 1 == wanted.size() ? bottom : wanted[i + 1] - kLabelGap);
  return wanted;
}

template <class... Args> void put(std::string& out, fmt::format_string<Args...> text, Args&&... args) {
  out += fmt::format(text, std::forward<Args>(args)...);
  out += '\n';
}

}  // namespace

std::string svg(const Plot& plot, int width, int height) {
  if (width < 200 || height < 150) throw refuse("plot", "size is {} x {}, needs at least 200 x 150 pixels", width, height);
  const Frame frame = frame_of(plot, std::max(2, width / 100), std::max(2, height / 70));
  const std::vector<std::string> x_texts = tick_texts(frame.x_ticks), y_texts = tick_texts(frame.y_ticks);

  double widest_tick = 0, widest_label = 0;
  for (const std::string& text : y_texts) widest_tick = std::max(widest_tick, kCharacter * text_columns(text));
  std::vector<Line> lines;
  for (const Line& line : plot.lines) {
    if (!std::isfinite(line.y)) continue;
    lines.push_back(line);
    widest_label = std::max(widest_label, kCharacter * text_columns(line.label));
  }
  std::stable_sort(lines.begin(), lines.end(), [](const Line& a, const Line& b) { return a.y > b.y; });

  const double left = 18 + (plot.y_label.empty() ? 0 : 24) + widest_tick + 8;
  const double right = lines.empty() ? 28 : std::min(24 + widest_label + 10, 0.4 * width);
  const double wide = width - left - right;

  // One best point is written at its place; several, which would cover each other, in the legend.
  const auto best_of = [&](const Series& series) { return series.mark_best ? best_point(series, frame) : -1; };
  const auto marked = std::count_if(plot.series.begin(), plot.series.end(), [&](const Series& series) { return best_of(series) >= 0; });
  std::vector<std::string> names;
  for (const Series& series : plot.series) {
    const int best = best_of(series);
    names.push_back(series.name + (marked > 1 && best >= 0 ? fmt::format(": {:.4g}", series.y[static_cast<std::size_t>(best)]) : ""));
  }

  // The legend's rows, broken where the next name would not fit.
  struct Entry {
    double x;
    int row;
  };
  std::vector<Entry> legend;
  int legend_rows = 0;
  if (plot.series.size() > 1 || (plot.series.size() == 1 && !plot.series[0].name.empty())) {
    double x = left;
    for (const std::string& name : names) {
      const double needed = 26 + kCharacter * text_columns(name) + 18;
      if (x > left && x + needed > width - 10) x = left, ++legend_rows;
      legend.push_back({x, legend_rows});
      x += needed;
    }
    ++legend_rows;
  }
  const double title_bottom = plot.title.empty() ? 16 : 40;
  const double top = title_bottom + 20 * legend_rows + 8;
  const double bottom = height - (plot.x_label.empty() ? 34 : 56);
  const double high = bottom - top;
  const auto x_at = [&](double x) { return left + wide * frame.across(x); };
  const auto y_at = [&](double y) { return top + high * (1 - frame.up(y)); };

  std::string out;
  put(out,
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" )"
      R"(font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif" font-size="12">)",
      width, height);
  put(out, "<title>{}</title>", escape(plot.title));
  out += R"(<style>
.paper { fill: #ffffff } .ink { fill: #1f2328 } .soft { fill: #59636e }
.grid { stroke: #e4e8ec } .axis { stroke: #9aa3ad } .line { stroke: #8a929c } .ring { stroke: #ffffff }
.halo { stroke: #ffffff; stroke-width: 4px; stroke-linejoin: round; paint-order: stroke }
@media (prefers-color-scheme: dark) {
.paper { fill: #0f1318 } .ink { fill: #e6eaef } .soft { fill: #9aa5b1 }
.grid { stroke: #262d35 } .axis { stroke: #5b6570 } .line { stroke: #7d8792 } .ring { stroke: #0f1318 } .halo { stroke: #0f1318 }
}
</style>
)";
  put(out, R"(<rect class="paper" width="{}" height="{}" rx="6"/>)", width, height);
  if (!plot.title.empty())
    put(out, R"(<text class="ink" x="{:.1f}" y="30" font-size="16" font-weight="600">{}</text>)", left, escape(plot.title));
  for (std::size_t i = 0; i < legend.size(); ++i) {
    const double y = title_bottom + 20 * legend[i].row + 8;
    const char* colour = kColours[i % std::size(kColours)];
    put(out, R"(<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}" stroke-width="3" stroke-linecap="round"{}/>)",
        legend[i].x + 1.5, y, legend[i].x + 18.5, y, colour, dash_of(i));
    put(out, R"(<text class="ink" x="{:.1f}" y="{:.1f}">{}</text>)", legend[i].x + 26, y + 4, escape(names[i]));
  }

  for (std::size_t i = 0; i < frame.y_ticks.size(); ++i) {
    const double y = y_at(frame.y_ticks[i]);
    put(out, R"(<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>)", left, y, left + wide, y);
    put(out, R"(<text class="soft" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>)", left - 8, y + 4, y_texts[i]);
  }
  for (std::size_t i = 0; i < frame.x_ticks.size(); ++i) {
    const double x = x_at(frame.x_ticks[i]);
    put(out, R"(<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>)", x, top, x, bottom);
    put(out, R"(<line class="axis" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>)", x, bottom, x, bottom + 5);
    put(out, R"(<text class="soft" x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>)", x, bottom + 19, x_texts[i]);
  }
  put(out, R"(<line class="axis" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>)", left, bottom, left + wide, bottom);
  if (!plot.x_label.empty()) {
    put(out, R"(<text class="ink" x="{:.1f}" y="{}" text-anchor="middle">{}</text>)", left + wide / 2, height - 14, escape(plot.x_label));
  }
  if (!plot.y_label.empty()) {
    put(out, R"--(<text class="ink" transform="translate(22 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>)--", top + high / 2,
        escape(plot.y_label));
  }

  std::vector<double> wanted;
  for (const Line& line : lines) wanted.push_back(y_at(line.y));
  const std::vector<double> placed = spread(wanted, top, bottom);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    put(out, R"(<line class="line" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke-dasharray="5 4"/>)", left, wanted[i], left + wide,
        wanted[i]);
    put(out, R"(<path class="line" d="M{:.1f} {:.1f}L{:.1f} {:.1f}" fill="none" stroke-opacity="0.6"/>)", left + wide, wanted[i],
        left + wide + 16, placed[i]);
    put(out, R"(<text class="soft" x="{:.1f}" y="{:.1f}">{}</text>)", left + wide + 20, placed[i] + 4, escape(lines[i].label));
  }

  double label_right = -1e300;
  std::vector<Mark> marks = plot.marks;
  std::sort(marks.begin(), marks.end(), [](const Mark& a, const Mark& b) { return a.x < b.x; });
  for (const Mark& mark : marks) {
    const double across = frame.across(mark.x);
    if (!(across >= 0 && across <= 1)) continue;
    const double x = left + wide * across, half = kCharacter * text_columns(mark.label);
    put(out, R"(<line class="line" x1="{0:.1f}" y1="{1:.1f}" x2="{0:.1f}" y2="{2:.1f}" stroke-dasharray="2 3"/>)", x, top, bottom);
    if (x - half < label_right) continue;   // no two labels over each other
    put(out, R"(<text class="soft halo" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>)", x - 4, top + 12, escape(mark.label));
    label_right = x;
  }
  // What is above the top edge is hidden by a picture in the picture.
  const bool cut = std::isfinite(plot.y_most);
  if (cut)
    put(out, R"(<svg x="{0:.1f}" y="{1:.1f}" width="{2:.1f}" height="{3:.1f}" viewBox="{0:.1f} {1:.1f} {2:.1f} {3:.1f}">)", left - 6, top, wide + 12,
        high + 6);
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    std::size_t shown = 0;
    const std::string path = path_of(plot.series[i], frame, left, top, wide, high, shown);
    if (shown == 0) continue;
    const char* colour = kColours[i % std::size(kColours)];
    const bool dense = static_cast<double>(shown) > wide / 3;
    put(out,
        R"(<polyline points="{}" fill="none" stroke="{}" stroke-width="{}" stroke-opacity="{}" stroke-linejoin="round" stroke-linecap="round"{}/>)",
        path, colour, dense ? 1.3 : 2.2, dense ? 0.85 : 1.0, dash_of(i));
    if (shown > 40) continue;
    for (std::size_t k = 0; k < plot.series[i].x.size(); ++k) {
      if (!frame.inside(plot.series[i].x[k], plot.series[i].y[k])) continue;
      put(out, R"(<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>)", x_at(plot.series[i].x[k]), y_at(plot.series[i].y[k]), colour);
    }
  }
  if (cut) out += "</svg>\n";
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    const int best = best_of(plot.series[i]);
    if (best < 0) continue;
    const double value = plot.series[i].y[static_cast<std::size_t>(best)], where = plot.series[i].x[static_cast<std::size_t>(best)];
    const double x = x_at(where), y = y_at(value);
    const std::string text = fmt::format("best {:.4g} at {:.10g}", value, where);
    const double half = kCharacter * text_columns(text) / 2;
    const char* anchor = x + half > left + wide ? "end" : x - half < left ? "start" : "middle";
    put(out, R"(<circle class="ring" cx="{:.1f}" cy="{:.1f}" r="5.5" fill="{}" stroke-width="2"/>)", x, y,
        kColours[i % std::size(kColours)]);
    if (marked > 1) continue;
    // Above or below the point, wherever fewer points of the curves would lie under the words.
    const double begin = x - (anchor[0] == 'e' ? 2 : anchor[0] == 's' ? 0 : 1) * half, end = begin + 2 * half;
    int above = y - 24 < top ? 1 << 30 : 0, below = y + 24 > bottom ? 1 << 30 : 0;
    for (const Series& series : plot.series) {
      for (std::size_t k = 0; k < series.x.size(); ++k) {
        if (!frame.shows(series.x[k], series.y[k]) || x_at(series.x[k]) < begin || x_at(series.x[k]) > end) continue;
        const double from_best = y_at(series.y[k]) - y;
        above += from_best < -8 && from_best > -24;
        below += from_best > 8 && from_best < 24;
      }
    }
    put(out, R"(<text class="ink halo" x="{:.1f}" y="{:.1f}" text-anchor="{}" font-weight="600">{}</text>)", x,
        above < below ? y - 12 : y + 21, anchor, text);
  }
  if (frame.empty) {
    put(out, R"(<text class="soft" x="{:.1f}" y="{:.1f}" text-anchor="middle">no finite points</text>)", left + wide / 2, top + high / 2);
  }
  out += "</svg>\n";
  return out;
}

}  // namespace ttr
