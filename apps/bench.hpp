// ttr bench: time, floor, ratio, parity first. A row is printed only after the thing it times has agreed with its definition; the floor is the time that
// the machine itself allows, and the ratio is floor / time.
#pragma once
#include <string>

namespace ttr {

struct BenchOptions {
  // all, or one of matmul, op, delta, softmax_attention, normal_equations, fold, train; a stem's name times its routes
  std::string what = "all", device = "cpu";
};
int run_bench(const BenchOptions&);

}  // namespace ttr
