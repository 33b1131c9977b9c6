// Optimizers: how far the regression is minimised, and from where.
#pragma once
#include <ttr/core/ops.hpp>
#include <ttr/layers/recipe.hpp>
#include <ttr/optim/rule.hpp>

namespace ttr {

// Where a first-order step takes its gradient.
//   initial   at the point the memory began at: a full-batch step, so linear attention and its gated relatives
//   previous  at the last memory: online gradient descent, so DeltaNet
//   decayed   at the last memory after it forgot: Gated DeltaNet
//   chunk     at the memory that entered the chunk: minibatch descent, so Titans and TTT
enum class Point { initial, previous, decayed, chunk };
enum class Rate { automatic, unit, slot };   // the step: 1, or the slot step_size; automatic: unit at the initial point, else the slot
enum class Over { newest, visible };         // the gradient of this token's pairs, or of all visible ones with their weights
template <> struct NamesOf<Point> {
  static constexpr std::pair<Point, const char*> names[] = {{Point::initial, "initial"}, {Point::previous, "previous"}, {Point::decayed, "decayed"}, {Point::chunk, "chunk"}};
};
template <> struct NamesOf<Rate> { static constexpr std::pair<Rate, const char*> names[] = {{Rate::automatic, "automatic"}, {Rate::unit, "unit"}, {Rate::slot, "slot"}}; };
template <> struct NamesOf<Over> { static constexpr std::pair<Over, const char*> names[] = {{Over::newest, "newest"}, {Over::visible, "visible"}}; };
inline constexpr auto initial = Point::initial;
inline constexpr auto previous = Point::previous;
inline constexpr auto decayed = Point::decayed;
inline constexpr auto chunk = Point::chunk;

// What a rule is shown inside a layer: its rates as tensors that broadcast against one parameter.
struct TokenRate {
  using Number = double;
  Tensor step_size;                // 1 where the recipe has none
  Tensor momentum;                 // defined where the rule's slots list it
  double correct1 = 1, correct2 = 1, decay = 0;
  std::function<Tensor(std::string_view)> slot;   // any other slot the rule lists
};
// The slots of a rule beside step_size; a rule of yours may list its own with slots().
template <class Rule> std::vector<Slot> slots_of(const Rule& rule) {
  if constexpr (requires { rule.slots(); }) return rule.slots();
  else if constexpr (std::same_as<Rule, Momentum>) return {{"momentum", Per::token, {}, unit_interval, 0.9}};
  else return {};
}

template <class R> struct RuleOption {   // prints as the rule's own text
  static constexpr bool always_printed = !std::same_as<R, Sgd>;
  R rule{};
  std::string text() const { return text_of(rule); }
  static RuleOption parse(const std::string& text) { return {from_options<R>("rule", detail::split_call("rule", text).second)}; }
};

namespace detail {
// x [N] shaped to broadcast against p [N, ...].
Tensor per_row(const Tensor& x, const Tensor& p);
}

// The one first-order optimizer: each pair this token wrote takes one step of the rule.
//   theta <- rule(discount(theta), strength * gradient(at the point))
template <class Rule> struct Descend {
  static constexpr const char* name = "descend";
  static constexpr Demand demand = Demand::incremental;
  Point at = Point::previous;
  int64_t chunk = 1;               // tokens, for at = chunk
  int64_t steps = 1;               // rule steps a pair
  Rate rate = Rate::automatic;
  Over over = Over::newest;
  RuleOption<Rule> rule{};
  void each(auto&& f) { f("rule", rule), f("at", at), f("chunk", chunk), f("steps", steps), f("rate", rate), f("over", over); }

  bool unit_rate() const { return rate == Rate::unit || (rate == Rate::automatic && at == Point::initial); }
  bool looks_back(bool discounts) const { return over == Over::visible || !discounts; }

  std::vector<Slot> slots() const {
    std::vector<Slot> list;
    if (!unit_rate()) list.push_back({"step_size", Per::write, {}, unit_interval, 0.5});
    for (Slot& s : slots_of(rule.rule)) list.push_back(std::move(s));
    return list;
  }

  State start(State s) const {
    if (at == Point::chunk) s.anchor = s.theta;
    for (int m = 0; m < Rule::memories; ++m)
      for (const auto& [part, p] : s.theta.parts) s.memory.set(memory_name(m, part), zeros(p.shape(), like(p)));
    return s;
  }

  State advance(const State& s, const Regression& r) const {
    if (!r.discounts()) return refit(s, r);
    State next = s;
    if (at == Point::chunk && s.position % chunk == 0) next.anchor = s.theta;
    Shift shift{s.log_scale, r.next_scale(s.log_scale)};
    if (shift.after.defined() && !shift.before.defined()) shift.before = zeros(shift.after.shape(), like(shift.after));
    next.log_scale = shift.after;
    next.theta = r.discount(s.theta, s.initial, shift);
    Pack last = s.theta;                                       // the memory before the decay; after this token's first write, the memory itself
    const int64_t newest = over == Over::visible ? r.view().pairs() - 1 : r.newest();
    for (int64_t i = newest; i < r.view().pairs(); ++i) {
      for (int64_t n = 0; n < steps; ++n) {
        const Pack& point = at == Point::initial ? s.initial : at == Point::chunk ? next.anchor : at == Point::decayed ? next.theta : last;
        Pack g = over == Over::visible ? r.gradient(point, r.weigh()) : r.gradient(point, i);
        if (const Tensor w = r.strength(i, shift); w.defined() && over == Over::newest)
          for (auto& [part, d] : g.parts) d = d * detail::per_row(w, d);
        step(next, g, r.view(), i);
        last = next.theta;
      }
    }
    return next;
  }

 private:
  static std::string memory_name(int m, const std::string& part) { return fmt::format("{}.{}", m, part); }

  // Weights that are numbers and depend on the query: one step from the initial point over all visible pairs, anew at every token.
  State refit(const State& s, const Regression& r) const {
    if (at != Point::initial) throw refuse("descend", "at is not initial and the weights cannot forget in a step, needs at=initial or weights that can");
    State next = s;
    next.theta = s.initial;
    if (r.view().pairs() > 0) step(next, r.gradient(s.initial, r.weigh()), r.view(), r.view().pairs() - 1);
    return next;
  }

  void step(State& next, const Pack& g, const View& view, int64_t i) const {
    for (size_t j = 0; j < g.parts.size(); ++j) {
      auto& [part, p] = next.theta.parts[j];
      const Tensor& d = g.parts[j].second;
      const auto rate_of = [&](std::string_view slot) { return detail::per_row(view.pair(slot, i), p); };
      TokenRate rates;
      rates.step_size = unit_rate() ? ones({}, like(p)) : rate_of("step_size");
      if constexpr (std::same_as<Rule, Momentum>) rates.momentum = rate_of("momentum");
      rates.slot = rate_of;
      if constexpr (requires(Rule x) { x.beta1, x.beta2, x.decay; }) {
        const double t = double(next.position + 1);
        rates.correct1 = 1 - std::pow(rule.rule.beta1, t);
        rates.correct2 = 1 - std::pow(rule.rule.beta2, t);
        rates.decay = rule.rule.decay;
      }
      if constexpr (Rule::memories == 0) rule.rule(p, d, rates);
      else {
        Tensor m = next.memory[memory_name(0, part)];
        if constexpr (Rule::memories == 1) rule.rule(p, d, m, rates);
        else {
          Tensor n = next.memory[memory_name(1, part)];
          rule.rule(p, d, m, n, rates);
          next.memory.set(memory_name(1, part), n);
        }
        next.memory.set(memory_name(0, part), m);
      }
    }
  }
};

// Implicit gradient descent (Longhorn, arXiv 2407.14207): argmin 1/2 |M - M_{t-1}|^2 + delta/2 |v - M phi|^2, so a step delta / (1 + delta |phi|^2).
// The talk's slide prints 1 / (1 + delta |k|^2), which is not a stationary point unless delta = 1 (docs/3-three-ingredients.md).
struct Proximal {
  static constexpr const char* name = "proximal";
  static constexpr Demand demand = Demand::streamed;
  std::vector<Slot> slots() const { return {{"step_size", Per::write, {}, positive, 1}}; }
  State start(State s) const { return s; }
  State advance(const State&, const Regression&) const;
};

// Least squares, solved: theta = (Phi^T Gamma Phi + Lambda)^{-1} Phi^T Gamma V.
//   ridge  none | constant: lambda | decaying: lambda prod a (older than every pair) | refreshed: set anew every `chunk` tokens, decaying in between
//          | relative: lambda sum gamma
//   per    the slot ridge: head: [H], channel: [H, K], degree: [H, 2] (linear, quadratic)
enum class Ridge { none, constant, decaying, refreshed, relative };
enum class RidgePer { head, channel, degree };
template <> struct NamesOf<Ridge> {
  static constexpr std::pair<Ridge, const char*> names[] = {{Ridge::none, "none"}, {Ridge::constant, "constant"}, {Ridge::decaying, "decaying"}, {Ridge::refreshed, "refreshed"},
                                                            {Ridge::relative, "relative"}};
};
template <> struct NamesOf<RidgePer> {
  static constexpr std::pair<RidgePer, const char*> names[] = {{RidgePer::head, "head"}, {RidgePer::channel, "channel"}, {RidgePer::degree, "degree"}};
};
struct System {
  Tensor a, b;          // a x = b: [N, P, P] symmetric positive definite, [N, P, V]
  Tensor scale = {};    // theta = scale * x [N, P, 1]; undefined: 1
  Tensor solution() const;   // theta [N, P, V]
};
System normal_equations(const Regression&, Ridge, int64_t chunk, const Tensor& targets);   // targets [N, pairs, V]
std::vector<Slot> ridge_slots(Ridge, RidgePer);

struct Exact {
  static constexpr const char* name = "exact";
  static constexpr Demand demand = Demand::linear;
  Ridge ridge = Ridge::none;
  RidgePer per = RidgePer::head;
  int64_t chunk = 64;   // tokens, for ridge = refreshed
  void each(auto&& f) { f("ridge", ridge), f("per", per), f("chunk", chunk); }
  std::vector<Slot> slots() const;
  State start(State s) const { return s; }
  State advance(const State&, const Regression&) const;
};

// The same system, n conjugate-gradient steps from zero on the query: y = B^T x_n, x_n ~ A^{-1} phi(q) (MesaNet, arXiv 2506.05233).
struct ConjugateGradient {
  static constexpr const char* name = "conjugate_gradient";
  static constexpr Demand demand = Demand::linear;
  int64_t steps = 30;
  Ridge ridge = Ridge::constant;
  RidgePer per = RidgePer::channel;
  int64_t chunk = 64;
  void each(auto&& f) { f("steps", steps), f("ridge", ridge), f("per", per), f("chunk", chunk); }
  std::vector<Slot> slots() const;
  State start(State s) const { return s; }
  State advance(const State&, const Regression&) const;
};

// n full-batch gradient steps from the initial point: between linear attention (n = 1) and Exact (n large, step below 2 / lambda_max).
struct GradientSteps {
  static constexpr const char* name = "gradient_steps";
  static constexpr Demand demand = Demand::weighed;
  int64_t steps = 1;
  void each(auto&& f) { f("steps", steps); }
  std::vector<Slot> slots() const { return {{"step_size", Per::head, {}, positive, 0.1}}; }
  State start(State s) const { return s; }
  State advance(const State&, const Regression&) const;
};

}  // namespace ttr
