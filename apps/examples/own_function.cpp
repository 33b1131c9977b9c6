// A function class of our own: products of the key's entries. A context of examples (a, b, c) -> a mixture of all their products is a task that
// no linear memory can do and that this one solves, with the optimizers that are there already: by gradient steps, or exactly.
#include <ttr/core/ops.hpp>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/weights.hpp>
using namespace ttr;

struct Products {   // m(k) = A vec(k k^T), A [V, K K]
  static constexpr const char* name = "products";
  std::vector<Slot> slots() const { return {}; }
  static Tensor features(const Tensor& k) {   // [..., K] -> [..., K K]
    const int last = k.rank() - 1;
    const int64_t K = k.size(last);
    Shape flat = k.shape();
    flat[last] = K * K;
    return reshape(reshape(k, k.shape().insert(last + 1, 1)) * reshape(k, k.shape().insert(last, 1)), flat);
  }
  // What every optimizer asks for: parameters, the loss of a pair, an answer. [N, ...] is one row a sequence and head.
  Pack init(const View& view) const {
    return {{{"memory", zeros({view.rows(), view.value_dim(), view.key_dim() * view.key_dim()}, view.options())}}};
  }
  Tensor loss(const Pack& theta, const Pack&, const View& view, int64_t i) const {
    return half_square(apply_matrix(theta["memory"], features(view.pair("k", i))) - view.pair("v", i));   // [N]
  }
  Tensor read(const Pack& theta, const View& view, const Tensor&) const { return apply_matrix(theta["memory"], features(view.now("q"))); }   // [N, V]
  // What those ask for that solve: the class is linear in A.
  Design design(const View& view) const {
    return {.phi = features(view.all("k")), .query = reshape(features(view.now("q")), {view.rows(), 1, -1})};   // [N, pairs, P], [N, 1, P]
  }
  Tensor penalty(const View& view, const Tensor& ridge) const {   // ridge [N, 1] -> [N, P, P]
    return reshape(ridge, {view.rows(), 1, 1}) * identity(view.key_dim() * view.key_dim(), view.options());
  }
  Pack solved(const Tensor& solution) const { return {{{"memory", transpose(solution, 1, 2)}}}; }   // [N, P, V] -> [N, V, P]
};

int main() {
  constexpr int64_t B = 16, T = 48, K = 3, V = 2;
  const Tensor k = normal({B, T, 1, K}, 1, 0), mixture = normal({B, K * K, V}, 1, 1);
  const Tensor v = reshape(matmul(reshape(Products::features(k), {B, T, K * K}), mixture), {B, T, 1, V});
  const auto error = [&](const Recipe& recipe) {   // of predictions before each pair is seen, over the last quarter, where guessing zero has 1
    Slots slots{{"q", k}, {"k", k}, {"v", v}};
    for (const Slot& s : recipe.slots())
      if (s.name == "ridge" || s.name == "step_size") slots[s.name] = s.name == "ridge" ? full({1}, 1e-4) : full({B, T, 1}, 0.02);
    const Tensor y = remember(recipe, {.slots = slots}).y;
    const double share = mean(square(slice(y - v, 1, 3 * T / 4, T))).item() / mean(square(slice(v, 1, 3 * T / 4, T))).item();
    fmt::print("{:<48} {:.6f}\n", recipe.text(), share);
    return share;
  };
  const Reading strict{.read = Read::strict};
  const double linear = error(Recipe(EvenWeights{}, LinearMap{}, Exact{.ridge = Ridge::constant}, strict));
  const double stepped = error(Recipe(EvenWeights{}, Products{}, Descend<Sgd>{}, strict));
  const double solved = error(Recipe(EvenWeights{}, Products{}, Exact{.ridge = Ridge::constant}, strict));
  return linear > 0.5 && stepped < 0.5 * linear && solved < 1e-3 ? 0 : 1;
}
