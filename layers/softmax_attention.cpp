// The stem `softmax_attention`: kernel weights over constants, solved exactly (Nadaraya-Watson with the exponential kernel), as one kernel op.
//   l_ti = scale q_t.k_i over visible i,   p_t = softmax(l_t),   y_t = sum_i p_ti v_i
// softmax_attention (arXiv 1706.03762) and qknorm_attention (arXiv 2010.04245: unit q and k, a learned temperature in place of the scale).
// Next: softmax_attention_cpu.cpp (blocks), cuda/softmax_attention.cu (streaming), docs/layers/softmax_attention.md.
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/layers/match.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/softmax_attention_kernel.hpp>

namespace ttr::softmax_attention {
namespace {

// -- the kernel op ---------------------------------------------------------------------------------------------------------------------------
enum Input { kQ, kK, kV };

struct Setting {
  double scale = 1;
  bool strict = false;
  Tensor query_segments, key_segments;   // i32 [B, T], [B, keys]; undefined: one document
};

AttentionSizes sizes_of(const Tensors& x) {
  return {.batch = x[kQ].size(0), .tokens = x[kQ].size(1), .keys = x[kK].size(1), .heads = x[kQ].size(2), .key_heads = x[kK].size(2),
          .value_heads = x[kV].size(2), .key_dim = x[kQ].size(3), .value_dim = x[kV].size(3)};
}
template <class T> Rows<const T> rows(const Tensor& x) { return {in<T>(x), x.size(2) * x.size(3)}; }
template <class T> Rows<T> rows(Tensor& x) { return x.defined() ? Rows<T>{out<T>(x), x.size(2) * x.size(3)} : Rows<T>{}; }

// 1 where query t may see key i: [B, 1, T, keys].
Tensor visible(const AttentionSizes& n, const Setting& s, Options options) {
  std::vector<double> mask(size_t(n.batch * n.tokens * n.keys));
  const auto ids = [](const Tensor& t) { return t.defined() ? t.to_vector<int32_t>() : std::vector<int32_t>(); };
  const auto query_ids = ids(s.query_segments), key_ids = ids(s.key_segments);
  size_t at = 0;
  for (int64_t b = 0; b < n.batch; ++b)
    for (int64_t t = 0; t < n.tokens; ++t)
      for (int64_t i = 0; i < n.keys; ++i) {
        const int64_t newest = t + n.keys - n.tokens - (s.strict ? 1 : 0);
        mask[at++] = i <= newest && (query_ids.empty() || query_ids[size_t(b * n.tokens + t)] == key_ids[size_t(b * n.keys + i)]);
      }
  return from_vector(mask, {n.batch, 1, n.tokens, n.keys}, options);
}

// The same function in primitives, T x keys and all: what a second derivative differentiates, and a parity test.
Tensors define(const Tensors& x, const Setting& s) {
  const AttentionSizes n = sizes_of(x);
  const Dtype dtype = wide(x[kQ].dtype());
  const auto by_head = [&](const Tensor& t) { return transpose(over_heads(cast(t, dtype), n.heads), 1, 2); };   // [B, H, T, D]
  const Tensor q = by_head(x[kQ]), k = by_head(x[kK]), v = by_head(x[kV]);
  const Tensor mask = broadcast_to(visible(n, s, {dtype, x[kQ].device()}), {n.batch, n.heads, n.tokens, n.keys});
  const Tensor logits = matmul(q, k, false, true) * s.scale;
  const Tensor p = softmax(where(mask, logits, full(logits.shape(), -INFINITY, like(logits))));
  return {cast(transpose(matmul(p, v), 1, 2), x[kQ].dtype())};
}

struct Saved { Tensors x; Tensor y, lse; Setting setting; };

template <class T, class Place> void forward(const Tensors& x, const Setting& s, Tensor& y, Tensor& lse, Place place) {
  AttentionForward<T> f{.size = sizes_of(x), .q = rows<T>(x[kQ]), .k = rows<T>(x[kK]), .v = rows<T>(x[kV]), .scale = Wide<T>(s.scale), .strict = s.strict,
                        .query_segments = in<int32_t>(s.query_segments), .key_segments = in<int32_t>(s.key_segments), .y = rows<T>(y), .lse = out<Wide<T>>(lse)};
  if constexpr (place.cuda) must("softmax_attention", cuda::softmax_attention_forward(f, Scratch(cuda::softmax_attention_workspace(f), y.device()), place.stream));
  else must("softmax_attention", cpu::softmax_attention_forward(f, Scratch(cpu::softmax_attention_workspace(f), y.device())));
}
template <class T, class Place> void backward(const Saved& s, const Tensor& dy, Tensors& d, Place place) {
  const Tensors& x = s.x;
  AttentionBackward<T> b{.size = sizes_of(x), .q = rows<T>(x[kQ]), .k = rows<T>(x[kK]), .v = rows<T>(x[kV]), .scale = Wide<T>(s.setting.scale),
                         .strict = s.setting.strict, .query_segments = in<int32_t>(s.setting.query_segments),
                         .key_segments = in<int32_t>(s.setting.key_segments), .y = rows<T>(s.y), .lse = in<Wide<T>>(s.lse), .dy = rows<T>(dy),
                         .dq = rows<T>(d[kQ]), .dk = rows<T>(d[kK]), .dv = rows<T>(d[kV])};
  if constexpr (place.cuda) must("softmax_attention", cuda::softmax_attention_backward(b, Scratch(cuda::softmax_attention_workspace(b), dy.device()), place.stream));
  else must("softmax_attention", cpu::softmax_attention_backward(b, Scratch(cpu::softmax_attention_workspace(b), dy.device())));
}

// {q [B, T, H, K], k [B, keys, Hk, K], v [B, keys, Hv, V]} -> y [B, T, H, V].
Tensor apply(const Tensors& x, const Setting& setting) {
  const AttentionSizes n = sizes_of(x);
  Tensor y = empty({n.batch, n.tokens, n.heads, n.value_dim}, like(x[kQ])), lse;
  const bool saves = recording() && detail::any_tracked(x);
  if (saves) lse = empty({n.batch, n.heads, n.tokens}, {wide(x[kQ].dtype()), x[kQ].device()});
  dispatch("softmax_attention", x[kQ], [&]<class T>(auto place) { forward<T>(x, setting, y, lse, place); });
  if (!saves) return y;
  Saved saved{{detach(x[kQ]), detach(x[kK]), detach(x[kV])}, detach(y), lse, setting};
  return kernel_op(
      "softmax_attention", {y}, x, std::move(saved),
      [](const Saved& s, const Sweep& sweep) {
        Tensors d(3);
        for (int i = 0; i < 3; ++i)
          if (sweep.needs(i)) d[size_t(i)] = empty(s.x[size_t(i)].shape(), like(s.x[size_t(i)]));
        dispatch("softmax_attention", s.x[kQ], [&]<class T>(auto place) { backward<T>(s, sweep.dy(), d, place); });
        return d;
      },
      [setting](const Tensors& inputs) { return define(inputs, setting); })[0];
}

// -- which recipes it says ---------------------------------------------------------------------------------------------------------------------
std::string accepts(const Recipe& r, const Problem& p, DeviceKind device) {
  const auto* kernel = r.weights().ask<KernelWeights>();
  if (!kernel) return fmt::format("weights are {}, needs kernel", r.weights().name());
  if (const auto why = unhonoured(*kernel, {"temperature"}); !why.empty()) return why;
  if (!r.function().ask<Constant>()) return fmt::format("function class is {}, needs constant", r.function().name());
  const auto* exact = r.optimizer().ask<Exact>();
  if (!exact) return fmt::format("optimizer is {}, needs exact", r.optimizer().text());
  if (const auto why = unhonoured(*exact, {}); !why.empty()) return why;
  if (const auto why = unhonoured(r.reading(), {"scale", "read", "key_norm", "key_eps"}); !why.empty()) return why;
  if (p.segments && p.want_state) return "a state of packed documents keeps only the last of them, needs fold";
  return unmet_device(p, device);
}

Answer run(const Recipe& r, const Arguments& a, const Problem& p) {
  Tensor q = normed_keys(a.slots.at("q"), r.reading()), k = normed_keys(a.slots.at("k"), r.reading()), v = a.slots.at("v");
  if (r.weights().ask<KernelWeights>()->temperature)   // logits times a number a head: q times that number
    q = q * cast(reshape(a.slots.at("temperature"), {1, 1, p.heads, 1}), p.dtype);
  const Tensor documents = p.segments ? documents_of(a.segments) : Tensor();   // the kernel compares numbers: one that comes again is another document
  Setting setting{.scale = r.reading().scale.at(p.key_dim), .strict = r.reading().read == Read::strict, .query_segments = documents, .key_segments = documents};
  const Dtype dtype = wide(p.dtype);
  if (!a.state.empty()) {
    const auto carried = [&](const char* name, const Tensor& x) {
      const auto found = a.state.find(name);
      if (found == a.state.end()) throw refuse("memory", "state {} is missing, needs it with shape [B, tokens, heads, D]; pass on what an earlier call answered", name);
      const Tensor& old = found->second;
      if (old.rank() != 4 || old.shape().with(1, x.size(1)) != x.shape())
        throw refuse("memory", "state {} has shape {}, needs {} with any number of tokens", name, to_string(old.shape()), to_string(x.shape()));
      return concat({cast(old, p.dtype), x}, 1);
    };
    k = carried("keys", k), v = carried("values", v);
    if (p.segments) {   // carried keys belong to the document that the first token goes on with
      const Tensor first = slice(documents, 1, 0, 1);
      Tensors ids(size_t(k.size(1) - p.tokens), first);
      ids.push_back(documents);
      setting.key_segments = concat(ids, 1);
    }
  }
  Answer answer{apply({q, k, v}, setting), {}};
  if (a.want_state) answer.state = {{"keys", cast(k, dtype)}, {"values", cast(v, dtype)}, {"position", position_state(position_of(a.state) + p.tokens)}};
  return answer;
}

double flops(const Recipe&, const Problem& p) {   // the causal half: 2 (K + V) a pair forward; five products backward
  const double pairs = double(p.batch * p.heads) * double(p.tokens) * double(p.tokens + 1) / 2;
  return pairs * 2 * double(p.key_dim + p.value_dim) * (p.training ? 3.5 : 1);
}
double bytes(const Recipe&, const Problem& p) {
  return double(p.batch * p.tokens * p.heads) * double(2 * p.key_dim + 2 * p.value_dim) * double(bytes_of(p.dtype)) * (p.training ? 3 : 1);
}

}  // namespace

extern const Route cpu_blocked, cuda_streaming;
const Route cpu_blocked{"softmax_attention/cpu-blocked", "softmax_attention", [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cpu); }, run, flops, bytes};
const Route cuda_streaming{"softmax_attention/cuda-streaming", "softmax_attention", [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cuda); }, run, flops, bytes};

}  // namespace ttr::softmax_attention
