// ttr plot: runs over each other, one colour each: their validation losses over steps, or, by position, what `ttr eval --by-position` measured.
// Losses are nats per byte; bits per byte as soon as one run's tokens are not bytes.
#pragma once
#include <string>
#include <vector>

namespace ttr {

struct CompareOptions {
  std::vector<std::string> runs;   // folders
  std::string out = "plot.svg";
  bool by_position = false, log_x = false;
};
int compare_runs(const CompareOptions&);

}  // namespace ttr
