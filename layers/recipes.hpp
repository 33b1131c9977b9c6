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
extern const Recipe softmax_attention, qknorm_attention, linear_attention, simple_gla, gla, delta_net, gated_delta_net, l2_sgd, longhorn, mesa, titans;
}

}  // namespace ttr
