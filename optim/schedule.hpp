// The step size as a function of the step, and of nothing else: a resumed run continues where it was.
//
//   f(s) = (s + 1) / warmup                                                     s < warmup
//   constant   1
//   cosine     floor + (1 - floor) (1 + cos(pi x)) / 2,   x = (s - warmup) / (schedule_steps - warmup), at most 1      (arXiv 1608.03983)
//   wsd        1 until the last `cooldown` of schedule_steps, then a line down to floor                                (arXiv 2404.06395)
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <ttr/core/error.hpp>

namespace ttr {

enum class ScheduleKind { constant, cosine, wsd };

inline ScheduleKind schedule_kind(std::string_view name) {
  if (name == "constant") return ScheduleKind::constant;
  if (name == "cosine") return ScheduleKind::cosine;
  if (name == "wsd") return ScheduleKind::wsd;
  throw refuse("schedule", "name is {}, needs constant, cosine or wsd", name);
}

struct Schedule {
  double rate = 1e-3;              // the highest
  ScheduleKind kind = ScheduleKind::constant;
  int64_t warmup = 0;              // steps
  int64_t schedule_steps = 0;      // of the whole run; cosine and wsd need it
  double floor = 0;                // the last rate as a share of the highest
  double cooldown = 0.2;           // wsd: the share of schedule_steps spent going down

  double operator()(int64_t step) const {
    if (kind != ScheduleKind::constant && schedule_steps <= warmup)
      throw refuse("schedule", "schedule_steps is {}, needs more than the warmup of {}; only a constant schedule has no end",
                   schedule_steps, warmup);
    if (step < warmup) return rate * double(step + 1) / double(warmup);
    if (kind == ScheduleKind::cosine) {
      const double x = std::min(1.0, double(step - warmup) / double(schedule_steps - warmup));
      return rate * (floor + (1 - floor) * 0.5 * (1 + std::cos(3.14159265358979323846 * x)));
    }
    if (kind == ScheduleKind::wsd) {
      const double length = std::clamp(cooldown * double(schedule_steps), 1.0, double(schedule_steps - warmup));
      const double x = std::clamp((double(step) - (double(schedule_steps) - length)) / length, 0.0, 1.0);
      return rate * (1 - (1 - floor) * x);
    }
    return rate;
  }
};

}  // namespace ttr
