// The stem `delta`: delta_net, gated_delta_net, l2_sgd, longhorn as one kernel op, with its definition, and its routes.
//   M_t = a_t M_{t-1} + (w_t v_t - e_t M_{t-1} k_t) k_t^T,   y_t = scale M_t q_t          (delta_kernel.hpp says which recipe is which a, w, e)
// Next: delta_cpu.cpp (the chunk form), cuda/delta.cu (the recurrence), tests/delta_kernel.cpp, docs/layers/delta.md.
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/layers/delta_kernel.hpp>
#include <ttr/layers/match.hpp>
#include <ttr/layers/plan.hpp>

namespace ttr::delta {
namespace {

// -- the kernel op ---------------------------------------------------------------------------------------------------------------------------
enum Input { kQ, kK, kV, kDecay, kWrite, kErase, kMemory, kInputs };   // decay and memory may be undefined

DeltaSizes sizes_of(const Tensors& x) {
  return {.batch = x[kQ].size(0), .tokens = x[kQ].size(1), .heads = x[kQ].size(2), .key_heads = x[kK].size(2), .value_heads = x[kV].size(2),
          .key_dim = x[kQ].size(3), .value_dim = x[kV].size(3)};
}
template <class T> Rows<const T> rows(const Tensor& x) { return {in<T>(x), x.size(2) * x.size(3)}; }
template <class T> Rows<T> rows(Tensor& x) { return x.defined() ? Rows<T>{out<T>(x), x.size(2) * x.size(3)} : Rows<T>{}; }

// The same function, token by token in primitives: what a second derivative differentiates, and a parity test.
Tensors define(const Tensors& x, double scale) {
  const DeltaSizes n = sizes_of(x);
  const Dtype wide_dtype = wide(x[kQ].dtype());
  const auto tokens = [&](const Tensor& t) { return unstack(transpose(over_heads(cast(t, wide_dtype), n.heads), 0, 1), 0); };   // T of [B, H, D]
  const auto gates = [&](const Tensor& t) { return unstack(transpose(reshape(t, {n.batch, n.tokens, n.heads, 1, 1}), 0, 1), 0); };   // T of [B, H, 1, 1]
  const auto column = [](const Tensor& t) { return reshape(t, t.shape().insert(3, 1)); };
  const Tensors q = tokens(x[kQ]), k = tokens(x[kK]), v = tokens(x[kV]), w = gates(x[kWrite]), e = gates(x[kErase]);
  const Tensors a = x[kDecay].defined() ? gates(x[kDecay]) : Tensors{};
  Tensor m = x[kMemory].defined() ? x[kMemory] : zeros({n.batch, n.heads, n.value_dim, n.key_dim}, {wide_dtype, x[kQ].device()});
  Tensors ys;
  for (size_t t = 0; t < size_t(n.tokens); ++t) {
    const Tensor kt = column(k[t]);
    const Tensor u = w[t] * column(v[t]) - e[t] * matmul(m, kt);                                 // [B, H, V, 1]
    m = (a.empty() ? m : a[t] * m) + matmul(u, kt, false, true);
    ys.push_back(reshape(matmul(m, column(q[t])), {n.batch, n.heads, n.value_dim}) * scale);
  }
  return {cast(transpose(stack(ys, 0), 0, 1), x[kQ].dtype()), m};   // [T, B, H, V] -> [B, T, H, V]
}

struct Saved { Tensors x; Tensor chunks; double scale; };

template <class T, class Place> void forward(const Tensors& x, double scale, Tensor& y, Tensor& memory, Tensor& chunks, Place place) {
  DeltaForward<T> f{.size = sizes_of(x), .q = rows<T>(x[kQ]), .k = rows<T>(x[kK]), .v = rows<T>(x[kV]), .decay = in<Wide<T>>(x[kDecay]),
                    .write = in<Wide<T>>(x[kWrite]), .erase = in<Wide<T>>(x[kErase]), .scale = Wide<T>(scale), .memory_in = in<Wide<T>>(x[kMemory]),
                    .memory_out = out<Wide<T>>(memory), .saved = out<Wide<T>>(chunks), .y = rows<T>(y)};
  if constexpr (place.cuda) must("delta", cuda::delta_forward(f, Scratch(cuda::delta_workspace(f), y.device()), place.stream));
  else must("delta", cpu::delta_forward(f, Scratch(cpu::delta_workspace(f), y.device())));
}

template <class T, class Place> void backward(const Saved& s, const Tensor& dy, const Tensor& d_memory, Tensors& d, Place place) {
  const Tensors& x = s.x;
  DeltaBackward<T> b{.size = sizes_of(x), .q = rows<T>(x[kQ]), .k = rows<T>(x[kK]), .v = rows<T>(x[kV]), .decay = in<Wide<T>>(x[kDecay]),
                     .write = in<Wide<T>>(x[kWrite]), .erase = in<Wide<T>>(x[kErase]), .scale = Wide<T>(s.scale), .saved = in<Wide<T>>(s.chunks),
                     .from_zero = !x[kMemory].defined(), .dy = rows<T>(dy), .d_memory_out = in<Wide<T>>(d_memory),
                     .dq = rows<T>(d[kQ]), .dk = rows<T>(d[kK]), .dv = rows<T>(d[kV]),
                     .d_decay = out<Wide<T>>(d[kDecay]), .d_write = out<Wide<T>>(d[kWrite]), .d_erase = out<Wide<T>>(d[kErase]),
                     .d_memory_in = out<Wide<T>>(d[kMemory])};
  if constexpr (place.cuda) must("delta", cuda::delta_backward(b, Scratch(cuda::delta_workspace(b), dy.device()), place.stream));
  else must("delta", cpu::delta_backward(b, Scratch(cpu::delta_workspace(b), dy.device())));
}

// x as in Input -> {y [B, T, H, V]}, and memory [B, H, V, K] where it is wanted.
Tensors apply(const Tensors& x, double scale, bool want_memory) {
  const DeltaSizes n = sizes_of(x);
  const Options wide_options{wide(x[kQ].dtype()), x[kQ].device()};
  Tensor y = empty({n.batch, n.tokens, n.heads, n.value_dim}, like(x[kQ]));
  Tensor memory, chunks;
  if (want_memory) memory = empty({n.batch, n.heads, n.value_dim, n.key_dim}, wide_options);
  if (recording() && detail::any_tracked(x)) chunks = empty({n.batch, n.heads, n.chunks(), n.value_dim, n.key_dim}, wide_options);
  dispatch("delta", x[kQ], [&]<class T>(auto place) { forward<T>(x, scale, y, memory, chunks, place); });
  const Tensors answers = want_memory ? Tensors{y, memory} : Tensors{y};
  if (!chunks.defined()) return answers;
  Tensors plain;
  for (const Tensor& t : x) plain.push_back(t.defined() ? detach(t) : t);
  return kernel_op(
      "delta", answers, x, Saved{std::move(plain), chunks, scale},
      [want_memory](const Saved& s, const Sweep& sweep) {
        Tensors d(kInputs);
        for (int i = 0; i < kInputs; ++i)
          if (sweep.needs(i)) d[size_t(i)] = empty(s.x[size_t(i)].shape(), like(s.x[size_t(i)]));
        const DeltaSizes n = sizes_of(s.x);
        const Tensor dy = sweep.dy(0).defined() ? sweep.dy(0) : zeros({n.batch, n.tokens, n.heads, n.value_dim}, like(s.x[kQ]));
        dispatch("delta", s.x[kQ], [&]<class T>(auto place) { backward<T>(s, dy, want_memory ? sweep.dy(1) : Tensor(), d, place); });
        return d;
      },
      [scale, want_memory](const Tensors& inputs) {
        Tensors answers = define(inputs, scale);
        if (!want_memory) answers.pop_back();
        return answers;
      });
}

// -- which recipes it says ---------------------------------------------------------------------------------------------------------------------
struct Coefficients { Tensor decay, write, erase; };   // [B, T, H]; decay undefined: 1

std::string recipe_reason(const Recipe& r) {
  const auto* map = r.function().ask<LinearMap>();
  if (!map) return fmt::format("function class is {}, needs linear", r.function().name());
  if (const auto why = unhonoured(*map, {"learned"}); !why.empty()) return why;
  if (const auto why = unhonoured(r.reading(), {"scale", "key_norm", "key_eps"}); !why.empty()) return why;
  const bool even = r.weights().ask<EvenWeights>();
  if (const auto* proximal = r.optimizer().ask<Proximal>()) {
    if (const auto why = unhonoured(*proximal, {}); !why.empty()) return why;
    return even ? "" : fmt::format("weights are {}, needs even under proximal", r.weights().text());
  }
  const auto* descend = r.optimizer().ask<Descend<Sgd>>();
  if (!descend) return fmt::format("optimizer is {}, needs descend or proximal", r.optimizer().text());
  if (const auto why = unhonoured(*descend, {"at", "limit"}); !why.empty()) return why;
  if (descend->at != Point::previous && descend->at != Point::decayed) return "descend steps at a fixed point, needs previous or decayed";
  if (even) return "";
  if (r.weights().ask<WeightDecay>()) return descend->at == Point::previous ? "" : "weight_decay erases before the decay, needs at=previous";
  const auto* geometric = r.weights().ask<GeometricWeights>();
  if (!geometric) return fmt::format("weights are {}, needs even, geometric or weight_decay", r.weights().text());
  return unhonoured(*geometric, {});
}

std::string accepts(const Recipe& r, const Problem& p, DeviceKind device) {
  if (auto why = recipe_reason(r); !why.empty()) return why;
  if (p.segments && r.function().ask<LinearMap>()->learned) return "documents begin with a learned memory, needs a zero one";
  return unmet_device(p, device);
}

Coefficients coefficients(const Recipe& r, const Arguments& a, const Tensor& k, int64_t heads) {
  const auto slot = [&](const char* name) { return a.slots.at(name); };
  const Dtype dtype = wide(k.dtype());
  const Tensor step = cast(slot("step_size"), dtype);
  if (r.optimizer().ask<Proximal>()) {   // delta / (1 + delta |k|^2)
    const Tensor squared = over_heads(sum(square(cast(k, dtype)), -1), heads);
    const Tensor beta = step / (1.0 + step * squared);
    return {{}, beta, beta};
  }
  if (r.weights().ask<EvenWeights>()) return {{}, step, step};
  if (r.weights().ask<WeightDecay>()) return {1.0 - step * cast(slot("weight_decay"), dtype), step, step};
  const Tensor alpha = exp(cast(slot("log_decay"), dtype));
  return {alpha, step, r.optimizer().ask<Descend<Sgd>>()->at == Point::decayed ? alpha * step : step};
}

Answer run(const Recipe& r, const Arguments& a, const Problem& p) {
  const Dtype dtype = wide(p.dtype);
  const Tensor q = normed_keys(a.slots.at("q"), r.reading()), k = normed_keys(a.slots.at("k"), r.reading());
  Coefficients c = coefficients(r, a, k, p.heads);
  if (p.segments && p.tokens > 1) {   // where a document starts the memory is forgotten whole: decay 0, nothing to erase
    const Tensor id = cast(documents_of(a.segments), Dtype::f32);   // counted from 0, so exact
    const Tensor same = equal(slice(id, 1, 1, p.tokens), slice(id, 1, 0, p.tokens - 1));           // [B, T-1]
    const Tensor goes_on = reshape(concat({ones({p.batch, 1}, like(same)), same}, 1), {p.batch, p.tokens, 1});
    const Tensor mask = cast(broadcast_to(goes_on, c.write.shape()), dtype), nothing = zeros(c.write.shape(), like(c.write));
    c.decay = c.decay.defined() ? where(mask, c.decay, nothing) : mask;
    c.erase = where(mask, c.erase, nothing);
  }
  Tensor memory;
  if (const auto carried = a.state.find("memory"); carried != a.state.end()) {
    memory = cast(carried->second, dtype);
    const Shape want{p.batch, p.heads, p.value_dim, p.key_dim};
    if (memory.shape() != want) throw refuse("memory", "state memory has shape {}, needs {}", to_string(memory.shape()), to_string(want));
  } else if (!a.state.empty()) {
    throw refuse("memory", "state memory is missing, needs [{}, {}, {}, {}]", p.batch, p.heads, p.value_dim, p.key_dim);
  } else if (r.function().ask<LinearMap>()->learned) {
    const Tensor start = cast(a.slots.at("initial_memory"), dtype);
    memory = broadcast_to(reshape(start, start.shape().insert(0, 1)), start.shape().insert(0, p.batch));
  }
  const Tensors found = apply({q, k, a.slots.at("v"), c.decay, c.write, c.erase, memory}, r.reading().scale.at(p.key_dim), a.want_state);
  Answer answer{found[0], {}};
  if (a.want_state) answer.state = {{"memory", found[1]}, {"position", position_state(position_of(a.state) + p.tokens)}};
  return answer;
}

double flops(const Recipe&, const Problem& p) {   // of the chunk form, triangles counted once
  const double k = double(p.key_dim), v = double(p.value_dim), c = double(std::min<int64_t>(kDeltaChunk, p.tokens));
  const double memory = p.tokens > kDeltaChunk || p.want_state ? k * v : 0;   // one chunk from nothing to nowhere never touches it
  const double forward = 6 * memory + c * (2 * k + 2 * v), backward = 14 * memory + c * (6 * k + 5 * v);
  return double(p.batch * p.tokens * p.heads) * (forward + (p.training ? backward : 0));
}
double bytes(const Recipe&, const Problem& p) {   // q, k, v, y and two gates; in the backward those again with dy, and dq, dk, dv and the gates out
  const double row = double((2 * p.key_dim + 2 * p.value_dim) * int64_t(bytes_of(p.dtype)) + 8);
  return double(p.batch * p.tokens * p.heads) * row * (p.training ? 3 : 1);
}

}  // namespace

extern const Route cpu_chunk, cuda_recurrent;
const Route cpu_chunk{"delta/cpu-chunk", "delta", [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cpu); }, run, flops, bytes};
const Route cuda_recurrent{
    "delta/cuda-recurrent", "delta", [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cuda); }, run, flops, bytes};

}  // namespace ttr::delta
