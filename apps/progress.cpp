// The progress line: texts, the estimate of speed, and the writing.
#include <ttr/apps/progress.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>
#include <vector>
#include <sys/ioctl.h>
#include <unistd.h>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

constexpr double kRedraw = 0.1;   // seconds between two drawings on a terminal: faster only flickers
constexpr double kMemory = 3.0;   // seconds over which the speed is averaged

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int columns_of(std::FILE* out) {
  winsize size{};
  return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "-";
  if (seconds < 9.95) return fmt::format("{:.1f}s", seconds);
  const auto s = static_cast<std::int64_t>(std::llround(seconds));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  const std::int64_t minutes = (s + 30) / 60;
  if (minutes < 24 * 60) return fmt::format("{}h{:02}m", minutes / 60, minutes % 60);
  const std::int64_t hours = (s + 1800) / 3600;
  return fmt::format("{}d{:02}h", hours / 24, hours % 24);
}

std::string rate_text(double per_second) {
  if (!std::isfinite(per_second) || per_second < 0) return "-";
  const char* suffix = "";
  double value = per_second;
  for (const char* next : {"k", "M", "G"}) {
    if (value < 999.5) break;
    value /= 1000;
    suffix = next;
  }
  if (suffix[0] == 0) return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}f}{}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, suffix);
}

std::string progress_text(const ProgressStatus& status, int columns, bool bar) {
  const double share = status.total > 0 ? std::clamp(static_cast<double>(status.step) / static_cast<double>(status.total), 0.0, 1.0) : 0.0;
  // The step keeps its width, so that nothing after it moves.
  const std::string total = fmt::format("{}", status.total);
  const auto in_bits = [](const std::optional<double>& bits) { return bits ? fmt::format(" ({:.4f} bits/byte)", *bits) : ""; };
  std::string text = fmt::format("{:>{}}/{}  loss {:.4f}{}", status.step, total.size(), total, status.loss, in_bits(status.bits));
  const auto fits = [&](int more) { return static_cast<int>(text.size()) + more <= columns; };
  std::vector<std::string> parts;
  if (status.val_loss) parts.push_back(fmt::format("  val {:.4f}{}", *status.val_loss, in_bits(status.val_bits)));
  const std::string eta = fmt::format("  ETA {}", duration_text(status.seconds_left));
  const std::string rate = fmt::format("  {} tokens/s", rate_text(status.tokens_per_s));
  parts.push_back(rate);
  parts.push_back(eta);
  for (const std::string& part : parts) {
    if (fits(static_cast<int>(part.size()))) text += part;
  }
  const std::string percent = fmt::format("{:3.0f}%  ", std::floor(100 * share));
  constexpr int kBar = 20;
  if (bar && fits(static_cast<int>(percent.size()) + kBar + 2)) {
    const int halves = static_cast<int>(share * 2 * kBar);
    std::string drawn;
    for (int i = 0; i < kBar; ++i) drawn += 2 * i + 1 < halves ? "━" : 2 * i + 1 == halves ? "╸" : " ";
    return percent + drawn + "  " + text;
  }
  if (bar && fits(static_cast<int>(percent.size()))) return percent + text;
  return text.substr(0, static_cast<std::size_t>(std::max(columns, 0)));
}

Progress::Progress(std::int64_t total, std::int64_t tokens_per_step, std::int64_t first_step, ProgressOptions options)
    : options_(std::move(options)), tokens_per_step_(tokens_per_step) {
  if (total < 1) throw refuse("progress", "total is {}, needs at least 1", total);
  if (!options_.now) options_.now = steady_seconds;
  terminal_ = options_.is_terminal.value_or(isatty(fileno(options_.out)) == 1);
  status_.total = total;
  status_.step = first_step;
  status_.seconds_left = -1;
  started_ = last_time_ = options_.now();
}

Progress::~Progress() {
  if (!finished_ && line_open_) write("\n");
}

void Progress::step(std::int64_t done, double loss, std::optional<double> bits) {
  const double now = options_.now();
  const std::int64_t steps = done - status_.step;
  // A pause ends here unmeasured: the step that was running when it began ended before it.
  if (steps > 0 && !paused_ && now > last_time_) {
    const double each = (now - last_time_) / static_cast<double>(steps);
    ++timed_;
    // An average over the last kMemory seconds; before that, over all steps but the first, which is slow (memory is fetched,
    // plans are made) and counts only until there is a second one.
    const double weight =
        std::max(1 - std::exp(-(now - last_time_) / kMemory), 1.0 / static_cast<double>(std::max<std::int64_t>(timed_ - 1, 1)));
    seconds_per_step_ += std::min(weight, 1.0) * (each - seconds_per_step_);
    status_.tokens_per_s = static_cast<double>(tokens_per_step_) / seconds_per_step_;
  }
  paused_ = false;
  last_time_ = now;
  status_.step = done;
  status_.loss = loss;
  status_.bits = bits;
  status_.seconds_left = timed_ > 0 ? seconds_per_step_ * static_cast<double>(std::max<std::int64_t>(status_.total - done, 0)) : -1;
  const double every = terminal_ ? kRedraw : options_.plain_every_s;
  if (now - last_shown_ >= every) {
    show(false);
    last_shown_ = now;
  }
}

void Progress::validated(double val_loss, std::optional<double> bits) {
  status_.val_loss = val_loss;
  status_.val_bits = bits;
}

void Progress::pause() { paused_ = true; }

void Progress::note(const std::string& line) {
  write((line_open_ ? "\r\x1b[K" : "") + line + "\n");
  line_open_ = false;
  last_shown_ = terminal_ ? -1e300 : last_shown_;
}

void Progress::finish() {
  if (finished_) return;
  status_.seconds_left = 0;
  show(true);
  finished_ = true;
}

void Progress::show(bool last) {
  const int columns = options_.columns > 0 ? options_.columns : terminal_ ? columns_of(options_.out) : 200;
  const std::string end = fmt::format("  took {}", duration_text(options_.now() - started_));
  // One column stays free: a full row makes some terminals wrap.
  std::string text = progress_text(status_, columns - 1, terminal_);
  if (last) {
    const std::size_t eta = text.rfind("  ETA ");
    if (eta != std::string::npos) text = text.substr(0, eta) + end;
  }
  // The new text covers the old one before the rest of the row is cleared: nothing is ever blank in between.
  if (terminal_)
    write("\r" + text + "\x1b[K" + (last ? "\n" : ""));
  else
    write(text + "\n");
  line_open_ = terminal_ && !last;
}

void Progress::write(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), options_.out);
  std::fflush(options_.out);
}

}  // namespace ttr
