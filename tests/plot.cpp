// Plots: ticks, ranges, SVG that is XML, points where they belong, and characters that stay inside their box.
#include <cmath>
#include <limits>
#include <regex>
#include <sstream>
#include <string>
#include <vector>
#include <doctest/doctest.h>
#include <ttr/apps/plot.hpp>
#include <ttr/core/error.hpp>

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

ttr::Plot curve() {
  ttr::Plot plot{.title = "A <run> & its \"loss\"", .x_label = "step", .y_label = "loss (nats per byte)"};
  plot.series = {{"training", {0, 500, 1000, 1500, 2000}, {5, 3, 2.5, 2.2, 2}},
                 {"validation", {0, 1000, 1500, 2000}, {5.1, 2.4, 2.3, 2.35}, true}};
  plot.lines = {{"order 4: 1.344", 1.344}, {"order 5: 1.318", 1.318}, {"order 0: 3.024", 3.024}};
  return plot;
}

// Tags match and nest, attributes are quoted, text holds no bare markup. Returns what is wrong, or nothing.
std::string xml_fault(const std::string& xml) {
  std::vector<std::string> open;
  int roots = 0;
  const std::regex tag("<(/?)([a-z]+)((?:\\s+[A-Za-z0-9:-]+=\"[^\"<]*\")*)\\s*(/?)>");
  std::size_t at = 0;
  while (at < xml.size()) {
    if (xml[at] == '<') {
      std::smatch match;
      const std::size_t end = xml.find('>', at);
      const std::string one = xml.substr(at, end == std::string::npos ? end : end - at + 1);
      if (!std::regex_match(one, match, tag)) return "tag " + one.substr(0, 100);
      if (match[1].length() > 0) {
        if (open.empty() || open.back() != match[2]) return "close " + one;
        open.pop_back();
      } else if (match[4].length() == 0) {
        roots += open.empty();
        open.push_back(match[2]);
      }
      at = end + 1;
      continue;
    }
    const unsigned char c = static_cast<unsigned char>(xml[at]);
    if (c == '>' || (c < 0x20 && c != '\n')) return "character " + std::to_string(c);
    if (c == '&' &&
        !std::regex_search(xml.begin() + static_cast<std::ptrdiff_t>(at),
                           xml.begin() + static_cast<std::ptrdiff_t>(std::min(at + 6, xml.size())), std::regex("^&(amp|lt|gt|quot);"))) {
      return "entity";
    }
    ++at;
  }
  return !open.empty() ? "open " + open.back() : roots != 1 ? "roots" : "";
}

std::vector<std::string> rows_of(const std::string& text) {
  std::vector<std::string> rows;
  std::istringstream in(text);
  for (std::string row; std::getline(in, row);) rows.push_back(row);
  return rows;
}

int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += what.size()) ++n;
  return n;
}

}  // namespace

TEST_SUITE("plot") {
  TEST_CASE("ticks are round, inside, and told apart") {
    CHECK(ttr::nice_ticks(0, 10, 5) == std::vector<double>{0, 2, 4, 6, 8, 10});
    CHECK(ttr::nice_ticks(-0.3, 1.1, 3) == std::vector<double>{0, 0.5, 1});
    CHECK(ttr::tick_texts({0, 0.5, 1}) == std::vector<std::string>{"0.0", "0.5", "1.0"});
    CHECK(ttr::tick_texts({0, 10000, 20000}) == std::vector<std::string>{"0", "10k", "20k"});
    CHECK(ttr::tick_texts({0, 500, 1000}) == std::vector<std::string>{"0", "500", "1000"});
    CHECK(ttr::tick_texts({500000, 1000000, 1500000}) == std::vector<std::string>{"500k", "1M", "1.5M"});
    CHECK(ttr::tick_texts({1.31, 1.32, 1.33}) == std::vector<std::string>{"1.31", "1.32", "1.33"});
    CHECK(ttr::nice_log_ticks(0, 2, 6) == std::vector<double>{1, 2, 5, 10, 20, 50, 100});
    CHECK(ttr::nice_log_ticks(0, 6, 4) == std::vector<double>{1, 10, 100, 1000, 10000, 100000, 1000000});
    for (const auto& [low, high] : std::vector<std::pair<double, double>>{{1.2, 1.3}, {-7, 1e6}, {1e-9, 2e-9}, {-3e8, -2e8}}) {
      const auto ticks = ttr::nice_ticks(low, high, 6);
      CHECK(ticks.size() >= 2);
      CHECK(ticks.size() <= 8);
      for (const double tick : ticks) {
        CHECK(tick >= low - 1e-8 * (high - low));
        CHECK(tick <= high + 1e-8 * (high - low));
      }
      const auto texts = ttr::tick_texts(ticks);
      for (std::size_t i = 1; i < texts.size(); ++i) CHECK(texts[i] != texts[i - 1]);
    }
  }

  TEST_CASE("the range holds every shown point and reference, and no other") {
    ttr::Plot plot = curve();
    plot.series[0].y[1] = kNan;
    plot.series[0].x[2] = std::numeric_limits<double>::infinity();
    plot.lines.push_back({"nothing", kNan});
    const ttr::Frame frame = ttr::frame_of(plot, 5, 5);
    CHECK(frame.across(0) == 0);
    CHECK(frame.across(2000) == 1);
    CHECK(frame.up(5.1) < 1);
    CHECK(frame.up(1.318) > 0);
    CHECK(ttr::best_point(plot.series[1], frame) == 2);
    plot.log_x = true;
    const ttr::Frame log_frame = ttr::frame_of(plot, 5, 5);
    CHECK_FALSE(log_frame.shows(0, 1));
    CHECK(log_frame.across(1000) == doctest::Approx(0));   // the points at 0 are left out, 500 is NaN
    CHECK(log_frame.across(2000) == doctest::Approx(1));
  }

  TEST_CASE("an svg is XML whatever the names are") {
    ttr::Plot plot = curve();
    plot.series[0].name = std::string("\x01 \xff \xc0\xaf \xed\xa0\x80 Zürich \xf0\x9f\x90\x9f ]]> <script>") + '\0';
    const std::string drawing = ttr::svg(plot);
    CHECK(xml_fault(drawing) == "");
    CHECK(drawing.find("A &lt;run&gt; &amp; its &quot;loss&quot;") != std::string::npos);
    CHECK(drawing.find("<script") == std::string::npos);
    CHECK(drawing.find("Zürich \xf0\x9f\x90\x9f") != std::string::npos);
    CHECK(drawing.find("best 2.3 at 1500") != std::string::npos);
    CHECK(drawing.find("nan") == std::string::npos);
    CHECK(drawing.find("prefers-color-scheme: dark") != std::string::npos);
    CHECK(count(drawing, "stroke-dasharray") == 3);
    CHECK(xml_fault("<a><b></a></b>") != "");   // the check itself can fail
    CHECK(xml_fault("<a>1 & 2</a>") != "");
  }

  TEST_CASE("points that are not numbers are left out and their neighbours joined") {
    ttr::Plot plot{.title = "gaps", .x_label = "x", .y_label = "y"};
    plot.series = {{"a", {0, 1, 2, 3}, {1, kNan, std::numeric_limits<double>::infinity(), 2}}};
    const std::string drawing = ttr::svg(plot);
    CHECK(count(drawing, "<polyline") == 1);
    CHECK(count(drawing, "<circle") == 2);
    const std::regex two_points("points=\"[0-9.]+,[0-9.]+ [0-9.]+,[0-9.]+\"");
    CHECK(std::regex_search(drawing, two_points));
    plot.series[0].y = {kNan, kNan, kNan, kNan};
    CHECK(ttr::svg(plot).find("no finite points") != std::string::npos);
    CHECK(ttr::terminal(plot).find("no finite points") != std::string::npos);
    CHECK(xml_fault(ttr::svg(plot)) == "");
    CHECK(xml_fault(ttr::svg({})) == "");
  }

  TEST_CASE("points land where the axes say") {
    ttr::Plot plot{.title = "t", .x_label = "", .y_label = ""};
    plot.series = {{"a", {0, 10}, {0, 1}}};
    const std::string drawing = ttr::svg(plot, 800, 500);
    std::smatch match;
    REQUIRE(std::regex_search(drawing, match, std::regex("points=\"([0-9.]+),([0-9.]+) ([0-9.]+),([0-9.]+)\"")));
    const double x0 = std::stod(match[1]), y0 = std::stod(match[2]), x1 = std::stod(match[3]), y1 = std::stod(match[4]);
    CHECK(x0 < 100);
    CHECK(x1 == doctest::Approx(772));
    CHECK(y0 > y1);
    // The grid line of y = 0.4 stands two fifths of the way from the lower point to the upper.
    REQUIRE(std::regex_search(drawing, match, std::regex("<line class=\"grid\" [^>]*y1=\"([0-9.]+)\"[^>]*>\n<text [^>]*>0.4</text>")));
    CHECK(std::abs(std::stod(match[1]) - (y0 + 0.4 * (y1 - y0))) < 0.11);
  }

  TEST_CASE("a hundred thousand points make a small file with the same extremes") {
    ttr::Plot plot{.title = "many", .x_label = "x", .y_label = "y"};
    ttr::Series series{"a", {}, {}};
    for (int i = 0; i < 100000; ++i) {
      series.x.push_back(i);
      series.y.push_back(i == 54321 ? 100 : std::sin(i * 0.7));
    }
    plot.series = {series};
    const std::string drawing = ttr::svg(plot);
    CHECK(drawing.size() < 60000);
    ttr::Plot few = plot;
    few.series = {{"a", {0, 54321, 99999}, {-1, 100, 1}}};
    std::smatch match;
    const std::string three = ttr::svg(few);
    REQUIRE(std::regex_search(three, match, std::regex("points=\"[^ ]+ [0-9.]+,([0-9.]+) ")));
    CHECK(drawing.find("," + match[1].str() + " ") != std::string::npos);   // the spike survives at its height
  }

  TEST_CASE("labels of close references stay apart") {
    ttr::Plot plot = curve();
    for (int i = 0; i < 8; ++i) plot.lines.push_back({fmt::format("reference {}", i), 2.0 + 0.001 * i});
    const std::string drawing = ttr::svg(plot);
    std::vector<double> heights;
    const std::regex label("<text class=\"soft\" x=\"[0-9.]+\" y=\"([0-9.]+)\">");
    for (std::sregex_iterator it(drawing.begin(), drawing.end(), label), end; it != end; ++it) heights.push_back(std::stod((*it)[1]));
    REQUIRE(heights.size() == 11);
    for (std::size_t i = 1; i < heights.size(); ++i) CHECK(heights[i] - heights[i - 1] > 13.8);
    CHECK(heights.back() < 500);
  }

  TEST_CASE("a terminal plot keeps to its box") {
    for (const auto& [width, height] : std::vector<std::pair<int, int>>{{30, 9}, {60, 12}, {78, 20}, {200, 50}}) {
      for (const bool log_x : {false, true}) {
        ttr::Plot plot = curve();
        plot.log_x = log_x;
        const std::string text = ttr::terminal(plot, width, height);
        CAPTURE(text);
        CHECK(text.back() == '\n');
        const auto rows = rows_of(text);
        CHECK(static_cast<int>(rows.size()) == height);
        for (const std::string& row : rows) CHECK(ttr::text_columns(row) <= width);
        CHECK(text.find('\x1b') == std::string::npos);
        CHECK(text.find("★") != std::string::npos);
      }
    }
    const std::string text = ttr::terminal(curve(), 78, 24);
    CHECK(text.find("order 0: 3.024") != std::string::npos);
    CHECK(text.find("validation (★ 2.3)") != std::string::npos);
    CHECK(ttr::terminal(curve(), 78, 24, true).find("\x1b[34m") != std::string::npos);
    ttr::Plot hostile = curve();
    hostile.title = "\x1b[2J";
    hostile.lines[0].label = "\x1b[2J";
    hostile.series[0].name = "\x1b[2J";
    CHECK(ttr::terminal(hostile).find('\x1b') == std::string::npos);
  }

  TEST_CASE("a rising line rises in characters too") {
    ttr::Plot plot{.title = "", .x_label = "", .y_label = ""};
    plot.series = {{"", {0, 1}, {0, 1}}};
    const auto rows = rows_of(ttr::terminal(plot, 40, 12));
    const auto column_of = [&](const std::string& row) {
      return ttr::text_columns(row);
    };   // trailing spaces are dropped: a row ends with its last dot
    std::vector<int> ends;
    for (const std::string& row : rows) {
      if (row.find("⠀") == std::string::npos &&
          row.find("\xe2\xa0") + row.find("\xe2\xa1") + row.find("\xe2\xa2") != 3 * std::string::npos) {
        ends.push_back(column_of(row));
      }
    }
    CHECK(ends.size() >= 8);
    for (std::size_t i = 1; i < ends.size(); ++i) CHECK(ends[i] < ends[i - 1]);
  }

  TEST_CASE("refusals") {
    ttr::Plot plot{.title = "t", .x_label = "x", .y_label = "y"};
    plot.series = {{"a", {0, 1}, {0}}};
    CHECK_THROWS_WITH_AS((void)ttr::svg(plot), "[plot] series a has 2 x and 1 y, needs as many of each", ttr::Error);
    CHECK_THROWS_WITH_AS((void)ttr::svg(curve(), 100, 500), "[plot] size is 100 x 500, needs at least 200 x 150 pixels", ttr::Error);
    CHECK_THROWS_WITH_AS((void)ttr::terminal(curve(), 10, 20), "[plot] size is 10 x 20, needs at least 30 x 9 characters", ttr::Error);
    CHECK_THROWS_AS(ttr::write_svg("/no/such/folder/a.svg", curve()), ttr::Error);
  }

  TEST_CASE("a curve that begins high is cut off, marks stand at their place, and a long legend wraps") {
    ttr::Plot plot{.title = "t", .x_label = "step", .y_label = "loss"};
    plot.series = {{"one", {0, 1, 2, 3, 4}, {100, 3, 2, 1.5, 1.2}, true}};
    plot.y_most = 3;
    plot.marks = {{"here", 2}, {"outside", 9}};
    const ttr::Frame frame = ttr::frame_of(plot, 5, 5);
    CHECK(frame.y_high < 3.5);
    CHECK(frame.shows(0, 100));
    CHECK_FALSE(frame.inside(0, 100));
    const std::string drawing = ttr::svg(plot);
    CHECK(xml_fault(drawing) == "");
    CHECK(count(drawing, "<circle") == 4 + 1);   // the point above is not drawn; the best one twice
    CHECK(count(drawing, ">here</text>") == 1);
    CHECK(count(drawing, "outside") == 0);
    const std::string text = ttr::terminal(plot);
    CHECK(count(text, "\u250a") > 5);
    for (const std::string& row : rows_of(text)) CHECK(ttr::text_columns(row) <= 78);
    plot.series.clear();
    for (int i = 0; i < 12; ++i) plot.series.push_back({"a run with a name " + std::to_string(i), {0, 1}, {2.0, 1.0 + i}, true});
    const std::string many = ttr::terminal(plot, 78, 24);
    for (int i = 0; i < 12; ++i) CHECK(count(many, "a run with a name " + std::to_string(i) + " (") == 1);
    CHECK(rows_of(many).size() == 24);
  }
}
