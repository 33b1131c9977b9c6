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
// An inner branch of twice the width, cut into pieces of 4 for q, k and v; D one a channel (arXiv 2405.04517).
constexpr Surroundings kXlstm{.conv = 4, .output_norm = true, .output_gate = true, .conv_bias = true, .skip = true, .expand = 2, .constant_gates = true,
                              .group_norm = true, .inner = 4};
// The block of xLSTM 7B (arXiv 2503.13427), in which mLSTM with a sigmoid for its write gate was tried (arXiv 2503.14376): no branch, K = V / 2.
constexpr Surroundings kXlstm7B{.output_norm = true, .norm_eps = 1e-6, .output_gate = true, .key_share = 2, .constant_gates = true, .constant_write = -10,
                                .gate_cap = 15, .sigmoid_gate = true, .group_norm = true};
// One mixture for each of r, k, v, g and w; the norm's eps is 1e-5 times 8^2 (arXiv 2404.05892).
constexpr Surroundings kRwkv6{.gate_rank = 64, .output_norm = true, .norm_eps = 64e-5, .output_gate = true, .group_norm = true, .norm_bias = true,
                              .shift = true, .shift_rank = 32, .exponential_decay = true};
// dt, B and C from the convolved value, B and C for all channels, the state K = 16 (arXiv 2312.00752; 2407.14207 wraps its memory in the same).
constexpr Surroundings kMamba{.conv = 4, .gate_rank = -16, .output_gate = true, .conv_bias = true, .from_value = true, .one_query = true, .skip = true,
                              .key_dim = 16, .expand = 2};
constexpr Surroundings kLonghorn{.conv = 4, .gate_rank = -16, .output_gate = true, .conv_bias = true, .from_value = true, .one_query = true, .skip = true,
                                 .unit_step = true, .key_dim = 16, .expand = 2};
// What MesaNet forgets begins at a half: its gate has a plain bias (arXiv 2506.05233).
constexpr Surroundings kSolved{.conv = 4, .conv_value = false, .key_norm = KeyNorm::l2, .output_norm = true, .even_decay = true};

constexpr Usual kUsual[] = {
    {"forgetting_attention", {.even_decay = true}},   // what forgets knows its positions; b_f = 0 (arXiv 2503.02130)
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
    {"hgrn2", {.output_norm = true, .joint_norm = true, .decay_floor = true, .silu_query = true, .gate_bias = false}},
    {"hgrn", {.output_norm = true, .output_gate = true, .joint_norm = true, .active_value = true, .decay_floor = true, .gate_bias = false}},
    {"gateloop", kGated},
    {"lru", {.ring = true}},
    {"mamba", kMamba},
    {"mamba2", kMamba2},
    {"mamba3", {.timed_decay = true, .output_norm = true, .output_gate = true}},
    {"rwkv6", kRwkv6},
    {"mlstm", kXlstm},
    {"mlstm_sigmoid", kXlstm7B},
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
  around.output_norm = around.output_gate = around.group_norm = around.norm_bias = around.sigmoid_gate = around.shift = false;
  around.norm_eps = Surroundings{}.norm_eps, around.shift_rank = 0;
  if (around.inner > 0) around.inner = 0, around.expand = 1, around.skip = around.conv_bias = false;
  return around;
}

}  // namespace ttr
