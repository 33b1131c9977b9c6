// The stem `scan`: hgrn, lru, mamba, longhorn_diagonal as one kernel op, with its definition, and its routes.
//   M_t = a_t * M_{t-1} + x_t k_t^T,   y_t = scale M_t q_t, entry by entry      (scan_kernel.hpp says which recipe is which a and x)
// Next: scan_cpu.cpp (tiles in registers), cuda/scan.cu (the recurrence), tests/scan_kernel.cpp, docs/layers/scan.md.
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/layers/match.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/scan_kernel.hpp>

namespace ttr::scan {
namespace {

// -- the kernel op ---------------------------------------------------------------------------------------------------------------------------
enum Input { kQ, kK, kV, kGate, kRate, kMemory, kInputs };   // q and k: undefined without keys; rate and memory may be

struct Form {
  ScanKind kind = ScanKind::value;
  bool written = false;
  double scale = 1;
  Tensor segments;   // i32 [B, T] or undefined
  bool keyed() const { return kind != ScanKind::value && kind != ScanKind::rotation; }
};

ScanSizes sizes_of(const Tensors& x, bool keyed) {
  const Tensor& v = x[kV];
  if (!keyed)
    return {.batch = v.size(0), .tokens = v.size(1), .heads = v.size(2), .key_heads = v.size(2), .value_heads = v.size(2),
            .key_dim = 1, .value_dim = v.size(3)};
  const Tensor& q = x[kQ];
  return {.batch = q.size(0), .tokens = q.size(1), .heads = q.size(2), .key_heads = x[kK].size(2), .value_heads = v.size(2),
          .key_dim = q.size(3), .value_dim = v.size(3)};
}
template <class T> Rows<const T> rows(const Tensor& x) { return x.defined() ? Rows<const T>{in<T>(x), x.size(2) * x.size(3)} : Rows<const T>{}; }
template <class T> Rows<T> rows(Tensor& x) { return x.defined() ? Rows<T>{out<T>(x), x.size(2) * x.size(3)} : Rows<T>{}; }

// 1 where a token goes on with its document, 0 where one begins: [B, T].
Tensor going_on(const Tensor& segments) {
  const int64_t B = segments.size(0), T = segments.size(1);
  const Tensor id = cast(segments, Dtype::f64);   // every i32 exactly
  return concat({ones({B, 1}, like(id)), equal(slice(id, 1, 1, T), slice(id, 1, 0, T - 1))}, 1);
}

// The same function, token by token in primitives: what a second derivative differentiates, and a parity test.
Tensors define(const Tensors& x, const Form& form) {
  const ScanSizes n = sizes_of(x, form.keyed());
  const Options wide_options{wide(x[kV].dtype()), x[kV].device()};
  const int64_t B = n.batch, H = n.heads, V = n.value_dim, K = n.key_dim, half = V / 2;
  const auto tokens = [&](const Tensor& t) { return unstack(transpose(over_heads(cast(t, wide_options.dtype), H), 0, 1), 0); };   // T of [B, H, ...]
  const auto column = [](const Tensor& t) { return reshape(t, t.shape().insert(3, 1)); };   // [B, H, V] -> [B, H, V, 1]
  const auto across = [](const Tensor& t) { return reshape(t, t.shape().insert(2, 1)); };   // [B, H, K] -> [B, H, 1, K]
  const Tensors v = tokens(x[kV]), gate = form.kind == ScanKind::rotation ? Tensors{} : tokens(x[kGate]);
  const Tensors q = form.keyed() ? tokens(x[kQ]) : Tensors{}, k = form.keyed() ? tokens(x[kK]) : Tensors{};
  Tensors keep;
  if (form.segments.defined() && n.tokens > 1)
    keep = unstack(transpose(cast(reshape(going_on(form.segments), {B, n.tokens, 1, 1}), wide_options.dtype), 0, 1), 0);   // T of [B, 1, 1]
  const auto kept = [&](size_t t, const Tensor& m) { return keep.empty() ? m : m * (m.rank() == 4 ? column(keep[t]) : keep[t]); };
  Tensor m = x[kMemory];
  if (!m.defined()) m = zeros(form.keyed() ? Shape{B, H, V, K} : Shape{B, H, V}, wide_options);
  Tensor real, imaginary;
  if (form.kind == ScanKind::rotation) real = exp(x[kGate]) * cos(x[kRate]), imaginary = exp(x[kGate]) * sin(x[kRate]);   // [H, V/2]
  Tensors ys;
  for (size_t t = 0; t < size_t(n.tokens); ++t) {
    m = kept(t, m);
    switch (form.kind) {
      case ScanKind::value: m = exp(gate[t]) * m + (form.written ? -expm1(gate[t]) * v[t] : v[t]); break;
      case ScanKind::rotation: {
        const Tensor re = slice(m, 2, 0, half), im = slice(m, 2, half, V);
        m = concat({real * re - imaginary * im, imaginary * re + real * im}, 2) + v[t];
        break;
      }
      case ScanKind::entry: m = exp(gate[t]) * m + column(v[t]) * across(k[t]); break;
      case ScanKind::product: m = exp(-column(gate[t]) * x[kRate]) * m + column(form.written ? gate[t] * v[t] : v[t]) * across(k[t]); break;
      case ScanKind::proximal: {
        const Tensor step = gate[t] / (1.0 + gate[t] * sum(square(k[t]), 2, true));
        m = m - column(step) * across(square(k[t])) * m + column(step * v[t]) * across(k[t]);
        break;
      }
    }
    ys.push_back(form.keyed() ? reshape(matmul(m, column(q[t])), {B, H, V}) * form.scale : m);
  }
  return {cast(transpose(stack(ys, 0), 0, 1), x[kV].dtype()), m};   // [T, B, H, V] -> [B, T, H, V]
}

struct Saved { Tensors x; Tensor chunks; Form form; };

// What a forward and a backward are both told.
template <class T, class A> A told(const Tensors& x, const Form& form) {
  A a;
  a.size = sizes_of(x, form.keyed()), a.kind = form.kind, a.written = form.written, a.scale = Wide<T>(form.scale);
  a.q = rows<T>(x[kQ]), a.k = rows<T>(x[kK]), a.v = rows<T>(x[kV]);
  a.gate = in<Wide<T>>(x[kGate]), a.rate = in<Wide<T>>(x[kRate]), a.segments = in<int32_t>(form.segments);
  return a;
}
template <class T, class Place> void forward(const Tensors& x, const Form& form, Tensor& y, Tensor& memory, Tensor& chunks, Place place) {
  auto f = told<T, ScanForward<T>>(x, form);
  f.memory_in = in<Wide<T>>(x[kMemory]), f.memory_out = out<Wide<T>>(memory), f.saved = out<Wide<T>>(chunks), f.y = rows<T>(y);
  if constexpr (place.cuda) must("scan", cuda::scan_forward(f, Scratch(cuda::scan_workspace(f), y.device()), place.stream));
  else must("scan", cpu::scan_forward(f, Scratch(cpu::scan_workspace(f), y.device())));
}
template <class T, class Place> void backward(const Saved& s, const Tensor& dy, const Tensor& d_memory, Tensors& d, Place place) {
  auto b = told<T, ScanBackward<T>>(s.x, s.form);
  b.saved = in<Wide<T>>(s.chunks), b.dy = rows<T>(dy), b.d_memory_out = in<Wide<T>>(d_memory);
  b.dq = rows<T>(d[kQ]), b.dk = rows<T>(d[kK]), b.dv = rows<T>(d[kV]);
  b.d_gate = out<Wide<T>>(d[kGate]), b.d_rate = out<Wide<T>>(d[kRate]), b.d_memory_in = out<Wide<T>>(d[kMemory]);
  if constexpr (place.cuda) must("scan", cuda::scan_backward(b, Scratch(cuda::scan_workspace(b), dy.device()), place.stream));
  else must("scan", cpu::scan_backward(b, Scratch(cpu::scan_workspace(b), dy.device())));
}

// What is learned once for all sequences: the kernel answers a part a sequence.
bool shared_by_sequences(int input, const Form& form) { return input == kRate || (input == kGate && form.kind == ScanKind::rotation); }

// x as in Input -> {y [B, T, H, V], memory [B, H, V, K] or [B, H, V]}.
Tensors scan_op(const Tensors& x, const Form& form) {
  const ScanSizes n = sizes_of(x, form.keyed());
  const Options wide_options{wide(x[kV].dtype()), x[kV].device()};
  Tensor y = empty({n.batch, n.tokens, n.heads, n.value_dim}, like(x[kV]));
  Tensor memory = empty(form.keyed() ? Shape{n.batch, n.heads, n.value_dim, n.key_dim} : Shape{n.batch, n.heads, n.value_dim}, wide_options), chunks;
  if (recording() && detail::any_tracked(x)) chunks = empty({n.batch, n.chunks(), n.heads, n.value_dim, n.key_dim}, wide_options);
  dispatch("scan", x[kV], [&]<class T>(auto place) { forward<T>(x, form, y, memory, chunks, place); });
  if (!chunks.defined()) return {y, memory};
  Tensors plain;
  for (const Tensor& t : x) plain.push_back(t.defined() ? detach(t) : t);
  return kernel_op(
      "scan", {y, memory}, x, Saved{std::move(plain), chunks, form},
      [](const Saved& s, const Sweep& sweep) {
        const ScanSizes n = sizes_of(s.x, s.form.keyed());
        Tensors d(kInputs);
        for (int i = 0; i < kInputs; ++i) {
          if (!sweep.needs(i)) continue;
          const Shape& own = s.x[size_t(i)].shape();
          d[size_t(i)] = empty(shared_by_sequences(i, s.form) ? own.insert(0, n.batch) : own, like(s.x[size_t(i)]));
        }
        const Tensor dy = sweep.dy(0).defined() ? sweep.dy(0) : zeros({n.batch, n.tokens, n.heads, n.value_dim}, like(s.x[kV]));
        dispatch("scan", s.x[kV], [&]<class T>(auto place) { backward<T>(s, dy, sweep.dy(1), d, place); });
        for (int i = 0; i < kInputs; ++i)
          if (sweep.needs(i) && shared_by_sequences(i, s.form)) d[size_t(i)] = sum(d[size_t(i)], 0);
        return d;
      },
      [form](const Tensors& inputs) { return define(inputs, form); });
}

// -- which recipes it says ---------------------------------------------------------------------------------------------------------------------
// The kind of a recipe, or why it has none.
struct Said { Form form; std::string why; };

Said said(const Recipe& r) {
  const auto no = [](std::string why) { return Said{{}, std::move(why)}; };
  const auto* map = r.function().ask<LinearMap>();
  if (!map && !r.function().ask<Constant>()) return no(fmt::format("function class is {}, needs constant or linear", r.function().name()));
  if (auto why = unhonoured(r.reading(), {"scale", "key_norm", "key_eps"}); !why.empty()) return no(why);
  Form form;
  if (const auto* proximal = r.optimizer().ask<Proximal>()) {
    if (!map) return no("function class is constant, needs linear under proximal");
    if (!proximal->diagonal) return no("option diagonal=false of proximal turns the whole memory, needs diagonal=true");
    if (!r.weights().ask<EvenWeights>()) return no(fmt::format("weights are {}, needs even under proximal", r.weights().text()));
    if (auto why = unhonoured(*map, {"learned"}); !why.empty()) return no(why);
    form.kind = ScanKind::proximal;
    return {form, ""};
  }
  const auto* descend = r.optimizer().ask<Descend<Sgd>>();
  if (!descend) return no(fmt::format("optimizer is {}, needs descend or proximal", r.optimizer().text()));
  if (descend->at != Point::initial) return no("descend steps where the memory is, needs at=initial");
  if (auto why = unhonoured(*descend, {"at"}); !why.empty()) return no(why);
  const auto* geometric = r.weights().ask<GeometricWeights>();
  if (!geometric) return no(fmt::format("weights are {}, needs geometric", r.weights().name()));
  if (!map) {
    if (geometric->per != Decay::value) return no("the decay of a constant is not one a value, needs per=value");
    if (geometric->phase != geometric->fixed) return no("phase and fixed differ, needs both (lru) or neither (hgrn)");
    const bool tied = geometric->write == WriteGate::tied;
    if (auto why = unhonoured(*geometric, {"per", "phase", "fixed", tied && !geometric->phase ? "write" : "per"}); !why.empty()) return no(why);
    form.kind = geometric->phase ? ScanKind::rotation : ScanKind::value;
    form.written = tied;
    return {form, ""};
  }
  if (auto why = unhonoured(*map, {}); !why.empty()) return no(why);
  if (geometric->per != Decay::entry && geometric->per != Decay::product)
    return no("the decay is the same along a row or a column of the memory, needs per=entry or per=product");
  form.written = geometric->write == WriteGate::delta && geometric->per == Decay::product;
  if (auto why = unhonoured(*geometric, {"per", form.written ? "write" : "per"}); !why.empty()) return no(why);
  form.kind = geometric->per == Decay::entry ? ScanKind::entry : ScanKind::product;
  return {form, ""};
}

std::string accepts(const Recipe& r, const Problem& p, DeviceKind device) {
  const Said s = said(r);
  if (!s.why.empty()) return s.why;
  if (!s.form.keyed() && p.value_heads != p.heads)
    return fmt::format("value_heads is {}, needs heads {} for a memory that is not asked by key", p.value_heads, p.heads);
  if (s.form.kind == ScanKind::rotation && p.value_dim % 2) return fmt::format("value_dim is {}, needs an even size for complex numbers", p.value_dim);
  if (p.segments && s.form.kind == ScanKind::proximal && r.function().ask<LinearMap>()->learned)
    return "documents begin with a learned memory, needs a zero one";
  return unmet_device(p, device);
}

Answer run(const Recipe& r, const Arguments& a, const Problem& p) {
  const Dtype dtype = wide(p.dtype);
  Form form = said(r).form;
  form.scale = form.keyed() ? r.reading().scale.at(p.key_dim) : 1;
  form.segments = p.segments ? a.segments : Tensor();
  const auto slot = [&](const char* name) { return cast(a.slots.at(name), dtype); };
  Tensors x(kInputs);
  if (form.keyed()) x[kQ] = normed_keys(a.slots.at("q"), r.reading()), x[kK] = normed_keys(a.slots.at("k"), r.reading());
  x[kV] = a.slots.at("v");
  switch (form.kind) {
    case ScanKind::value:
    case ScanKind::entry: x[kGate] = slot("log_decay"); break;
    case ScanKind::rotation: x[kGate] = slot("log_decay"), x[kRate] = slot("phase"); break;
    case ScanKind::product: x[kGate] = slot("delta"), x[kRate] = slot("rate"); break;
    case ScanKind::proximal: x[kGate] = slot("step_size"); break;
  }
  const char* name = form.keyed() ? "memory" : "value";
  const Shape want = form.keyed() ? Shape{p.batch, p.heads, p.value_dim, p.key_dim} : Shape{p.batch, p.heads, p.value_dim};
  if (const auto carried = a.state.find(name); carried != a.state.end()) {
    x[kMemory] = cast(carried->second, dtype);
    if (x[kMemory].shape() != want) throw refuse("memory", "state {} has shape {}, needs {}", name, to_string(x[kMemory].shape()), to_string(want));
  } else if (!a.state.empty()) {
    throw refuse("memory", "state {} is missing, needs {}", name, to_string(want));
  } else if (form.kind == ScanKind::proximal && r.function().ask<LinearMap>()->learned) {
    const Tensor start = slot("initial_memory");
    x[kMemory] = broadcast_to(reshape(start, start.shape().insert(0, 1)), want);
  }
  const Tensors found = scan_op(x, form);
  Answer answer{found[0], {}};
  if (a.want_state) answer.state = {{name, found[1]}, {"position", position_state(position_of(a.state) + p.tokens)}};
  return answer;
}

// Of an entry of the memory. An exponential counts as one, though it costs about ten; docs/layers/scan.md says what that means.
double flops(const Recipe& r, const Problem& p) {
  double forward = 0, backward = 0;
  const Form form = said(r).form;
  switch (form.kind) {
    case ScanKind::value: forward = 4, backward = 11; break;
    case ScanKind::rotation: forward = 4, backward = 14; break;
    case ScanKind::entry: forward = 6, backward = 15; break;
    case ScanKind::product: forward = 7, backward = 20; break;
    case ScanKind::proximal: forward = 7, backward = 22; break;
  }
  return double(p.batch * p.tokens * p.heads * p.value_dim * (form.keyed() ? p.key_dim : 1)) * (forward + (p.training ? backward : 0));
}
double bytes(const Recipe& r, const Problem& p) {   // what comes in and goes out; in the backward all inputs again with dy, and their gradients
  const Said s = said(r);
  const double narrow = double(bytes_of(p.dtype)), broad = double(bytes_of(wide(p.dtype)));
  const double keys = s.form.keyed() ? double(p.heads + p.key_heads) * double(p.key_dim) : 0;
  const double values = double(p.value_heads * p.value_dim), answers = double(p.heads * p.value_dim);
  const double gates = s.form.kind == ScanKind::rotation ? 0 : answers * (s.form.kind == ScanKind::entry ? double(p.key_dim) : 1);
  const double inputs = (keys + values) * narrow + gates * broad;
  return double(p.batch * p.tokens) * (inputs + answers * narrow + (p.training ? 2 * inputs + answers * narrow : 0));
}

}  // namespace

extern const Route cpu_tiles, cuda_recurrent;
const Route cpu_tiles{"scan/cpu-tiles", "scan", [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cpu); }, run, flops, bytes};
const Route cuda_recurrent{
    "scan/cuda-recurrent", "scan", [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cuda); }, run, flops, bytes};

}  // namespace ttr::scan
