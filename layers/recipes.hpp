// The published recipes, each with its citation. `ttr recipes` prints this table.
#pragma once
#include <ttr/layers/boost.hpp>
#include <ttr/layers/feature_maps.hpp>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/kernel_expansion.hpp>
#include <ttr/layers/moving_average.hpp>
#include <ttr/layers/nystrom.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/path_weights.hpp>
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
// nonparametric
extern const Recipe softmax_attention, unnormalised_softmax_attention, qknorm_attention, rms_qknorm_attention, nadaraya_watson, local_linear_attention,
    local_quadratic_attention, parallax, forgetting_attention, path_attention, deltaformer, kernel_regression, geometric_kernel_regression, intention, soft,
    soft_newton, skyformer, skyformer_exact;
// least squares
extern const Recipe mesa, mesa_net, mesa_net_cg, weighted_least_squares, decaying_least_squares, refreshed_least_squares, mesa_sgd_steps;
// linear attention and feature maps
extern const Recipe linear_attention, normalised_linear_attention, relu_linear_attention, cosformer, dpfp, silu_linear_attention, polynomial_linear_attention,
    based, rebased, hedgehog, hedgehog_joint, performer, rfa, gated_rfa, dijiang, hadamard_linear_attention;
// gated
extern const Recipe retnet, simple_gla, gla, hgrn2, hgrn, gateloop, lru, mamba, mamba2, mamba3, rwkv6, mlstm, mlstm_sigmoid, log_linear_attention;
// online learners
extern const Recipe delta_net, delta_net_negative, gated_delta_net, kda, gdn2, comba, rwkv7, delta_product, gated_delta_product, longhorn,
    longhorn_diagonal, l2_sgd, preconditioned_delta, preconditioned_kda, oja, momentum_delta;
// nonlinear memories
extern const Recipe ttt_linear, ttt_mlp, titans, titans_strict, titans_lucidrains, lact, lact_muon, omega_net, atlas;
}

}  // namespace ttr
