#include <algorithm>
#include <ttr/core/ops.hpp>
#include <ttr/layers/problem.hpp>

namespace ttr {
namespace {

std::string shape_text(const Slot& s, const Problem& p) {
  std::string text = s.per == Per::head || s.per == Per::frozen ? fmt::format("[{}", p.heads) : fmt::format("[{}, {}, {}", p.batch, s.per == Per::write ? p.tokens * p.writes : p.tokens, p.heads);
  for (const Extent& e : s.shape) text += fmt::format(", {}", e.at(p.key_dim, p.value_dim));
  return text + "]";
}

}  // namespace

Problem examine(const Recipe& recipe, const Arguments& arguments) {
  constexpr auto where = "memory";
  const Slots& given = arguments.slots;
  const auto need = [&](const char* name) -> const Tensor& {
    const auto found = given.find(name);
    if (found == given.end() || !found->second.defined()) throw refuse(where, "{} is missing, needs it for {}", name, recipe.text());
    if (found->second.rank() != 4) throw refuse(where, "{} has shape {}, needs [B, T, H, D]", name, to_string(found->second.shape()));
    return found->second;
  };
  Problem p;
  const std::vector<Slot> slots = recipe.slots();
  const auto reads = [&](std::string_view name) { return std::any_of(slots.begin(), slots.end(), [&](const Slot& s) { return s.name == name; }); };
  const char* lead = reads("q") ? "q" : "v";   // whose sizes are the problem's: a memory that is never asked by key answers with v's
  const Tensor& q = need(lead);
  p.writes = recipe.reading().writes;
  p.batch = q.size(0), p.tokens = reads("q") ? q.size(1) : q.size(1) / p.writes, p.heads = q.size(2), p.key_dim = reads("q") ? q.size(3) : 1;
  p.dtype = q.dtype(), p.device = q.device();
  if (!is_floating(p.dtype)) throw refuse(where, "{} is {}, needs f32, f64 or bf16", lead, name_of(p.dtype));
  if (p.tokens < 1 || p.batch < 1 || p.heads < 1 || p.key_dim < 1) throw refuse(where, "{} has shape {}, needs sizes of at least 1", lead, to_string(q.shape()));
  for (const Slot& s : slots) {   // v first: its sizes are part of the problem
    if (s.name != "v") continue;
    const Tensor& v = need("v");
    p.value_heads = v.size(2), p.value_dim = v.size(3);
    if (p.value_heads < 1 || p.heads % p.value_heads) throw refuse(where, "v has {} heads, needs a divisor of q's {}", p.value_heads, p.heads);
    if (p.value_dim < 1) throw refuse(where, "v has shape {}, needs sizes of at least 1", to_string(v.shape()));
  }
  p.key_heads = p.heads;
  for (const Slot& s : slots) {
    const auto found = given.find(s.name);
    if (found == given.end() || !found->second.defined()) {
      if (s.required) throw refuse(where, "{} is missing, needs it with shape {} for {}", s.name, shape_text(s, p), recipe.text());
      continue;
    }
    const Tensor& x = found->second;
    Shape want;
    if (s.per != Per::head && s.per != Per::frozen) want = {p.batch, s.per == Per::write ? p.tokens * p.writes : p.tokens};
    int64_t heads = p.heads;
    if (s.name == "k" || s.name == "v") {
      if (x.rank() == 4 && x.size(2) > 0 && p.heads % x.size(2) == 0) heads = x.size(2);
      if (s.name == "k") p.key_heads = heads;
    }
    want.push_back(heads);
    const int outer = want.rank();
    for (size_t j = 0; j < s.shape.size(); ++j) {
      const bool given = s.shape[j].any && x.rank() == outer + int(s.shape.size()) && x.size(outer + int(j)) > 0;
      want.push_back(given ? x.size(outer + int(j)) : s.shape[j].at(p.key_dim, p.value_dim));
    }
    if (x.shape() != want) throw refuse(where, "{} has shape {}, needs {}", s.name, to_string(x.shape()), to_string(want));
    if (x.device() != p.device) throw refuse(where, "{} is on {}, needs {} as {}; use to_device", s.name, name_of(x.device()), name_of(p.device), lead);
    const bool narrow = s.name == "q" || s.name == "k" || s.name == "v";
    if (x.dtype() != p.dtype && (narrow || x.dtype() != wide(p.dtype)))
      throw refuse(where, "{} is {}, needs {}; cast it", s.name, name_of(x.dtype()), narrow ? name_of(p.dtype) : name_of(wide(p.dtype)));
    if (recording() && x.tracked()) p.training = true;
  }
  for (const auto& [name, x] : given) {
    bool known = false;
    std::vector<std::string> names;
    for (const Slot& s : slots) known |= s.name == name, names.push_back(s.name);
    if (known) continue;
    const std::string near = detail::nearest(name, names);
    throw refuse(where, "{} is no slot of {}{}", name, recipe.text(), near.empty() ? "" : "; did you mean " + near + "?");
  }
  if (arguments.segments.defined()) {
    p.segments = true;
    const Tensor& s = arguments.segments;
    if (s.dtype() != Dtype::i32 || s.shape() != Shape{p.batch, p.tokens})
      throw refuse(where, "segments is {} {}, needs i32 [{}, {}]", name_of(s.dtype()), to_string(s.shape()), p.batch, p.tokens);
    if (s.device() != p.device) throw refuse(where, "segments is on {}, needs {} as {}", name_of(s.device()), name_of(p.device), lead);
  }
  for (const auto& [name, x] : arguments.state) {
    p.carried = true;
    if (recording() && x.tracked()) p.training = true;
    if (name != "position" && x.device() != p.device) throw refuse(where, "state {} is on {}, needs {} as {}", name, name_of(x.device()), name_of(p.device), lead);
  }
  p.want_state = arguments.want_state;
  return p;
}

Tensor normed_keys(const Tensor& x, const Reading& reading) {
  switch (reading.key_norm) {
    case KeyNorm::none: return x;
    case KeyNorm::l2: return l2_norm(x, reading.key_eps);
    case KeyNorm::rms: return x * rsqrt(mean(square(x), -1, true) + reading.key_eps);
    case KeyNorm::sum: return x / sum(x, -1, true);
  }
  return x;
}

Tensor over_heads(const Tensor& x, int64_t heads) {
  const int64_t h = x.size(2);
  if (h == heads) return x;
  const Shape grouped = x.shape().insert(3, 1);
  return reshape(broadcast_to(reshape(x, grouped), grouped.with(3, heads / h)), x.shape().with(2, heads));
}

Tensor position_state(int64_t position) { return from_vector(std::vector<int32_t>{int32_t(position)}, {}, {Dtype::i32, cpu_device}); }
int64_t position_of(const Slots& state) {
  if (state.empty()) return 0;
  const auto found = state.find("position");
  if (found == state.end()) throw refuse("memory", "state has no position, needs [] i32: the tokens it has absorbed; pass on what an earlier call answered");
  return int64_t(found->second.item());
}

Tensor documents_of(const Tensor& segments) {
  const int64_t B = segments.size(0), T = segments.size(1);
  const Tensor ids = cast(segments, Dtype::f64);   // every i32 exactly
  Tensor starts = zeros({B, 1}, like(ids));
  if (T > 1) starts = concat({starts, 1.0 - equal(slice(ids, 1, 1, T), slice(ids, 1, 0, T - 1))}, 1);
  return cast(cumsum(starts, 1), Dtype::i32);
}

}  // namespace ttr
