// Recipe: its slots, its text, why a mixture makes no sense; and the gradients an optimizer asks for.
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/recipe.hpp>

namespace ttr {

namespace detail {
template class Handle<WeightsModel>;
template class Handle<FunctionModel>;
template class Handle<OptimizerModel>;
}  // namespace detail

Recipe::Recipe(const Recipe&) = default;
Recipe::Recipe(Recipe&&) noexcept = default;
Recipe& Recipe::operator=(const Recipe&) = default;
Recipe& Recipe::operator=(Recipe&&) noexcept = default;
Recipe::~Recipe() = default;

double Scale::at(int64_t key_dim) const { return by_key ? value / std::sqrt(double(key_dim)) : value; }
std::string Scale::text() const { return by_key ? "rsqrt" : detail::option_text(value); }
Scale Scale::parse(const std::string& text) {
  if (text == "rsqrt") return rsqrt_key();
  Scale s;
  detail::read_option("recipe", "scale", text, s.value);
  return s;
}

std::string misfit(const AnyWeights& w, const AnyFunction& f, const AnyOptimizer& o) {
  const Demand demand = o->demand();
  if (demand == Demand::linear && !f->linear())
    return fmt::format("{} solves a linear system, needs a function class that is linear in its parameters, not {}; take descend", o.name(), f.text());
  if (demand != Demand::linear && f->grows())
    return fmt::format("{} has parameters a visible pair, needs an optimizer that solves, not {}; take exact or conjugate_gradient", f.name(), o.text());
  if ((demand == Demand::linear || demand == Demand::weighed) && !w->weighs())
    return fmt::format("{} looks at all visible pairs, needs weights that are numbers, not {}; take descend", o.name(), w.text());
  if (demand == Demand::streamed && !w->discounts())
    return fmt::format("{} never looks back, needs weights that can forget in one step, not {}; take even or geometric", o.name(), w.text());
  return {};
}

Recipe::Recipe(AnyWeights w, AnyFunction f, AnyOptimizer o, Reading reading)
    : weights_(std::move(w)), function_(std::move(f)), optimizer_(std::move(o)), reading_(reading) {
  if (const std::string why = misfit(weights_, function_, optimizer_); !why.empty()) throw refuse("recipe", "{}", why);
  if (reading_.writes < 1) throw refuse("recipe", "writes is {}, needs at least 1 pair a token", reading_.writes);
}

std::vector<Slot> Recipe::slots() const {
  std::vector<Slot> all{{"q", Per::token, {key_size}}, {"k", Per::write, {key_size}}, {"v", Per::write, {value_size}}};
  std::map<std::string, int> unread;
  const auto merge = [&](const std::vector<Slot>& more) {
    for (const Slot& s : more) {
      if (!s.read) {
        ++unread[s.name];
        continue;
      }
      bool known = false;
      for (Slot& a : all)
        if (a.name == s.name) known = true, a = s;   // an ingredient may restate q, k or v (a size of its own)
      if (!known) all.push_back(s);
    }
  };
  merge(weights_.slots());
  merge(function_.slots());
  merge(optimizer_.slots());
  std::erase_if(all, [&](const Slot& s) { return unread.count(s.name) && unread[s.name] == 2; });
  return all;
}

std::string Recipe::text() const {
  std::string text = weights_.text() + " / " + function_.text() + " / " + optimizer_.text();
  const std::string reading = text_of(reading_);
  return reading == ingredient_name<Reading>() ? text : text + " / " + reading;
}

namespace {

// The inner sweep records even where the outer network does not; it is differentiable itself only where the outer one is recorded.
Pack inner_gradient(const Pack& at, const std::function<Tensor(const Pack& point)>& loss) {
  const bool outer = recording();
  Recording on(true);
  Tensors points;
  for (const auto& [name, p] : at.parts) points.push_back(outer ? alias(p) : variable(p));
  const Tensor total = sum(loss(at.with(points)));
  return at.with(grad({total}, {}, points, {.create_graph = outer}));
}

}  // namespace

Tensor Regression::features(int64_t i) const {
  if (!recipe_.function()->linear())
    throw refuse("recipe", "{} has no features, needs a function class that is linear in its parameters", recipe_.function().text());
  const Tensor phi = recipe_.function()->design(view_.only(i)).phi;                     // [N, 1, P]
  return reshape(phi, {phi.size(0), phi.size(2)});
}

Pack Regression::gradient(const Pack& point, int64_t i) const {
  return inner_gradient(point, [&](const Pack& theta) { return recipe_.function()->loss(theta, point, view_, i); });
}

Pack Regression::gradient(const Pack& point, const Weighing& gamma) const {
  return gradient(point, gamma, [&](const Pack& theta, int64_t i) { return recipe_.function()->loss(theta, point, view_, i); });
}

Pack Regression::gradient(const Pack& point, const Weighing& gamma, const std::function<Tensor(const Pack&, int64_t)>& loss) const {
  const Tensors gammas = unstack(gamma.relative, 1);
  return inner_gradient(point, [&](const Pack& theta) {
    Tensor total;
    for (int64_t i = gamma.first; i < view_.pairs(); ++i) {
      Tensor part = loss(theta, i) * gammas[size_t(i)];
      total = total.defined() ? total + part : part;
    }
    if (!total.defined()) return zeros({view_.rows()}, view_.options());   // nothing is visible
    return gamma.log_scale.defined() ? total * exp(gamma.log_scale) : total;
  });
}

}  // namespace ttr
