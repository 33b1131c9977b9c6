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
  // A name that another type has is refused: recipes that say it would change their meaning.
  template <class T> void add() {
    if constexpr (Optimizer<T>) optimizers_[key<T>("optimizer")] =
        [](const std::string& o) { return AnyOptimizer(from_options<T>(ingredient_name<T>(), o)); };
    else if constexpr (FunctionClass<T>) functions_[key<T>("function class")] =
        [](const std::string& o) { return AnyFunction(from_options<T>(ingredient_name<T>(), o)); };
    else if constexpr (FeatureMap<T>) features_[key<T>("feature map")] =
        [](const std::string& o) { return AnyFeature(from_options<T>(ingredient_name<T>(), o)); };
    else if constexpr (Weights<T>) weights_[key<T>("weights")] =
        [](const std::string& o) { return AnyWeights(from_options<T>(ingredient_name<T>(), o)); };
    else {
      static_assert(
          requires { T::memories; },
          "this type is no ingredient: it needs what weights, a function class, an optimizer, a feature map or a rule has");
      rules_[key<T>("rule")] = [](const std::string& o) { return AnyOptimizer(from_options<Descend<T>>("descend", o)); };
    }
  }

  Recipe parse(const std::string& text) const;          // a triple, or a published name
  AnyFeature feature(const std::string& text) const;
  std::vector<std::string> words() const;               // every ingredient's and rule's name

 private:
  template <class T> std::string key(const char* kind) { return claim(kind, ingredient_name<T>(), typeid(T)); }
  std::string claim(const char* kind, const std::string& name, const std::type_info&);
  template <class Any> using Makers = std::map<std::string, std::function<Any(const std::string& options)>>;
  Makers<AnyWeights> weights_;
  Makers<AnyFunction> functions_;
  Makers<AnyOptimizer> optimizers_, rules_;   // descend is one optimizer a rule: the rule is part of its type
  Makers<AnyFeature> features_;
  std::map<std::string, const std::type_info*> owners_;   // by kind and name
};
Vocabulary& vocabulary();   // with everything ttr has

inline Recipe parse_recipe(const std::string& text) { return vocabulary().parse(text); }

}  // namespace ttr
