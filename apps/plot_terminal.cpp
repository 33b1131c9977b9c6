// A plot in characters: curves in braille (two by four dots a cell), the points of the second and later curves as marks, references as
// dashed rows with their labels at the right, marks as columns, tick texts at the left and below.
#include <ttr/apps/plot.hpp>
#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

constexpr const char* kMarks[] = {"⣀", "●", "◆", "▲", "■", "○"};
constexpr int kPaints[] = {34, 33, 32, 35, 31, 36};

struct Cell {
  unsigned dots = 0;       // of the braille pattern
  int owner = -1;          // the series that drew last
  std::string over = {};   // a character that replaces the dots
};

std::string braille(unsigned dots) {
  const unsigned code = 0x2800 + dots;
  return {static_cast<char>(0xe0 | (code >> 12)), static_cast<char>(0x80 | ((code >> 6) & 0x3f)), static_cast<char>(0x80 | (code & 0x3f))};
}

std::string padded(const std::string& text, int columns, bool at_left) {
  const std::string space(static_cast<std::size_t>(std::max(0, columns - text_columns(text))), ' ');
  return at_left ? space + text : text + space;
}

// At most so many characters; control characters, which could steer the terminal, are replaced.
std::string clipped(std::string text, int columns) {
  int seen = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c == 0x7f) text[i] = '?';
    if ((c & 0xc0) != 0x80 && ++seen > columns) return text.substr(0, i);
  }
  return text;
}

}  // namespace

std::string terminal(const Plot& plot, int width, int height, bool colour) {
  if (width < 30 || height < 9) throw refuse("plot", "size is {} x {}, needs at least 30 x 9 characters", width, height);
  const auto paint = [&](const std::string& text, int code) { return colour ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : text; };

  // Rows: title; y label and legend, in as many rows as they need; the grid, the axis, the tick texts, the x label.
  struct Word {
    std::string text;
    int paint;   // 0: none
  };
  std::vector<std::vector<Word>> heads;
  int head_columns = 0;
  const auto add_head = [&](std::string text, int paint) {
    text = clipped(std::move(text), width - 12);
    if (heads.empty() || head_columns + 3 + text_columns(text) > width - 10) heads.emplace_back(), head_columns = -3;
    head_columns += 3 + text_columns(text);
    heads.back().push_back({std::move(text), paint});
  };
  if (!plot.y_label.empty()) add_head(plot.y_label, 0);
  for (std::size_t s = 0; s < plot.series.size(); ++s) {
    const Series& series = plot.series[s];
    if (plot.series.size() == 1 && series.name.empty()) break;
    double best = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < std::min(series.x.size(), series.y.size()); ++i) {
      if (std::isfinite(series.y[i]) && (!plot.log_x || series.x[i] > 0)) best = std::min(best, series.y[i]);
    }
    const bool marked = series.mark_best && std::isfinite(best);
    add_head(fmt::format("{} {}{}", kMarks[s % std::size(kMarks)], series.name, marked ? fmt::format(" (★ {:.4g})", best) : ""),
             kPaints[s % std::size(kPaints)]);
  }
  const int others = 2 + !plot.title.empty() + !plot.x_label.empty();
  heads.resize(std::min(heads.size(), static_cast<std::size_t>(std::max(1, height - others - 3))));   // the curves come first
  const int rows = std::max(3, height - others - static_cast<int>(heads.size()));
  const Frame frame = frame_of(plot, std::max(2, width / 14), std::max(2, rows / 3));
  const std::vector<std::string> x_texts = tick_texts(frame.x_ticks), y_texts = tick_texts(frame.y_ticks);
  const auto row_of = [&](double y) { return std::clamp(static_cast<int>((1 - frame.up(y)) * rows), 0, rows - 1); };

  std::vector<std::string> notes(static_cast<std::size_t>(rows));   // labels of the references in each row
  std::vector<Line> lines;
  std::copy_if(plot.lines.begin(), plot.lines.end(), std::back_inserter(lines), [](const Line& line) { return std::isfinite(line.y); });
  std::stable_sort(lines.begin(), lines.end(), [](const Line& a, const Line& b) { return a.y > b.y; });
  int widest_note = 0, margin = 0;
  for (const Line& line : lines) {
    std::string& note = notes[static_cast<std::size_t>(row_of(line.y))];
    note += (note.empty() ? " " : ", ") + line.label;
    widest_note = std::max(widest_note, text_columns(note));
  }
  widest_note = std::min(widest_note, 2 * width / 5 + 1);
  for (const std::string& text : y_texts) margin = std::max(margin, text_columns(text));
  const int columns = std::max(8, width - margin - 2 - widest_note);

  std::vector<Cell> cells(static_cast<std::size_t>(rows * columns));
  const auto cell = [&](int row, int column) -> Cell& { return cells[static_cast<std::size_t>(row * columns + column)]; };
  for (std::size_t s = 0; s < plot.series.size(); ++s) {
    const Series& series = plot.series[s];
    const auto dot = [&](int x, int y) {   // dots from the top left
      if (y < 0) return;                   // above the edge
      static constexpr unsigned kBits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
      Cell& at = cell(y / 4, x / 2);
      at.dots |= kBits[y % 4][x % 2];
      at.owner = static_cast<int>(s);
    };
    int last_x = -1, last_y = -1;
    for (std::size_t i = 0; i < series.x.size(); ++i) {
      if (!frame.shows(series.x[i], series.y[i])) continue;
      const int x = std::clamp(static_cast<int>(std::lround(frame.across(series.x[i]) * (2 * columns - 1))), 0, 2 * columns - 1);
      const double down = std::max(-8.0, 1 - frame.up(series.y[i]));
      const int y = std::min(static_cast<int>(std::lround(down * (4 * rows - 1))), 4 * rows - 1);
      const int steps = last_x < 0 ? 0 : std::max(std::abs(x - last_x), std::abs(y - last_y));
      for (int k = 1; k <= steps; ++k) dot(last_x + (x - last_x) * k / steps, last_y + (y - last_y) * k / steps);
      dot(x, y);
      last_x = x, last_y = y;
    }
  }
  for (const Mark& mark : plot.marks) {
    const double across = frame.across(mark.x);
    if (!(across >= 0 && across <= 1)) continue;
    const int column = std::clamp(static_cast<int>(across * columns), 0, columns - 1);
    for (int row = 0; row < rows; ++row)
      if (Cell& at = cell(row, column); at.dots == 0) at.over = "┊";
  }
  for (std::size_t s = 1; s < plot.series.size(); ++s) {   // braille alone cannot tell curves apart without colour
    const Series& series = plot.series[s];
    int last_column = -3;
    for (std::size_t i = 0; i < series.x.size(); ++i) {
      if (!frame.inside(series.x[i], series.y[i])) continue;
      const int column = std::clamp(static_cast<int>(frame.across(series.x[i]) * columns), 0, columns - 1);
      if (column - last_column < 3 && column >= last_column) continue;
      Cell& at = cell(row_of(series.y[i]), column);
      at.over = kMarks[s % std::size(kMarks)];
      at.owner = static_cast<int>(s);
      last_column = column;
    }
  }
  for (std::size_t s = 0; s < plot.series.size(); ++s) {
    const int best = plot.series[s].mark_best ? best_point(plot.series[s], frame) : -1;
    if (best < 0) continue;
    const double x = plot.series[s].x[static_cast<std::size_t>(best)];
    Cell& at = cell(row_of(plot.series[s].y[static_cast<std::size_t>(best)]),
                    std::clamp(static_cast<int>(frame.across(x) * columns), 0, columns - 1));
    at.over = "★";
    at.owner = static_cast<int>(s);
  }

  std::string out;
  const std::string indent(static_cast<std::size_t>(margin + 2), ' ');
  if (!plot.title.empty()) out += indent + clipped(plot.title, width - margin - 2) + "\n";
  for (const std::vector<Word>& head : heads) {
    out += indent;
    for (std::size_t i = 0; i < head.size(); ++i) out += (i == 0 ? "" : "   ") + (head[i].paint ? paint(head[i].text, head[i].paint) : head[i].text);
    out += "\n";
  }
  for (int row = 0; row < rows; ++row) {
    std::string tick;
    for (std::size_t i = 0; i < frame.y_ticks.size(); ++i) {
      if (row_of(frame.y_ticks[i]) == row) tick = y_texts[i];
    }
    out += padded(tick, margin, true) + (tick.empty() ? " │" : " ┤");
    const std::string& note = notes[static_cast<std::size_t>(row)];
    if (frame.empty && row == rows / 2) {
      out += " no finite points\n";
      continue;
    }
    std::string text;
    std::size_t last = 0;   // no trailing spaces
    for (int column = 0; column < columns; ++column) {
      const Cell& at = cell(row, column);
      if (!at.over.empty())
        text += paint(at.over, at.owner < 0 ? 90 : kPaints[static_cast<std::size_t>(at.owner) % std::size(kPaints)]);
      else if (at.dots != 0)
        text += paint(braille(at.dots), kPaints[static_cast<std::size_t>(at.owner) % std::size(kPaints)]);
      else if (!note.empty())
        text += column % 2 == 0 ? paint("╌", 90) : " ";
      else
        text += " ";
      if (text.back() != ' ') last = text.size();
    }
    if (note.empty()) text.resize(last);
    out += text + (note.empty() ? "" : paint(clipped(note, widest_note), 90)) + "\n";
  }

  // Tick texts under their places, each kept inside the grid and off its neighbour.
  std::string axis, below(static_cast<std::size_t>(columns), ' ');
  std::vector<bool> ticked(static_cast<std::size_t>(columns), false);
  int free_from = 0;
  for (std::size_t i = 0; i < frame.x_ticks.size(); ++i) {
    const int column = std::clamp(static_cast<int>(frame.across(frame.x_ticks[i]) * columns), 0, columns - 1);
    const int size = static_cast<int>(x_texts[i].size());
    const int begin = std::clamp(column - size / 2, 0, std::max(0, columns - size));
    ticked[static_cast<std::size_t>(column)] = true;
    if (begin < free_from || begin + size > columns) continue;
    below.replace(static_cast<std::size_t>(begin), static_cast<std::size_t>(size), x_texts[i]);
    free_from = begin + size + 1;
  }
  for (const bool tick : ticked) axis += tick ? "┬" : "─";
  out += std::string(static_cast<std::size_t>(margin + 1), ' ') + "└" + axis + "\n";
  below.erase(below.find_last_not_of(' ') + 1);
  out += indent + below + "\n";
  if (!plot.x_label.empty()) {
    const std::string label = clipped(plot.x_label, columns);
    out += indent + std::string(static_cast<std::size_t>(std::max(0, (columns - text_columns(label)) / 2)), ' ') + label + "\n";
  }
  return out;
}

}  // namespace ttr
