// Every kernel against the definition: for each published recipe, each route of the plan that accepts it on a device, and a table of shapes,
// the answer, the state it leaves and the gradient of every slot and of the carried state are compared with fold in f64 on the CPU, computed
// from the same rounded inputs. Listing a route in layers/routes.cpp is testing it here; the same body serves every device.
//
//   f64   to 1e-9
//   f32   to a small multiple of what fold itself errs in f32 on the CPU
//   bf16  to 4 x 2^-8, with gates and carried memories in f32
//
// A solve that stops early is differentiated implicitly at the x it returned, fold through its steps: their gradients differ by what is left to
// solve. So a recipe with conjugate gradients may also err twice what fold's answer to it is off from the solution (Exact).
//
// An error is |a - b|_F / |b|_F; a part whose entries are smaller than 0.1 on average is measured against 0.1: some adjoints are small or exactly
// 0 because terms of size 1 cancel (attention with one visible key), and rounding is a fraction of those.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/recipes.hpp>

namespace ttr::parity {

struct Scenario {
  int64_t batch, tokens, heads, key_heads, value_heads, key_dim, value_dim;
  int64_t carried = 0;       // tokens that an earlier call absorbed; 0: fresh memory
  bool segments = false;
  bool want_state = true;

  std::string text() const {
    return fmt::format("B{} T{} H{}/{}/{} K{} V{} carried={} segments={} want_state={}", batch, tokens, heads, key_heads, value_heads, key_dim,
                       value_dim, carried, segments, want_state);
  }
};

// While one lives, fresh memory starts as NaN.
struct FreshMemoryNan {
  FreshMemoryNan() { set_fresh_memory_nan(true); }
  ~FreshMemoryNan() { set_fresh_memory_nan(false); }
  FreshMemoryNan(const FreshMemoryNan&) = delete;
};

// Everything a call reads, in f64 on the CPU.
struct Call {
  Slots slots, state;
  Tensor segments;
  bool want_state = true;
  uint64_t seed = 0;         // also draws the adjoints of what the call answers
};

inline bool narrow(const std::string& name) { return name == "q" || name == "k" || name == "v" || name == "keys" || name == "values"; }

// A value as operands of `dtype` hold it: q, k, v and carried pairs in it, gates and memories in its wide type.
inline Tensor stored(const std::string& name, const Tensor& x, Dtype dtype) {
  if (!is_floating(x.dtype())) return x;
  const std::vector<double> values = x.to_vector<double>();
  return from_vector(values, x.shape(), {narrow(name) ? dtype : wide(dtype), cpu_device});
}
inline Call rounded(const Call& call, Dtype dtype) {
  Call r = call;
  for (Slots* slots : {&r.slots, &r.state})
    for (auto& [name, x] : *slots)
      if (is_floating(x.dtype())) x = from_vector(stored(name, x, dtype).to_vector<double>(), x.shape(), {Dtype::f64, cpu_device});
  return r;
}

inline Tensor draw_slot(const Recipe& recipe, const Slot& slot, const Shape& shape, const Scenario& s, uint64_t seed, uint64_t stream) {
  const Options options{Dtype::f64, cpu_device};
  if (slot.name == "step_size" && recipe.reading().key_norm == KeyNorm::rms) {   // keys of length sqrt(K): larger steps make the memory grow without end
    return uniform(shape, seed, stream, 0.05 / double(s.key_dim), 0.95 / double(s.key_dim), options);
  }
  if (slot.name == "k") return l2_norm(normal(shape, seed, stream, 0, 1, options));   // of length one: the delta rule stays bounded
  const auto* exact = recipe.optimizer().ask<Exact>();
  if (slot.name == "log_decay" && exact && (exact->ridge == Ridge::decaying || exact->ridge == Ridge::refreshed))
    return uniform(shape, seed, stream, -0.04, -0.001, options);   // a ridge that forgets with the memory is soon none, and f32 has no digits left
  if (slot.name == "log_decay") return uniform(shape, seed, stream, -0.4, -0.001, options);
  if (slot.name == "temperature") return uniform(shape, seed, stream, 0.5, 4, options);
  if (slot.name == "bandwidth") return uniform(shape, seed, stream, 0.6, 2, options);   // its adjoint grows as h^-3 and so do roundings
  if (std::isfinite(slot.range.low) && std::isfinite(slot.range.high)) {
    const double width = slot.range.high - slot.range.low;
    return uniform(shape, seed, stream, slot.range.low + 0.05 * width, slot.range.high - 0.05 * width, options);
  }
  if (slot.range == positive) return uniform(shape, seed, stream, 0.1, 1.5, options);
  return normal(shape, seed, stream, 0, slot.name == "initial_memory" ? 0.3 : 1, options);
}

inline Slots draw_slots(const Recipe& recipe, const Scenario& s, int64_t tokens, uint64_t seed) {
  Slots given;
  uint64_t stream = 0;
  for (const Slot& slot : recipe.slots()) {
    Shape shape;
    if (slot.per == Per::token) shape = {s.batch, tokens};
    if (slot.per == Per::write) shape = {s.batch, tokens * recipe.reading().writes};
    shape.push_back(slot.name == "k" ? s.key_heads : slot.name == "v" ? s.value_heads : s.heads);
    for (const Extent& e : slot.shape) shape.push_back(e.at(s.key_dim, s.value_dim));
    given[slot.name] = draw_slot(recipe, slot, shape, s, seed, stream++);
  }
  return given;
}

// Documents of uneven lengths, different in each row; neighbours differ and numbers come back.
inline Tensor draw_segments(const Scenario& s) {
  std::vector<int32_t> ids;
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t t = 0; t < s.tokens; ++t) ids.push_back(int32_t((t + 3 * b) / (s.tokens / 3 + 1 + b) * 7 % 5));
  return from_vector(ids, {s.batch, s.tokens}, {Dtype::i32, cpu_device});
}

// The scenario as a recipe can have it: a memory that is not asked by key has as many heads as values, and complex values come in pairs.
inline Scenario suited(const Recipe& recipe, Scenario s) {
  const std::vector<Slot> slots = recipe.slots();
  if (std::any_of(slots.begin(), slots.end(), [](const Slot& slot) { return slot.name == "q"; })) return s;
  s.key_heads = s.value_heads = s.heads;
  s.value_dim += s.value_dim % 2;
  return s;
}

inline Call draw(const Recipe& recipe, const Scenario& listed, uint64_t seed) {
  const Scenario s = suited(recipe, listed);
  const Recording off(false);
  Call call{draw_slots(recipe, s, s.tokens, seed), {}, {}, s.want_state, seed};
  if (s.segments) call.segments = draw_segments(s);
  if (s.carried) {   // per-head slots are the same before and after
    Slots before = draw_slots(recipe, s, s.carried, seed + 1000);
    for (const Slot& slot : recipe.slots())
      if (slot.per == Per::head || slot.per == Per::frozen) before[slot.name] = call.slots[slot.name];
    call.state = fold(recipe, {.slots = before, .want_state = true}).state;
  }
  return call;
}

// The call as tensors of a dtype on a device; untracked.
inline Arguments arguments_of(const Call& call, Dtype dtype, Device device) {
  Arguments a;
  for (const auto& [name, x] : call.slots) a.slots[name] = to_device(stored(name, x, dtype), device);
  for (const auto& [name, x] : call.state) a.state[name] = name == "position" ? x : to_device(stored(name, x, wide(dtype)), device);
  if (call.segments.defined()) a.segments = to_device(call.segments, device);
  a.want_state = call.want_state;
  return a;
}

struct Part {
  Shape shape;
  std::vector<double> values;
};
using Parts = std::map<std::string, Part>;   // y, state.NAME, dNAME, dstate.NAME

// Runs the call and differentiates a random projection of everything it answers with respect to everything it reads.
template <class Run> Parts evaluate(const Call& call, Dtype dtype, Device device, Run&& run) {
  Arguments a = arguments_of(call, dtype, device);
  std::vector<std::string> names;
  Tensors xs;
  const auto track = [&](Slots& slots, const char* prefix) {
    for (auto& [name, x] : slots)
      if (is_floating(x.dtype())) names.push_back(prefix + name), xs.push_back(x = variable(x));
  };
  track(a.slots, "d");
  track(a.state, "dstate.");
  const Answer answer = run(a);
  Parts parts;
  const auto add = [&](const std::string& name, const Tensor& x) { parts[name] = {x.shape(), x.to_vector<double>()}; };
  add("y", answer.y);
  Tensors ys, dys;
  const auto adjoint = [&](const Tensor& y, uint64_t stream) {
    if (!y.tracked()) return;   // a state that no slot leads to
    const Tensor dy = normal(y.shape(), call.seed, stream, 0, 1, {Dtype::f64, cpu_device});
    const Tensor narrowed = from_vector(dy.to_vector<double>(), y.shape(), {Dtype::bf16, cpu_device});   // the same adjoint for every dtype
    ys.push_back(y);
    dys.push_back(to_device(from_vector(narrowed.to_vector<double>(), y.shape(), {y.dtype(), cpu_device}), device));
  };
  adjoint(answer.y, 100);
  uint64_t stream = 101;
  for (const auto& [name, x] : answer.state) {
    if (name == "position" && call.segments.defined()) continue;   // rows end inside different documents: one number cannot say where
    add("state." + name, x);
    if (is_floating(x.dtype())) adjoint(x, stream++);
  }
  const Tensors dxs = grad(ys, dys, xs);
  for (size_t i = 0; i < xs.size(); ++i) add(names[i], dxs[i]);
  return parts;
}

inline double error_of(const Part& got, const Part& want) {
  if (got.shape != want.shape) return std::numeric_limits<double>::infinity();
  double difference = 0, size = 0;
  for (size_t i = 0; i < got.values.size(); ++i) {
    difference += (got.values[i] - want.values[i]) * (got.values[i] - want.values[i]);
    size += want.values[i] * want.values[i];
  }
  if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
  return std::sqrt(difference) / std::max({std::sqrt(size), 0.1 * std::sqrt(double(got.values.size())), 1e-300});
}

// Each part further off than allowed(name), as a sentence; empty when all hold.
template <class Allowed> std::string mismatch(const Parts& got, const Parts& want, const std::string& where, Allowed&& allowed) {
  std::string text;
  for (const auto& [name, part] : want) {
    const auto found = got.find(name);
    if (found == got.end()) {
      text += fmt::format("{}: {} is missing\n", where, name);
      continue;
    }
    const Part& other = found->second;
    const double off = error_of(other, part), bound = allowed(name);
    if (off <= bound) continue;
    size_t worst = 0;
    for (size_t i = 0; i < std::min(other.values.size(), part.values.size()); ++i)
      if (!(std::abs(other.values[i] - part.values[i]) <= std::abs(other.values[worst] - part.values[worst]))) worst = i;
    text += fmt::format("{}: {} {} is off by {:.3g}, needs {:.3g}: worst [{}] is {}, needs {}\n", where, name, to_string(other.shape), off, bound, worst,
                        other.values.empty() ? 0 : other.values[worst], part.values.empty() ? 0 : part.values[worst]);
  }
  for (const auto& [name, part] : got)
    if (!want.contains(name)) text += fmt::format("{}: {} is there, but not in fold's answer\n", where, name);
  return text;
}

// -- what is run -------------------------------------------------------------------------------------------------------------------------------
struct Variant {
  std::string name;
  Recipe recipe;
};

// The recipe, and the recipe with one option away from its default. Those that a route does not honour are refused and so not run on it.
inline std::vector<Variant> variants_of(const Recipe& recipe) {
  std::vector<Variant> list{{"as published", recipe}};
  const auto with = [&](const char* name, auto change) {
    Reading reading = recipe.reading();
    change(reading);
    if (!(recipe.with(reading) == recipe)) list.push_back({name, recipe.with(reading)});
  };
  with("scale=0.7", [](Reading& r) { r.scale = {0.7}; });
  with("key_norm=l2,eps=0.1", [](Reading& r) { r.key_norm = KeyNorm::l2, r.key_eps = 0.1; });
  with("key_norm=rms", [](Reading& r) { r.key_norm = KeyNorm::rms, r.scale = {0.2}; });
  with("read=strict", [](Reading& r) { r.read = Read::strict; });
  if (recipe.function().ask<LinearMap>() && !recipe.function().ask<LinearMap>()->learned) {
    LinearMap learned = *recipe.function().ask<LinearMap>();
    learned.learned = true;
    list.push_back({"learned", Recipe(recipe.weights(), AnyFunction(learned), recipe.optimizer(), recipe.reading())});
  }
  if (const auto* geometric = recipe.weights().ask<GeometricWeights>(); geometric && (geometric->per == Decay::product || geometric->per == Decay::value)) {
    GeometricWeights other = *geometric;   // the same memory without its write, and with a decay of every entry's own
    if (other.write != WriteGate::none) {
      other.write = WriteGate::none;
      list.push_back({"written whole", Recipe(AnyWeights(other), recipe.function(), recipe.optimizer(), recipe.reading())});
    }
    if (other.per == Decay::product) {
      other.per = Decay::entry;
      list.push_back({"a decay an entry", Recipe(AnyWeights(other), recipe.function(), recipe.optimizer(), recipe.reading())});
    }
  }
  return list;
}

inline const std::vector<Scenario>& scenarios() {
  static const std::vector<Scenario> all{
      {.batch = 2, .tokens = 1, .heads = 2, .key_heads = 2, .value_heads = 2, .key_dim = 8, .value_dim = 12},
      {.batch = 1, .tokens = 1, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 60, .value_dim = 5, .carried = 4},
      {.batch = 2, .tokens = 2, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 60, .value_dim = 20},
      {.batch = 1, .tokens = 63, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 64, .value_dim = 33, .carried = 3},
      {.batch = 2, .tokens = 64, .heads = 2, .key_heads = 2, .value_heads = 1, .key_dim = 8, .value_dim = 12, .want_state = false},
      {.batch = 1, .tokens = 65, .heads = 1, .key_heads = 1, .value_heads = 1, .key_dim = 128, .value_dim = 24},
      {.batch = 1, .tokens = 130, .heads = 2, .key_heads = 1, .value_heads = 1, .key_dim = 60, .value_dim = 8, .carried = 2},
      {.batch = 2, .tokens = 65, .heads = 2, .key_heads = 2, .value_heads = 2, .key_dim = 8, .value_dim = 4, .segments = true, .want_state = false},
      {.batch = 2, .tokens = 33, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 8, .value_dim = 12, .carried = 3, .segments = true},
  };
  return all;
}
// What the variants beside the first are run on.
inline const std::vector<Scenario>& short_scenarios() {
  static const std::vector<Scenario> some{
      {.batch = 2, .tokens = 1, .heads = 2, .key_heads = 2, .value_heads = 2, .key_dim = 8, .value_dim = 12},
      {.batch = 1, .tokens = 66, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 8, .value_dim = 5, .carried = 3},
      {.batch = 2, .tokens = 20, .heads = 2, .key_heads = 2, .value_heads = 1, .key_dim = 8, .value_dim = 12, .segments = true, .want_state = false},
  };
  return some;
}

inline bool maps_features(const Recipe& recipe) {
  const auto* map = recipe.function().ask<LinearMap>();
  return map && !map->feature.ask<Identity>();
}

// f32: a route may err this many times what fold errs; fold's error is counted as at least 32 roundings (at T = 1 it hardly rounds at all,
// while a kernel's K terms cancel). Measured: 1.9 on the CPU.
constexpr double kSingleMultiple = 4, kSingleFloor = 32 * 0x1p-24;
// Adjoints of attention that sum a whole row of logits' gradients, which cancel to exactly 0 with one visible key. Measured: 3.8 on the CPU,
// 7.4 on CUDA.
constexpr double kSummedMultiple = 8;
inline bool summed(const std::string& name) {
  return name == "dbandwidth" || name == "dstate.past.log_decay" || name == "dq_norm_weight" || name == "dk_norm_weight";
}
constexpr double kNarrowBound = 4.0 / 256;
// A temperature's gradient is one number a head, the sum of q . dq over all tokens and channels: terms of both signs, each dq rounded to bf16,
// that cancel to a tenth of their size. Measured: 0.019. So is a ridge's. Measured: 0.021.
constexpr double kNarrowTemperatureBound = 8.0 / 256;
// A solve multiplies rounding by its condition, by whatever way it goes. Measured: 4.6.
constexpr double kSingleSolveMultiple = 8;
// A ridge's gradient is a sum over all tokens, with one ridge a head over channels too, of terms of both signs: what rounding leaves of it
// is luck, fold's included. Measured: 8.9 times fold's error on the CPU.
constexpr double kSingleRidgeMultiple = 16;

// The recipe with its system solved to the end; none for a recipe that does not stop early.
inline std::optional<Recipe> solved(const Recipe& recipe) {
  const auto* early = recipe.optimizer().ask<ConjugateGradient>();
  if (!early) return {};
  return Recipe(recipe.weights(), recipe.function(), AnyOptimizer(Exact{.ridge = early->ridge, .per = early->per, .chunk = early->chunk}), recipe.reading());
}

// What the stem `diagonal_decay` says.
inline constexpr const char* kDecayRecipes[] = {
    "linear_attention", "normalised_linear_attention", "relu_linear_attention", "cosformer", "dpfp", "silu_linear_attention",
    "polynomial_linear_attention", "based", "rebased", "hedgehog", "hedgehog_joint", "performer", "rfa", "gated_rfa", "dijiang",
    "hadamard_linear_attention", "retnet", "simple_gla", "gla", "hgrn2", "mamba2", "rwkv6", "mlstm", "mlstm_sigmoid"};

struct Tally {
  std::map<std::string, int> runs;      // of "route recipe"
  std::map<std::string, double> worst;  // error, by "route dtype"
  double multiple = 0;                  // the largest f32 error over fold's
};

inline bool any_recipe(const Published&) { return true; }

// Every route that accepts something on `device`, in each of the dtypes; of the recipes `asked` for, each on the draws that it has among all.
template <class Asked = bool (*)(const Published&)> Tally compare_all(Device device, const std::vector<Dtype>& dtypes, Asked&& asked = any_recipe) {
  const FreshMemoryNan nan;
  Tally tally;
  uint64_t seed = 1;
  for (const Published& row : published_recipes()) {
    for (const Variant& variant : variants_of(row.recipe)) {
      const bool published = variant.name == "as published", maps = maps_features(row.recipe);
      const bool solves = variant.recipe.function().ask<LinearMap>() && variant.recipe.refits();
      const auto* geometric = variant.recipe.weights().ask<GeometricWeights>();
      const bool fixed = geometric && geometric->fixed;   // one decay a head: its gradient is a sum over all tokens
      if (maps && !published) continue;   // the kernel behind a feature map is the one of the recipes without
      for (const Scenario& listed : published && !maps ? scenarios() : short_scenarios()) {
        const Scenario scenario = suited(variant.recipe, listed);
        ++seed;
        if (!asked(row)) continue;
        for (const Dtype dtype : dtypes) {
          Problem problem{.batch = scenario.batch, .tokens = scenario.tokens, .heads = scenario.heads, .key_heads = scenario.key_heads,
                          .value_heads = scenario.value_heads, .key_dim = scenario.key_dim, .value_dim = scenario.value_dim,
                          .writes = variant.recipe.reading().writes, .dtype = dtype, .device = device, .training = true,
                          .carried = scenario.carried > 0, .segments = scenario.segments, .want_state = scenario.want_state};
          std::vector<const Route*> accepting;
          for (const Route& route : routes())
            if (std::string_view(route.name) != "fold" && route.accepts(variant.recipe, problem).empty()) accepting.push_back(&route);
          if (accepting.empty()) continue;
          const Call call = rounded(draw(variant.recipe, scenario, seed), dtype);
          const auto by_fold = [&](const Arguments& a) { return fold(variant.recipe, a); };
          const Parts want = evaluate(call, Dtype::f64, cpu_device, by_fold);
          Parts fold_single, whole;
          if (dtype == Dtype::f32) fold_single = evaluate(call, dtype, cpu_device, by_fold);
          if (const auto to_the_end = solved(variant.recipe))
            whole = evaluate(call, Dtype::f64, cpu_device, [&](const Arguments& a) { return fold(*to_the_end, a); });
          for (const Route* route : accepting) {
            const std::string where = fmt::format("{} {} {} ({}, {}) {} seed {}", route->name, name_of(dtype), row.name, variant.name, variant.recipe.text(),
                                                  scenario.text(), seed);
            try {
              const Parts got = evaluate(call, dtype, device, [&](const Arguments& a) { return remember(variant.recipe, a, route->name); });
              const std::string off = mismatch(got, want, where, [&](const std::string& name) {
                const auto found = got.find(name);
                double& worst = tally.worst[fmt::format("{} {}", route->name, name_of(dtype))];
                const double error = found == got.end() ? 0 : error_of(found->second, want.at(name));
                worst = std::max(worst, error);
                const double unsolved = whole.empty() ? 0 : 2 * error_of(whole.at(name), want.at(name));
                if (dtype == Dtype::f64) return 1e-9 + unsolved;
                if (dtype == Dtype::bf16)
                  return (name == "dtemperature" || name == "dridge" || summed(name) ? kNarrowTemperatureBound : kNarrowBound) + unsolved;
                const double usual = std::max(error_of(fold_single.at(name), want.at(name)), kSingleFloor);
                const bool sums = summed(name) || (fixed && name == "dlog_decay");
                if (!sums && name != "dridge") tally.multiple = std::max(tally.multiple, (error - unsolved) / usual);
                const double multiple = name == "dridge" ? kSingleRidgeMultiple
                                        : sums           ? kSummedMultiple
                                        : solves         ? kSingleSolveMultiple
                                                         : kSingleMultiple;
                return multiple * usual + unsolved;
              });
              CHECK_MESSAGE(off.empty(), off);
            } catch (const std::exception& e) {
              FAIL_CHECK(where << ": " << std::string(e.what()));
            }
            ++tally.runs[fmt::format("{} {}", route->name, row.name)];
          }
        }
      }
    }
  }
  for (const auto& [what, error] : tally.worst) MESSAGE(what << ": worst error " << error);
  MESSAGE("largest multiple of fold's f32 error: " << tally.multiple);
  return tally;
}

}  // namespace ttr::parity
