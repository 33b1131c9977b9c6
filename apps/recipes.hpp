// ttr recipes: the table of published recipes, for people or as JSON; and what can be asked of any recipe.
//   [{"name", "weights", "function", "optimizer", "paper", "stem",
//     "slots": [{"name", "per", "shape", "range", "required"}], "around": "surroundings[...]", "state": [...],
//     "kernels": {"cpu": [...], "cuda": [...]}}]
// around: what stands around its memory in a layer (layers/surroundings.hpp), where it is not the default.
// shape: the trailing sizes of one head, numbers or "K", "V" and fractions of them; the axes before them follow from per (layers/slot.hpp).
// range: [low, high], null where unbounded. kernels: the routes that take the recipe on f32 training, whether built here or not.
#pragma once
#include <string>
#include <vector>
#include <ttr/layers/recipe.hpp>

namespace ttr {

struct RecipesOptions {
  bool json = false;
};
int list_recipes(const RecipesOptions&);

std::vector<std::string> state_names(const Recipe&);                          // what it carries from token to token, asked of fold itself
std::vector<std::string> kernels_for(const Recipe&, Device);                  // names of routes, fold not among them

}  // namespace ttr
