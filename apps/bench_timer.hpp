// How long a piece of work takes: repeated after a warm-up until about half a second has passed, the fewest and the median time. On CUDA between two events of
// the stream, on the CPU by the steady clock. `Yardstick`: a rate of the machine, taken in turn with the work that is held against it, since the clock of
// a shared machine differs by a third from one second to the next.
#pragma once
#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <vector>
#include <ttr/core/dispatch.hpp>

namespace ttr {

struct Timing { double least = 0, median = 0; };   // seconds

template <class F> double seconds_of(Device device, F&& f) {
  if constexpr (with_cuda) {
    if (device.is_cuda()) {
      void* from = cuda::event_record();
      f();
      void* to = cuda::event_record();
      const double milliseconds = cuda::event_milliseconds(from, to);
      cuda::event_release(from), cuda::event_release(to);
      return milliseconds * 1e-3;
    }
  }
  const auto from = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
}

template <class F>
Timing timing_of(Device device, F&& f, double budget = 0.5, size_t fewest = 5, size_t most = 200, const std::function<void()>& in_turn = {}) {
  constexpr double kTurn = 0.02;   // of f, between two of the other
  f();
  std::vector<double> times;
  double since = kTurn;
  for (double total = 0; times.size() < most && (times.size() < fewest || total < budget);) {
    if (in_turn && since >= kTurn) in_turn(), since = 0;
    times.push_back(seconds_of(device, f));
    total += times.back(), since += times.back();
  }
  std::sort(times.begin(), times.end());
  return {times.front(), times[times.size() / 2]};
}

struct Yardstick {
  double amount = 0;           // of one run: flops, bytes, exponentials
  std::function<void()> run;   // null: not asked for
  double least = std::numeric_limits<double>::infinity();   // seconds, since `begin`
  double slowest = std::numeric_limits<double>::infinity(), fastest = 0;   // rates of the rows so far

  void begin() { least = std::numeric_limits<double>::infinity(); }
  void take() {   // twice: the first run finds the caches full of the work's data
    for (int i = 0; i < 2 && run; ++i) least = std::min(least, seconds_of(cpu_device, run));
  }
  double rate() {   // the best since `begin`
    const double now = amount / least;
    slowest = std::min(slowest, now), fastest = std::max(fastest, now);
    return now;
  }
};

}  // namespace ttr
