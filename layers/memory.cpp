// MemoryLayer: from the recipe's slots to projections, and from a token's vector to the slots' values.
#include <algorithm>
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/memory.hpp>
#include <ttr/layers/plan.hpp>

namespace ttr {
namespace {

constexpr const char* kWhere = "memory_layer";

int64_t size_of(const Slot& s, const MemoryOptions& o) {
  int64_t n = 1;
  for (const Extent& e : s.shape) n *= e.at(o.key_dim, o.value_dim);
  return n;
}

MemoryOptions completed(MemoryOptions o) {
  if (o.dim < 1 || o.heads < 1) throw refuse(kWhere, "dim is {} and heads is {}, needs both to be at least 1", o.dim, o.heads);
  if (!o.around) o.around = usual_surroundings(o.recipe);
  if (o.around->one_query && o.key_heads == 0) o.key_heads = 1;
  for (int64_t* heads : {&o.key_heads, &o.value_heads}) {
    if (*heads == 0) *heads = o.heads;
    if (*heads < 1 || o.heads % *heads)
      throw refuse(kWhere, "{} is {}, needs a divisor of heads {}", heads == &o.key_heads ? "key_heads" : "value_heads", *heads, o.heads);
  }
  if (o.key_dim == 0) o.key_dim = o.around->key_dim;
  for (int64_t* size : {&o.key_dim, &o.value_dim}) {
    if (*size == 0) {
      if (o.dim % o.heads) throw refuse(kWhere, "dim is {}, needs a multiple of heads {}; or give key_dim and value_dim", o.dim, o.heads);
      const int64_t each = o.dim / o.heads, share = o.around->key_share;
      const int64_t wide = each * o.around->expand, narrow = o.around->inner > 0 ? wide : each;   // an inner branch has one size
      *size = size == &o.value_dim ? wide : (narrow + share - 1) / share;
    }
    if (*size < 1) throw refuse(kWhere, "{} is {}, needs at least 1", size == &o.key_dim ? "key_dim" : "value_dim", *size);
  }
  if (o.around->rotary && o.key_dim % 2)
    throw refuse(kWhere, "key_dim is {}, needs an even size to be rotated in pairs; or no rotary", o.key_dim);
  return o;
}

// How the mixtures of a shifted token begin, for q, k, v and the output gate; gates as k (arXiv 2404.05892).
constexpr Mixture kMixtures[] = {{.power = 0.5}, {}, {.lift = 0.3}, {.power = 0.5}};

}  // namespace

MemoryLayer::MemoryLayer(const MemoryLayer&) = default;
MemoryLayer::MemoryLayer(MemoryLayer&&) noexcept = default;
MemoryLayer& MemoryLayer::operator=(const MemoryLayer&) = default;
MemoryLayer& MemoryLayer::operator=(MemoryLayer&&) noexcept = default;
MemoryLayer::~MemoryLayer() = default;

MemoryLayer::MemoryLayer(MemoryOptions given, Init& init) : options(completed(std::move(given))) {
  const MemoryOptions& o = options;
  const Surroundings& around = *o.around;
  const int64_t writes = o.recipe.reading().writes;
  std::vector<Slot> slots;
  for (const Slot& s : o.recipe.slots()) {
    if (!s.required) continue;   // the recipe is itself without it
    if (s.name == "q")
      widths_[0] = (around.one_query ? 1 : o.heads) * size_of(s, o);
    else if (s.name == "k")
      widths_[1] = writes * o.key_heads * size_of(s, o);
    else if (s.name == "v")
      widths_[2] = writes * o.value_heads * size_of(s, o);
    else
      slots.push_back(s);
  }
  if (widths_[0] == 0 && o.value_heads != o.heads)
    throw refuse(kWhere, "value_heads is {}, needs heads {} for {}, which is not asked by key", o.value_heads, o.heads, o.recipe.text());
  if (around.output_gate) widths_[3] = o.heads * o.value_dim;
  const int64_t keys = widths_[0] + widths_[1], direct = around.from_value ? 0 : keys;
  const bool inner = around.inner > 0;
  if (inner && (around.shift || around.from_value || widths_[0] == 0))
    throw refuse(kWhere, "inner is {} for {}, with shift={} and from_value={}, needs a recipe that is asked by key and both false: q, k and v have one source",
                 around.inner, o.recipe.text(), around.shift, around.from_value);
  const int64_t branch = o.heads * o.value_dim;
  double deviation = LinearOptions{}.deviation;
  if (around.ring) deviation = 1 / std::sqrt(2.0 * double(o.dim));   // a complex matrix of unit gain
  if (inner) deviation = std::sqrt(2.0 / (5.0 * double(o.dim)));     // arXiv 2405.04517
  project = Linear({.in = o.dim, .out = (inner ? branch : direct + widths_[2]) + widths_[3], .deviation = deviation}, init);
  if (around.conv > 0)
    conv = ShortConv({.dim = inner ? branch : direct + (around.conv_value ? widths_[2] : 0), .width = around.conv, .bias = around.conv_bias}, init);
  if (inner) {
    const auto part = [&](int i) { return BlockLinear({.in = branch, .out = widths_[i], .size = around.inner, .deviation = deviation}, init); };
    query = part(0), key = part(1), value = part(2);
  }
  if (around.from_value && keys > 0) from_value = Linear({.in = widths_[2], .out = keys}, init);
  if (around.key_norm == KeyNorm::rms && widths_[0] > 0) query_norm = RMSNorm(o.key_dim, init), key_norm = RMSNorm(o.key_dim, init);
  for (Slot& s : slots) {
    if (s.per == Per::chunk)
      throw refuse(kWhere, "slot {} has one value a chunk, needs token, write, head or frozen to be generated", s.name);
    if (s.name == "ridge") s.range.low = around.ridge_floor;
    if (s.name == "step_size" && around.unit_step) s.range = unit_interval, s.init = 0.5;
    if (s.per == Per::head && s.start == Start::octaves && around.frozen_decay) {
      Init exact(0);   // in f32 until the decay itself is rounded: its learned form is a logarithm
      frozen.emplace_back(s.name, init.frozen_given(HeadSlot(s, o.heads, o.key_dim, o.value_dim, exact)()));
    } else if (s.per == Per::head) {
      learned.emplace_back(s, o.heads, o.key_dim, o.value_dim, init, o.depth);
    } else if (s.per == Per::frozen) {
      Shape shape{o.heads};
      for (const Extent& e : s.shape) shape.push_back(e.at(o.key_dim, o.value_dim));
      frozen.emplace_back(s.name, init.frozen_normal(shape, 1));
    } else {
      const bool decay = s.range == log_of_unit;
      gates.emplace_back(s,
                         GateOptions{.dim = around.from_value ? widths_[2] : inner ? keys + widths_[2] : o.dim,
                                     .heads = o.heads,
                                     .key_dim = o.key_dim,
                                     .value_dim = o.value_dim,
                                     .writes = s.per == Per::write ? writes : 1,
                                     .timed = decay && around.timed_decay,
                                     .temper = decay ? around.decay_temper : 1,
                                     .rank = around.gate_rank < 0 ? (o.dim - around.gate_rank - 1) / -around.gate_rank : around.gate_rank,
                                     .even = decay && around.even_decay,
                                     .constant = around.constant_gates,
                                     .constant_bias = around.constant_write,
                                     .cap = around.gate_cap,
                                     .exponential = decay && around.exponential_decay,
                                     .bias = around.gate_bias,
                                     .depth = o.depth},
                         init);
    }
  }
  if (around.shift) {
    TokenShiftOptions options{.dim = o.dim, .rank = around.shift_rank, .depth = o.depth};
    for (int i = around.from_value ? 2 : 0; i < 4; ++i)
      if (widths_[i] > 0) options.mixtures.push_back(kMixtures[i]);
    if (!around.from_value) options.mixtures.resize(options.mixtures.size() + gates.size());
    shift = TokenShift(options, init);
  }
  if (around.scaled_value && std::none_of(gates.begin(), gates.end(), [](const Gate& g) { return g.options.timed; }))
    throw refuse(kWhere, "scaled_value is true and {} has no timed decay to scale v by, needs one; or scaled_value=false", o.recipe.text());
  if (around.skip) skip = init.constant({o.heads, around.head_skip ? 1 : o.value_dim}, 1);
  double leaving = o.output_deviation;
  if (around.ring) {
    for (const HeadSlot& h : learned)
      if (h.slot.name == "log_decay") gamma = init.given(0.5 * log(-expm1(2.0 * detach(cast(h(), Dtype::f32)))));   // log sqrt(1 - |a|^2)
    skip = init.normal({o.dim}, 1, false);
    leaving = 1 / std::sqrt(double(o.heads * o.value_dim) / 2);   // one over the root of the complex state's size
  }
  const int64_t groups = around.joint_norm ? 1 : o.heads;
  if (around.output_norm && around.group_norm)
    group_norm = GroupNorm({.heads = groups, .dim = branch / groups, .bias = around.norm_bias, .eps = around.norm_eps}, init);
  else if (around.output_norm) output_norm = RMSNorm(branch / groups, init, around.norm_eps);
  output = Linear({.in = o.heads * o.value_dim, .out = o.dim, .deviation = leaving}, init);
}

Tensor MemoryLayer::operator()(const Tensor& x, const Tensor& segments) const { return run(x, segments, nullptr); }
Tensor MemoryLayer::step(const Tensor& x, MemoryState& state) const { return run(x, {}, &state); }

Tensor MemoryLayer::normed(const Tensor& x, const std::optional<RMSNorm>& rms) const {
  switch (options.around->key_norm) {
    case KeyNorm::none:
      return x;
    case KeyNorm::l2:
      return l2_norm(x);
    case KeyNorm::rms:
      return (*rms)(x);
    case KeyNorm::sum:
      return x / sum(x, -1, true);
  }
  return x;
}

// x by the weights, cut by sizes, and, in one operation with them, by each gate's first weight
Tensors MemoryLayer::with_gates(const Tensor& x, const Tensors& weights, std::vector<int64_t> sizes, Tensors& made_gates) const {
  Tensors all = weights;
  for (const Gate& g : gates) all.push_back(g.first_weight()), sizes.push_back(all.back().size(0));
  Tensors made = ttr::project(x, all, sizes);
  const auto first_gate = made.end() - int64_t(gates.size());
  made_gates.assign(first_gate, made.end());
  made.erase(first_gate, made.end());
  return made;
}

MemoryLayer::Made MemoryLayer::make(const Tensor& x, const Tensor& segments, MemoryState* state) const {
  const Surroundings& around = *options.around;
  if (around.inner > 0) return make_inner(x, segments, state);
  std::vector<int64_t> sizes;
  std::vector<int> present;   // of q, k, v and the output gate
  const int first_part = around.from_value ? 2 : 0;
  for (int i = first_part; i < 4; ++i)
    if (widths_[i] > 0) present.push_back(i), sizes.push_back(widths_[i]);
  Tensors parts(4), made, made_gates;
  if (shift) {
    const Tensors mixtures = state ? shift->step(x, state->last) : (*shift)(x, segments);
    const Tensors weights = split(*project.weight, 0, sizes);
    for (size_t i = 0; i < present.size(); ++i) made.push_back(matmul(mixtures[i], weights[i], false, true));
    for (size_t i = 0; i < gates.size() && !around.from_value; ++i)
      made_gates.push_back(matmul(mixtures[present.size() + i], gates[i].first_weight(), false, true));
  } else if (around.from_value) {
    made = ttr::project(x, {*project.weight}, sizes);
  } else {
    made = with_gates(x, {*project.weight}, sizes, made_gates);
  }
  for (size_t i = 0; i < present.size(); ++i) parts[size_t(present[i])] = std::move(made[i]);
  if (conv) {
    Tensors wet;
    const auto each_wet = [&](auto&& f) {
      for (int i = first_part; i < (around.conv_value ? 3 : 2); ++i)
        if (widths_[i] > 0) f(parts[size_t(i)]);
    };
    each_wet([&](Tensor& part) { wet.push_back(part); });
    wet = state ? conv->step(wet, state->past) : (*conv)(wet, segments);
    size_t next = 0;
    each_wet([&](Tensor& part) { part = wet[next++]; });
  }

  if (around.active_value) parts[2] = silu(parts[2]);
  if (around.from_value) {
    sizes.clear();
    for (int i = 0; i < 2; ++i)
      if (widths_[i] > 0) sizes.push_back(widths_[i]);
    made = with_gates(parts[2], from_value ? Tensors{*from_value->weight} : Tensors{}, sizes, made_gates);
    for (size_t i = 0, next = 0; i < 2; ++i)
      if (widths_[i] > 0) parts[i] = std::move(made[next++]);
  }
  return {parts, made_gates, {}};
}

MemoryLayer::Made MemoryLayer::make_inner(const Tensor& x, const Tensor& segments, MemoryState* state) const {
  std::vector<int64_t> sizes{options.heads * options.value_dim};
  if (widths_[3] > 0) sizes.push_back(widths_[3]);
  const Tensors made = ttr::project(x, {*project.weight}, sizes);
  Tensor branch = made[0];
  if (conv) branch = state ? conv->step({branch}, state->past)[0] : (*conv)(branch, segments);
  const Tensors parts{(*query)(branch), (*key)(branch), (*value)(made[0]), made.size() > 1 ? made[1] : Tensor()};
  Tensors made_gates;
  with_gates(concat({parts[0], parts[1], parts[2]}, 2), {}, {}, made_gates);
  return {parts, made_gates, branch};
}

MemoryLayer::Asked MemoryLayer::ask(const Tensor& x, const Tensor& segments, MemoryState* state) const {
  const MemoryOptions& o = options;
  const Surroundings& around = *o.around;
  if (x.rank() != 3 || x.size(2) != o.dim) throw refuse(kWhere, "x has shape {}, needs [B, T, {}]", to_string(x.shape()), o.dim);
  const int64_t B = x.size(0), T = x.size(1), n = o.recipe.reading().writes;
  const int64_t first = state ? state->position : 0;
  Made made = make(x, segments, state);
  Tensors& parts = made.parts;
  if (around.silu_query && widths_[0] > 0) parts[0] = silu(parts[0]);

  Asked asked{{}, parts[3], {}, made.branch};
  if (widths_[0] > 0) {
    const int64_t queries = around.one_query ? 1 : o.heads;
    Tensor q = normed(reshape(parts[0], {B, T, queries, widths_[0] / queries}), query_norm);
    if (around.rotary) q = rotary(q, first, around.rotary_base);
    asked.slots["q"] = over_heads(q, o.heads);
  }
  if (widths_[1] > 0) {
    const int64_t key_dim = widths_[1] / (n * o.key_heads);
    Tensor k = normed(reshape(parts[1], {B, T, n * o.key_heads, key_dim}), key_norm);
    if (around.rotary) k = rotary(k, first, around.rotary_base);   // the writes of a token have its position
    asked.slots["k"] = reshape(k, {B, T * n, o.key_heads, key_dim});
  }
  asked.slots["v"] = reshape(parts[2], {B, T * n, o.value_heads, widths_[2] / (n * o.value_heads)});
  if (gamma.defined()) {
    const Tensor size = exp(cast(*gamma, x.dtype()));   // both parts of a number
    asked.slots["v"] = asked.slots["v"] * concat({size, size}, 1);
  }
  asked.value = asked.slots["v"];
  for (size_t i = 0; i < gates.size(); ++i) {
    const Gate& g = gates[i];
    const Tensor z = g.after_first(made.gates[i]);
    asked.slots[g.slot.name] = bounded(g, g.in_range(z));
    if (around.scaled_value && g.options.timed) asked.slots["v"] = lasting(asked.value, softplus(z));
  }
  for (const HeadSlot& h : learned) asked.slots[h.slot.name] = h();
  for (const auto& [name, value] : frozen) asked.slots[name] = value.value;
  return asked;
}

// log(low + (1 - low) exp(g)) for decays g [B, T, H, ...], low the bound of this block: the softmax over the blocks, summed up to here without the first.
Tensor MemoryLayer::bounded(const Gate& gate, const Tensor& g) const {
  if (!decay_floors.defined() || gate.slot.range != log_of_unit) return g;
  const Tensor shares = softmax(cast(*decay_floors, g.dtype()));   // [H ..., blocks]
  const Tensor low = reshape(sum(slice(shares, 1, 1, floor_block + 1), -1, false), gate.tail);
  return log(low + (1.0 - low) * exp(g));
}

// Values [B, nT, Hv, V] times how long their token lasts [B, T, H] -> [B, nT, H, V]
Tensor MemoryLayer::lasting(const Tensor& v, const Tensor& time) const {
  const int64_t B = time.size(0), T = time.size(1), n = v.size(1) / T;
  const Tensor each = reshape(cast(over_heads(v, options.heads), time.dtype()), {B, T, n, options.heads, options.value_dim});
  return reshape(cast(each * reshape(time, {B, T, 1, options.heads, 1}), v.dtype()), {B, T * n, options.heads, options.value_dim});
}

Slots MemoryLayer::slots(const Tensor& x) const { return ask(x, {}, nullptr).slots; }

Tensor MemoryLayer::run(const Tensor& x, const Tensor& segments, MemoryState* state) const {
  const MemoryOptions& o = options;
  Asked asked = ask(x, segments, state);
  Arguments arguments{.slots = std::move(asked.slots)};
  arguments.segments = segments;
  if (state) arguments.state = std::move(state->memory), arguments.want_state = true;

  Answer answer = remember(o.recipe, arguments, o.route);   // [B, T, H, V]
  if (state) {
    state->memory = std::move(answer.state);
    state->position += x.size(1);
  }
  const Tensor y = output(left(asked, answer.y));
  return o.around->ring ? y + x * cast(*skip, x.dtype()) : y;
}

// What leaves the memory for W_out, of its answer y [B, T, H, V]: [B, T, H V]
Tensor MemoryLayer::left(const Asked& asked, const Tensor& answer) const {
  const Surroundings& around = *options.around;
  const Shape heads = answer.shape(), whole{heads[0], heads[1], heads[2] * heads[3]}, groups{heads[0], heads[1], 1, whole[2]};
  const auto closed = [&](const Tensor& y) {
    const Tensor gate = reshape(asked.gate, heads);
    return around.sigmoid_gate ? y * sigmoid(gate) : gated(y, gate);
  };
  Tensor y = answer;
  if (skip.defined() && !around.ring && !asked.branch.defined()) y = y + over_heads(asked.value, options.heads) * cast(*skip, y.dtype());
  const bool gate_first = asked.gate.defined() && around.gate_before_norm;
  if (gate_first) y = closed(y);
  if (output_norm) y = around.joint_norm ? reshape((*output_norm)(reshape(y, whole)), heads) : (*output_norm)(y);
  if (group_norm) y = around.joint_norm ? reshape((*group_norm)(reshape(y, groups)), heads) : (*group_norm)(y);
  if (skip.defined() && asked.branch.defined()) y = y + reshape(asked.branch, heads) * *skip;
  if (asked.gate.defined() && !gate_first) y = closed(y);
  return reshape(y, whole);
}

Problem MemoryLayer::problem(int64_t batch, int64_t tokens, bool training) const {
  const MemoryOptions& o = options;
  Problem p;
  p.batch = batch, p.tokens = tokens;
  p.heads = o.heads, p.key_heads = o.key_heads, p.value_heads = o.value_heads, p.key_dim = o.key_dim, p.value_dim = o.value_dim;
  if (o.around->scaled_value) p.value_heads = o.heads;   // each head has a time of its own
  p.writes = o.recipe.reading().writes;
  p.dtype = project.weight->dtype(), p.device = project.weight->device();
  p.training = training;
  return p;
}

template void each_part<Parameter, MemoryLayer>(MemoryLayer&, const PartVisitor<Parameter>&, const std::string&);
template void each_part<Frozen, MemoryLayer>(MemoryLayer&, const PartVisitor<Frozen>&, const std::string&);

}  // namespace ttr
