// How long a piece of work takes: repeated after a warm-up until about half a second has passed, the fewest and the median time. On CUDA between two events of
// the stream, on the CPU by the steady clock.
#pragma once
#include <algorithm>
#include <chrono>
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

template <class F> Timing timing_of(Device device, F&& f, double budget = 0.5, size_t fewest = 5, size_t most = 200) {
  f();
  std::vector<double> times;
  for (double total = 0; times.size() < most && (times.size() < fewest || total < budget);) {
    times.push_back(seconds_of(device, f));
    total += times.back();
  }
  std::sort(times.begin(), times.end());
  return {times.front(), times[times.size() / 2]};
}

}  // namespace ttr
