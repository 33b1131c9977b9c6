// Regression weights: gamma_i, how much pair i matters at time t.
#pragma once
#include <ttr/layers/recipe.hpp>

namespace ttr {

// gamma_i = 1.
struct EvenWeights {
  static constexpr const char* name = "even";
  std::vector<Slot> slots() const;
  Pack discount(const Pack& theta, const Pack&, const View&, const Shift&) const { return theta; }
  Weighing weigh(const View&) const;
};

// gamma_i = w_i prod_{s > i} a_s with a_s = exp(log_decay_s) (arXiv 2312.06635). Per head the decay is a weight; per channel, value or entry it is
// the weight decay of a regression whose columns, rows or entries each forget at their own rate, so only a step on the parameters.
//   product   a = exp(-delta rate): the slot delta [T, V], how long a token lasts, and rate [V, K], learned once (Mamba)
enum class Decay { head, channel, value, entry, product };   // log_decay [T], [T, K], [T, V], [T, V, K]; product has none
enum class WriteGate {
  none,
  gate,
  log,
  tied,
  delta
};   // w_i: 1, the slot write_gate in [0, 1], exp of the unbounded slot log_write_gate (mLSTM), 1 - a_i (HGRN), or the slot delta (Mamba)
template <> struct NamesOf<Decay> {
  static constexpr Naming<Decay> names[] = {
      {Decay::head, "head"}, {Decay::channel, "channel"}, {Decay::value, "value"}, {Decay::entry, "entry"}, {Decay::product, "product"}};
};
template <> struct NamesOf<WriteGate> {
  static constexpr Naming<WriteGate> names[] = {
      {WriteGate::none, "none"}, {WriteGate::gate, "gate"}, {WriteGate::log, "log"}, {WriteGate::tied, "tied"}, {WriteGate::delta, "delta"}};
};
struct GeometricWeights {
  static constexpr const char* name = "geometric";
  Decay per = Decay::head;
  WriteGate write = WriteGate::none;
  bool phase = false;   // channels (or values) are pairs (j, j + half) that also rotate by the slot `phase`: a complex decay (arXiv 2311.01927, 2303.06349)
  bool fixed = false;   // log_decay and phase are numbers of a head, the same at every token (LRU, RetNet)
  void each(auto&& f) { f("per", per), f("write", write), f("phase", phase), f("fixed", fixed); }

  std::vector<Slot> slots() const;
  bool can_weigh() const { return per == Decay::head && !phase && (write == WriteGate::none || write == WriteGate::gate); }
  Pack discount(const Pack& theta, const Pack& initial, const View&, const Shift&) const;
  Weighing weigh(const View&) const;
  Tensor strength(const View&, int64_t i, const Shift&) const;
  Tensor next_scale(const Tensor& log_scale, const View&) const;
};

// The weight decay of stochastic gradient descent with an L2 penalty (arXiv 2501.12352): a_t = 1 - step_size_t weight_decay_t, which may be negative.
// The talk says this is Gated DeltaNet after a reparameterisation; that holds with alpha = a, beta' = beta / a and the value rescaled, v' = a v
// (docs/3-three-ingredients.md), and is singular where step_size weight_decay = 1. Here it is itself.
struct WeightDecay {
  static constexpr const char* name = "weight_decay";
  std::vector<Slot> slots() const;
  Pack discount(const Pack& theta, const Pack& initial, const View&, const Shift&) const;
};

// gamma_i = kernel(k_i, q_t): large where the key is near the query.
//   exponential   exp(k . q)                          (scale comes from the reading)
//   gaussian      exp(-|k - q|^2 / (2 bandwidth^2))   slot bandwidth, one a head
// scale: of the logits, where the function class must see q as it is (local polynomials); else the reading's scale says the same.
// norm_weights: q and k times the learned slots q_norm_weight and k_norm_weight, after the reading's key norm (arXiv 2302.05442).
// temperature: logits times a learned slot, one a head (arXiv 2010.04245). forget: times prod a_s (arXiv 2503.02130).
enum class Kernel { exponential, gaussian };
template <> struct NamesOf<Kernel> {
  static constexpr Naming<Kernel> names[] = {{Kernel::exponential, "exponential"}, {Kernel::gaussian, "gaussian"}};
};
struct KernelWeights {
  static constexpr const char* name = "kernel";
  Kernel kernel = Kernel::exponential;
  bool temperature = false;
  bool forget = false;
  bool norm_weights = false;
  Scale scale{};
  void each(auto&& f) { f("kernel", kernel), f("temperature", temperature), f("forget", forget), f("norm_weights", norm_weights), f("scale", scale); }

  std::vector<Slot> slots() const;
  Weighing weigh(const View&) const;   // relative to the largest: log_scale is the largest logit
};

Weighing from_logits(const Tensor& logits);   // [N, pairs]; relative to the largest

// Sums of log_decay: element i is log prod_{i < s <= t} a_s for the visible pairs i, [N, pairs]; the last column is 0.
Tensor log_products(const View&, std::string_view slot);

namespace detail {
extern template const WeightsModel* hold<WeightsHolder<EvenWeights>>(EvenWeights);
extern template const WeightsModel* hold<WeightsHolder<GeometricWeights>>(GeometricWeights);
extern template const WeightsModel* hold<WeightsHolder<KernelWeights>>(KernelWeights);
extern template const WeightsModel* hold<WeightsHolder<WeightDecay>>(WeightDecay);
}  // namespace detail

}  // namespace ttr
