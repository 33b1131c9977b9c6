// Recipe: a sequence layer as a value, declared by three ingredients (Wang, Shi, Fox 2025, arXiv 2501.12352).
//
//   m_t = argmin over m in M of 1/2 sum_i gamma_i |v_i - m(k_i)|^2,   y_t = m_t(q_t)
//
//   weights         gamma: which pairs matter        EvenWeights, GeometricWeights, KernelWeights, ...     (weights.hpp)
//   function class  M: what kind of memory           Constant, LinearMap, Polynomial, Mlp, ...              (functions.hpp)
//   optimizer       how far it is minimised          Descend<Rule>, Exact, ConjugateGradient, ...           (optimizers.hpp)
//
// This file holds what an ingredient must offer (the concepts below), and the erasure that lets text name any mixture.
// Next: fold.cpp, the meaning of every recipe in a dozen lines; recipes.cpp, the published ones; docs/ for writing your own.
#pragma once
#include <concepts>
#include <functional>
#include <typeinfo>
#include <ttr/layers/option.hpp>
#include <ttr/layers/view.hpp>

namespace ttr {

// -- what the concepts speak of ----------------------------------------------------------------------------------------------------------
// gamma_i = relative_i * exp(log_scale); relative may be signed. prior: the weight, on the same scale, of something older than every pair.
struct Weighing {
  Tensor relative;        // [N, pairs]
  Tensor log_scale = {};  // [N]; undefined: 0
  Tensor prior = {};      // [N]; undefined: 1
  int64_t first = 0;      // pairs before it weigh nothing
};

// m(k) = theta^T phi(k): the rows of Phi are the visible pairs' features. dual: Phi is the Gram matrix of the pairs, so its own penalty, and the
// normal equations Phi Gamma Phi + lambda Phi have Phi as a factor that only worsens them.
struct Design {
  Tensor phi;             // [N, pairs, P]
  Tensor query;           // [N, 1, P]
  bool dual = false;
};

// A running logarithm that the memory is divided by, so that exp of an unbounded gate cannot overflow. Undefined: not used.
struct Shift { Tensor before, after; };   // [N] each

struct State {
  Pack theta;             // the memory's parameters, each [N, ...]
  Pack initial;           // where it began: zero or learned
  Pack anchor;            // the chunk's frozen point
  Pack memory;            // the optimizer's own
  Tensor log_scale;       // [N]; see Shift
  int64_t position = 0;   // tokens absorbed
};

class Regression;

// -- the concepts ----------------------------------------------------------------------------------------------------------------------------
// Every ingredient: std::vector<Slot> slots() const; optionally each(f) for its options and `static constexpr const char* name`.
template <class I> concept HasSlots = requires(const I& i) { { i.slots() } -> std::convertible_to<std::vector<Slot>>; };

// Forgetting as a step on the parameters.
template <class W> concept Discounts = requires(const W& w, const Pack& theta, const View& view, const Shift& shift) {
  { w.discount(theta, theta, view, shift) } -> std::same_as<Pack>;
};
// gamma as numbers.
template <class W> concept Weighs = requires(const W& w, const View& view) { { w.weigh(view) } -> std::same_as<Weighing>; };
template <class W> concept Weights = Discounts<W> || Weighs<W>;
// Optional members of weights:
//   Tensor strength(const View&, int64_t i, const Shift&) const    [N], or [N, V] one a value: how much pair i weighs when it is written; default 1
//   int64_t reach() const                                          tokens, this one included, that can weigh anything; default all
//   Tensor next_scale(const Tensor& log_scale, const View&) const  [N], see Shift

template <class F> concept FunctionClass = requires(const F& f, const Pack& theta, const View& view, int64_t i, const Tensor& log_scale) {
  { f.init(view) } -> std::same_as<Pack>;                             // parameters, each [N, ...]
  { f.loss(theta, theta, view, i) } -> std::same_as<Tensor>;          // (theta, point, view, i) -> [N]; point: where the gradient is taken, a constant
  { f.read(theta, view, log_scale) } -> std::same_as<Tensor>;         // [N, V]
};
template <class F> concept LinearInParameters = FunctionClass<F> && requires(const F& f, const View& view, const Tensor& ridge, const Tensor& solution) {
  { f.design(view) } -> std::same_as<Design>;
  { f.penalty(view, ridge) } -> std::same_as<Tensor>;                 // [P, P] or [N, P, P]: what ridge [N, R] adds, one number or one a part that
                                                                      // the class tells apart (a channel, a degree); nothing for what must stay free
  { f.solved(solution) } -> std::same_as<Pack>;                       // theta from a solution [N, P, V]
};

// Optional: static constexpr bool grows = true, for a class with parameters a visible pair: it is solved at every token, never stepped.
template <class F> inline constexpr bool grows = false;
template <class F> requires requires { F::grows; } inline constexpr bool grows<F> = F::grows;

// What an optimizer asks of its partners.
enum class Demand {
  incremental,   // Discounts or (from a fixed point) Weighs: one step a token
  linear,        // Weighs and LinearInParameters: a system of equations
  weighed,       // Weighs: all visible pairs at once
  streamed       // Discounts: cannot look back
};
template <class O> concept Optimizer = requires(const O& o, const State& s, const Regression& r) {
  { o.start(s) } -> std::same_as<State>;
  { o.advance(s, r) } -> std::same_as<State>;
  { O::demand } -> std::convertible_to<Demand>;
};
// Optional members of optimizers:
//   bool refits(bool weights_discount) const       it makes the memory anew from the visible pairs at every token, so that they are the state;
//                                                  default: demand is linear or weighed, or the weights cannot forget in a step
//   bool looks_back(bool weights_discount) const   it reads old pairs at every step, so that they are carried as state; default: refits

template <class W, class F, class O>
inline constexpr bool fits = Weights<W>&& FunctionClass<F>&& Optimizer<O> &&
                             (O::demand == Demand::incremental ? true
                              : O::demand == Demand::streamed
                                  ? Discounts<W>
                                  : Weighs<W>)&&(O::demand == Demand::linear ? LinearInParameters<F> : !grows<F>);

// -- how the memory is addressed: declared, never implied --------------------------------------------------------------------------------------
enum class Read { inclusive, strict, chunk };   // after or before this token's pairs are written, or as the memory entered the token's chunk
enum class Visible { prefix, everything };   // causal, or the whole context at every token
enum class KeyNorm { none, l2, rms, sum };   // of q and k: x / sqrt(sum x^2 + eps), x / sqrt(mean x^2 + eps), x / sum x
template <> struct NamesOf<Read> {
  static constexpr Naming<Read> names[] = {
      {Read::inclusive, "inclusive"}, {Read::strict, "strict"}, {Read::chunk, "chunk"}};
};
template <> struct NamesOf<Visible> {
  static constexpr Naming<Visible> names[] = {{Visible::prefix, "prefix"}, {Visible::everything, "everything"}};
};
template <> struct NamesOf<KeyNorm> {
  static constexpr Naming<KeyNorm> names[] = {{KeyNorm::none, "none"}, {KeyNorm::l2, "l2"}, {KeyNorm::rms, "rms"}, {KeyNorm::sum, "sum"}};
};

struct Scale {   // what q is multiplied by
  double value = 1;
  bool by_key = false;   // 1 / sqrt(K)
  static constexpr Scale rsqrt_key() { return {1, true}; }
  double at(int64_t key_dim) const;
  std::string text() const;
  static Scale parse(const std::string&);   // a number, or "rsqrt"
  bool operator==(const Scale&) const = default;
};

struct Reading {
  Scale scale{};
  Read read = Read::inclusive;
  Visible visible = Visible::prefix;
  KeyNorm key_norm = KeyNorm::none;
  double key_eps = 1e-6;
  int64_t writes = 1;    // pairs a token
  void each(auto&& f) {
    f("scale", scale), f("read", read), f("visible", visible), f("key_norm", key_norm), f("key_eps", key_eps), f("writes", writes);
  }
};

// -- erasure: each ingredient on its own -----------------------------------------------------------------------------------------------------
// Handles to immutable ingredients. A typed ingredient converts; ask<T>() gives it back.
namespace detail {

struct Described {
  virtual ~Described() = default;
  virtual std::string name() const = 0;
  virtual std::string text() const = 0;
  virtual std::vector<Slot> slots() const = 0;
  virtual const std::type_info& type() const = 0;
  virtual const void* self() const = 0;
};
template <class Base, class T> struct Holder : Base {
  using Model = Base;
  explicit Holder(T v) : value(std::move(v)) {}
  std::string name() const override { return ingredient_name<T>(); }
  std::string text() const override { return text_of(value); }
  std::vector<Slot> slots() const override { return value.slots(); }
  const std::type_info& type() const override { return typeid(T); }
  const void* self() const override { return &value; }
  T value;
};

struct WeightsModel : Described {
  virtual bool discounts() const = 0;
  virtual bool weighs() const = 0;
  virtual Pack discount(const Pack& theta, const Pack& initial, const View&, const Shift&) const = 0;
  virtual Weighing weigh(const View&) const = 0;
  virtual Tensor strength(const View&, int64_t i, const Shift&) const = 0;
  virtual Tensor next_scale(const Tensor& log_scale, const View&) const = 0;
  virtual int64_t reach() const = 0;
};
struct FunctionModel : Described {
  virtual bool linear() const = 0;
  virtual bool grows() const = 0;
  virtual Pack init(const View&) const = 0;
  virtual Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const = 0;
  virtual Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const = 0;
  virtual Design design(const View&) const = 0;
  virtual Tensor penalty(const View&, const Tensor& ridge) const = 0;
  virtual Pack solved(const Tensor&) const = 0;
};
struct OptimizerModel : Described {
  virtual Demand demand() const = 0;
  virtual bool refits(bool discounts) const = 0;
  virtual bool looks_back(bool discounts) const = 0;
  virtual State start(const State&) const = 0;
  virtual State advance(const State&, const Regression&) const = 0;
};

template <class W> struct WeightsHolder final : Holder<WeightsModel, W> {
  using Holder<WeightsModel, W>::Holder;
  // An option may take a capability away: per-channel forgetting is no set of scalar weights.
  bool discounts() const override {
    if constexpr (requires { this->value.can_discount(); }) return this->value.can_discount();
    return Discounts<W>;
  }
  bool weighs() const override {
    if constexpr (requires { this->value.can_weigh(); }) return this->value.can_weigh();
    return Weighs<W>;
  }
  Pack discount(const Pack& theta, const Pack& initial, const View& view, const Shift& shift) const override {
    if constexpr (Discounts<W>) return this->value.discount(theta, initial, view, shift);
    else return theta;
  }
  Weighing weigh(const View& view) const override {
    if constexpr (Weighs<W>) return this->value.weigh(view);
    else return {};
  }
  Tensor strength(const View& view, int64_t i, const Shift& shift) const override {
    if constexpr (requires { this->value.strength(view, i, shift); }) return this->value.strength(view, i, shift);
    return {};
  }
  Tensor next_scale(const Tensor& scale, const View& view) const override {
    if constexpr (requires { this->value.next_scale(scale, view); }) return this->value.next_scale(scale, view);
    return {};
  }
  int64_t reach() const override {
    if constexpr (requires { this->value.reach(); }) return this->value.reach();
    return std::numeric_limits<int64_t>::max();
  }
};
template <class F> struct FunctionHolder final : Holder<FunctionModel, F> {
  using Holder<FunctionModel, F>::Holder;
  bool linear() const override {
    if constexpr (requires { this->value.can_design(); }) return this->value.can_design();
    return LinearInParameters<F>;
  }
  bool grows() const override { return ttr::grows<F>; }
  Pack init(const View& view) const override { return this->value.init(view); }
  Tensor loss(const Pack& theta, const Pack& point, const View& view, int64_t i) const override { return this->value.loss(theta, point, view, i); }
  Tensor read(const Pack& theta, const View& view, const Tensor& scale) const override { return this->value.read(theta, view, scale); }
  Design design(const View& view) const override {
    if constexpr (LinearInParameters<F>) return this->value.design(view);
    else return {};
  }
  Tensor penalty(const View& view, const Tensor& ridge) const override {
    if constexpr (LinearInParameters<F>) return this->value.penalty(view, ridge);
    else return {};
  }
  Pack solved(const Tensor& solution) const override {
    if constexpr (LinearInParameters<F>) return this->value.solved(solution);
    else return {};
  }
};
template <class O> struct OptimizerHolder final : Holder<OptimizerModel, O> {
  using Holder<OptimizerModel, O>::Holder;
  Demand demand() const override { return O::demand; }
  bool refits(bool discounts) const override {
    if constexpr (requires { this->value.refits(discounts); }) return this->value.refits(discounts);
    return O::demand == Demand::linear || O::demand == Demand::weighed || (O::demand == Demand::incremental && !discounts);
  }
  bool looks_back(bool discounts) const override {
    if constexpr (requires { this->value.looks_back(discounts); }) return this->value.looks_back(discounts) || refits(discounts);
    return refits(discounts);
  }
  State start(const State& s) const override { return this->value.start(s); }
  State advance(const State& s, const Regression& r) const override { return this->value.advance(s, r); }
};

// A new holder, owned by the handle made from it. The library's own ingredients are instantiated in the library, so that a program that
// names them does not compile them again.
template <class H, class T> const typename H::Model* hold(T value) { return new H(std::move(value)); }

// What it does with its pointer is compiled in the library too: every ingredient and every recipe that a program names has some.
template <class Model> class Handle {
 public:
  explicit Handle(const Model* made);
  explicit Handle(std::shared_ptr<const Model> m);
  Handle(const Handle&);
  Handle(Handle&&) noexcept;
  Handle& operator=(const Handle&);
  Handle& operator=(Handle&&) noexcept;
  ~Handle();
  const Model* operator->() const { return model_.get(); }
  std::string name() const;
  std::string text() const;
  std::vector<Slot> slots() const;
  template <class T> const T* ask() const { return model_->type() == typeid(T) ? static_cast<const T*>(model_->self()) : nullptr; }
  bool operator==(const Handle& o) const;

 private:
  std::shared_ptr<const Model> model_;
};
template <class Model> Handle<Model>::Handle(const Model* made) : model_(made) {}
template <class Model> Handle<Model>::Handle(std::shared_ptr<const Model> m) : model_(std::move(m)) {}
template <class Model> Handle<Model>::Handle(const Handle&) = default;
template <class Model> Handle<Model>::Handle(Handle&&) noexcept = default;
template <class Model> Handle<Model>& Handle<Model>::operator=(const Handle&) = default;
template <class Model> Handle<Model>& Handle<Model>::operator=(Handle&&) noexcept = default;
template <class Model> Handle<Model>::~Handle() = default;
template <class Model> std::string Handle<Model>::name() const { return model_->name(); }
template <class Model> std::string Handle<Model>::text() const { return model_->text(); }
template <class Model> std::vector<Slot> Handle<Model>::slots() const { return model_->slots(); }
template <class Model> bool Handle<Model>::operator==(const Handle& o) const {
  return model_ == o.model_ || (model_->type() == o.model_->type() && model_->text() == o.model_->text());
}
extern template class Handle<WeightsModel>;
extern template class Handle<FunctionModel>;
extern template class Handle<OptimizerModel>;

}  // namespace detail

struct AnyWeights : detail::Handle<detail::WeightsModel> {
  using Handle::Handle;
  template <class W> requires(!std::derived_from<W, detail::Handle<detail::WeightsModel>>)
  AnyWeights(W w) : Handle(detail::hold<detail::WeightsHolder<W>>(std::move(w))) {}
};
struct AnyFunction : detail::Handle<detail::FunctionModel> {
  using Handle::Handle;
  template <class F> requires(!std::derived_from<F, detail::Handle<detail::FunctionModel>>)
  AnyFunction(F f) : Handle(detail::hold<detail::FunctionHolder<F>>(std::move(f))) {}
};
struct AnyOptimizer : detail::Handle<detail::OptimizerModel> {
  using Handle::Handle;
  template <class O> requires(!std::derived_from<O, detail::Handle<detail::OptimizerModel>>)
  AnyOptimizer(O o) : Handle(detail::hold<detail::OptimizerHolder<O>>(std::move(o))) {}
};

// Why this mixture makes no sense, as a sentence; "" when it does. The run-time twin of `fits`.
std::string misfit(const AnyWeights&, const AnyFunction&, const AnyOptimizer&);

// -- the recipe --------------------------------------------------------------------------------------------------------------------------------
class Recipe {
 public:
  // The typed front door: a nonsense triple does not compile.
  template <class W, class F, class O>
    requires(!std::derived_from<W, detail::Handle<detail::WeightsModel>>)
  Recipe(W w, F f, O o, Reading reading = {}) : Recipe(checked<W, F, O>(std::move(w)), AnyFunction(std::move(f)), AnyOptimizer(std::move(o)), reading) {}
  // The erased one: refused with the same reasons, at run time.
  Recipe(AnyWeights, AnyFunction, AnyOptimizer, Reading = {});
  Recipe(const Recipe&);
  Recipe(Recipe&&) noexcept;
  Recipe& operator=(const Recipe&);
  Recipe& operator=(Recipe&&) noexcept;
  ~Recipe();

  const AnyWeights& weights() const { return weights_; }
  const AnyFunction& function() const { return function_; }
  const AnyOptimizer& optimizer() const { return optimizer_; }
  const Reading& reading() const { return reading_; }
  bool refits() const { return optimizer_->refits(weights_->discounts()); }           // the visible pairs are the state
  bool looks_back() const { return optimizer_->looks_back(weights_->discounts()); }   // old pairs are part of the state

  std::vector<Slot> slots() const;      // q, k, v, then what the ingredients list, each name once
  std::string text() const;             // "weights / function / optimizer", and " / reading[...]" when it is not the default
  bool operator==(const Recipe& o) const { return text() == o.text(); }
  Recipe with(const Reading& reading) const { return Recipe(weights_, function_, optimizer_, reading); }

 private:
  template <class W, class F, class O> static AnyWeights checked(W w) {
    static_assert(Weights<W>, "the first ingredient is no weights: it needs discount(theta, initial, View, Shift) or weigh(View)");
    static_assert(
        FunctionClass<F>,
        "the second ingredient is no function class: it needs init(View), loss(theta, point, View, i) and read(theta, View, log_scale)");
    static_assert(Optimizer<O> || !requires { O::memories; },
                  "the third ingredient is an update rule, not an optimizer: it needs to be put into one, Descend<MyRule>{}");
    static_assert(Optimizer<O> || requires { O::memories; },
                  "the third ingredient is no optimizer: it needs start(State), advance(State, Regression) and a Demand `demand`");
    if constexpr (Weights<W> && FunctionClass<F> && Optimizer<O>) {
      static_assert(O::demand != Demand::linear || LinearInParameters<F>,
                    "this optimizer solves a linear system: it needs a function class that is linear in its parameters (design, penalty, solved)");
      static_assert(O::demand == Demand::linear || !grows<F>,
                    "this function class has parameters a visible pair: it needs an optimizer that solves (exact, conjugate_gradient), not one that steps");
      static_assert((O::demand != Demand::linear && O::demand != Demand::weighed) || Weighs<W>,
                    "this optimizer looks at all visible pairs: it needs weights that are numbers (weigh)");
      static_assert(O::demand != Demand::streamed || Discounts<W>, "this optimizer never looks back: it needs weights that can forget in one step (discount)");
    }
    return AnyWeights(std::move(w));
  }
  AnyWeights weights_;
  AnyFunction function_;
  AnyOptimizer optimizer_;
  Reading reading_;
};

// -- the problem at time t, as the optimizer sees it -----------------------------------------------------------------------------------------
class Regression {
 public:
  Regression(const Recipe& recipe, const View& view) : recipe_(recipe), view_(view) {}
  const View& view() const { return view_; }
  int64_t newest() const { return view_.pairs() - view_.writes(); }          // the first of this token's pairs

  // d/dtheta at `point` of pair i's loss, or of sum_i gamma_i loss_i. Taken with respect to fresh aliases of the point, made here: the inner
  // sweep stays inside the loss and never walks the network that made the point.
  Pack gradient(const Pack& point, int64_t i) const;
  Pack gradient(const Pack& point, const Weighing& gamma) const;
  Pack gradient(const Pack& point, const Weighing& gamma, const std::function<Tensor(const Pack& theta, int64_t i)>& loss) const;

  bool discounts() const { return recipe_.weights()->discounts(); }
  Pack discount(const Pack& theta, const Pack& initial, const Shift& shift = {}) const { return recipe_.weights()->discount(theta, initial, view_, shift); }
  Weighing weigh() const { return recipe_.weights()->weigh(view_); }
  Weighing weigh(const View& view) const { return recipe_.weights()->weigh(view); }
  Regression on(const View& view) const { return Regression(recipe_, view); }  // the same problem with other pairs visible
  Tensor strength(int64_t i, const Shift& shift = {}) const { return recipe_.weights()->strength(view_, i, shift); }
  Tensor next_scale(const Tensor& log_scale) const { return recipe_.weights()->next_scale(log_scale, view_); }
  Design design() const { return recipe_.function()->design(view_); }
  Tensor features(int64_t i) const;                                           // phi(k_i) [N, P], of a class that is linear in its parameters
  Tensor penalty(const Tensor& ridge) const { return recipe_.function()->penalty(view_, ridge); }
  Pack solved(const Tensor& solution) const { return recipe_.function()->solved(solution); }
  Tensor targets() const { return view_.all("v"); }                           // [N, pairs, V]

 private:
  const Recipe& recipe_;
  View view_;
};

}  // namespace ttr
