// Regression weights: forgetting as a step, and as numbers.
#include <ttr/core/ops.hpp>
#include <ttr/layers/weights.hpp>

namespace ttr {

namespace {
Tensor column(const Tensor& x) { return reshape(x, {x.count(), 1}); }   // [N] -> [N, 1]

Tensor ones_of(const View& view) { return ones({view.rows(), view.count()}, view.options()); }

// x [N] against p [N, ...]
Tensor per_row(const Tensor& x, const Tensor& p) {
  Shape s{x.size(0)};
  while (s.rank() < p.rank()) s.push_back(1);
  return reshape(x, s);
}
}  // namespace

std::vector<Slot> EvenWeights::slots() const { return {unread("q"), unread("k")}; }
Weighing EvenWeights::weigh(const View& view) const { return {.relative = ones_of(view)}; }

Tensor log_products(const View& view, std::string_view slot) {
  const Tensor g = view.all(slot);                                  // [N, pairs]; every pair of a token shows its token's value
  Tensor newer = cumsum(g, 1, true) - g;                            // sum over later pairs
  if (view.writes() == 1) return newer;
  Tensors sums;                                                     // with several writes a token, count each later token once
  Tensor sum = zeros({view.rows()}, view.options());
  for (int64_t token = (view.pairs() - 1) / view.writes(); token >= view.token_of(view.first()); --token) {
    for (int64_t j = 0; j < view.writes(); ++j) sums.push_back(sum);
    sum = sum + view.pair(slot, token * view.writes());
  }
  return reverse(stack(sums, 1), 1);
}

std::vector<Slot> GeometricWeights::slots() const {
  std::vector<Extent> shape;
  if (per == Decay::channel) shape = {{key_size, 1, phase ? 2 : 1}};
  if (per == Decay::value) shape = {{value_size, 1, phase ? 2 : 1}};
  if (per == Decay::entry) shape = {value_size, key_size};
  const Per when = fixed ? Per::head : Per::token;
  std::vector<Slot> list{unread("q"), unread("k")};
  if (per == Decay::product) {
    list.push_back({"delta", Per::token, {value_size}, positive, 0.05, true, true, Start::time});
    list.push_back({"rate", Per::head, {value_size, key_size}, positive, 1, true, true, Start::ramp});
  } else {
    const Start start = !fixed ? Start::near : phase ? Start::ring : per == Decay::head ? Start::octaves : Start::near;
    list.push_back({"log_decay", when, shape, log_of_unit, -0.05, true, true, start});
  }
  if (phase) list.push_back({"phase", when, shape, any_value, 0, true, true, fixed ? Start::angle : Start::near});
  if (write == WriteGate::gate) list.push_back({"write_gate", Per::write, {}, unit_interval, 0.5});
  if (write == WriteGate::log) list.push_back({"log_write_gate", Per::write, {}});
  return list;
}

Pack GeometricWeights::discount(const Pack& theta, const Pack&, const View& view, const Shift& shift) const {
  const auto product = [&] {   // [N, V, K]
    const Tensor delta = view.now("delta");
    return -reshape(delta, {delta.size(0), delta.size(1), 1}) * view.head("rate");
  };
  Tensor g = per == Decay::product ? product() : view.now("log_decay");
  if (shift.after.defined()) g = g + (shift.before - shift.after);
  const Tensor a = exp(g);
  Pack next = theta;
  for (auto& part : next.parts) {
    const std::string& name = part.first;
    Tensor& p = part.second;
    if (per == Decay::head) {
      p = p * per_row(a, p);
      continue;
    }
    const bool matrix = p.rank() == 3;   // memory [N, V, P]; a normalizer [N, P] forgets with the channels, a value [N, V] with itself
    const bool channels = matrix || name == "normalizer";
    if (per == Decay::value && !matrix && channels) continue;
    const bool entries = per == Decay::entry || per == Decay::product;
    if (entries && matrix) {
      p = p * a;
      continue;
    }
    if (entries || (per == Decay::channel && !channels))
      throw refuse("geometric", "{} has shape {} and the decay is per {}, needs a memory [N, V, K]", name, to_string(p.shape()),
                   entries ? "entry" : "channel");
    const int axis = per == Decay::value ? 1 : p.rank() - 1;
    const auto along = [&](const Tensor& x) {
      return axis == p.rank() - 1 && matrix ? reshape(x, {x.size(0), 1, x.size(1)})
             : axis == 1 && matrix          ? reshape(x, {x.size(0), x.size(1), 1})
                                            : x;
    };
    if (!phase) {
      if (a.size(-1) != p.size(axis))
        throw refuse("geometric", "log_decay has {} channels, the memory has {}, needs as many; features change their number", a.size(-1), p.size(axis));
      p = p * along(a);
      continue;
    }
    const int64_t half = p.size(axis) / 2;
    const Tensor re = slice(p, axis, 0, half), im = slice(p, axis, half, 2 * half);
    const Tensor c = along(a * cos(view.now("phase"))), s = along(a * sin(view.now("phase")));
    p = concat({re * c - im * s, re * s + im * c}, axis);           // (re + i im) a e^{i phase}
  }
  return next;
}

Weighing GeometricWeights::weigh(const View& view) const {
  const Tensor g = log_products(view, "log_decay");
  Tensor relative = exp(g);
  if (write == WriteGate::gate) relative = relative * view.all("write_gate");
  Weighing w{.relative = relative};
  if (view.count()) w.prior = reshape(exp(slice(g, 1, 0, 1) + column(view.pair("log_decay", view.first()))), {view.rows()});
  return w;
}

Tensor GeometricWeights::strength(const View& view, int64_t i, const Shift& shift) const {
  if (write == WriteGate::gate) return view.pair("write_gate", i);
  if (write == WriteGate::log) return exp(view.pair("log_write_gate", i) - shift.after);
  if (write == WriteGate::delta) {
    if (per != Decay::product) throw refuse("geometric", "write is delta and the decay has none, needs per=product");
    return view.pair("delta", i);   // [N, V]
  }
  if (write == WriteGate::tied) {
    if (phase || (per != Decay::head && per != Decay::value)) throw refuse("geometric", "write is tied, needs a real decay per head or per value");
    return -expm1(view.pair("log_decay", i));
  }
  return {};
}

Tensor GeometricWeights::next_scale(const Tensor& log_scale, const View& view) const {
  if (write != WriteGate::log) return {};
  Tensor m = view.now("log_decay") + (log_scale.defined() ? log_scale : zeros({view.rows()}, view.options()));
  for (int64_t i = view.pairs() - view.writes(); i < view.pairs(); ++i) m = maximum(m, view.pair("log_write_gate", i));
  return m;
}

std::vector<Slot> WeightDecay::slots() const {
  return {unread("q"), unread("k"), {"step_size", Per::write, {}, unit_interval, 0.5}, {"weight_decay", Per::token, {}, unit_interval, 0.05}};
}
Pack WeightDecay::discount(const Pack& theta, const Pack&, const View& view, const Shift&) const {
  const Tensor a = 1.0 - view.now("step_size") * view.now("weight_decay");
  Pack next = theta;
  for (auto& [name, p] : next.parts) p = p * per_row(a, p);
  return next;
}

std::vector<Slot> KernelWeights::slots() const {
  std::vector<Slot> list;
  if (kernel == Kernel::gaussian) list.push_back({"bandwidth", Per::head, {}, positive, 1, true, true, Start::root});
  if (temperature) list.push_back({"temperature", Per::head, {}, positive, 10});
  if (forget) list.push_back({"log_decay", Per::token, {}, log_of_unit, -0.05});
  if (norm_weights)
    list.push_back({"q_norm_weight", Per::head, {key_size}, any_value, 1}),
        list.push_back({"k_norm_weight", Per::head, {key_size}, any_value, 1});
  return list;
}

Weighing KernelWeights::weigh(const View& view) const {
  const auto row = [](const Tensor& x) { return reshape(x, {x.size(0), 1, x.size(1)}); };   // [N, K] -> [N, 1, K]
  Tensor q = row(view.now("q")), k = view.all("k");                                         // k [N, pairs, K]
  if (norm_weights) q = q * row(view.head("q_norm_weight")), k = k * row(view.head("k_norm_weight"));
  Tensor logits;
  if (kernel == Kernel::exponential) logits = sum(k * q, 2);
  else logits = column(-0.5 / square(view.head("bandwidth"))) * sum(square(k - q), 2);
  if (const double s = scale.at(view.key_dim()); s != 1) logits = logits * s;
  if (temperature) logits = logits * column(view.head("temperature"));
  if (forget) logits = logits + log_products(view, "log_decay");
  return from_logits(logits);
}

Weighing from_logits(const Tensor& logits) {
  const Tensor largest = max(logits, 1);
  return {.relative = exp(logits - column(largest)), .log_scale = largest};
}

namespace detail {
template const WeightsModel* hold<WeightsHolder<EvenWeights>>(EvenWeights);
template const WeightsModel* hold<WeightsHolder<GeometricWeights>>(GeometricWeights);
template const WeightsModel* hold<WeightsHolder<KernelWeights>>(KernelWeights);
template const WeightsModel* hold<WeightsHolder<WeightDecay>>(WeightDecay);
}  // namespace detail

}  // namespace ttr
