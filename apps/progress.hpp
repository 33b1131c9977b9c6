// One line that tells how far a run is: on a terminal it rewrites itself a few times a second in a single write; elsewhere plain lines
// appear now and then.
#pragma once
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>

namespace ttr {

std::string duration_text(double seconds);   // 0.8s, 42s, 3m05s, 2h07m, 4d03h; "-" where unknown
std::string rate_text(double per_second);    // 950, 12.3k, 4.56M

struct ProgressStatus {
  std::int64_t step = 0, total = 0;
  double loss = 0;
  std::optional<double> val_loss = {};   // the last one evaluated
  std::optional<double> bits = {}, val_bits = {};   // the same per byte, where that is to be seen
  double tokens_per_s = 0;
  double seconds_left = 0;
};

// " 38%  ━━━━━━━╸              760/2000  loss 1.9321  val 2.0010  52.1k tokens/s  ETA 31s". Where `columns` are too few, first the bar
// goes, then the percentage, then whatever does not fit.
std::string progress_text(const ProgressStatus& status, int columns, bool bar);

struct ProgressOptions {
  std::FILE* out = stderr;
  std::optional<bool> is_terminal = {};   // default: asks the file
  int columns = 0;                        // 0: asks the terminal each time
  double plain_every_s = 10;              // between lines where it is not a terminal
  std::function<double()> now = {};       // seconds of a steady clock
};

class Progress {
 public:
  Progress(std::int64_t total, std::int64_t tokens_per_step, std::int64_t first_step = 0, ProgressOptions options = {});
  ~Progress();   // ends the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` steps are behind us, of which this process ran done - first_step. bits: the losses in bits per byte.
  void step(std::int64_t done, double loss, std::optional<double> bits = {});
  void validated(double val_loss, std::optional<double> bits = {});
  void note(const std::string& line);   // a line of its own, above the progress line
  void finish();                        // shows the last state and ends the line

  void pause();   // a validation or a checkpoint follows: the time until the next step() is not counted
  double tokens_per_s() const { return status_.tokens_per_s; }   // over the last seconds; 0 until a step was timed

 private:
  void show(bool last);
  void write(const std::string& text);

  ProgressOptions options_;
  ProgressStatus status_;
  std::int64_t tokens_per_step_ = 0;
  double last_time_ = 0, last_shown_ = -1e300, seconds_per_step_ = 0, started_ = 0;
  bool terminal_ = false, paused_ = false, line_open_ = false, finished_ = false;
  std::int64_t timed_ = 0;   // calls of step that gave a time
};

}  // namespace ttr
