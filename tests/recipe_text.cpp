// Recipes as text: what is printed parses back to itself, a mistake is answered with a sentence and the nearest word, and a type of one's own joins.
#include <set>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/vocabulary.hpp>

namespace {

using namespace ttr;

std::string sentence(const std::string& recipe) {
  try {
    parse_recipe(recipe);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

// Ingredients of a user: a rule, weights and a function class, none of which ttr knows.
struct LookAhead {   // m = momentum m + g,  p = p - step_size (g + momentum m)
  static constexpr int memories = 1;
  double momentum = 0.9;
  void each(auto&& f) { f("momentum", momentum); }
  template <class X, class R> void operator()(X& p, const X& g, X& m, const R& rate) const {
    m = momentum * m + g;
    p = p - rate.step_size * (g + momentum * m);
  }
};
struct Disguised {
  static constexpr const char* name = "momentum";
  static constexpr int memories = 0;
  template <class X, class R> void operator()(X& p, const X& g, const R& rate) const { p = p - rate.step_size * g; }
};
struct SignDescent {
  static constexpr int memories = 0;
  double shrink = 1;
  void each(auto&& f) { f("shrink", shrink); }
  template <class X, class R> void operator()(X& p, const X& g, const R& rate) const { p = p - rate.step_size * (sign(g) * shrink); }
};

struct RecentWeights {   // gamma_i = 1 / (1 + age)
  double power = 1;
  void each(auto&& f) { f("power", power); }
  std::vector<Slot> slots() const { return {}; }
  Weighing weigh(const View& view) const {
    Tensors columns;
    for (int64_t i = view.first(); i < view.pairs(); ++i) columns.push_back(full({view.rows()}, std::pow(double(view.pairs() - i), -power), view.options()));
    return {.relative = stack(columns, 1)};
  }
};

struct Offset {   // m(k) = k + c, for K = V
  std::vector<Slot> slots() const { return {}; }
  Pack init(const View& view) const { return {{{"offset", zeros({view.rows(), view.value_dim()}, view.options())}}}; }
  Tensor loss(const Pack& theta, const Pack&, const View& view, int64_t i) const {
    return half_square(view.pair("k", i) + theta["offset"] - view.pair("v", i));
  }
  Tensor read(const Pack& theta, const View& view, const Tensor&) const { return view.now("q") + theta["offset"]; }
};

Slots some_slots(int64_t tokens, int64_t dim) {
  const auto draw = [&](uint64_t stream) { return normal({1, tokens, 1, dim}, 3, stream, 0, 1, {Dtype::f64, cpu_device}); };
  return {{"q", draw(0)}, {"k", draw(1)}, {"v", draw(2)}};
}

}  // namespace

TEST_SUITE("recipe_text") {
  TEST_CASE("every published recipe parses from its own text, and from its name") {
    std::set<std::string> names;
    for (const Published& p : published_recipes()) {
      CAPTURE(p.name);
      const std::string text = p.recipe.text();
      CAPTURE(text);
      CHECK(names.insert(p.name).second);
      const Recipe back = parse_recipe(text);
      CHECK(back == p.recipe);
      CHECK(back.text() == text);
      CHECK(back.slots().size() == p.recipe.slots().size());
      CHECK(parse_recipe(p.name) == p.recipe);
      CHECK_FALSE(p.paper.empty());
    }
  }

  TEST_CASE("only options away from their defaults are printed") {
    CHECK(recipes::mesa.text() == "even / linear / exact[ridge=constant]");
    CHECK(recipes::softmax_attention.text() == "kernel / constant / exact / reading[scale=rsqrt]");
    CHECK(recipes::delta_net.text() == "even / linear / descend");
    CHECK(recipes::mesa_net.text() == "geometric[write=gate] / linear / exact[ridge=constant,per=channel]");
    CHECK(recipes::skyformer.text() == "even / token_landmarks / nystrom[jitter=0.1,inverse=third_order,steps=6] / reading[visible=everything]");
    CHECK(recipes::local_quadratic_attention.text() == "kernel[scale=rsqrt] / polynomial[degree=2] / exact[ridge=relative,per=degree]");
  }

  TEST_CASE("an option set away from its default survives, whatever its kind") {
    for (const char* text : {"kernel[kernel=gaussian,temperature=true,forget=true,norm_weights=true,scale=0.25] / constant / exact",
                             "path[forget=true] / constant / exact",
                             "geometric[per=channel,write=gate] / linear[eps=0.125] / descend[at=decayed,steps=3]",
                             "even / polynomial[degree=2] / exact[ridge=refreshed,per=degree,chunk=16]",
                             "even / landmarks[bandwidth=slot,shared=true] / nystrom[jitter=0.5,inverse=newton,steps=7]",
                             "even / linear / conjugate_gradient[steps=9,ridge=relative,per=head]",
                             "even / linear / descend / reading[scale=2,read=strict,key_norm=l2,key_eps=0.001,writes=2]"}) {
      CAPTURE(text);
      CHECK(parse_recipe(text).text() == text);
    }
  }

  TEST_CASE("nested options keep to their own brackets") {
    const std::string text = "even / linear[feature=dpfp[nu=3],normaliser=clamp] / descend[rule=momentum,at=initial]";
    const Recipe recipe = parse_recipe(text);
    CHECK(recipe.text() == text);
    CHECK(recipe.function().ask<LinearMap>()->feature.ask<Dpfp>()->nu == 3);
    CHECK(recipe.function().ask<LinearMap>()->normaliser == Normaliser::clamp);
    CHECK(recipe.optimizer().ask<Descend<Momentum>>() != nullptr);
    CHECK(recipe.optimizer().ask<Descend<Sgd>>() == nullptr);
    const Recipe spaced = parse_recipe("  even /linear[ feature = dpfp[ nu=3 ] , normaliser = clamp ]/ descend[ rule=momentum, at=initial ] ");
    CHECK(spaced == recipe);
    CHECK(contains(sentence("even / linear[feature=dpfp[mu=3]] / descend"), "[dpfp] option 'mu' is unknown, needs one of: nu; did you mean 'nu'?"));
    CHECK(contains(sentence("even / linear[feature=dpfp[nu=3] / descend"), "needs"));
    CHECK(contains(sentence("even / linear[feature=[]] / descend"), "feature map '' is unknown"));
  }

  TEST_CASE("a mistake is answered with a sentence and the nearest word") {
    CHECK(contains(sentence("gated_delta_nett"), "[recipe] 'gated_delta_nett' is no published recipe"));
    CHECK(contains(sentence("gated_delta_nett"), "did you mean 'gated_delta_net'?"));
    CHECK(contains(sentence("even / linear"), "has 2 parts, needs weights / function / optimizer"));
    CHECK(contains(sentence("evn / linear / exact"), "[recipe] weights 'evn' is unknown, needs one of: even,"));
    CHECK(contains(sentence("evn / linear / exact"), "did you mean 'even'?"));
    CHECK(contains(sentence("even / liner / exact"), "function class 'liner' is unknown"));
    CHECK(contains(sentence("even / liner / exact"), "did you mean 'linear'?"));
    CHECK(contains(sentence("even / linear / exat"), "did you mean 'exact'?"));
    CHECK(contains(sentence("even / linear[feature=hedghog] / descend"), "feature map 'hedghog' is unknown"));
    CHECK(contains(sentence("even / linear[feature=hedghog] / descend"), "did you mean 'hedgehog'?"));
    CHECK(contains(sentence("evn / liner / exat"), "weights 'evn'"));   // the first mistake
    CHECK(contains(sentence("even / linear / descent"), "did you mean 'descend'?"));
    CHECK(contains(sentence("even / linear / descend[rule=momentun]"), "[recipe] rule 'momentun' is unknown, needs one of: adamw, momentum,"));
    CHECK(contains(sentence("even / linear / descend[rule=momentun]"), "did you mean 'momentum'?"));
    CHECK(contains(sentence("even / linear / exact[rigde=constant]"),
                   "[exact] option 'rigde' is unknown, needs one of: ridge, per, chunk; did you mean 'ridge'?"));
    CHECK(contains(sentence("even / linear / exact[ridge=big]"), "[exact] ridge is 'big', needs one of none, constant, decaying, refreshed, relative"));
    CHECK(contains(sentence("even / polynomial[degree=two] / exact"), "[polynomial] degree is 'two', needs a whole number"));
    CHECK(contains(sentence("kernel[temperature=yes] / constant / exact"), "[kernel] temperature is 'yes', needs true or false"));
    CHECK(contains(sentence("even / linear[eps=small] / descend"), "[linear] eps is 'small', needs a number"));
    CHECK(contains(sentence("even / linear / exact[ridge=constant,ridge=none]"), "ridge is given twice, needs one value"));
    CHECK(contains(sentence("even / linear / exact[ridge]"), "'ridge' is no option, needs option=value"));
    CHECK(contains(sentence("even[x=1] / linear / exact"), "option 'x' is unknown, needs one of: (it has none)"));
    CHECK(contains(sentence("even / linear / exact / redding[scale=2]"), "the fourth part is 'redding', needs reading[...]"));
    CHECK(contains(sentence("even / linear / descend / reading[writes=0]"), "writes is 0, needs at least 1 pair a token"));
  }

  TEST_CASE("a mixture that makes no sense is refused with the reason that the compiler gives") {
    CHECK(
        contains(sentence("even / mlp / exact"),
                 "[recipe] exact solves a linear system, needs a function class that is linear in its parameters, not mlp; take descend"));
    CHECK(contains(sentence("even / linear[normaliser=sum] / exact"), "linear in its parameters, not linear[normaliser=sum]"));
    CHECK(contains(sentence("weight_decay / linear / exact"),
                   "exact looks at all visible pairs, needs weights that are numbers, not weight_decay; take descend"));
    CHECK(contains(sentence("geometric[per=channel] / linear / gradient_steps"), "needs weights that are numbers, not geometric[per=channel]"));
    CHECK(contains(sentence("kernel / linear / proximal"),
                   "proximal never looks back, needs weights that can forget in one step, not kernel; take even or geometric"));
    CHECK(contains(sentence("even / kernel_expansion / descend"),
                   "kernel_expansion has parameters a visible pair, needs an optimizer that solves, not descend; take exact or conjugate_gradient"));
    CHECK(contains(sentence("even / kernel_expansion / gradient_steps"), "needs an optimizer that solves, not gradient_steps"));
    CHECK_FALSE(fits<EvenWeights, Mlp, Exact>);
    CHECK_FALSE(fits<WeightDecay, LinearMap, Exact>);
    CHECK_FALSE(fits<KernelWeights, LinearMap, Proximal>);
    CHECK_FALSE(fits<EvenWeights, KernelExpansion, Descend<Sgd>>);
    CHECK(fits<EvenWeights, KernelExpansion, Exact>);
    CHECK(fits<KernelWeights, Landmarks, Descend<Sgd>>);
  }

  TEST_CASE("a rule, weights and a function class of one's own print at once, parse after one line, and run") {
    const Recipe mine{RecentWeights{.power = 2}, Offset{}, GradientSteps{.steps = 2}};
    CHECK(mine.text() == "recent_weights[power=2] / offset / gradient_steps[steps=2]");
    CHECK(contains(sentence(mine.text()), "weights 'recent_weights' is unknown"));
    vocabulary().add<RecentWeights>();
    vocabulary().add<Offset>();
    CHECK(parse_recipe(mine.text()) == mine);
    Slots slots = some_slots(5, 3);
    slots["step_size"] = full({1}, 0.25, {Dtype::f64, cpu_device});
    CHECK(fold(parse_recipe(mine.text()), {.slots = slots}).y.to_vector<double>() == fold(mine, {.slots = slots}).y.to_vector<double>());

    const Recipe signs{EvenWeights{}, LinearMap{}, Descend<SignDescent>{.at = initial}};
    CHECK(signs.text() == "even / linear / descend[rule=sign_descent,at=initial]");
    CHECK(contains(sentence(signs.text()), "rule 'sign_descent' is unknown"));
    vocabulary().add<SignDescent>();
    CHECK(parse_recipe(signs.text()) == signs);
    const Recipe half = parse_recipe("even / linear / descend[rule=sign_descent[shrink=0.5],at=initial]");
    CHECK(half.text() == "even / linear / descend[rule=sign_descent[shrink=0.5],at=initial]");
    const Slots data = some_slots(4, 3);
    const std::vector<double> whole = fold(signs, {.slots = data}).y.to_vector<double>(), part = fold(half, {.slots = data}).y.to_vector<double>();
    for (size_t i = 0; i < whole.size(); ++i) CHECK(part[i] == doctest::Approx(0.5 * whole[i]).epsilon(1e-12));
    CHECK(contains(sentence("even / linear / descend[rule=sign_descend]"), "did you mean 'sign_descent'?"));
  }

  TEST_CASE("a member of one's own rule is a number whatever its name, and a name that is taken is refused") {
    const Recipe mine{EvenWeights{}, LinearMap{}, Descend<LookAhead>{.rule = LookAhead{.momentum = 0}}};
    CHECK(mine.text() == "even / linear / descend[rule=look_ahead[momentum=0]]");
    CHECK(mine.slots().size() == recipes::delta_net.slots().size());   // no slot `momentum`
    Slots slots = some_slots(5, 3);
    slots["step_size"] = full({1, 5, 1}, 0.25, {Dtype::f64, cpu_device});
    CHECK(fold(mine, {.slots = slots}).y.to_vector<double>() == fold(recipes::delta_net, {.slots = slots}).y.to_vector<double>());
    vocabulary().add<LookAhead>();
    vocabulary().add<LookAhead>();   // again is nothing new
    std::string why;
    try {
      vocabulary().add<Disguised>();
    } catch (const Error& e) {
      why = e.what();
    }
    CHECK(why == "[vocabulary] rule 'momentum' is the name of another type already, needs one of its own");
    CHECK(parse_recipe("titans") == recipes::titans);
  }

  TEST_CASE("a slot whose size the caller chooses takes any size, and only there") {
    Slots slots = some_slots(3, 4);
    const Options f64{Dtype::f64, cpu_device};
    for (const int64_t n : {2, 4, 7}) {
      slots["projection"] = normal({1, n, 4}, 3, 9, 0, 1, f64);
      CHECK(fold(recipes::performer, {.slots = slots}).y.shape() == Shape{1, 3, 1, 4});
    }
    slots["projection"] = normal({1, 5, 3}, 3, 9, 0, 1, f64);
    std::string why;
    try {
      fold(recipes::performer, {.slots = slots});
    } catch (const std::exception& e) {
      why = e.what();
    }
    CHECK(contains(why, "[memory] projection has shape [1, 5, 3], needs [1, 5, 4]"));
  }
}
