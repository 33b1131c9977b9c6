// Descend without its rule: where the gradient is taken, of which pairs, and when the memory moves (optimizers.hpp).
#include <ttr/layers/optimizers.hpp>

namespace ttr::detail {
namespace {
std::string memory_name(int m, const std::string& part) { return fmt::format("{}.{}", m, part); }
}  // namespace

std::vector<Slot> Descent::slots() const {
  std::vector<Slot> list;
  if (!unit_rate()) list.push_back({"step_size", Per::write, {}, {0, limit}, 0.5});
  for (Slot& s : rule_slots(rule)) list.push_back(std::move(s));
  if (row_scale) list.push_back({"row_scale", Per::token, {}, unit_interval, 0.5});
  return list;
}

std::vector<Slot> momentum_slots() { return {{"momentum", Per::token, {}, unit_interval, 0.9}}; }

State Descent::start(const State& from) const {
  State s = from;
  if (anchored()) s.anchor = s.theta;
  for (int m = 0; m < memories; ++m)
    for (const auto& [part, p] : s.theta.parts) s.memory.set(memory_name(m, part), zeros(p.shape(), like(p)));
  if (row_scale)
    for (const auto& [part, p] : s.theta.parts) s.memory.set("whole." + part, p);
  if (apply == Apply::chunk) begin_chunk(s);
  return s;
}

State Descent::advance(const State& s, const Regression& r) const {
  if (!r.discounts()) return refit(s, r);
  State next = s;
  const bool first = s.position % chunk == 0, last_of_chunk = (s.position + 1) % chunk == 0;
  if (anchored() && first) next.anchor = s.theta;
  if (apply == Apply::chunk) {
    if (first) begin_chunk(next);
    gather(next, s, r);
    if (last_of_chunk) apply_chunk(next);
    return next;
  }
  if (row_scale)
    for (const auto& [part, p] : s.theta.parts) next.theta.set(part, first ? p : s.memory["whole." + part]);
  Shift shift{s.log_scale, r.next_scale(s.log_scale)};
  if (shift.after.defined() && !shift.before.defined()) shift.before = zeros(shift.after.shape(), like(shift.after));
  next.log_scale = shift.after;
  next.theta = r.discount(next.theta, s.initial, shift);
  Pack last = s.theta;                                       // the memory before the decay; after this token's first write, the memory itself
  const int64_t newest = over == Over::visible ? r.view().pairs() - 1 : r.newest();
  for (int64_t i = newest; i < r.view().pairs(); ++i) {
    for (int64_t n = 0; n < steps; ++n) {
      const Pack& point = at == Point::initial ? s.initial : at == Point::chunk ? next.anchor : at == Point::decayed ? next.theta : last;
      Pack g = over == Over::visible ? r.gradient(point, r.weigh()) : r.gradient(point, i);
      if (const Tensor w = r.strength(i, shift); w.defined() && over == Over::newest)
        for (auto& [part, d] : g.parts) d = d * per_row(w, d);
      step(next, g, rates(r.view(), i), next.position);
      last = next.theta;
    }
  }
  if (row_scale)
    for (auto& [part, p] : next.theta.parts) {
      next.memory.set("whole." + part, p);
      const Tensor& a = next.anchor[part];
      p = a + per_row(r.view().now("row_scale"), p) * (p - a);
    }
  return next;
}

// Weights that are numbers and depend on the query: one step from the initial point over all visible pairs, anew at every token.
State Descent::refit(const State& s, const Regression& r) const {
  if (at != Point::initial) throw refuse("descend", "at is not initial and the weights cannot forget in a step, needs at=initial or weights that can");
  State next = s;
  next.theta = s.initial;
  if (r.view().pairs() > 0) step(next, r.gradient(s.initial, r.weigh()), rates(r.view(), r.view().pairs() - 1), next.position);
  return next;
}

// -- apply = chunk: sum the gradients, average what forgets and what is carried on, move at the chunk's last token ------------------------
void Descent::begin_chunk(State& s) const {
  for (const auto& [part, p] : s.theta.parts) {
    s.memory.set("sum." + part, zeros(p.shape(), like(p)));
    s.memory.set("kept." + part, zeros(p.shape(), like(p)));
  }
  for (const Slot& slot : rule_slots(rule)) {
    const Tensor& p = s.theta.parts.front().second;
    s.memory.set("mean." + slot.name, zeros({p.size(0)}, like(p)));
  }
}
void Descent::gather(State& next, const State& s, const Regression& r) const {
  const View& view = r.view();
  if (steps != 1 || row_scale) throw refuse("descend", "apply is chunk with steps {} and row_scale {}, needs steps=1,row_scale=false", steps, row_scale);
  if (r.next_scale({}).defined()) throw refuse("descend", "apply is chunk and the weights shift their scale, needs bounded write gates");
  const double share = 1.0 / double(chunk);
  for (const auto& [part, p] : r.discount(s.theta, s.initial).parts) next.memory.set("kept." + part, next.memory["kept." + part] + share * p);
  for (const Slot& slot : rule_slots(rule)) next.memory.set("mean." + slot.name, next.memory["mean." + slot.name] + share * view.now(slot.name));
  for (int64_t i = over == Over::visible ? view.pairs() - 1 : r.newest(); i < view.pairs(); ++i) {
    const Pack& point = at == Point::initial ? s.initial : at == Point::chunk ? next.anchor : s.theta;
    const Pack g = over == Over::visible ? r.gradient(point, r.weigh()) : r.gradient(point, i);
    Tensor w = over == Over::visible ? Tensor() : r.strength(i);
    if (!unit_rate()) w = w.defined() ? w * view.pair("step_size", i) : view.pair("step_size", i);
    for (const auto& [part, d] : g.parts)
      next.memory.set("sum." + part, next.memory["sum." + part] + (w.defined() ? d * per_row(w, d) : d));
  }
}
void Descent::apply_chunk(State& next) const {
  Pack g = next.theta;
  for (auto& [part, d] : g.parts) {
    d = next.memory["sum." + part];
    next.theta.set(part, next.memory["kept." + part]);
  }
  const Pack means = next.memory;
  step(next, g, [means](std::string_view slot) { return slot == "step_size" ? Tensor() : means["mean." + std::string(slot)]; }, next.position / chunk);
}

Descent::Rates Descent::rates(const View& view, int64_t i) const {
  return [this, &view, i](std::string_view slot) { return slot == "step_size" && unit_rate() ? Tensor() : view.pair(slot, i); };
}

void Descent::step(State& next, const Pack& g, const Rates& rate_at, int64_t count) const {
  for (size_t j = 0; j < g.parts.size(); ++j) {
    const auto& part = next.theta.parts[j].first;
    auto& p = next.theta.parts[j].second;
    if (of_matrices && p.rank() < 3)
      throw refuse("descend", "{} has shape {}, needs a matrix for {}; take momentum", part, to_string(p.shape()), rule_text(rule));
    TokenRate shown;
    shown.slot = [&](std::string_view slot) {
      const Tensor x = rate_at(slot);
      return x.defined() ? per_row(x, p) : ones({}, like(p));
    };
    shown.step_size = shown.slot("step_size");
    Tensors m;
    for (int i = 0; i < memories; ++i) m.push_back(next.memory[memory_name(i, part)]);
    move(rule, p, g.parts[j].second, m.data(), shown, count);
    for (int i = 0; i < memories; ++i) next.memory.set(memory_name(i, part), m[size_t(i)]);
    if (keep_norm && p.rank() == 3) p = with_row_norms(p, next.initial[part]);
  }
}

}  // namespace ttr::detail
