// The stem `normal_equations`: a linear memory solved to the end at every token, as one kernel op with its definition, and its routes.
//   y_t = F_t (H_t + rho_t diag(ridge))^{-1} q_t,   F_t = sum_i gamma_i v_i k_i^T,   H_t = sum_i gamma_i k_i k_i^T
// (normal_equations_kernel.hpp says which recipe is which gamma and rho, and what the three ways to solve are.) The state is fold's: the pairs.
// Next: normal_equations_cpu.cpp and its three solvers, cuda/normal_equations.cu, tests/normal_equations_kernel.cpp, docs/layers/normal_equations.md.
#include <cmath>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/match.hpp>
#include <ttr/layers/normal_equations_kernel.hpp>
#include <ttr/layers/plan.hpp>

namespace ttr::least_squares {
namespace {

// -- the kernel op ---------------------------------------------------------------------------------------------------------------------------
enum Input { kQ, kK, kV, kDecay, kWrite, kRidge, kInputs };   // decay and write may be undefined

struct Setting {
  AnyOptimizer optimizer;     // the recipe's, with one ridge a channel: Exact or ConjugateGradient
  double scale = 1;
  int64_t past = 0;           // carried tokens, which come first and are not asked
  int64_t first = 0;          // place of the first of them in its document
  Tensor documents;           // i32 [B, T]: counted 0, 1, 2, ...; undefined: one document
  Ridge ridge() const { return optimizer.ask<Exact>() ? optimizer.ask<Exact>()->ridge : optimizer.ask<ConjugateGradient>()->ridge; }
  int64_t refresh() const { return optimizer.ask<Exact>() ? optimizer.ask<Exact>()->chunk : optimizer.ask<ConjugateGradient>()->chunk; }
};

RidgePolicy policy_of(Ridge r) {
  return r == Ridge::decaying ? RidgePolicy::decaying : r == Ridge::refreshed ? RidgePolicy::refreshed : r == Ridge::relative ? RidgePolicy::relative
                                                                                                                            : RidgePolicy::constant;
}

NormalSizes sizes_of(const Tensors& x, const Setting& s) {
  return {.batch = x[kQ].size(0), .tokens = x[kK].size(1), .past = s.past, .heads = x[kQ].size(2), .key_heads = x[kK].size(2),
          .value_heads = x[kV].size(2), .key_dim = x[kQ].size(3), .value_dim = x[kV].size(3)};
}
template <class T> Rows<const T> rows(const Tensor& x) { return {in<T>(x), x.size(2) * x.size(3)}; }
template <class T> Rows<T> rows(Tensor& x) { return x.defined() ? Rows<T>{out<T>(x), x.size(2) * x.size(3)} : Rows<T>{}; }

// The same function by fold: every token on its own, in primitives. What a second derivative differentiates, and a parity test.
Tensors define(const Tensors& x, const Setting& s) {
  const NormalSizes n = sizes_of(x, s);
  const Options wide_options{wide(x[kQ].dtype()), x[kQ].device()};
  Arguments a{.slots = {{"q", cast(x[kQ], wide_options.dtype) * s.scale}, {"ridge", x[kRidge]}}};
  const auto give = [&](const char* slot, const char* carried, const Tensor& whole) {
    const Tensor t = cast(whole, wide_options.dtype);
    a.slots[slot] = slice(t, 1, n.past, n.tokens);
    if (n.past) a.state[carried] = slice(t, 1, 0, n.past);
  };
  const auto gate = [&](int i, double otherwise) {
    return x[size_t(i)].defined() ? x[size_t(i)] : full({n.batch, n.tokens, n.heads}, otherwise, wide_options);
  };
  give("k", "keys", x[kK]);
  give("v", "values", x[kV]);
  give("log_decay", "past.log_decay", gate(kDecay, 0));
  give("write_gate", "past.write_gate", gate(kWrite, 1));
  if (n.past) a.state["position"] = position_state(s.first + n.past);
  if (s.documents.defined()) a.segments = slice(s.documents, 1, n.past, n.tokens);
  const Recipe recipe(AnyWeights(GeometricWeights{.write = WriteGate::gate}), AnyFunction(LinearMap{}), s.optimizer);
  return {cast(fold(recipe, a).y, x[kQ].dtype())};
}

struct Saved { Tensors x; Tensor moments; Setting setting; };

template <class T> void fill(NormalProblem<T>& p, const Tensors& x, const Setting& s) {
  p.size = sizes_of(x, s);
  p.q = rows<T>(x[kQ]), p.k = rows<T>(x[kK]), p.v = rows<T>(x[kV]);
  p.log_decay = in<Wide<T>>(x[kDecay]), p.write = in<Wide<T>>(x[kWrite]), p.ridge = in<Wide<T>>(x[kRidge]);
  p.documents = in<int32_t>(s.documents);
  p.first = s.first;
  p.policy = policy_of(s.ridge());
  p.refresh = s.refresh();
  p.scale = Wide<T>(s.scale);
  if (const auto* gradient = s.optimizer.ask<ConjugateGradient>()) {
    p.method = NormalMethod::iterative, p.steps = gradient->steps;
    p.tolerance = sizeof(Wide<T>) == 8 ? Wide<T>(1e-14) : Wide<T>(1e-7);   // below it further steps move rounding errors
  } else {
    p.method = follows_by_rank_one(p.policy, x[kDecay].defined()) ? NormalMethod::chunk : NormalMethod::token;
  }
}

template <class T, class Place> void forward(const Tensors& x, const Setting& s, Tensor& y, Tensor& moments, Place place) {
  NormalForward<T> f;
  fill(f, x, s);
  f.saved = out<Wide<T>>(moments), f.y = rows<T>(y);
  if constexpr (place.cuda)
    must("normal_equations", cuda::normal_equations_forward(f, Scratch(cuda::normal_equations_workspace(f), y.device()), place.stream));
  else must("normal_equations", cpu::normal_equations_forward(f, Scratch(cpu::normal_equations_workspace(f), y.device())));
}

template <class T, class Place> void backward(const Saved& s, const Tensor& dy, Tensors& d, Place place) {
  NormalBackward<T> b;
  fill(b, s.x, s.setting);
  b.saved = in<Wide<T>>(s.moments), b.dy = rows<T>(dy);
  b.dq = rows<T>(d[kQ]), b.dk = rows<T>(d[kK]), b.dv = rows<T>(d[kV]);
  b.d_log_decay = out<Wide<T>>(d[kDecay]), b.d_write = out<Wide<T>>(d[kWrite]), b.d_ridge = out<Wide<T>>(d[kRidge]);
  if constexpr (place.cuda)
    must("normal_equations", cuda::normal_equations_backward(b, Scratch(cuda::normal_equations_workspace(b), dy.device()), place.stream));
  else must("normal_equations", cpu::normal_equations_backward(b, Scratch(cpu::normal_equations_workspace(b), dy.device())));
}

// x as in Input, carried tokens before the others in all but q -> y [B, T - past, H, V].
Tensor apply(const Tensors& x, const Setting& setting) {
  const NormalSizes n = sizes_of(x, setting);
  Tensor y = empty({n.batch, n.asked(), n.heads, n.value_dim}, like(x[kQ])), moments;
  const bool saves = recording() && detail::any_tracked(x);
  if (saves) moments = empty({n.batch, n.heads, n.chunks(), n.key_dim + n.value_dim, n.key_dim}, {wide(x[kQ].dtype()), x[kQ].device()});
  dispatch("normal_equations", x[kQ], [&]<class T>(auto place) { forward<T>(x, setting, y, moments, place); });
  if (!saves) return y;
  Tensors plain;
  for (const Tensor& t : x) plain.push_back(t.defined() ? detach(t) : t);
  return kernel_op(
      "normal_equations", {y}, x, Saved{std::move(plain), moments, setting},
      [](const Saved& s, const Sweep& sweep) {
        const NormalSizes n = sizes_of(s.x, s.setting);
        Tensors d(kInputs);
        for (int i = 0; i < kInputs; ++i)
          if (sweep.needs(i)) d[size_t(i)] = empty(i == kRidge ? Shape{n.batch, n.heads, n.key_dim} : s.x[size_t(i)].shape(), like(s.x[size_t(i)]));
        dispatch("normal_equations", s.x[kQ], [&]<class T>(auto place) { backward<T>(s, sweep.dy(), d, place); });
        if (d[kRidge].defined()) d[kRidge] = sum(d[kRidge], 0);   // one ridge for all sequences
        return d;
      },
      [setting](const Tensors& inputs) { return define(inputs, setting); })[0];
}

// -- which recipes it says ---------------------------------------------------------------------------------------------------------------------
std::string recipe_reason(const Recipe& r, bool exact) {
  const auto* map = r.function().ask<LinearMap>();
  if (!map) return fmt::format("function class is {}, needs linear", r.function().name());
  if (const auto why = unhonoured(*map, {}); !why.empty()) return why;
  if (const auto why = unhonoured(r.reading(), {"scale", "key_norm", "key_eps"}); !why.empty()) return why;
  Ridge ridge = Ridge::none;
  RidgePer per = RidgePer::head;
  int64_t chunk = 1;
  if (const auto* solved = r.optimizer().ask<Exact>(); solved && exact) ridge = solved->ridge, per = solved->per, chunk = solved->chunk;
  else if (const auto* found = r.optimizer().ask<ConjugateGradient>(); found && !exact) ridge = found->ridge, per = found->per, chunk = found->chunk;
  else return fmt::format("optimizer is {}, needs {}", r.optimizer().text(), exact ? "exact" : "conjugate_gradient");
  if (ridge == Ridge::none) return "ridge is none, needs one: fewer than K pairs leave the system singular";
  if (per == RidgePer::degree) return "ridge is per degree, needs per head or per channel";
  if (chunk < 1) return fmt::format("chunk is {}, needs at least 1 token", chunk);
  if (r.weights().ask<EvenWeights>()) return "";
  const auto* geometric = r.weights().ask<GeometricWeights>();
  if (!geometric) return fmt::format("weights are {}, needs even or geometric", r.weights().text());
  if (const auto why = unhonoured(*geometric, {"write"}); !why.empty()) return why;
  if (geometric->write != WriteGate::none && geometric->write != WriteGate::gate)
    return fmt::format("option write={} of geometric is not honoured", detail::write_option(geometric->write));
  return "";
}

std::string accepts(const Recipe& r, const Problem& p, bool exact, DeviceKind device) {
  if (auto why = recipe_reason(r, exact); !why.empty()) return why;
  if (p.segments && p.want_state) return "a state of packed documents keeps only the last of them, needs fold";
  return unmet_device(p, device);
}

AnyOptimizer per_channel(const AnyOptimizer& optimizer) {
  const auto with = [](auto o) {
    o.per = RidgePer::channel;
    return AnyOptimizer(o);
  };
  return optimizer.ask<Exact>() ? with(*optimizer.ask<Exact>()) : with(*optimizer.ask<ConjugateGradient>());
}

Answer run(const Recipe& r, const Arguments& a, const Problem& p) {
  const Dtype dtype = wide(p.dtype);
  Answer answer;
  int64_t past = 0;
  // A slot of every token behind the carried ones; fold's names for them.
  const auto whole = [&](const char* slot, const char* name, const Tensor& x) {
    Tensor all = x;
    if (!a.state.empty()) {
      const auto found = a.state.find(name);
      if (found == a.state.end())
        throw refuse("memory", "state {} is missing, needs {} with any number of tokens; pass on what an earlier call answered", name,
                     to_string(x.shape()));
      const Tensor& old = found->second;
      if (old.rank() != x.rank() || old.shape().with(1, x.size(1)) != x.shape())
        throw refuse("memory", "state {} has shape {}, needs {} with any number of tokens", name, to_string(old.shape()), to_string(x.shape()));
      if (std::string_view(slot) != "k" && old.size(1) != past)
        throw refuse("memory", "state {} has {} tokens, needs {} as keys", name, old.size(1), past);
      past = old.size(1);
      all = concat({cast(old, x.dtype()), x}, 1);
    }
    if (a.want_state) answer.state[name] = cast(all, dtype);
    return all;
  };
  const Tensor q = normed_keys(a.slots.at("q"), r.reading());
  const Tensor k = whole("k", "keys", normed_keys(a.slots.at("k"), r.reading())), v = whole("v", "values", a.slots.at("v"));
  Tensor decay, write;
  if (const auto* geometric = r.weights().ask<GeometricWeights>()) {
    decay = whole("log_decay", "past.log_decay", cast(a.slots.at("log_decay"), dtype));
    if (geometric->write == WriteGate::gate) write = whole("write_gate", "past.write_gate", cast(a.slots.at("write_gate"), dtype));
  }
  Tensor ridge = cast(a.slots.at("ridge"), dtype);   // [H] or [H, K]
  if (ridge.rank() == 1) ridge = broadcast_to(reshape(ridge, {p.heads, 1}), {p.heads, p.key_dim});
  const int64_t position = position_of(a.state);
  Setting setting{.optimizer = per_channel(r.optimizer()), .scale = r.reading().scale.at(p.key_dim), .past = past, .first = position - past, .documents = {}};
  if (p.segments) {   // carried tokens belong to the document that the first token goes on with
    Tensors ids(size_t(past), slice(documents_of(a.segments), 1, 0, 1));
    ids.push_back(documents_of(a.segments));
    setting.documents = concat(ids, 1);
  }
  answer.y = apply({q, k, v, decay, write, ridge}, setting);
  if (a.want_state) answer.state["position"] = position_state(position + p.tokens);
  return answer;
}

// Per token and head, triangles counted once; carried tokens are not known here and not counted.
double flops(const Recipe& r, const Problem& p) {
  const double k = double(p.key_dim), v = double(p.value_dim), c = double(std::min<int64_t>(kNormalChunk, p.tokens));
  const double moments = k * k + 2 * k * v, pairs = c * (k + v);                  // H is symmetric; X K^T and (pairs) V, one triangle each
  const auto* exact = r.optimizer().ask<Exact>();
  const bool chunk = exact && follows_by_rank_one(policy_of(exact->ridge), r.weights().ask<GeometricWeights>() != nullptr);
  double solve, answer = 2 * k * v + pairs, turned = 2 * k * v + pairs;           // the way to x; from x to y; F^T dy
  if (chunk) {
    const double factor = 2 * k * k * k / (3 * c) + c * c / 3, turn = 2 * k * k + k * k * v / c;   // U_0 and its inverse, U;  K~, Q~, M~
    solve = factor + turn + 2 * k * v + c * (3 * k + v);                          // K~ M~^T;  K~ K~^T, E, W, Q~ W^T
    answer = 2 * k * v + c * v;
    turned = 2 * k * v + c * (v + 2 * k) + 2 * k * k;                             // S~, X~; X, S
  } else if (exact) {
    solve = k * k * k / 3 + k * k + 2 * k * k;                                    // a factorisation, H_t, two substitutions
  } else {
    solve = double(r.optimizer().ask<ConjugateGradient>()->steps) * (2 * k * k + 2 * c * k);   // at most
  }
  const double forward = moments + solve + answer;
  const double again = chunk ? solve : exact ? solve + 2 * k * k : 2 * solve;     // x and s
  const double backward = again + turned + c * (4 * k + 2 * v) + 2 * k * k + 4 * k * v + 2 * (k * k + k * v);   // u, z; the moments' adjoint
  return double(p.batch * p.tokens * p.heads) * (forward + (p.training ? backward : 0));
}
double bytes(const Recipe&, const Problem& p) {   // q, k, v, y; in the backward those again with dy, and dq, dk, dv out
  const double row = double((2 * p.key_dim + 2 * p.value_dim) * int64_t(bytes_of(p.dtype)));
  return double(p.batch * p.tokens * p.heads) * row * (p.training ? 3 : 1);
}

}  // namespace

extern const Route cpu_factorised, cpu_iterative, cuda_factorised, cuda_iterative;
const Route cpu_factorised{"normal_equations/cpu-factorised", "normal_equations",
                           [](const Recipe& r, const Problem& p) { return accepts(r, p, true, DeviceKind::cpu); }, run, flops, bytes};
const Route cpu_iterative{"normal_equations/cpu-iterative", "normal_equations",
                          [](const Recipe& r, const Problem& p) { return accepts(r, p, false, DeviceKind::cpu); }, run, flops, bytes};
const Route cuda_factorised{"normal_equations/cuda-factorised", "normal_equations",
                            [](const Recipe& r, const Problem& p) { return accepts(r, p, true, DeviceKind::cuda); }, run, flops, bytes};
const Route cuda_iterative{"normal_equations/cuda-iterative", "normal_equations",
                           [](const Recipe& r, const Problem& p) { return accepts(r, p, false, DeviceKind::cuda); }, run, flops, bytes};

}  // namespace ttr::least_squares
