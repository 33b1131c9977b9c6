// Recipes of kernel weights beside the published ones, each option in turn and some together, over constants and over lines: the kernels of
// the stem `softmax_attention` against fold. tests/parity.hpp says how the published ones are; kernel_weights.cpp and cuda_kernel_weights.cpp
// run the same body.
#pragma once
#include <ttr/layers/vocabulary.hpp>

#include "parity.hpp"

namespace ttr::kernel_weights {

using parity::Scenario;

inline const std::vector<const char*>& recipes() {
  static const std::vector<const char*> all{
      "kernel[kernel=gaussian,scale=0.5] / constant / exact",
      "kernel[kernel=gaussian,forget=true] / constant / exact / reading[scale=0.7]",
      "kernel[kernel=gaussian,temperature=true,norm_weights=true] / constant / exact",
      "kernel[temperature=true,forget=true,norm_weights=true,scale=0.5] / constant / exact / reading[read=strict]",
      "kernel[forget=true] / constant / exact / reading[scale=rsqrt,key_norm=l2]",
      "kernel[scale=0.3] / polynomial / exact[ridge=constant]",
      "kernel[temperature=true] / polynomial / exact[ridge=constant] / reading[read=strict,key_norm=l2]",
      "kernel[kernel=gaussian] / polynomial / exact[ridge=relative]",
      "kernel[forget=true,temperature=true,scale=0.3] / polynomial / exact[ridge=relative] / reading[scale=0.7]",
      "kernel[kernel=gaussian,forget=true,temperature=true] / polynomial / exact[ridge=relative] / reading[read=strict]",
  };
  return all;
}

// Lines are solved directly up to K = 16 on the CPU, and by conjugate gradients beyond.
inline const std::vector<Scenario>& shapes() {
  static const std::vector<Scenario> all{
      {.batch = 2, .tokens = 1, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 5, .value_dim = 3},
      {.batch = 1, .tokens = 1, .heads = 2, .key_heads = 2, .value_heads = 1, .key_dim = 17, .value_dim = 1, .carried = 5},
      {.batch = 1, .tokens = 67, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 16, .value_dim = 7, .carried = 3},
      {.batch = 1, .tokens = 67, .heads = 2, .key_heads = 2, .value_heads = 1, .key_dim = 19, .value_dim = 9},
      {.batch = 2, .tokens = 33, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 9, .value_dim = 11, .segments = true, .want_state = false},
      {.batch = 1, .tokens = 70, .heads = 2, .key_heads = 2, .value_heads = 2, .key_dim = 21, .value_dim = 5, .carried = 2, .segments = true,
       .want_state = false},
  };
  return all;
}

inline int compare(Device device, const std::vector<Dtype>& dtypes, const char* of_constants, const char* of_lines) {
  const parity::FreshMemoryNan nan;
  uint64_t seed = 900;
  int runs = 0;
  for (const char* text : recipes())
    for (const Scenario& scenario : shapes()) {
      const Recipe recipe = parse_recipe(text);
      const char* route = recipe.function().ask<Constant>() ? of_constants : of_lines;
      const parity::Call drawn = parity::draw(recipe, scenario, ++seed);
      for (const Dtype dtype : dtypes) {
        const parity::Call call = parity::rounded(drawn, dtype);
        const std::string where = fmt::format("{} {} {} {} seed {}", route, name_of(dtype), text, scenario.text(), seed);
        try {
          const parity::Parts want = parity::evaluate(call, Dtype::f64, cpu_device, [&](const Arguments& a) { return fold(recipe, a); });
          const parity::Parts got = parity::evaluate(call, dtype, device, [&](const Arguments& a) { return remember(recipe, a, route); });
          const double bound = dtype == Dtype::f64 ? 1e-9 : dtype == Dtype::f32 ? 5e-5 : 6.0 / 256;
          const std::string off = parity::mismatch(got, want, where, [&](const std::string& name) {
            return dtype == Dtype::bf16 && name == "dtemperature" ? parity::kNarrowTemperatureBound : bound;
          });
          CHECK_MESSAGE(off.empty(), off);
        } catch (const std::exception& e) {
          FAIL_CHECK(where << ": " << std::string(e.what()));
        }
        ++runs;
      }
    }
  return runs;
}

}  // namespace ttr::kernel_weights
