// Ten Adam steps of a tiny byte model, in f64, whose losses are stored: a change of a gradient anywhere between embedding and cross-entropy
// moves them. The model is written out in operations (embedding, two memories, a head), the optimizer in plain numbers on the host, so that
// nothing but the tensors, the derivatives and the memories is under test. The same numbers are expected on every device and route.
#pragma once
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include <ttr/core/ops.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/recipes.hpp>

namespace ttr::golden {

constexpr int64_t kBatch = 2, kTokens = 33, kHeads = 2, kKey = 4, kValue = 6, kWidth = 12, kAlphabet = 16;
constexpr int kSteps = 10;

// From fold on the CPU.
constexpr double kLosses[kSteps] = {3.240675124164, 2.086147854492, 1.287262980877, 0.926827918252, 0.697507151467,
                                    0.518252503536, 0.389524677109, 0.399517432175, 0.292415252874, 0.302658091190};

struct Routes {
  std::string delta, attention;   // "": what the plan chooses
};

// A sequence with structure to learn: each number follows from the two before it, with a slip now and then.
inline std::vector<int32_t> sequence(int64_t count) {
  std::vector<int32_t> ids{3, 5};
  while (int64_t(ids.size()) < count) {
    const size_t n = ids.size();
    ids.push_back(int32_t((ids[n - 1] + 2 * ids[n - 2] + (n % 11 == 0 ? 5 : 1)) % kAlphabet));
  }
  return ids;
}

inline Tensor loss(const std::map<std::string, Tensor>& p, const Tensor& input, const Tensor& target, const Routes& routes) {
  const auto project = [&](const Tensor& x, const char* weight, int64_t heads, int64_t dim) {
    return reshape(matmul(x, p.at(weight)), {kBatch, kTokens, heads, dim});
  };
  const auto joined = [](const Tensor& y) { return reshape(y, {kBatch, kTokens, kHeads * kValue}); };
  Tensor x = embedding(p.at("embedding"), input);                                          // [B, T, width]

  Tensor h = rms_norm(x, p.at("norm_1"));
  const Tensor gates = matmul(h, p.at("gates"));                                           // [B, T, 2 H]
  const Slots online{{"q", project(h, "q_1", kHeads, kKey)},
                     {"k", l2_norm(project(h, "k_1", 1, kKey))},
                     {"v", project(h, "v_1", kHeads, kValue)},
                     {"step_size", sigmoid(slice(gates, 2, 0, kHeads))},
                     {"log_decay", logsigmoid(slice(gates, 2, kHeads, 2 * kHeads) + 3.0)}};
  x = x + matmul(joined(remember(recipes::gated_delta_net, {.slots = online}, routes.delta).y), p.at("out_1"));

  h = rms_norm(x, p.at("norm_2"));
  const Slots pairs{{"q", rotary(project(h, "q_2", kHeads, kKey))}, {"k", rotary(project(h, "k_2", kHeads, kKey))}, {"v", project(h, "v_2", 1, kValue)}};
  x = x + matmul(silu(joined(remember(recipes::softmax_attention, {.slots = pairs}, routes.attention).y)), p.at("out_2"));

  return cross_entropy(matmul(x, p.at("head")), target);
}

inline std::vector<double> train(Device device, const Routes& routes = {}) {
  const Options options{Dtype::f64, cpu_device};
  const std::vector<std::pair<std::string, Shape>> shapes{
      {"embedding", {kAlphabet, kWidth}}, {"norm_1", {kWidth}}, {"gates", {kWidth, 2 * kHeads}}, {"q_1", {kWidth, kHeads * kKey}},
      {"k_1", {kWidth, kKey}}, {"v_1", {kWidth, kHeads * kValue}}, {"out_1", {kHeads * kValue, kWidth}}, {"norm_2", {kWidth}},
      {"q_2", {kWidth, kHeads * kKey}}, {"k_2", {kWidth, kHeads * kKey}}, {"v_2", {kWidth, kValue}}, {"out_2", {kHeads * kValue, kWidth}},
      {"head", {kWidth, kAlphabet}}};
  struct Weight { std::vector<double> value, first, second; };
  std::map<std::string, Weight> weights;
  uint64_t stream = 0;
  for (const auto& [name, shape] : shapes) {
    std::vector<double> start = (normal(shape, 17, stream++, name.starts_with("norm") ? 1 : 0, 0.3, options)).to_vector<double>();
    weights[name] = {start, std::vector<double>(start.size()), std::vector<double>(start.size())};
  }
  const std::vector<int32_t> ids = sequence(kBatch * (kTokens + 1));
  std::vector<int32_t> input, target;
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t t = 0; t < kTokens; ++t) {
      input.push_back(ids[size_t(b * (kTokens + 1) + t)]);
      target.push_back(t < 2 ? -1 : ids[size_t(b * (kTokens + 1) + t + 1)]);   // the first two cannot be known
    }
  const Tensor inputs = from_vector(input, {kBatch, kTokens}, {Dtype::i32, device}), targets = from_vector(target, {kBatch, kTokens}, {Dtype::i32, device});

  std::vector<double> losses;
  for (int step = 1; step <= kSteps; ++step) {
    std::map<std::string, Tensor> parameters;
    Tensors xs;
    for (const auto& [name, shape] : shapes) xs.push_back(parameters[name] = variable(from_vector(weights[name].value, shape, {Dtype::f64, device})));
    const Tensor value = loss(parameters, inputs, targets, routes);
    losses.push_back(value.item());
    const Tensors d = grad({value}, {}, xs, {.consume = true});
    for (size_t n = 0; n < shapes.size(); ++n) {   // Adam, arXiv 1412.6980
      Weight& w = weights[shapes[n].first];
      const std::vector<double> g = d[n].to_vector<double>();
      for (size_t i = 0; i < g.size(); ++i) {
        w.first[i] = 0.9 * w.first[i] + 0.1 * g[i];
        w.second[i] = 0.99 * w.second[i] + 0.01 * g[i] * g[i];
        w.value[i] -= 0.03 * (w.first[i] / (1 - std::pow(0.9, step))) / (std::sqrt(w.second[i] / (1 - std::pow(0.99, step))) + 1e-8);
      }
    }
  }
  return losses;
}

}  // namespace ttr::golden
