// Draws a figure of the pages: draw DATA.txt FIGURE.svg. Lines of the data are a word and what it names:
//   title TEXT | x TEXT | y TEXT | log_x | line VALUE LABEL | series NAME, followed by the series' points as "X Y" | # a remark
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <ttr/apps/plot.hpp>

namespace {

ttr::Plot read_plot(std::istream& in) {
  ttr::Plot plot;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    std::istringstream words(line);
    std::string word, rest;
    if (!(words >> word) || word[0] == '#') continue;
    double x = 0, y = 0;
    if (std::istringstream point(line); point >> x >> y) {
      if (plot.series.empty()) throw std::runtime_error("line " + std::to_string(number) + " is a point, needs a series before it");
      plot.series.back().x.push_back(x);
      plot.series.back().y.push_back(y);
      continue;
    }
    if (word == "line") words >> y;
    std::getline(words >> std::ws, rest);
    if (word == "title") plot.title = rest;
    else if (word == "x") plot.x_label = rest;
    else if (word == "y") plot.y_label = rest;
    else if (word == "log_x") plot.log_x = true;
    else if (word == "line") plot.lines.push_back({rest, y});
    else if (word == "series") plot.series.push_back({.name = rest, .x = {}, .y = {}});
    else throw std::runtime_error("line " + std::to_string(number) + " begins with '" + word + "', needs title, x, y, log_x, line, series or a point");
  }
  return plot;
}

}  // namespace

int main(int count, char** arguments) try {
  if (count != 3) throw std::runtime_error("there are " + std::to_string(count - 1) + " arguments, needs DATA FIGURE");
  std::ifstream in(arguments[1]);
  if (!in) throw std::runtime_error(std::string(arguments[1]) + " cannot be read, needs data");
  ttr::write_svg(arguments[2], read_plot(in));
  return 0;
} catch (const std::exception& e) {
  std::cerr << "[draw] " << e.what() << "\n";
  return 1;
}
