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

template <class Makers> auto make(const Makers& makers, const char* kind, const std::string& key, const std::string& name, const std::string& options) {
  if (const auto found = makers.find(key); found != makers.end()) return found->second(options);
  std::vector<std::string> known;
  std::string all;
  for (const auto& [word, maker] : makers) {
    known.push_back(word);
    all += (all.empty() ? "" : ", ") + word;
  }
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

Recipe Vocabulary::parse(const std::string& text) const {
  const std::vector<std::string> parts = split_triple(text);
  if (parts.size() == 1) return published(parts[0]).recipe;
  if (parts.size() > 4 || parts.size() < 3)
    throw refuse("recipe", "'{}' has {} parts, needs weights / function / optimizer, with reading[...] as a fourth if wanted, or a published name", text, parts.size());
  const auto [w, w_options] = detail::split_call("recipe", parts[0]);
  const auto [f, f_options] = detail::split_call("recipe", parts[1]);
  const auto [o, o_options] = detail::split_call("recipe", parts[2]);
  std::string key = o;
  if (o == "descend") {   // one optimizer a rule: the rule is part of its type
    key = "descend:sgd";
    for (const auto& [name, value] : detail::split_options("descend", o_options))
      if (name == "rule") key = "descend:" + detail::split_call("descend", value).first;
  }
  Reading reading;
  if (parts.size() == 4) {
    const auto [name, options] = detail::split_call("recipe", parts[3]);
    if (name != ingredient_name<Reading>()) throw refuse("recipe", "the fourth part is '{}', needs reading[...]", name);
    reading = from_options<Reading>("reading", options);
  }
  return Recipe(make(weights_, "weights", w, w, w_options), make(functions_, "function class", f, f, f_options),
                make(optimizers_, "optimizer", key, key, o_options), reading);
}

AnyFeature Vocabulary::feature(const std::string& text) const {
  const auto [name, options] = detail::split_call("feature", text);
  return make(features_, "feature map", name, name, options);
}
AnyFeature AnyFeature::parse(const std::string& text) { return vocabulary().feature(text); }

std::vector<std::string> Vocabulary::words() const {
  std::vector<std::string> all;
  const auto list = [&](const auto& makers) { for (const auto& [word, maker] : makers) all.push_back(word); };
  list(weights_), list(functions_), list(optimizers_), list(features_);
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
