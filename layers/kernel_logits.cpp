// The logits of every kernel of weights, made from slots and carried pairs; kernel_logits.hpp has the equations.
#include <ttr/core/ops.hpp>
#include <ttr/layers/kernel_logits.hpp>

namespace ttr {

Tensor LogitSetting::visible(int64_t tokens, int64_t keys, Options options) const {
  const auto ids = [](const Tensor& t) { return t.defined() ? t.to_vector<int32_t>() : std::vector<int32_t>(); };
  const auto query_ids = ids(query_segments), key_ids = ids(key_segments);
  const int64_t batch = query_ids.empty() ? 1 : query_segments.size(0);
  std::vector<double> mask(size_t(batch * tokens * keys));
  size_t at = 0;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < keys; ++i) {
        const int64_t newest = t + keys - tokens - (strict ? 1 : 0);
        mask[at++] = i <= newest && (query_ids.empty() || query_ids[size_t(b * tokens + t)] == key_ids[size_t(b * keys + i)]);
      }
  return from_vector(mask, {batch, 1, tokens, keys}, options);
}

std::string unmet_logits(const Recipe& r, const Problem& p, DeviceKind device) {
  if (const auto why = unhonoured(*r.weights().ask<KernelWeights>(), {"kernel", "temperature", "forget", "norm_weights", "scale"}); !why.empty())
    return why;
  if (const auto why = unhonoured(r.reading(), {"scale", "read", "key_norm", "key_eps"}); !why.empty()) return why;
  if (p.segments && p.want_state) return "a state of packed documents keeps only the last of them, needs fold";
  return unmet_device(p, device);
}

namespace {

// x with the tokens of state `name` in front: [B, P + T, heads, ...].
Tensor carried(const Slots& state, const std::string& name, const Tensor& x) {
  const auto found = state.find(name);
  if (found == state.end())
    throw refuse("memory", "state {} is missing, needs it with shape [B, tokens, heads, ...]; pass on what an earlier call answered", name);
  const Tensor& old = found->second;
  if (old.rank() != x.rank() || old.shape().with(1, x.size(1)) != x.shape())
    throw refuse("memory", "state {} has shape {}, needs {} with any number of tokens", name, to_string(old.shape()), to_string(x.shape()));
  return concat({cast(old, x.dtype()), x}, 1);
}

Tensor product(const Tensor& a, const Tensor& b) { return !a.defined() ? b : !b.defined() ? a : a * b; }
Tensor total(const Tensor& a, const Tensor& b) { return !a.defined() ? b : !b.defined() ? a : a + b; }

}  // namespace

KernelLogits kernel_logits(const Recipe& r, const Arguments& a, const Problem& p, bool scaled_query) {
  const KernelWeights& weights = *r.weights().ask<KernelWeights>();
  const Dtype dtype = wide(p.dtype);
  const auto slot = [&](const char* name) { return cast(a.slots.at(name), dtype); };
  KernelLogits l{.q = normed_keys(a.slots.at("q"), r.reading()), .k = normed_keys(a.slots.at("k"), r.reading()), .v = a.slots.at("v"),
                 .head_scale = {}, .key_bias = {}, .setting = {}, .state = {}};
  LogitSetting& s = l.setting;
  const double own = weights.scale.at(p.key_dim), given = r.reading().scale.at(p.key_dim);
  s.scale = scaled_query ? own : own * given;
  s.strict = r.reading().read == Read::strict;
  if (scaled_query && given != 1) l.q = l.q * given;
  if (p.segments) s.query_segments = s.key_segments = documents_of(a.segments);   // numbers are compared: one that comes again is another document

  Tensor log_decay = weights.forget ? slot("log_decay") : Tensor();   // [B, T, H]
  if (!a.state.empty()) {
    l.k = carried(a.state, "keys", l.k), l.v = carried(a.state, "values", l.v);
    if (weights.forget) log_decay = carried(a.state, "past.log_decay", log_decay);
    if (p.segments) {   // carried keys belong to the document that the first token goes on with
      const Tensor first = slice(s.query_segments, 1, 0, 1);
      Tensors ids(size_t(l.k.size(1) - p.tokens), first);
      ids.push_back(s.query_segments);
      s.key_segments = concat(ids, 1);
    }
  }
  if (a.want_state) {
    l.state = {{"keys", cast(l.k, dtype)}, {"values", cast(l.v, dtype)}, {"position", position_state(position_of(a.state) + p.tokens)}};
    if (weights.forget) l.state["past.log_decay"] = log_decay;
  }

  const Tensor narrow = weights.norm_weights ? slot("k_norm_weight") : Tensor();   // [H, K]
  if (weights.temperature) l.head_scale = slot("temperature");
  if (weights.kernel == Kernel::gaussian) {
    l.head_scale = product(l.head_scale, 1.0 / square(slot("bandwidth")));
    Tensor length;                                                                 // |k_i|^2 [B, keys, H]
    if (weights.norm_weights) length = sum(square(over_heads(cast(l.k, dtype), p.heads) * narrow), 3);
    else length = over_heads(sum(square(cast(l.k, dtype)), 3), p.heads);
    l.key_bias = cast(length * (l.head_scale * (-0.5 * own)), Dtype::f64);
  }
  if (weights.norm_weights) l.q = cast(cast(l.q, dtype) * (slot("q_norm_weight") * narrow), p.dtype);
  if (weights.forget) l.key_bias = total(l.key_bias, -cumsum(cast(log_decay, Dtype::f64), 1));
  return l;
}

}  // namespace ttr
