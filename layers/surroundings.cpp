// The usual surroundings of each published recipe.
#include <string_view>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/surroundings.hpp>

namespace ttr {
namespace {

struct Usual {
  std::string_view name;
  Surroundings around;
};
constexpr Surroundings kDelta{.conv = 4, .key_norm = KeyNorm::l2, .output_norm = true};
constexpr Surroundings kGated{.decay_temper = 16, .output_norm = true, .output_gate = true};
constexpr Surroundings kTimed{.conv = 4, .key_norm = KeyNorm::l2, .timed_decay = true, .output_norm = true, .output_gate = true};
constexpr Surroundings kSolved{.conv = 4, .conv_value = false, .key_norm = KeyNorm::l2, .output_norm = true};

// The first whose ingredients are the recipe's; what several published layers share differs in the reading alone.
constexpr Usual kUsual[] = {
    {"mesa", kSolved},
    {"mesa_net", kSolved},
    {"gla", {.decay_temper = 16, .gate_rank = 16, .output_norm = true, .output_gate = true}},
    {"simple_gla", kGated},
    {"delta_net", kDelta},
    {"gated_delta_net", kTimed},
    {"longhorn", kDelta},
    {"l2_sgd", kDelta},
    {"kimi_delta_attention", kTimed},
};

}  // namespace

Surroundings usual_surroundings(const Recipe& recipe) {
  for (const Usual& usual : kUsual)
    for (const Published& p : published_recipes())
      if (p.name == usual.name && p.recipe.weights() == recipe.weights() && p.recipe.function() == recipe.function() && p.recipe.optimizer() == recipe.optimizer()) {
        Surroundings around = usual.around;
        if (recipe.reading().key_norm != KeyNorm::none) around.key_norm = KeyNorm::none;
        return around;
      }
  if (const auto* kernel = recipe.weights().ask<KernelWeights>()) return {.rotary = !kernel->forget};   // attention; what forgets knows its positions
  return {.key_norm = recipe.reading().key_norm == KeyNorm::none ? KeyNorm::l2 : KeyNorm::none, .output_norm = true};
}

}  // namespace ttr
