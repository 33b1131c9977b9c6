// The stem `diagonal_decay`: linear attention and its gated relatives as one kernel op, with its definition, and its routes.
//   M_t = M_{t-1} diag(a_t) + w_t v_t k_t^T,   y_t = scale (M_t q_t + ((u * k_t) . q_t) v_t)   (diagonal_decay_kernel.hpp says which recipe is which)
// Around it, in operations: feature maps of q and k, and the running scale of unbounded gates.
// Next: diagonal_decay_cpu.cpp (blocks of 16 tokens), cuda/diagonal_decay.cu (the recurrence), tests/diagonal_decay_kernel.cpp,
// docs/layers/diagonal_decay.md.
#include <limits>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/layers/diagonal_decay_kernel.hpp>
#include <ttr/layers/feature_maps.hpp>
#include <ttr/layers/match.hpp>
#include <ttr/layers/moving_average.hpp>
#include <ttr/layers/plan.hpp>

namespace ttr::diagonal_decay {
namespace {

// -- the kernel op ---------------------------------------------------------------------------------------------------------------------------
enum Input { kQ, kK, kV, kDecay, kWrite, kBonus, kMemory, kFloor, kInputs };   // the last five may be undefined, kK is where tied; kDecay is the logarithm

struct Setting {
  double scale = 1;
  bool strict = false, normalised = false, tied = false;
  Tensor segments = {};   // i32 [B, T] or undefined
  Divide by = Divide::sum;
  double eps = 0;
};

DecaySizes sizes_of(const Tensors& x, const Setting& s) {
  return {.batch = x[kQ].size(0), .tokens = x[kQ].size(1), .heads = x[kQ].size(2), .key_heads = x[s.tied ? kQ : kK].size(2), .value_heads = x[kV].size(2),
          .key_dim = x[kQ].size(3), .value_dim = x[kV].size(3), .normaliser = s.normalised};
}
template <class T> Rows<const T> rows(const Tensor& x) { return x.defined() ? Rows<const T>{in<T>(x), x.size(2) * x.size(3)} : Rows<const T>{}; }
template <class T> Rows<T> rows(Tensor& x) { return x.defined() ? Rows<T>{out<T>(x), x.size(2) * x.size(3)} : Rows<T>{}; }
template <class T> DecayGates<T> gates(const Tensors& x, const Setting& s) {
  return {.log_decay = in<Wide<T>>(x[kDecay]), .per_channel = x[kDecay].defined() && x[kDecay].rank() == 4, .tied = s.tied, .strict = s.strict,
          .write = in<Wide<T>>(x[kWrite]), .bonus = in<Wide<T>>(x[kBonus]), .segments = in<int32_t>(s.segments), .scale = Wide<T>(s.scale)};
}

template <class T> Divisor<Wide<T>> divisor(const Tensors& x, const Setting& s) {
  return {.by = s.by, .eps = Wide<T>(s.eps), .floor = in<Wide<T>>(x[kFloor])};
}
Tensor divisor_of(const Tensor& n, const Tensor& floor, const Setting& s) {   // z(n) [B, T, H, 1], in operations
  if (s.by == Divide::sum) return n + s.eps;
  if (s.by == Divide::clamp) return maximum(n, s.eps);
  return maximum(abs(n), floor.defined() ? reshape(floor, n.shape()) : ones(n.shape(), like(n))) + s.eps;
}

// 1 where a document starts inside the call, [B, T].
Tensor starts_of(const Tensor& segments, Dtype dtype) {
  const int64_t B = segments.size(0), T = segments.size(1);
  const Tensor id = cast(segments, Dtype::f64), first = zeros({B, 1}, like(id));   // every i32 exactly
  if (T == 1) return cast(first, dtype);
  return cast(concat({first, 1.0 - equal(slice(id, 1, 1, T), slice(id, 1, 0, T - 1))}, 1), dtype);
}
Tensor cleared(const Tensor& x, const Tensor& where_one) { return where_one.defined() ? where(where_one, zeros(x.shape(), like(x)), x) : x; }

// The same function, token by token in primitives: what a second derivative differentiates, and a parity test.
Tensors define(const Tensors& x, const Setting& setting) {
  const DecaySizes n = sizes_of(x, setting);
  const Dtype wide_dtype = wide(x[kQ].dtype());
  const auto tokens = [&](const Tensor& t) { return unstack(transpose(over_heads(cast(t, wide_dtype), n.heads), 0, 1), 0); };   // T of [B, H, D]
  const auto of_token = [&](const Tensor& t) { return unstack(transpose(reshape(t, {n.batch, n.tokens, n.heads, 1, -1}), 0, 1), 0); };   // [B, H, 1, *]
  const auto column = [](const Tensor& t) { return reshape(t, t.shape().insert(3, 1)); };
  const Tensor values = !n.normaliser ? x[kV] : concat({x[kV], ones(x[kV].shape().with(3, 1), like(x[kV]))}, 3);
  const Tensors q = tokens(x[kQ]), k = tokens(setting.tied ? -expm1(x[kDecay]) : x[kK]), v = tokens(values);
  const Tensors a = x[kDecay].defined() ? of_token(exp(x[kDecay])) : Tensors{}, w = x[kWrite].defined() ? of_token(x[kWrite]) : Tensors{};
  Tensors start(size_t(n.tokens));   // [B, H, V, K] or undefined
  Tensor m = x[kMemory].defined() ? x[kMemory] : zeros({n.batch, n.heads, n.rows(), n.key_dim}, {wide_dtype, x[kQ].device()});
  if (setting.segments.defined())
    for (int64_t t = 0; const Tensor& one : unstack(starts_of(setting.segments, wide_dtype), 1))
      start[size_t(t++)] = broadcast_to(reshape(one, {n.batch, 1, 1, 1}), m.shape());
  Tensors ys;
  for (size_t t = 0; t < size_t(n.tokens); ++t) {
    const Tensor before = cleared(m, start[t]), write = matmul(column(v[t]), column(k[t]), false, true);
    m = (a.empty() ? before : a[t] * before) + (w.empty() ? write : w[t] * write);
    Tensor y = reshape(matmul(setting.strict ? before : m, column(q[t])), {n.batch, n.heads, n.rows()});
    if (x[kBonus].defined()) y = y + sum(x[kBonus] * k[t] * q[t], -1, true) * v[t];
    ys.push_back(y * setting.scale);
  }
  const Tensor y = transpose(stack(ys, 0), 0, 1);   // [T, B, H, R] -> [B, T, H, R]
  if (!n.normaliser) return {cast(y, x[kQ].dtype()), m};
  const Tensors parts = split(y, 3, {n.value_dim, 1});
  return {cast(parts[0] / divisor_of(parts[1], x[kFloor], setting), x[kQ].dtype()), m};
}

struct Saved { Tensors x; Tensor chunks, pairs, y, normaliser; Setting setting; };   // y, not rounded, and normaliser where it is asked for

template <class T, class Place>
void forward(const Tensors& x, const Setting& s, Tensor& y, Tensor& memory, Tensor& normaliser, Tensor& exact_y, Tensor& chunks, Tensor& pairs,
             Place place) {
  DecayForward<T> f{.size = sizes_of(x, s), .gates = gates<T>(x, s), .divisor = divisor<T>(x, s), .q = rows<T>(x[kQ]),
                    .k = rows<T>(x[kK]), .v = rows<T>(x[kV]), .memory_in = in<Wide<T>>(x[kMemory]),
                    .memory_out = out<Wide<T>>(memory), .saved = out<Wide<T>>(chunks), .pairs = out<Wide<T>>(pairs), .y = rows<T>(y),
                    .normaliser = out<Wide<T>>(normaliser), .exact_y = out<Wide<T>>(exact_y)};
  if constexpr (place.cuda)
    must("diagonal_decay", cuda::diagonal_decay_forward(f, Scratch(cuda::diagonal_decay_workspace(f), y.device()), place.stream));
  else must("diagonal_decay", cpu::diagonal_decay_forward(f, Scratch(cpu::diagonal_decay_workspace(f), y.device())));
}

template <class T, class Place> void backward(const Saved& s, const Tensor& dy, const Tensor& d_memory, Tensors& d, Place place) {
  const Tensors& x = s.x;
  DecayBackward<T> b{.size = sizes_of(x, s.setting), .gates = gates<T>(x, s.setting), .divisor = divisor<T>(x, s.setting), .q = rows<T>(x[kQ]),
                     .k = rows<T>(x[kK]), .v = rows<T>(x[kV]), .saved = in<Wide<T>>(s.chunks), .pairs = in<Wide<T>>(s.pairs), .dy = rows<T>(dy),
                     .y = rows<Wide<T>>(s.y), .normaliser = in<Wide<T>>(s.normaliser), .d_memory_out = in<Wide<T>>(d_memory), .dq = rows<T>(d[kQ]),
                     .dk = rows<T>(d[kK]), .dv = rows<T>(d[kV]), .d_log_decay = out<Wide<T>>(d[kDecay]), .d_write = out<Wide<T>>(d[kWrite]),
                     .d_bonus = out<Wide<T>>(d[kBonus]), .d_floor = out<Wide<T>>(d[kFloor]), .d_memory_in = out<Wide<T>>(d[kMemory])};
  if constexpr (place.cuda)
    must("diagonal_decay", cuda::diagonal_decay_backward(b, Scratch(cuda::diagonal_decay_workspace(b), dy.device()), place.stream));
  else must("diagonal_decay", cpu::diagonal_decay_backward(b, Scratch(cpu::diagonal_decay_workspace(b), dy.device())));
}

// x as in Input -> {y [B, T, H, V], memory [B, H, R, K]}
Tensors apply(const Tensors& x, const Setting& setting) {
  const DecaySizes n = sizes_of(x, setting);
  const Options wide_options{wide(x[kQ].dtype()), x[kQ].device()};
  Tensor y = empty({n.batch, n.tokens, n.heads, n.value_dim}, like(x[kQ]));
  Tensor memory = empty({n.batch, n.heads, n.rows(), n.key_dim}, wide_options), normaliser, exact_y, chunks, pairs;
  if (n.normaliser) normaliser = empty({n.batch, n.tokens, n.heads, 1}, wide_options);
  if (recording() && detail::any_tracked(x)) chunks = empty({n.batch, n.heads, n.chunks(), n.rows(), n.key_dim}, wide_options);
  if (chunks.defined() && !x[kQ].device().is_cuda()) pairs = empty({n.batch, n.heads, n.blocks(), kDecayBlock, kDecayBlock}, wide_options);
  if (chunks.defined() && n.normaliser && y.dtype() != wide_options.dtype) exact_y = empty(y.shape(), wide_options);
  dispatch("diagonal_decay", x[kQ], [&]<class T>(auto place) { forward<T>(x, setting, y, memory, normaliser, exact_y, chunks, pairs, place); });
  const Tensors found{y, memory};
  if (!chunks.defined()) return found;
  Tensors plain;
  for (const Tensor& t : x) plain.push_back(t.defined() ? detach(t) : t);
  return kernel_op(
      "diagonal_decay", found, x,
      Saved{std::move(plain), chunks, pairs, !n.normaliser ? Tensor() : exact_y.defined() ? exact_y : detach(y), normaliser, setting},
      [](const Saved& s, const Sweep& sweep) {
        const DecaySizes n = sizes_of(s.x, s.setting);
        Tensors d(kInputs);
        for (int i = 0; i < kInputs; ++i)
          if (sweep.needs(i)) d[size_t(i)] = empty(s.x[size_t(i)].shape(), like(s.x[size_t(i)]));
        if (sweep.needs(kBonus)) d[kBonus] = empty({n.batch, n.heads, n.key_dim}, like(s.x[kBonus]));   // one a sequence
        const Tensor dy = sweep.dy(0).defined() ? sweep.dy(0) : zeros({n.batch, n.tokens, n.heads, n.value_dim}, like(s.x[kQ]));
        dispatch("diagonal_decay", s.x[kQ], [&]<class T>(auto place) { backward<T>(s, dy, sweep.dy(1), d, place); });
        if (sweep.needs(kBonus)) d[kBonus] = sum(d[kBonus], 0);
        return d;
      },
      [setting](const Tensors& inputs) { return define(inputs, setting); });
}

// -- the running scale of unbounded write gates ------------------------------------------------------------------------------------------------
// m_t = max(g_t + m_{t-1}, w_t): g, w [B, T, H], first [B, H] or undefined -> m [B, T, H].
Tensor running_scale(const Tensor& g, const Tensor& w, const Tensor& first, const Tensor& segments) {
  const auto arguments = [segments]<class A>(const Tensor& decay, const Tensor& write, const Tensor& initial, const A*) {
    return RunningScale<A>{.batch = decay.size(0), .tokens = decay.size(1), .heads = decay.size(2), .log_decay = in<A>(decay),
                           .log_write = in<A>(write), .initial = in<A>(initial), .segments = in<int32_t>(segments)};
  };
  Tensor m = empty(g.shape(), like(g));
  dispatch("running_scale", g, [&]<class T>(auto place) {
    if constexpr (!std::same_as<T, bf16>) {
      RunningScale<T> x = arguments(g, w, first, static_cast<T*>(nullptr));
      x.scale = out<T>(m);
      if constexpr (place.cuda) must("running_scale", cuda::running_scale_forward(x, place.stream));
      else must("running_scale", cpu::running_scale_forward(x));
    }
  });
  struct Saved { Tensor g, w, first, m; };
  Saved saved{detach(g), detach(w), first.defined() ? detach(first) : first, detach(m)};
  return kernel_op(
      "running_scale", {m}, {g, w, first}, std::move(saved),
      [arguments](const Saved& s, const Sweep& sweep) {
        Tensor dg = empty(s.g.shape(), like(s.g)), dw = empty(s.g.shape(), like(s.g)), d_first;
        if (sweep.needs(2)) d_first = empty(s.first.shape(), like(s.g));
        dispatch("running_scale", s.g, [&]<class T>(auto place) {
          if constexpr (!std::same_as<T, bf16>) {
            RunningScale<T> x = arguments(s.g, s.w, s.first, static_cast<T*>(nullptr));
            x.scale = const_cast<T*>(in<T>(s.m)), x.d_scale = in<T>(sweep.dy());
            x.d_log_decay = out<T>(dg), x.d_log_write = out<T>(dw), x.d_initial = out<T>(d_first);
            if constexpr (place.cuda) must("running_scale", cuda::running_scale_backward(x, place.stream));
            else must("running_scale", cpu::running_scale_backward(x));
          }
        });
        return Tensors{dg, dw, d_first};
      },
      [segments](const Tensors& x) {
        const Tensor starts = segments.defined() ? starts_of(segments, x[0].dtype()) : Tensor();   // [B, T]
        const Tensors gs = unstack(x[0], 1), ws = unstack(x[1], 1), fresh = starts.defined() ? unstack(starts, 1) : Tensors(gs.size());
        Tensor last = x[2].defined() ? x[2] : zeros(gs[0].shape(), like(gs[0]));
        Tensors all;
        for (size_t t = 0; t < gs.size(); ++t) {
          const Tensor now = fresh[t].defined() ? broadcast_to(reshape(fresh[t], {last.size(0), 1}), last.shape()) : Tensor();
          all.push_back(last = maximum(gs[t] + cleared(last, now), ws[t]));
        }
        return Tensors{stack(all, 1)};
      })[0];
}

// -- which recipes it says ---------------------------------------------------------------------------------------------------------------------
std::string weights_reason(const Recipe& r, const LinearMap& map) {
  if (r.weights().ask<EvenWeights>() || r.weights().ask<MovingAverage>()) return map.tied ? "the key is tied to a decay a channel, needs per=channel" : "";
  const auto* g = r.weights().ask<GeometricWeights>();
  if (!g) return fmt::format("weights are {}, needs even, geometric or moving_average", r.weights().name());
  if (const auto why = unhonoured(*g, {"per", "write", "fixed"}); !why.empty()) return why;
  if (g->per != Decay::head && g->per != Decay::channel) return unhonoured(*g, {"write", "fixed"});
  const bool channel = g->per == Decay::channel;
  if (map.tied && !channel) return "the key is tied to a decay a channel, needs per=channel";
  if (channel && (g->write == WriteGate::log || g->write == WriteGate::tied)) return unhonoured(*g, {"per", "fixed"});
  if (channel && !map.feature.ask<Identity>()) return fmt::format("option feature={} of linear is not honoured beside per=channel", map.feature.text());
  return "";
}

std::string recipe_reason(const Recipe& r) {
  const auto* map = r.function().ask<LinearMap>();
  if (!map) return fmt::format("function class is {}, needs linear", r.function().name());
  if (const auto why = unhonoured(*map, {"feature", "normaliser", "eps", "tied", "bonus", "learned"}); !why.empty()) return why;
  if (!map->feature->tokens_at_once()) return fmt::format("option feature={} of linear is not honoured, it maps one token at a time", map->feature.text());
  const bool identity = map->feature.ask<Identity>(), normalised = map->normaliser != Normaliser::none;
  if (map->bonus && (!identity || normalised || map->learned))
    return "option bonus=true of linear is not honoured beside feature, normaliser or learned";
  if (map->learned && !identity) return "option learned=true of linear is not honoured beside feature";
  if (const auto why = unhonoured(r.reading(), {"scale", "read", "key_norm", "key_eps"}); !why.empty()) return why;
  if (r.reading().read == Read::chunk) return unhonoured(r.reading(), {"scale", "key_norm", "key_eps"});
  const auto* descend = r.optimizer().ask<Descend<Sgd>>();
  if (!descend) return fmt::format("optimizer is {}, needs descend", r.optimizer().text());
  if (const auto why = unhonoured(*descend, {"at", "rate", "limit"}); !why.empty()) return why;
  if (descend->at != Point::initial) return "descend steps at the memory of the moment, needs at=initial";
  return weights_reason(r, *map);
}

std::string accepts(const Recipe& r, const Problem& p, DeviceKind device) {
  if (auto why = recipe_reason(r); !why.empty()) return why;
  const LinearMap& map = *r.function().ask<LinearMap>();
  if (p.segments && map.learned) return "documents begin with a learned memory, needs a zero one";
  if (p.segments && map.feature.ask<Cosformer>()) return "documents begin at position 0 and the feature map asks for positions, needs fold";
  return unmet_device(p, device);
}

// What the weights and the optimizer say about each token.
struct Coefficients {
  Tensor log_decay;   // [B, T, H] or [B, T, H, K]; undefined: 0
  Tensor write;       // [B, T, H]; undefined: 1
  Tensor scale, scale_before;   // of unbounded gates: after and before each token [B, T, H]
};

Tensor product_of(const Tensor& a, const Tensor& b) { return a.defined() ? a * b : b; }

Coefficients coefficients(const Recipe& r, const Arguments& a, const Problem& p) {
  const Dtype dtype = wide(p.dtype);
  const auto slot = [&](const char* name) { return cast(a.slots.at(name), dtype); };
  Coefficients c;
  if (r.weights().ask<MovingAverage>()) {
    const Tensor gate = slot("gate");
    c.log_decay = log(maximum(gate, dtype == Dtype::f64 ? std::numeric_limits<double>::min() : double(std::numeric_limits<float>::min())));
    c.write = 1.0 - gate;
  } else if (const auto* g = r.weights().ask<GeometricWeights>()) {
    c.log_decay = slot("log_decay");
    if (g->fixed) {   // [H, ...] -> [B, T, H, ...]
      const Shape all = c.log_decay.shape().insert(0, p.tokens).insert(0, p.batch);
      c.log_decay = broadcast_to(reshape(c.log_decay, all.with(0, 1).with(1, 1)), all);
    }
    if (g->write == WriteGate::gate) c.write = slot("write_gate");
    if (g->write == WriteGate::tied) c.write = -expm1(c.log_decay);
    if (g->write == WriteGate::log) {
      const Tensor w = slot("log_write_gate");
      Tensor first;
      if (!a.state.empty()) {
        const auto found = a.state.find("log_scale");
        if (found == a.state.end()) throw refuse("memory", "state log_scale is missing, needs it with shape [{}, {}]", p.batch, p.heads);
        first = cast(found->second, dtype);
        if (first.shape() != Shape{p.batch, p.heads})
          throw refuse("memory", "state log_scale has shape {}, needs [{}, {}]", to_string(first.shape()), p.batch, p.heads);
      }
      c.scale = running_scale(c.log_decay, w, first, a.segments);
      const Tensor begin = first.defined() ? reshape(first, {p.batch, 1, p.heads}) : zeros({p.batch, 1, p.heads}, like(c.scale));
      c.scale_before = p.tokens == 1 ? begin : concat({begin, slice(c.scale, 1, 0, p.tokens - 1)}, 1);
      if (p.segments) {
        const Tensor starts = reshape(starts_of(a.segments, dtype), {p.batch, p.tokens, 1});
        c.scale_before = cleared(c.scale_before, broadcast_to(starts, c.scale_before.shape()));
      }
      c.write = exp(w - c.scale);
      c.log_decay = c.log_decay + (c.scale_before - c.scale);
    }
  }
  if (!r.optimizer().ask<Descend<Sgd>>()->unit_rate()) c.write = product_of(c.write, slot("step_size"));
  return c;
}

// The memory that enters, with the normaliser as its last row: [B, H, V (+ 1), K]; undefined: zero.
Tensor entering(const LinearMap& map, const Arguments& a, const Problem& p, int64_t features) {
  const Dtype dtype = wide(p.dtype);
  const bool normalised = map.normaliser != Normaliser::none;
  if (a.state.empty()) {
    if (!map.learned) return {};
    const Tensor start = cast(a.slots.at("initial_memory"), dtype);
    const Tensor all = broadcast_to(reshape(start, start.shape().insert(0, 1)), start.shape().insert(0, p.batch));
    return normalised ? pad(all, 2, 0, 1) : all;
  }
  const auto carried = [&](const char* name, const Shape& want) {
    const auto found = a.state.find(name);
    if (found == a.state.end()) throw refuse("memory", "state {} is missing, needs {}", name, to_string(want));
    if (found->second.shape() != want) throw refuse("memory", "state {} has shape {}, needs {}", name, to_string(found->second.shape()), to_string(want));
    return cast(found->second, dtype);
  };
  const Tensor memory = carried("memory", {p.batch, p.heads, p.value_dim, features});
  if (!normalised) return memory;
  return concat({memory, reshape(carried("normalizer", {p.batch, p.heads, features}), {p.batch, p.heads, 1, features})}, 2);
}

// M_0 k_t for every token, [B, T, H, V]: from a learned memory the one step goes along the error there.
Tensor recalled(const Tensor& start, const Tensor& k, const Problem& p) {
  const Tensor keys = reshape(transpose(transpose(over_heads(k, p.heads), 1, 2), 0, 1), {p.heads, p.batch * p.tokens, p.key_dim});
  const Tensor found = reshape(matmul(keys, start, false, true), {p.heads, p.batch, p.tokens, p.value_dim});
  return transpose(transpose(found, 0, 1), 1, 2);
}

Answer run(const Recipe& r, const Arguments& a, const Problem& p) {
  const LinearMap& map = *r.function().ask<LinearMap>();
  const Dtype dtype = wide(p.dtype);
  const bool normalised = map.normaliser != Normaliser::none;
  const Coefficients c = coefficients(r, a, p);
  Setting setting{.scale = r.reading().scale.at(p.key_dim), .strict = r.reading().read == Read::strict, .normalised = normalised,
                  .tied = map.tied && !map.learned, .segments = a.segments,   // M_0 k_t is asked of keys that are there
                  .by = map.normaliser == Normaliser::clamp  ? Divide::clamp
                        : map.normaliser == Normaliser::max1 ? Divide::magnitude
                                                             : Divide::sum,
                  .eps = map.eps};

  Tensor q = normed_keys(a.slots.at("q"), r.reading()), v = a.slots.at("v");
  Tensor k = setting.tied ? Tensor() : map.tied ? -expm1(c.log_decay) : normed_keys(a.slots.at("k"), r.reading());
  if (map.learned || !map.feature.ask<Identity>()) {
    q = cast(q, dtype), v = cast(v, dtype);
    if (k.defined()) k = cast(k, dtype);
  }
  if (!map.feature.ask<Identity>()) {
    const int64_t first = position_of(a.state);
    q = features_of(map.feature, setting.scale == 1 ? q : q * setting.scale, a.slots, first);
    k = features_of(map.feature, map.feature.slots().empty() ? k : over_heads(k, p.heads), a.slots, first);   // heads map keys each their way
    setting.scale = 1;
  }
  const int64_t features = q.size(3);
  if (map.learned) v = over_heads(v, p.heads) - recalled(cast(a.slots.at("initial_memory"), dtype), k, p);
  const Tensor bonus = map.bonus ? cast(a.slots.at("bonus"), dtype) : Tensor();
  const Tensor scale = setting.strict ? c.scale_before : c.scale;   // memory and normaliser are divided by its exponential, so the 1 of max1 is too
  const Tensor floor = setting.by == Divide::magnitude && scale.defined() ? exp(-scale) : Tensor();
  const Tensors found = apply({q, k, v, c.log_decay, c.write, bonus, entering(map, a, p, features), floor}, setting);

  Answer answer{cast(found[0], p.dtype), {}};
  if (!a.want_state) return answer;
  if (normalised) {
    const Tensors parts = split(found[1], 2, {p.value_dim, 1});
    answer.state = {{"memory", parts[0]}, {"normalizer", reshape(parts[1], {p.batch, p.heads, features})}};
  } else {
    answer.state = {{"memory", found[1]}};
  }
  if (c.scale.defined()) answer.state["log_scale"] = reshape(slice(c.scale, 1, p.tokens - 1, p.tokens), {p.batch, p.heads});
  answer.state["position"] = position_state(position_of(a.state) + p.tokens);
  return answer;
}

double flops(const Recipe& r, const Problem& p) {   // of blocks of 16 tokens, triangles counted once, and of the feature map's products
  const LinearMap& map = *r.function().ask<LinearMap>();
  const double k = double(feature_count(map.feature, p.key_dim)), v = double(p.value_dim + (map.normaliser != Normaliser::none));
  const double c = double(std::min<int64_t>(16, p.tokens)), forward = 4 * k * v + c * (k + v), backward = 8 * k * v + c * (3 * k + 2 * v);
  const double mapped = double(p.heads + (map.feature.slots().empty() ? p.key_heads : p.heads)) * feature_flops(map.feature, p.key_dim, p.training);
  return double(p.batch * p.tokens) * (double(p.heads) * (forward + (p.training ? backward : 0)) + mapped);
}
double bytes(const Recipe& r, const Problem& p) {   // q, k, v, y and the decay; in the backward those again with dy, and dq, dk, dv and the decay out
  const auto* g = r.weights().ask<GeometricWeights>();
  const double decay = g ? double(g->per == Decay::channel ? p.key_dim : 1) * double(bytes_of(wide(p.dtype))) : 0;
  const double row = double((2 * p.key_dim + 2 * p.value_dim) * int64_t(bytes_of(p.dtype))) + decay;
  return double(p.batch * p.tokens * p.heads) * row * (p.training ? 3 : 1);
}

}  // namespace

extern const Route cpu_block, cuda_recurrent;
const Route cpu_block{"diagonal_decay/cpu-block",
                      "diagonal_decay",
                      [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cpu); },
                      run,
                      flops,
                      bytes};
const Route cuda_recurrent{"diagonal_decay/cuda-recurrent",
                           "diagonal_decay",
                           [](const Recipe& r, const Problem& p) { return accepts(r, p, DeviceKind::cuda); },
                           run,
                           flops,
                           bytes};

}  // namespace ttr::diagonal_decay
