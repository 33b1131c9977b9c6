// A Profile as a table for people: operations by time, a step's phases apart, and how close its matrix products come to what this machine can do.
#pragma once
#include <string>
#include <vector>
#include <ttr/apps/bench_timer.hpp>
#include <ttr/core/profile.hpp>

namespace ttr {

// The rate of a large product here, taken between steps: the clock of a shared machine differs from one second to the next.
class ProductRate {
 public:
  explicit ProductRate(Options);
  void take();
  double median() const;   // flop/s

 private:
  Yardstick product_;
  std::vector<double> rates_;
};
std::string profile_table(Profile&, int64_t steps, double product_rate);   // of that many steps

}  // namespace ttr
