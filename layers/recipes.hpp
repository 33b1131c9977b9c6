// The published recipes, each with its citation. `ttr recipes` prints this table.
#pragma once
#include <ttr/layers/features.hpp>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/recipe.hpp>
#include <ttr/layers/weights.hpp>

namespace ttr {

struct Published {
  std::string name;
  Recipe recipe;
  std::string paper;   // arXiv id, or where it is from
  std::string stem;    // the family of kernels that says it fast, or that will; "" when fold is all there is
};
const std::vector<Published>& published_recipes();
const Published& published(const std::string& name);   // refuses with the nearest name

namespace recipes {
extern const Recipe softmax_attention, qknorm_attention, mesa, linear_attention;
extern const Recipe retnet, simple_gla, gla, hgrn2, hgrn, gateloop, lru, mamba, mamba2, mamba3, rwkv6, mlstm, mlstm_sigmoid, log_linear_attention;
extern const Recipe delta_net, delta_net_negative, gated_delta_net, kda, gdn2, comba, rwkv7, delta_product, gated_delta_product, longhorn, longhorn_diagonal, l2_sgd, preconditioned_delta, preconditioned_kda, oja, momentum_delta;
extern const Recipe ttt_linear, ttt_mlp, titans, titans_strict, titans_lucidrains, lact, lact_muon, omega_net, atlas;
}

}  // namespace ttr
