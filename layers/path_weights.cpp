// Path weights: the query walks back through the reflections, newest first.
#include <ttr/core/ops.hpp>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/path_weights.hpp>

namespace ttr {

std::vector<Slot> PathWeights::slots() const {
  std::vector<Slot> list{{"path_key", Per::token, {key_size}}, {"path_step", Per::token, {}, {0, 2}, 1}};
  if (forget) list.push_back({"log_decay", Per::token, {}, log_of_unit, -0.05});
  return list;
}

Weighing PathWeights::weigh(const View& view) const {
  Tensors logits;                                                         // newest first
  Tensor x = view.now("q");                                               // H_{i+1} ... H_t q_t, one reflection at a time
  for (int64_t i = view.pairs() - 1; i >= view.first(); --i) {
    logits.push_back(dot(x, view.pair("k", i)));
    if (i == view.first() || view.token_of(i - 1) == view.token_of(i)) continue;
    const Tensor w = view.pair("path_key", i);
    x = x - w * reshape(view.pair("path_step", i) * dot(x, w), {view.rows(), 1});
  }
  Tensor all = reverse(stack(logits, 1), 1);                              // [N, pairs]
  if (forget) all = all + log_products(view, "log_decay");
  return from_logits(all);
}

}  // namespace ttr
