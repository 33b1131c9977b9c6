// The stem `softmax_attention`: kernel weights over constants, solved exactly (the estimator of Nadaraya and Watson), as one kernel op.
//   l_ti = scale head_scale q_t.k_i + bias_i over visible i,   p_t = softmax(l_t),   y_t = sum_i p_ti v_i
// softmax_attention (arXiv 1706.03762), qknorm_attention (arXiv 2010.04245: unit q and k, a learned temperature), rms_qknorm_attention (arXiv
// 2302.05442), nadaraya_watson (1964: the Gaussian kernel) and forgetting_attention (arXiv 2503.02130); kernel_logits.hpp says how each is one.
// Next: softmax_attention_cpu.cpp (blocks), cuda/softmax_attention.cu (streaming), docs/layers/softmax_attention.md; local_linear_attention.cpp.
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/layers/kernel_logits.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/softmax_attention_kernel.hpp>

namespace ttr::softmax_attention {
namespace {

// -- the kernel op ---------------------------------------------------------------------------------------------------------------------------
enum Input { kQ, kK, kV, kHeadScale, kKeyBias, kInputs };

AttentionSizes sizes_of(const Tensors& x) {
  return {.batch = x[kQ].size(0), .tokens = x[kQ].size(1), .keys = x[kK].size(1), .heads = x[kQ].size(2), .key_heads = x[kK].size(2),
          .value_heads = x[kV].size(2), .key_dim = x[kQ].size(3), .value_dim = x[kV].size(3)};
}
template <class T> Rows<const T> rows(const Tensor& x) { return {in<T>(x), x.size(2) * x.size(3)}; }
template <class T> Rows<T> rows(Tensor& x) { return x.defined() ? Rows<T>{out<T>(x), x.size(2) * x.size(3)} : Rows<T>{}; }

// The same function in primitives, T x keys and all: what a second derivative differentiates, and a parity test.
Tensors define(const Tensors& x, const LogitSetting& s) {
  const AttentionSizes n = sizes_of(x);
  const Dtype dtype = wide(x[kQ].dtype());
  const auto by_head = [&](const Tensor& t) { return transpose(over_heads(cast(t, dtype), n.heads), 1, 2); };   // [B, H, T, D]
  const Tensor q = by_head(x[kQ]), k = by_head(x[kK]), v = by_head(x[kV]);
  Tensor logits = matmul(q, k, false, true) * s.scale;
  if (x[kHeadScale].defined()) logits = logits * reshape(cast(x[kHeadScale], dtype), {1, n.heads, 1, 1});
  if (x[kKeyBias].defined()) logits = logits + reshape(cast(transpose(x[kKeyBias], 1, 2), dtype), {n.batch, n.heads, 1, n.keys});
  const Tensor mask = broadcast_to(s.visible(n.tokens, n.keys, like(logits)), logits.shape());
  const Tensor p = softmax(where(mask, logits, full(logits.shape(), -INFINITY, like(logits))));
  return {cast(transpose(matmul(p, v), 1, 2), x[kQ].dtype())};
}

struct Saved { Tensors x; Tensor y, lse; LogitSetting setting; };

template <class T, class Place> void forward(const Tensors& x, const LogitSetting& s, Tensor& y, Tensor& lse, Place place) {
  AttentionForward<T> f{.size = sizes_of(x),
                        .q = rows<T>(x[kQ]),
                        .k = rows<T>(x[kK]),
                        .v = rows<T>(x[kV]),
                        .scale = Wide<T>(s.scale),
                        .head_scale = in<Wide<T>>(x[kHeadScale]),
                        .key_bias = in<double>(x[kKeyBias]),
                        .strict = s.strict,
                        .query_segments = in<int32_t>(s.query_segments),
                        .key_segments = in<int32_t>(s.key_segments),
                        .y = rows<T>(y),
                        .lse = out<Wide<T>>(lse)};
  if constexpr (place.cuda)
    must("softmax_attention", cuda::softmax_attention_forward(f, Scratch(cuda::softmax_attention_workspace(f), y.device()), place.stream));
  else must("softmax_attention", cpu::softmax_attention_forward(f, Scratch(cpu::softmax_attention_workspace(f), y.device())));
}
// d as Input; that of the head scale as its terms [B, H, T].
template <class T, class Place> void backward(const Saved& s, const Tensor& dy, Tensors& d, Place place) {
  const Tensors& x = s.x;
  AttentionBackward<T> b{.size = sizes_of(x),
                         .q = rows<T>(x[kQ]),
                         .k = rows<T>(x[kK]),
                         .v = rows<T>(x[kV]),
                         .scale = Wide<T>(s.setting.scale),
                         .head_scale = in<Wide<T>>(x[kHeadScale]),
                         .key_bias = in<double>(x[kKeyBias]),
                         .strict = s.setting.strict,
                         .query_segments = in<int32_t>(s.setting.query_segments),
                         .key_segments = in<int32_t>(s.setting.key_segments),
                         .y = rows<T>(s.y),
                         .lse = in<Wide<T>>(s.lse),
                         .dy = rows<T>(dy),
                         .dq = rows<T>(d[kQ]),
                         .dk = rows<T>(d[kK]),
                         .dv = rows<T>(d[kV]),
                         .d_head_scale = out<Wide<T>>(d[kHeadScale]),
                         .d_key_bias = out<double>(d[kKeyBias])};
  if constexpr (place.cuda)
    must("softmax_attention",
         cuda::softmax_attention_backward(b, Scratch(cuda::softmax_attention_workspace(b), dy.device()), place.stream));
  else must("softmax_attention", cpu::softmax_attention_backward(b, Scratch(cpu::softmax_attention_workspace(b), dy.device())));
}

// {q [B, T, H, K], k [B, keys, Hk, K], v [B, keys, Hv, V], head scale [H] or undefined, key bias f64 [B, keys, H] or undefined} -> y [B, T, H, V].
Tensor apply(const Tensors& x, const LogitSetting& setting) {
  const AttentionSizes n = sizes_of(x);
  Tensor y = empty({n.batch, n.tokens, n.heads, n.value_dim}, like(x[kQ])), lse;
  const bool saves = recording() && detail::any_tracked(x);
  if (saves) lse = empty({n.batch, n.heads, n.tokens}, {wide(x[kQ].dtype()), x[kQ].device()});
  dispatch("softmax_attention", x[kQ], [&]<class T>(auto place) { forward<T>(x, setting, y, lse, place); });
  if (!saves) return y;
  Tensors plain;
  for (const Tensor& t : x) plain.push_back(t.defined() ? detach(t) : t);
  Saved saved{std::move(plain), detach(y), lse, setting};
  return kernel_op(
      "softmax_attention", {y}, x, std::move(saved),
      [](const Saved& s, const Sweep& sweep) {
        const AttentionSizes n = sizes_of(s.x);
        Tensors d(kInputs);
        for (int i = 0; i < kInputs; ++i)
          if (sweep.needs(i)) d[size_t(i)] = empty(i == kHeadScale ? Shape{n.batch, n.heads, n.tokens} : s.x[size_t(i)].shape(), like(s.x[size_t(i)]));
        dispatch("softmax_attention", s.x[kQ], [&]<class T>(auto place) { backward<T>(s, sweep.dy(), d, place); });
        if (d[kHeadScale].defined()) d[kHeadScale] = sum(sum(d[kHeadScale], 2), 0);   // [H]
        return d;
      },
      [setting](const Tensors& inputs) { return define(inputs, setting); })[0];
}

// -- which recipes it says ---------------------------------------------------------------------------------------------------------------------
std::string accepts(const Recipe& r, const Problem& p, DeviceKind device) {
  const auto* kernel = r.weights().ask<KernelWeights>();
  if (!kernel) return fmt::format("weights are {}, needs kernel", r.weights().name());
  if (!r.function().ask<Constant>()) return fmt::format("function class is {}, needs constant", r.function().name());
  const auto* exact = r.optimizer().ask<Exact>();
  if (!exact) return fmt::format("optimizer is {}, needs exact", r.optimizer().text());
  if (const auto why = unhonoured(*exact, {}); !why.empty()) return why;
  return unmet_logits(r, p, device);
}

Answer run(const Recipe& r, const Arguments& a, const Problem& p) {
  const KernelLogits l = kernel_logits(r, a, p);
  return {apply({l.q, l.k, l.v, l.head_scale, l.key_bias}, l.setting), l.state};
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
const Route cpu_blocked{"softmax_attention/cpu-blocked",
                        "softmax_attention",
                        [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cpu); },
                        run,
                        flops,
                        bytes};
const Route cuda_streaming{"softmax_attention/cuda-streaming",
                           "softmax_attention",
                           [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cuda); },
                           run,
                           flops,
                           bytes};

}  // namespace ttr::softmax_attention
