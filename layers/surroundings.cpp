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
constexpr Surroundings kNormed{.output_norm = true};
constexpr Surroundings kGated{.output_norm = true, .output_gate = true};
constexpr Surroundings kDelta{.conv = 4, .key_norm = KeyNorm::l2, .output_norm = true};
constexpr Surroundings kTimed{.conv = 4, .key_norm = KeyNorm::l2, .timed_decay = true, .output_norm = true, .output_gate = true};
// C, B and u each convolved, one B and C for all heads, K = 128, the gate inside one norm of all heads (arXiv 2405.21060).
constexpr Surroundings kMamba2{.conv = 4, .timed_decay = true, .output_norm = true, .output_gate = true, .joint_norm = true, .conv_bias = true,
                               .one_query = true, .skip = true, .key_dim = 128, .expand = 2, .scaled_value = true, .head_skip = true,
                               .gate_before_norm = true};
constexpr Surroundings kXlstm{.conv = 4, .conv_value = false, .output_norm = true, .output_gate = true, .constant_gates = true, .gate_cap = 15};
// dt, B and C from the convolved value, B and C for all channels, the state K = 16 (arXiv 2312.00752; 2407.14207 wraps its memory in the same).
constexpr Surroundings kMamba{.conv = 4, .gate_rank = -16, .output_gate = true, .conv_bias = true, .from_value = true, .one_query = true, .skip = true,
                              .key_dim = 16, .expand = 2};
constexpr Surroundings kLonghorn{.conv = 4, .gate_rank = -16, .output_gate = true, .conv_bias = true, .from_value = true, .one_query = true, .skip = true,
                                 .unit_step = true, .key_dim = 16, .expand = 2};
constexpr Surroundings kSolved{.conv = 4, .conv_value = false, .key_norm = KeyNorm::l2, .output_norm = true};

constexpr Usual kUsual[] = {
    {"path_attention", {}},   // its products of reflections know the positions
    {"mesa", kSolved},
    {"mesa_net", kSolved},
    {"mesa_net_cg", kSolved},
    {"linear_attention", kNormed},          // plain projections; a normaliser of the recipe's own needs no other norm
    {"normalised_linear_attention", {}},
    {"relu_linear_attention", {}},
    {"cosformer", {}},
    {"based", {}},
    {"rebased", {}},
    {"hedgehog", {}},
    {"hedgehog_joint", {}},
    {"performer", {}},
    {"rfa", {}},
    {"gated_rfa", {}},
    {"dijiang", kGated},
    {"retnet", {.rotary = true, .output_norm = true, .output_gate = true, .expand = 2, .frozen_decay = true}},
    {"simple_gla", {.decay_temper = 16, .output_norm = true, .output_gate = true, .even_decay = true}},
    {"gla", {.decay_temper = 16, .gate_rank = 16, .output_norm = true, .output_gate = true, .key_share = 2, .even_decay = true}},
    {"hgrn2", {.output_norm = true, .joint_norm = true, .even_decay = true, .decay_floor = true, .silu_query = true}},
    {"hgrn", {.output_norm = true, .output_gate = true, .joint_norm = true, .active_value = true, .even_decay = true, .decay_floor = true}},
    {"gateloop", kGated},
    {"lru", {.ring = true}},
    {"mamba", kMamba},
    {"mamba2", kMamba2},
    {"mamba3", {.timed_decay = true, .output_norm = true, .output_gate = true}},
    {"rwkv6", kGated},
    {"mlstm", kXlstm},
    {"mlstm_sigmoid", kXlstm},
    {"delta_net", kDelta},
    {"delta_net_negative", kDelta},
    {"gated_delta_net", kTimed},
    {"kda", kTimed},
    {"gdn2", kTimed},
    {"comba", kTimed},
    {"rwkv7", {.key_norm = KeyNorm::l2, .output_norm = true, .output_gate = true}},
    {"gated_delta_product", kTimed},
    {"delta_product", kDelta},
    {"longhorn", kDelta},
    {"longhorn_diagonal", kLonghorn},
    {"l2_sgd", kDelta},
    {"preconditioned_delta", kTimed},
    {"preconditioned_kda", kTimed},
    {"momentum_delta", kTimed},
    {"ttt_linear", kNormed},
    {"ttt_mlp", kNormed},
    {"titans", kDelta},
};

bool same_ingredients(const Recipe& a, const Recipe& b) {
  return a.weights() == b.weights() && a.function() == b.function() && a.optimizer() == b.optimizer();
}

Surroundings with_one_norm(Surroundings around, const Recipe& recipe) {   // the recipe's own key norm stands alone
  if (recipe.reading().key_norm != KeyNorm::none) around.key_norm = KeyNorm::none;
  return around;
}

}  // namespace

Surroundings usual_surroundings(const Recipe& recipe) {
  for (const bool reading_too : {true, false})   // some published layers differ from each other in the reading alone
    for (const Usual& usual : kUsual) {
      const Recipe& known = published(std::string(usual.name)).recipe;
      if (reading_too ? known == recipe : same_ingredients(known, recipe)) return with_one_norm(usual.around, recipe);
    }
  if (const auto* kernel = recipe.weights().ask<KernelWeights>())
    return {.rotary = !kernel->forget};   // attention; what forgets knows its positions
  return with_one_norm({.key_norm = KeyNorm::l2, .output_norm = true}, recipe);
}

Surroundings core_of(Surroundings around) {
  around.conv = 0;
  around.output_norm = around.output_gate = false;
  return around;
}

}  // namespace ttr
