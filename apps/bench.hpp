// ttr bench: time, floor, ratio, parity first. A row is printed only after the thing it times has agreed with its definition; the floor is the time that
// the machine itself allows, and the ratio is floor / time.
#pragma once
#include <string>

namespace ttr {

struct BenchOptions {
  // what: all, or one of matmul, copy, op, fold, train, or a stem, whose routes are timed
  std::string what = "all", device = "cpu";
};
int run_bench(const BenchOptions&);

}  // namespace ttr
