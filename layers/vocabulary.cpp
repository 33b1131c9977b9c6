// The words that ttr knows, and the grammar around them.
#include <ttr/layers/fenwick_weights.hpp>
#include <ttr/layers/layer_norm_memory.hpp>
#include <ttr/layers/muon_schedule.hpp>
#include <ttr/layers/preconditioned.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/swiglu_memory.hpp>
#include <ttr/layers/trapezoid.hpp>
#include <ttr/layers/vocabulary.hpp>
#include <ttr/layers/window_weights.hpp>

namespace ttr {
namespace {

template <class Makers> auto make(const Makers& makers, const char* kind, const std::string& name, const std::string& options, const char* beside = nullptr) {
  if (const auto found = makers.find(name); found != makers.end()) return found->second(options);
  std::vector<std::string> known;
  for (const auto& [word, maker] : makers) known.push_back(word);
  if (beside) known.push_back(beside);
  std::string all;
  for (const std::string& word : known) all += (all.empty() ? "" : ", ") + word;
  const std::string near = detail::nearest(name, known);
  throw refuse("recipe", "{} '{}' is unknown, needs one of: {}{}", kind, name, all, near.empty() ? "" : "; did you mean '" + near + "'?");
}

// At the top level of "a / b[c=d / e] / f".
std::vector<std::string> split_triple(const std::string& text) {
  std::vector<std::string> parts{""};
  int depth = 0;
  for (const char c : text) {
    depth += (c == '[') - (c == ']');
    if (c == '/' && depth == 0) parts.emplace_back();
    else parts.back() += c;
  }
  for (std::string& p : parts) {
    const size_t from = p.find_first_not_of(" \t\n"), to = p.find_last_not_of(" \t\n");
    p = from == p.npos ? "" : p.substr(from, to - from + 1);
  }
  return parts;
}

}  // namespace

std::string Vocabulary::claim(const char* kind, const std::string& name, const std::type_info& type) {
  const auto [owner, added] = owners_.try_emplace(std::string(kind) + " " + name, &type);
  if (!added && *owner->second != type) throw refuse("vocabulary", "{} '{}' is the name of another type already, needs one of its own", kind, name);
  return name;
}

Recipe Vocabulary::parse(const std::string& text) const {
  const std::vector<std::string> parts = split_triple(text);
  if (parts.size() == 1) return published(parts[0]).recipe;
  if (parts.size() > 4 || parts.size() < 3)
    throw refuse("recipe",
                 "'{}' has {} parts, needs weights / function / optimizer, with reading[...] as a fourth if wanted, or a published name",
                 text, parts.size());
  const auto [w, w_options] = detail::split_call("recipe", parts[0]);
  const auto [f, f_options] = detail::split_call("recipe", parts[1]);
  const auto [o, o_options] = detail::split_call("recipe", parts[2]);
  std::string rule = ingredient_name<Sgd>();
  if (o == "descend")
    for (const auto& [name, value] : detail::split_options("descend", o_options))
      if (name == "rule") rule = detail::split_call("descend", value).first;
  Reading reading;
  if (parts.size() == 4) {
    const auto [name, options] = detail::split_call("recipe", parts[3]);
    if (name != ingredient_name<Reading>()) throw refuse("recipe", "the fourth part is '{}', needs reading[...]", name);
    reading = from_options<Reading>("reading", options);
  }
  AnyWeights weights = make(weights_, "weights", w, w_options);   // in this order, so that the first mistake is the one that is named
  AnyFunction function = make(functions_, "function class", f, f_options);
  AnyOptimizer optimizer = o == "descend" ? make(rules_, "rule", rule, o_options) : make(optimizers_, "optimizer", o, o_options, "descend");
  return Recipe(std::move(weights), std::move(function), std::move(optimizer), reading);
}

AnyFeature Vocabulary::feature(const std::string& text) const {
  const auto [name, options] = detail::split_call("feature", text);
  return make(features_, "feature map", name, options);
}
AnyFeature AnyFeature::parse(const std::string& text) { return vocabulary().feature(text); }

std::vector<std::string> Vocabulary::words() const {
  std::vector<std::string> all;
  const auto list = [&](const auto& makers) { for (const auto& [word, maker] : makers) all.push_back(word); };
  list(weights_), list(functions_), list(optimizers_), list(rules_), list(features_);
  all.push_back("descend");
  return all;
}

Vocabulary& vocabulary() {
  static Vocabulary* all = [] {
    auto* v = new Vocabulary;
    v->add<EvenWeights>(), v->add<GeometricWeights>(), v->add<WeightDecay>(), v->add<KernelWeights>();
    v->add<Constant>(), v->add<LinearMap>(), v->add<Mlp>(), v->add<Polynomial>();
    v->add<Sgd>(), v->add<Momentum>(), v->add<AdamW>();
    v->add<Proximal>(), v->add<Exact>(), v->add<ConjugateGradient>(), v->add<GradientSteps>();
    v->add<Identity>(), v->add<Taylor2>(), v->add<Elu1>();
    v->add<PathWeights>(), v->add<MovingAverage>();
    v->add<KernelExpansion>(), v->add<Landmarks>(), v->add<TokenLandmarks>();
    v->add<Nystrom>(), v->add<Boost>(), v->add<Amortized>();
    v->add<LearnedRelu>(), v->add<Cosformer>(), v->add<Dpfp>(), v->add<Silu>(), v->add<Monomials>(), v->add<Rebased>(), v->add<Hedgehog>();
    v->add<Performer>(), v->add<RandomWaves>(), v->add<SoftmaxFeatures>(), v->add<Hadamard>();
    v->add<FenwickWeights>(), v->add<WindowWeights>();
    v->add<NormedLinear>(), v->add<NormedMlp>(), v->add<SwiGlu>();
    v->add<Trapezoid>(), v->add<Muon>(), v->add<Preconditioned>();
    return v;
  }();
  return *all;
}

}  // namespace ttr
