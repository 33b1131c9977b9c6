// The published recipe that a reference row checks, with the constants of that row's run: chunks and windows short enough to matter in nine tokens.
#pragma once
#include <string>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/vocabulary.hpp>
#include <ttr/tests/rows_reference.hpp>

namespace ttr {

// "a / b[c=1] / d" with one option of one ingredient set.
inline std::string with_option(const std::string& recipe, const std::string& ingredient, const std::string& option,
                               const std::string& value) {
  const size_t from = recipe.find(ingredient);
  if (from == recipe.npos) throw refuse("rows", "{} is not in {}, needs to be for {}", ingredient, recipe, option);
  size_t to = from;
  for (int depth = 0; to < recipe.size() && (depth > 0 || recipe[to] != ' '); ++to) depth += (recipe[to] == '[') - (recipe[to] == ']');
  const auto [name, options] = detail::split_call("rows", recipe.substr(from, to - from));
  std::string text = option + "=" + value;
  for (const auto& [key, old] : detail::split_options("rows", options))
    if (key != option) text += "," + key + "=" + old;
  return recipe.substr(0, from) + name + "[" + text + "]" + recipe.substr(to);
}

// The published recipe with the constants of this row's run: its options, and the sizes of what it was given.
inline Recipe recipe_of_row(const reference::Row& row, const reference::Inputs& inputs) {
  std::string text = published(row.name).recipe.text();
  const auto set = [&](const char* ingredient, const char* option, const std::string& value) {
    text = with_option(text, ingredient, option, value);
  };
  const auto size = [&](const char* slot, int64_t axis) { return std::to_string(inputs.at(slot).size(axis)); };
  const auto chosen = [&](const std::string& name) -> std::string {   // "" when the row does not say
    const size_t at = (" " + row.options).find(" " + name + "=");
    if (at == std::string::npos) return "";
    const size_t from = at + name.size() + 1;
    return row.options.substr(from, row.options.find(' ', from) - from);
  };
  if (row.name == "cosformer") set("linear", "feature", "cosformer[horizon=64]");
  if (const std::string n = chosen("chunk"); !n.empty()) set(text.find("descend") == text.npos ? "exact" : "descend", "chunk", n);
  if (const std::string n = chosen("window"); !n.empty()) set("window", "window", n);
  if (text.find("/ mlp") != text.npos) set("mlp", "hidden", size("initial_weight_1", 0));
  if (text.find("/ swiglu") != text.npos) set("swiglu", "hidden", size("initial_weight_0", 0));
  if (inputs.count("level_scale")) set("fenwick", "levels", size("level_scale", 1));
  return parse_recipe(text);
}

}   // namespace ttr
