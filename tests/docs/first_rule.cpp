// An inner optimizer of your own, whole (docs/5-your-own-ingredient.md): a rule, a recipe with it, its derivatives checked, and a task where it should help.
#include <cmath>
#include <fmt/core.h>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/recipes.hpp>
using namespace ttr;

struct Limited {   // p = p - step_size limit tanh(g / limit)
  static constexpr const char* name = "limited";
  static constexpr int memories = 0;
  double limit = 1;
  void each(auto&& f) { f("limit", limit); }
  template <class X, class R> void operator()(X& p, const X& g, const R& rate) const {
    using std::tanh;
    p = p - rate.step_size * (limit * tanh(g / limit));
  }
};

int main() {
  const Recipe plain{EvenWeights{}, LinearMap{}, Descend<Sgd>{}, {.read = Read::strict}};
  const Recipe mine{EvenWeights{}, LinearMap{}, Descend<Limited>{.rule = Limited{.limit = 0.3}}, {.read = Read::strict}};
  fmt::print("{}\nreads", mine.text());
  for (const Slot& s : mine.slots()) fmt::print(" {}", s.name);

  // v = A k, but every eighth value is wild. Each answer is a prediction of A k_t from the pairs before t.
  const Options f64{.dtype = Dtype::f64};
  const int64_t B = 8, T = 64, K = 6;
  const Tensor k = l2_norm(normal({B, T, 1, K}, 1, 0, 0, 1, f64)), a = normal({1, 1, K, K}, 1, 1, 0, 1, f64);
  const Tensor clean = matmul(k, broadcast_to(a, {B, T, K, K}));
  const Tensor wild = where(less(uniform({B, T, 1, 1}, 1, 2, 0, 1, f64), full({}, 0.125, f64)), normal({B, T, 1, K}, 1, 3, 0, 30, f64), zeros({}, f64));
  const auto error = [&](const Recipe& recipe) {
    const Tensor y = fold(recipe, {.slots = {{"q", k}, {"k", k}, {"v", clean + wild}, {"step_size", full({B, T, 1}, 0.7, f64)}}}).y;
    return (sum(square(y - clean)) / sum(square(clean))).item();
  };
  fmt::print("\nerror of the delta rule {:.2f}, of yours {:.2f}\n", error(plain), error(mine));

  // Through the learner: the derivative of the answers by everything the recipe reads, against differences.
  const Tensors inputs{normal({1, 5, 1, 3}, 2, 0, 0, 1, f64), normal({1, 5, 1, 3}, 2, 1, 0, 1, f64), normal({1, 5, 1, 2}, 2, 2, 0, 1, f64),
                       uniform({1, 5, 1}, 2, 3, 0.1, 0.9, f64)};
  const auto layer = [&](const Tensors& x) { return Tensors{fold(mine, {.slots = {{"q", x[0]}, {"k", x[1]}, {"v", x[2]}, {"step_size", x[3]}}}).y}; };
  const bool right = check_grad(layer, inputs).within(1e-7);
  fmt::print("derivatives agree with differences: {}\n", right);
  return right && error(mine) < error(plain) ? 0 : 1;
}
