// Losses by position: the file, strictly read, and the curve.
#include <cmath>
#include <filesystem>
#include <sstream>
#include <ttr/apps/by_position.hpp>
#include <ttr/apps/curve.hpp>
#include <ttr/core/error.hpp>
#include <ttr/core/whole_file.hpp>

namespace ttr {
namespace {

constexpr const char* kHead = "position,targets,nats_per_token,standard_error,bits_per_byte";
constexpr std::int64_t kMostPositions = 1 << 21;
constexpr double kPerOctave = 6;   // points of the curve

}  // namespace

void write_by_position(const std::string& path, const std::vector<Score>& scores) {
  std::string rows = std::string(kHead) + "\n";
  for (size_t p = 0; p < scores.size(); ++p)
    if (const Score& s = scores[p]; s.targets > 0)
      rows += fmt::format("{},{},{},{},{}\n", p + 1, s.targets, s.nats_per_token(), s.standard_error(), s.bits_per_byte());
  write_whole("eval", path, rows);
}

std::vector<Score> read_by_position(const std::string& path) {
  if (std::error_code error; !std::filesystem::exists(path, error))
    throw refuse("plot", "{} is not there, needs what `ttr eval --by-position` writes", path);
  std::istringstream in(read_whole("plot", path));
  std::string line;
  if (!std::getline(in, line) || line != kHead) throw refuse("plot", "line 1 of {} is not '{}', needs what `ttr eval --by-position` writes", path, kHead);
  std::vector<Score> scores;
  for (std::int64_t at = 2; std::getline(in, line); ++at) {
    std::istringstream fields(line);
    std::int64_t position = 0, targets = 0;
    double nats = 0, bits = 0;
    std::string error;
    char c[4] = {};
    fields >> position >> c[0] >> targets >> c[1] >> nats >> c[2];
    std::getline(fields, error, ',');   // nan, where there is one target
    fields >> bits;
    if (!fields || std::string(c) != ",,," || position < 1 || position > kMostPositions || targets < 1 || !(nats >= 0 && bits > 0))
      throw refuse("plot", "line {} of {} is '{}', needs {}", at, path, line.substr(0, 80), kHead);
    if (size_t(position) > scores.size()) scores.resize(size_t(position));
    scores[size_t(position) - 1] = {.nats = nats * double(targets), .targets = targets,
                                    .bytes = std::int64_t(std::llround(nats * double(targets) / std::log(2.0) / bits))};
  }
  if (scores.empty()) throw refuse("plot", "{} has 0 positions, needs at least 1", path);
  return scores;
}

Series by_position_series(const std::string& name, const std::vector<Score>& scores, LossUnit unit) {
  Series series{.name = name, .x = {}, .y = {}};
  for (size_t begin = 0; begin < scores.size();) {
    const size_t end = std::max(begin + 1, std::min(scores.size(), size_t(double(begin + 1) * std::exp2(1 / kPerOctave)) - 1));
    Score all;
    double positions = 0;
    for (size_t p = begin; p < end; ++p) {
      all.nats += scores[p].nats, all.targets += scores[p].targets, all.bytes += scores[p].bytes;
      positions += double(p + 1) * double(scores[p].targets);
    }
    if (all.targets > 0) series.x.push_back(positions / double(all.targets)), series.y.push_back(unit.of(all));
    begin = end;
  }
  return series;
}

Plot by_position_plot(const std::string& name, const std::vector<Score>& scores, LossUnit unit, const Yardsticks& yardsticks, std::int64_t trained) {
  Plot plot{.title = "loss by position in the context", .x_label = "tokens of context", .y_label = fmt::format("loss ({})", unit.label()), .log_x = true};
  plot.series.push_back(by_position_series(name, scores, unit));
  add_yardsticks(plot, unit, yardsticks);
  if (trained > 0) plot.marks.push_back({"trained on " + std::to_string(trained), double(trained)});
  return plot;
}

}  // namespace ttr
