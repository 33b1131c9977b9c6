// ttr plan: which kernel says a recipe at these sizes, and why those before it do not.
#pragma once
#include <cstdint>
#include <string>

namespace ttr {

struct PlanOptions {
  std::string recipe, route, device = "cpu", dtype = "f32";
  int64_t batch = 1, tokens = 1024, heads = 1, key_heads = 0, value_heads = 0, key_dim = 64, value_dim = 64;   // 0 heads of keys or values: as many as heads
  bool inference = false;
};
int print_plan(const PlanOptions&);

}  // namespace ttr
