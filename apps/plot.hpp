// Line plots: one description, drawn as an SVG file for a page or in characters for a terminal.
// Points whose x or y is not finite are left out and their neighbours joined (a validation loss is missing at most steps); on a
// logarithmic x axis so are points at x <= 0.
#pragma once
#include <limits>
#include <string>
#include <vector>

namespace ttr {

struct Series {
  std::string name;
  std::vector<double> x = {}, y = {};   // [points], the same number of each
  bool mark_best = false;     // mark the lowest y and write it out
};

struct Line {   // a horizontal reference
  std::string label;
  double y = 0;
};

struct Mark {   // a vertical reference, drawn where the curves reach it
  std::string label;
  double x = 0;
};

struct Plot {
  std::string title, x_label, y_label;   // labels carry their units: "validation loss (nats per byte)"
  std::vector<Series> series = {};
  std::vector<Line> lines = {};
  std::vector<Mark> marks = {};
  bool log_x = false;
  double y_most = std::numeric_limits<double>::infinity();   // curves are cut off above
};

std::string svg(const Plot& plot, int width = 800, int height = 500);   // pixels; follows the reader's light or dark theme
std::string terminal(const Plot& plot, int width = 78, int height = 20,
                     bool colour = false);   // characters, labels included; ends in a newline
void write_svg(const std::string& path, const Plot& plot);

// What both drawings share: the ranges, the ticks and their texts.
struct Frame {
  double x_low = 0, x_high = 1, y_low = 0, y_high = 1;   // x in log10 units if log_x
  bool log_x = false, empty = true;                      // empty: no point can be shown
  std::vector<double> x_ticks, y_ticks;                  // in the units of the data

  double across(double x) const;   // 0 at the left edge, 1 at the right
  double up(double y) const;       // 0 at the bottom, 1 at the top
  bool shows(double x, double y) const;    // has a place, maybe above the edge
  bool inside(double x, double y) const { return shows(x, y) && up(y) <= 1; }
};
Frame frame_of(const Plot& plot, int x_ticks, int y_ticks);   // about so many ticks

std::vector<double> nice_ticks(double low, double high, int count);       // multiples of 1, 2 or 5 times a power of ten, all in [low, high]
std::vector<double> nice_log_ticks(double low, double high, int count);   // low and high in log10 units, ticks in units of the data
std::vector<std::string> tick_texts(const std::vector<double>& ticks);    // as many decimals as tell them apart; 20k, 1.5M
int best_point(const Series& series, const Frame& frame);                 // index of the lowest shown y, or -1
int text_columns(const std::string& text);                                // characters, not bytes

}  // namespace ttr
