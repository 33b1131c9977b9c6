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
// When the memory moves. chunk: once, at the last token of a chunk, by the chunk's summed gradients (each times its step size), with the
// chunk's mean momentum and mean forgetting (LaCT; Titans as the community runs it). Between, it stands still.
enum class Apply { token, chunk };
template <> struct NamesOf<Point> {
  static constexpr Naming<Point> names[] = {
      {Point::initial, "initial"}, {Point::previous, "previous"}, {Point::decayed, "decayed"}, {Point::chunk, "chunk"}};
};
template <> struct NamesOf<Rate> {
  static constexpr Naming<Rate> names[] = {{Rate::automatic, "automatic"}, {Rate::unit, "unit"}, {Rate::slot, "slot"}};
};
template <> struct NamesOf<Over> { static constexpr Naming<Over> names[] = {{Over::newest, "newest"}, {Over::visible, "visible"}}; };
template <> struct NamesOf<Apply> { static constexpr Naming<Apply> names[] = {{Apply::token, "token"}, {Apply::chunk, "chunk"}}; };
inline constexpr auto initial = Point::initial;
inline constexpr auto previous = Point::previous;
inline constexpr auto decayed = Point::decayed;
inline constexpr auto chunk = Point::chunk;

// What a rule is shown inside a layer: its rates as tensors that broadcast against one parameter.
struct TokenRate {
  using Number = double;
  Tensor step_size;                // 1 where the recipe has none
  Tensor momentum;                 // defined where the rule says momentum_by_slot
  double correct1 = 1, correct2 = 1, decay = 0;
  std::function<Tensor(std::string_view)> slot;   // any other slot the rule lists
};
namespace detail {
std::vector<Slot> momentum_slots();
}
// The slots of a rule beside step_size; a rule of yours may list its own with slots(). A member `momentum` is a number as any other, unless the
// rule says momentum_by_slot: then it is the trainer's, and inside a layer the slot `momentum` stands for it.
template <class Rule> std::vector<Slot> slots_of(const Rule& rule) {
  if constexpr (requires { rule.slots(); }) return rule.slots();
  else if constexpr (requires { Rule::momentum_by_slot; }) return detail::momentum_slots();
  else return {};
}

template <class R> struct RuleOption {   // prints as the rule's own text
  static constexpr bool always_printed = !std::same_as<R, Sgd>;
  R rule;
  RuleOption(R r = {}) : rule(std::move(r)) {}   // so that .rule = MyRule{...} is enough
  std::string text() const { return text_of(rule); }
  static RuleOption parse(const std::string& text) { return {from_options<R>("rule", detail::split_call("rule", text).second)}; }
};

namespace detail {
// x [N] shaped to broadcast against p [N, ...]; or x [N, V], one a value, against p [N, V, ...].
Tensor per_row(const Tensor& x, const Tensor& p);
// The rows of p [N, R, D] as long as those of `model`: p |model_r| / (|p_r| + 1e-5).
Tensor with_row_norms(const Tensor& p, const Tensor& model);
}

// What a rule must offer; Descend says in a sentence what is missing.
template <class R> inline constexpr bool counts_memories = requires { requires R::memories >= 0 && R::memories <= 2; };
template <class R> concept MovesParameters = requires(const R& rule, Tensor& p, const Tensor& g, Tensor& m, const TokenRate& rate) {
  requires (R::memories == 0 && requires { rule(p, g, rate); }) || (R::memories == 1 && requires { rule(p, g, m, rate); }) ||
           (R::memories == 2 && requires { rule(p, g, m, m, rate); });
};

namespace detail {
// What Descend does, for any rule: the rule itself is behind `move`, so that a program that brings a rule compiles the rule and not this.
struct Descent {
  Point at;
  int64_t chunk, steps;
  Rate rate;
  Over over;
  Apply apply;
  double limit;
  bool row_scale, keep_norm;

  int memories;                                // of the rule
  bool of_matrices;                            // it moves matrices only
  const void* rule;
  std::vector<Slot> (*rule_slots)(const void* rule);
  std::string (*rule_text)(const void* rule);
  void (*move)(const void* rule, Tensor& p, const Tensor& g, Tensor* m, TokenRate& rate, int64_t count);   // p and g [N, ...], m [memories] like p

  bool unit_rate() const { return rate == Rate::unit || (rate == Rate::automatic && at == Point::initial); }
  std::vector<Slot> slots() const;
  State start(const State&) const;
  State advance(const State&, const Regression&) const;

 private:
  using Rates = std::function<Tensor(std::string_view slot)>;   // [N]; undefined: 1
  bool anchored() const { return at == Point::chunk || row_scale; }
  State refit(const State&, const Regression&) const;
  void begin_chunk(State&) const;
  void gather(State& next, const State&, const Regression&) const;
  void apply_chunk(State& next) const;
  Rates rates(const View&, int64_t i) const;
  void step(State& next, const Pack& g, const Rates&, int64_t count) const;
};
}  // namespace detail

// The one first-order optimizer: each pair this token wrote takes one step of the rule.
//   theta <- rule(discount(theta), strength * gradient(at the point))
template <class Rule> struct Descend {
  static_assert(counts_memories<Rule>, "the rule does not say how many memories it has: it needs static constexpr int memories = 0 (or 1, or 2)");
  static_assert(!counts_memories<Rule> || MovesParameters<Rule>,
                "the rule cannot be called: it needs operator()(X& p, const X& g, one X& for each of its memories, const R& rate) const");
  static constexpr const char* name = "descend";
  static constexpr Demand demand = Demand::incremental;
  Point at = Point::previous;
  int64_t chunk = 1;               // tokens, for at = chunk and apply = chunk
  int64_t steps = 1;               // rule steps a pair
  Rate rate = Rate::automatic;
  Over over = Over::newest;
  Apply apply = Apply::token;
  double limit = 1;                // step_size lies in [0, limit]; 2 lets a delta rule flip what it reads (arXiv 2411.12537)
  bool row_scale = false;          // token t sees anchor + row_scale_t (memory - anchor), and the next chunk starts from what its last token saw (TTT)
  bool keep_norm = false;          // after each step every row of a matrix is as long as it was at the beginning (LaCT)
  RuleOption<Rule> rule{};
  void each(auto&& f) {
    f("rule", rule), f("at", at), f("chunk", chunk), f("steps", steps), f("rate", rate), f("over", over), f("apply", apply), f("limit", limit);
    f("row_scale", row_scale), f("keep_norm", keep_norm);
  }

  bool unit_rate() const { return descent().unit_rate(); }
  bool refits(bool discounts) const { return !discounts; }
  bool looks_back(bool discounts) const { return over == Over::visible || !discounts; }
  std::vector<Slot> slots() const { return descent().slots(); }
  State start(const State& s) const { return descent().start(s); }
  State advance(const State& s, const Regression& r) const { return descent().advance(s, r); }

 private:
  detail::Descent descent() const {
    return {at, chunk, steps, rate, over, apply, limit, row_scale, keep_norm, Rule::memories, requires { Rule::of_matrices; }, &rule.rule,
            [](const void* r) { return slots_of(*static_cast<const Rule*>(r)); }, [](const void* r) { return text_of(*static_cast<const Rule*>(r)); }, move};
  }
  static void move(const void* from, Tensor& p, const Tensor& g, Tensor* m, TokenRate& shown, int64_t count) {
    const Rule& rule = *static_cast<const Rule*>(from);
    if constexpr (requires { Rule::momentum_by_slot; }) shown.momentum = shown.slot("momentum");
    if constexpr (requires { rule.beta1, rule.beta2, rule.decay; }) {
      shown.correct1 = 1 - std::pow(rule.beta1, double(count + 1));
      shown.correct2 = 1 - std::pow(rule.beta2, double(count + 1));
      shown.decay = rule.decay;
    }
    if constexpr (Rule::memories == 0) rule(p, g, shown);
    else if constexpr (Rule::memories == 1) rule(p, g, m[0], shown);
    else rule(p, g, m[0], m[1], shown);
  }
};

// Implicit gradient descent (Longhorn, arXiv 2407.14207): argmin 1/2 |M - M_{t-1}|^2 + delta/2 |v - M phi|^2, so a step delta / (1 + delta |phi|^2).
// The talk's slide prints 1 / (1 + delta |k|^2), which is not a stationary point unless delta = 1 (docs/3-three-ingredients.md).
//   diagonal   as the official code runs it: phi phi^T replaced by its diagonal, and one delta a value
struct Proximal {
  static constexpr const char* name = "proximal";
  static constexpr Demand demand = Demand::streamed;
  bool diagonal = false;
  void each(auto&& f) { f("diagonal", diagonal); }
  std::vector<Slot> slots() const;
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
  static constexpr Naming<Ridge> names[] = {{Ridge::none, "none"},
                                                            {Ridge::constant, "constant"},
                                                            {Ridge::decaying, "decaying"},
                                                            {Ridge::refreshed, "refreshed"},
                                                            {Ridge::relative, "relative"}};
};
template <> struct NamesOf<RidgePer> {
  static constexpr Naming<RidgePer> names[] = {{RidgePer::head, "head"}, {RidgePer::channel, "channel"}, {RidgePer::degree, "degree"}};
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
  std::vector<Slot> slots() const;
  State start(State s) const { return s; }
  State advance(const State&, const Regression&) const;
};

namespace detail {
extern template void OptionList::operator()<Point>(const char*, const Point&);
extern template void OptionList::operator()<Rate>(const char*, const Rate&);
extern template void OptionList::operator()<Over>(const char*, const Over&);
extern template void OptionList::operator()<Apply>(const char*, const Apply&);
extern template const OptimizerModel* hold<OptimizerHolder<Exact>>(Exact);
extern template const OptimizerModel* hold<OptimizerHolder<ConjugateGradient>>(ConjugateGradient);
extern template const OptimizerModel* hold<OptimizerHolder<GradientSteps>>(GradientSteps);
extern template const OptimizerModel* hold<OptimizerHolder<Proximal>>(Proximal);
extern template const OptimizerModel* hold<OptimizerHolder<Descend<Sgd>>>(Descend<Sgd>);
extern template const OptimizerModel* hold<OptimizerHolder<Descend<Momentum>>>(Descend<Momentum>);
extern template const OptimizerModel* hold<OptimizerHolder<Descend<AdamW>>>(Descend<AdamW>);
}  // namespace detail

}  // namespace ttr
