// vocabulary: which words name which ingredients, so that text can say any mixture.
//   weights / function / optimizer [/ reading]     each name[option=value,...], or the name of a published recipe
// A type of yours prints at once and parses after vocabulary().add<MyRule>().
#pragma once
#include <ttr/layers/features.hpp>
#include <ttr/layers/optimizers.hpp>

namespace ttr {

class Vocabulary {
 public:
  // Weights, a function class, an optimizer, a feature map, or an update rule (which becomes descend[rule=...]).
  template <class T> void add() {
    if constexpr (Optimizer<T>) optimizers_[key<T>()] = [](const std::string& o) { return AnyOptimizer(from_options<T>(ingredient_name<T>(), o)); };
    else if constexpr (FunctionClass<T>) functions_[key<T>()] = [](const std::string& o) { return AnyFunction(from_options<T>(ingredient_name<T>(), o)); };
    else if constexpr (FeatureMap<T>) features_[key<T>()] = [](const std::string& o) { return AnyFeature(from_options<T>(ingredient_name<T>(), o)); };
    else if constexpr (Weights<T>) weights_[key<T>()] = [](const std::string& o) { return AnyWeights(from_options<T>(ingredient_name<T>(), o)); };
    else {
      static_assert(requires { T::memories; }, "this type is no ingredient: it needs what weights, a function class, an optimizer, a feature map or a rule has");
      rules_[ingredient_name<T>()] = [](const std::string& o) { return AnyOptimizer(from_options<Descend<T>>("descend", o)); };
    }
  }

  Recipe parse(const std::string& text) const;          // a triple, or a published name
  AnyFeature feature(const std::string& text) const;
  std::vector<std::string> words() const;               // every ingredient's and rule's name

 private:
  template <class T> static std::string key() { return ingredient_name<T>(); }
  template <class Any> using Makers = std::map<std::string, std::function<Any(const std::string& options)>>;
  Makers<AnyWeights> weights_;
  Makers<AnyFunction> functions_;
  Makers<AnyOptimizer> optimizers_, rules_;   // descend is one optimizer a rule: the rule is part of its type
  Makers<AnyFeature> features_;
};
Vocabulary& vocabulary();   // with everything ttr has

inline Recipe parse_recipe(const std::string& text) { return vocabulary().parse(text); }

}  // namespace ttr
