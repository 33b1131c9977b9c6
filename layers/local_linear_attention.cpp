// Local linear attention, of the stem `softmax_attention`: kernel weights over lines, solved exactly, as one kernel op (arXiv 2510.01450).
//   p_t = softmax(l_t),  mu = sum p k,  c_i = k_i - mu,  C = sum p c c^T + lambda I,  u = C^{-1} (q - mu),  y_t = sum p (1 + c.u) v
// The centred form: the intercept is eliminated first, so nothing of the size of the keys' mean cancels. The gradient is one more solve.
// Next: local_linear_attention_cpu.cpp (Cholesky and conjugate gradients by blocks), cuda/local_linear_attention.cu,
// docs/layers/local_linear_attention.md.
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/layers/kernel_logits.hpp>
#include <ttr/layers/local_linear_attention_kernel.hpp>
#include <ttr/layers/plan.hpp>

namespace ttr::softmax_attention {
namespace {

constexpr const char* kName = "local_linear_attention";

// -- the kernel op ---------------------------------------------------------------------------------------------------------------------------
enum Input { kQ, kK, kV, kHeadScale, kKeyBias, kRidge, kInputs };

struct Setting {
  LogitSetting logits;
  bool absolute = false;   // lambda = ridge / sum gamma
};
struct Saved { Tensors x; Tensor lse, mean, slope; Setting setting; };

AttentionSizes sizes_of(const Tensors& x) {
  return {.batch = x[kQ].size(0), .tokens = x[kQ].size(1), .keys = x[kK].size(1), .heads = x[kQ].size(2), .key_heads = x[kK].size(2),
          .value_heads = x[kV].size(2), .key_dim = x[kQ].size(3), .value_dim = x[kV].size(3)};
}
template <class T> Rows<const T> rows(const Tensor& x) { return {in<T>(x), x.size(2) * x.size(3)}; }
template <class T> Rows<T> rows(Tensor& x) { return x.defined() ? Rows<T>{out<T>(x), x.size(2) * x.size(3)} : Rows<T>{}; }

// The same function in primitives, with C [K, K] of every query: what a second derivative differentiates, and a parity test.
Tensors define(const Tensors& x, const Setting& s) {
  const AttentionSizes n = sizes_of(x);
  const Dtype dtype = wide(x[kQ].dtype());
  const int64_t K = n.key_dim;
  const Shape table{n.batch, n.heads, n.tokens, n.keys};
  const auto by_head = [&](const Tensor& t) { return transpose(over_heads(cast(t, dtype), n.heads), 1, 2); };   // [B, H, T, D]
  const Tensor q = by_head(x[kQ]), k = by_head(x[kK]), v = by_head(x[kV]);
  Tensor logits = matmul(q, k, false, true) * s.logits.scale;
  if (x[kHeadScale].defined()) logits = logits * reshape(cast(x[kHeadScale], dtype), {1, n.heads, 1, 1});
  if (x[kKeyBias].defined()) logits = logits + reshape(cast(transpose(x[kKeyBias], 1, 2), dtype), {n.batch, n.heads, 1, n.keys});
  const Tensor mask = broadcast_to(s.logits.visible(n.tokens, n.keys, like(logits)), table);
  logits = where(mask, logits, full(table, -INFINITY, like(logits)));
  const Tensor p = softmax(logits), mean = matmul(p, k);                                                        // mean [B, H, T, K]

  const Tensor left = reshape(k, {n.batch, n.heads, n.keys, K, 1}), right = reshape(k, {n.batch, n.heads, n.keys, 1, K});
  const Tensor moments = matmul(p, reshape(left * right, {n.batch, n.heads, n.keys, K * K}));
  const Tensor column = reshape(mean, {n.batch, n.heads, n.tokens, K, 1});
  Tensor ridge = reshape(cast(x[kRidge], dtype), {1, n.heads, 1, 1});
  if (s.absolute) {
    const Tensor total = sum(exp(logits), 3, true), nothing = zeros(total.shape(), like(total));
    ridge = ridge / where(less(nothing, total), total, nothing + 1.0);
  }
  ridge = broadcast_to(ridge, {n.batch, n.heads, n.tokens, K});
  const Tensor c = reshape(moments, {n.batch, n.heads, n.tokens, K, K}) - matmul(column, column, false, true) + diagonal_matrix(ridge);
  const Tensor u = reshape(solve(c, reshape(q - mean, column.shape())), mean.shape());
  const Tensor smoother = p * (matmul(u, k, false, true) - sum(u * mean, 3, true) + 1.0);
  return {cast(transpose(matmul(smoother, v), 1, 2), x[kQ].dtype())};
}

// Fields that forward and backward arguments have in common.
template <class T, class A> A arguments_of(const Tensors& x, const Setting& s) {
  A a;
  a.size = sizes_of(x);
  a.q = rows<T>(x[kQ]), a.k = rows<T>(x[kK]), a.v = rows<T>(x[kV]);
  a.scale = Wide<T>(s.logits.scale), a.head_scale = in<Wide<T>>(x[kHeadScale]), a.key_bias = in<double>(x[kKeyBias]);
  a.ridge = in<Wide<T>>(x[kRidge]), a.absolute = s.absolute, a.strict = s.logits.strict;
  a.query_segments = in<int32_t>(s.logits.query_segments), a.key_segments = in<int32_t>(s.logits.key_segments);
  return a;
}
template <class T, class Place> void forward(const Tensors& x, const Setting& s, Tensor& y, Tensor& lse, Tensor& mean, Tensor& slope, Place place) {
  auto f = arguments_of<T, LocalLinearForward<T>>(x, s);
  f.y = rows<T>(y), f.lse = out<Wide<T>>(lse), f.mean = out<Wide<T>>(mean), f.slope = out<Wide<T>>(slope);
  if constexpr (place.cuda)
    must(kName, cuda::local_linear_attention_forward(f, Scratch(cuda::local_linear_attention_workspace(f), y.device()), place.stream));
  else must(kName, cpu::local_linear_attention_forward(f, Scratch(cpu::local_linear_attention_workspace(f), y.device())));
}
// d as Input; those of the head scale and the ridge as their terms [B, H, T].
template <class T, class Place> void backward(const Saved& s, const Tensor& dy, Tensors& d, Place place) {
  auto b = arguments_of<T, LocalLinearBackward<T>>(s.x, s.setting);
  b.lse = in<Wide<T>>(s.lse), b.mean = in<Wide<T>>(s.mean), b.slope = in<Wide<T>>(s.slope), b.dy = rows<T>(dy);
  b.dq = rows<T>(d[kQ]), b.dk = rows<T>(d[kK]), b.dv = rows<T>(d[kV]);
  b.d_head_scale = out<Wide<T>>(d[kHeadScale]), b.d_key_bias = out<double>(d[kKeyBias]), b.d_ridge = out<Wide<T>>(d[kRidge]);
  if constexpr (place.cuda)
    must(kName, cuda::local_linear_attention_backward(b, Scratch(cuda::local_linear_attention_workspace(b), dy.device()), place.stream));
  else must(kName, cpu::local_linear_attention_backward(b, Scratch(cpu::local_linear_attention_workspace(b), dy.device())));
}

// x as Input -> y [B, T, H, V].
Tensor apply(const Tensors& x, const Setting& setting) {
  const AttentionSizes n = sizes_of(x);
  const Options wide_options{wide(x[kQ].dtype()), x[kQ].device()};
  Tensor y = empty({n.batch, n.tokens, n.heads, n.value_dim}, like(x[kQ])), lse, mean, slope;
  const bool saves = recording() && detail::any_tracked(x);
  if (saves) {
    lse = empty({n.batch, n.heads, n.tokens}, wide_options);
    mean = empty({n.batch, n.heads, n.tokens, n.key_dim}, wide_options), slope = empty(mean.shape(), wide_options);
  }
  dispatch(kName, x[kQ], [&]<class T>(auto place) { forward<T>(x, setting, y, lse, mean, slope, place); });
  if (!saves) return y;
  Tensors plain;
  for (const Tensor& t : x) plain.push_back(t.defined() ? detach(t) : t);
  return kernel_op(
      kName, {y}, x, Saved{std::move(plain), lse, mean, slope, setting},
      [](const Saved& s, const Sweep& sweep) {
        const AttentionSizes n = sizes_of(s.x);
        Tensors d(kInputs);
        for (int i = 0; i < kInputs; ++i) {
          const bool terms = i == kHeadScale || i == kRidge;
          if (sweep.needs(i)) d[size_t(i)] = empty(terms ? Shape{n.batch, n.heads, n.tokens} : s.x[size_t(i)].shape(), like(s.x[size_t(i)]));
        }
        dispatch(kName, s.x[kQ], [&]<class T>(auto place) { backward<T>(s, sweep.dy(), d, place); });
        for (const int i : {kHeadScale, kRidge})
          if (d[size_t(i)].defined()) d[size_t(i)] = sum(sum(d[size_t(i)], 2), 0);   // [H]
        return d;
      },
      [setting](const Tensors& inputs) { return define(inputs, setting); })[0];
}

// -- which recipes it says ---------------------------------------------------------------------------------------------------------------------
std::string accepts(const Recipe& r, const Problem& p, DeviceKind device) {
  const auto* kernel = r.weights().ask<KernelWeights>();
  if (!kernel) return fmt::format("weights are {}, needs kernel", r.weights().name());
  const auto* line = r.function().ask<Polynomial>();
  if (!line) return fmt::format("function class is {}, needs polynomial", r.function().name());
  if (const auto why = unhonoured(*line, {}); !why.empty()) return why;
  const auto* exact = r.optimizer().ask<Exact>();
  if (!exact) return fmt::format("optimizer is {}, needs exact", r.optimizer().text());
  if (const auto why = unhonoured(*exact, {"ridge"}); !why.empty()) return why;
  if (exact->ridge != Ridge::relative && exact->ridge != Ridge::constant)
    return fmt::format("ridge is {}, needs relative or constant", detail::write_option(exact->ridge));
  if (exact->ridge == Ridge::constant && (kernel->forget || kernel->kernel != Kernel::exponential))
    return "ridge is constant, needs relative where the weights forget or are gaussian";
  if (kernel->norm_weights) return "option norm_weights=true of kernel is not honoured: the line is in keys without those weights";
  if (const auto why = unmet_logits(r, p, device); !why.empty()) return why;
  if (device == DeviceKind::cuda && cuda::local_linear_row(p.key_dim, p.value_dim) > cuda::kLocalLinearRow)
    return fmt::format("key_dim is {} and value_dim is {}, needs 7 K + 2 V and 5 K + 3 V of at most {}", p.key_dim, p.value_dim,
                       cuda::kLocalLinearRow);
  return {};
}

Answer run(const Recipe& r, const Arguments& a, const Problem& p) {
  const KernelLogits l = kernel_logits(r, a, p, true);   // the line is in k - q: q with the reading's scale
  const Tensor ridge = cast(a.slots.at("ridge"), wide(p.dtype));
  return {apply({l.q, l.k, l.v, l.head_scale, l.key_bias, ridge}, {l.setting, r.optimizer().ask<Exact>()->ridge == Ridge::constant}), l.state};
}

// A pair: the scores, the mean, the smoother and the answer; backward the scores, G, h, both lines, dq, dk and dv. Each has a solve: C formed, or
// conjugate gradients, of which kSteps steps are counted, as few as the easiest data need.
constexpr double kSteps = 3;
double flops(const Recipe&, const Problem& p) {
  const double pairs = double(p.batch * p.heads) * double(p.tokens) * double(p.tokens + 1) / 2, k = double(p.key_dim), v = double(p.value_dim);
  const double solve = p.key_dim <= cpu::kLocalLinearDirect ? k * (k + 1) : 4 * k * kSteps;
  return pairs * (6 * k + 2 * v + solve + (p.training ? 16 * k + 4 * v + solve : 0));
}
double bytes(const Recipe&, const Problem& p) {
  return double(p.batch * p.tokens * p.heads) * double(2 * p.key_dim + 2 * p.value_dim) * double(bytes_of(p.dtype)) * (p.training ? 3 : 1);
}

}  // namespace

extern const Route cpu_local_linear, cuda_local_linear;
const Route cpu_local_linear{"softmax_attention/cpu-local-linear",
                             "softmax_attention",
                             [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cpu); },
                             run,
                             flops,
                             bytes};
const Route cuda_local_linear{"softmax_attention/cuda-local-linear",
                              "softmax_attention",
                              [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cuda); },
                              run,
                              flops,
                              bytes};

}  // namespace ttr::softmax_attention
