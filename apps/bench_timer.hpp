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

struct Timing {
  double least = 0, median = 0;   // seconds
  double floor = 0, ratio = 0;    // where they were taken in turn: medians over the turns of the floor, and of the floor to the work
};

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
Timing timing_of(Device device, F&& f, double budget = 0.5, size_t fewest = 5, size_t most = 200) {
  f();
  std::vector<double> times;
  for (double total = 0; times.size() < most && (times.size() < fewest || total < budget);) {
    times.push_back(seconds_of(device, f));
    total += times.back();
  }
  std::sort(times.begin(), times.end());
  return {times.front(), times[times.size() / 2]};
}

struct Yardstick {
  double amount = 0;           // of one run: flops, bytes, exponentials
  std::function<void()> run;   // null: not asked for
  Device device = cpu_device;
  double slowest = std::numeric_limits<double>::infinity(), fastest = 0;   // rates so far

  double rate() {   // the better of two runs: the first finds the caches full of the work's data
    const double first = seconds_of(device, run), now = amount / std::min(first, seconds_of(device, run));
    slowest = std::min(slowest, now), fastest = std::max(fastest, now);
    return now;
  }
};

// Turns of the floor, by yardsticks taken there and then, and of at least a fiftieth of a second of the work.
template <class F, class Floor> Timing timing_in_turn(F&& f, Floor&& floor) {
  constexpr double kTurn = 0.02, kBudget = 0.6;
  constexpr size_t kFewest = 7;
  f();
  std::vector<double> times, floors, ratios;
  for (double total = 0; ratios.size() < kFewest || total < kBudget;) {
    floors.push_back(floor());
    double least = std::numeric_limits<double>::infinity();
    for (double turn = 0; turn < kTurn;) {
      times.push_back(seconds_of(cpu_device, f));
      least = std::min(least, times.back()), turn += times.back(), total += times.back();
    }
    ratios.push_back(floors.back() / least);
  }
  for (auto* x : {&times, &floors, &ratios}) std::sort(x->begin(), x->end());
  const auto middle = [](const std::vector<double>& x) { return x[x.size() / 2]; };
  return {times.front(), middle(times), middle(floors), middle(ratios)};
}

}  // namespace ttr
