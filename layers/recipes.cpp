// The table. One entry a published layer; the order is that of the reference: attention, least squares, linear, gated, online, nonlinear.
#include <ttr/layers/recipes.hpp>

namespace ttr {
namespace recipes {

const Recipe softmax_attention{KernelWeights{}, Constant{}, Exact{}, {.scale = Scale::rsqrt_key()}};
const Recipe qknorm_attention{KernelWeights{.temperature = true}, Constant{}, Exact{}, {.key_norm = KeyNorm::l2}};
const Recipe mesa{EvenWeights{}, LinearMap{}, Exact{.ridge = Ridge::constant}};
const Recipe linear_attention{EvenWeights{}, LinearMap{}, Descend<Sgd>{.at = initial}};
const Recipe simple_gla{GeometricWeights{}, LinearMap{}, Descend<Sgd>{.at = initial}, {.scale = Scale::rsqrt_key()}};
const Recipe gla{GeometricWeights{.per = Decay::channel}, LinearMap{}, Descend<Sgd>{.at = initial}, {.scale = Scale::rsqrt_key()}};
const Recipe delta_net{EvenWeights{}, LinearMap{}, Descend<Sgd>{.at = previous}};
const Recipe gated_delta_net{GeometricWeights{}, LinearMap{}, Descend<Sgd>{.at = decayed}};
const Recipe longhorn{EvenWeights{}, LinearMap{}, Proximal{}};
const Recipe l2_sgd{WeightDecay{}, LinearMap{}, Descend<Sgd>{.at = previous}};
const Recipe titans{GeometricWeights{}, Mlp{}, Descend<Momentum>{.at = chunk, .chunk = 64}};

}  // namespace recipes

const std::vector<Published>& published_recipes() {
  using namespace recipes;
  static const auto* table = new std::vector<Published>{
      {"softmax_attention", softmax_attention, "arXiv 1706.03762", "softmax_attention"},
      {"qknorm_attention", qknorm_attention, "arXiv 2010.04245", "softmax_attention"},
      {"mesa", mesa, "arXiv 2309.05858", "normal_equations"},
      {"linear_attention", linear_attention, "arXiv 2006.16236", "diagonal_decay"},
      {"simple_gla", simple_gla, "arXiv 2312.06635", "diagonal_decay"},
      {"gla", gla, "arXiv 2312.06635", "diagonal_decay"},
      {"delta_net", delta_net, "arXiv 2102.11174, 2406.06484", "delta"},
      {"gated_delta_net", gated_delta_net, "arXiv 2412.06464", "delta"},
      {"longhorn", longhorn, "arXiv 2407.14207", "delta"},
      {"l2_sgd", l2_sgd, "arXiv 2501.12352", "delta"},
      {"titans", titans, "arXiv 2501.00663", "minibatch_memory"},
  };
  return *table;
}

const Published& published(const std::string& name) {
  std::vector<std::string> names;
  for (const Published& p : published_recipes()) {
    if (p.name == name) return p;
    names.push_back(p.name);
  }
  const std::string near = detail::nearest(name, names);
  throw refuse("recipe", "'{}' is no published recipe, needs one of those that `ttr recipes` prints, or weights / function / optimizer{}", name,
               near.empty() ? "" : "; did you mean '" + near + "'?");
}

}  // namespace ttr
