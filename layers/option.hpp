// Ingredients list their options with `each`, as modules list their parts; printing, parsing and equality follow from that list.
//   struct GeometricWeights { Decay per = Decay::head; void each(auto&& f) { f("per", per); } };
#pragma once
#include <concepts>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>
#include <ttr/core/error.hpp>

namespace ttr {

// Options of an enumeration type print by name: specialise with a list of (value, name).
template <class E> struct NamesOf;
template <class E> concept Named = requires { NamesOf<E>::names; };

namespace detail {

std::string snake_case(std::string_view type);
template <class T> std::string type_name() {   // of this very type, from the compiler: no registration is needed to print
  constexpr std::string_view text = __PRETTY_FUNCTION__;   // "... [with T = ttr::Sgd; ...]" or "... [T = ttr::Sgd]"
  const size_t from = text.find("T = ") + 4;
  return snake_case(text.substr(from, text.find_first_of(";]", from) - from));
}

// "a=1,b=x[c=2,d=3]" -> pairs; commas inside brackets belong to the value.
std::vector<std::pair<std::string, std::string>> split_options(std::string_view where, std::string_view text);
std::pair<std::string, std::string> split_call(std::string_view where, std::string_view text);   // "name[options]" -> name, options
std::string nearest(std::string_view word, const std::vector<std::string>& known);   // the known word with the fewest edits, "" when none is near
std::string option_text(double value);

template <class T> std::string write_option(const T& value) {
  if constexpr (std::same_as<T, bool>) return value ? "true" : "false";
  else if constexpr (std::floating_point<T>) return option_text(value);
  else if constexpr (std::integral<T>) return std::to_string(value);
  else if constexpr (Named<T>) {
    for (const auto& [v, name] : NamesOf<T>::names) if (v == value) return name;
    return "?";
  } else return value.text();   // a nested ingredient
}
template <class T> void read_option(std::string_view where, std::string_view name, const std::string& text, T& value) {
  const auto wrong = [&](std::string_view want) { return refuse(where, "{} is '{}', needs {}", name, text, want); };
  if constexpr (std::same_as<T, bool>) {
    if (text != "true" && text != "false") throw wrong("true or false");
    value = text == "true";
  } else if constexpr (std::floating_point<T>) {
    char* end = nullptr;
    value = T(std::strtod(text.c_str(), &end));
    if (text.empty() || *end) throw wrong("a number");
  } else if constexpr (std::integral<T>) {
    char* end = nullptr;
    errno = 0;
    const long long n = std::strtoll(text.c_str(), &end, 10);
    if (text.empty() || *end || errno) throw wrong("a whole number");
    value = T(n);
  } else if constexpr (Named<T>) {
    std::string known;
    for (const auto& [v, word] : NamesOf<T>::names) {
      if (text == word) { value = v; return; }
      known += (known.empty() ? "" : ", ") + std::string(word);
    }
    throw wrong("one of " + known);
  } else value = T::parse(text);
}

}  // namespace detail

template <class T> std::string ingredient_name() {
  if constexpr (requires { T::name; }) return T::name;
  else return detail::type_name<T>();
}

// Visits the options of an ingredient that may have none.
template <class T, class F> void each_option(T& ingredient, F&& f) {
  if constexpr (requires { ingredient.each(f); }) ingredient.each(f);
}

namespace detail {
struct OptionList {   // an ingredient's options as texts
  struct Entry { const char* name; std::string text; bool always; };
  std::vector<Entry> entries;
  void add(const char* name, std::string text, bool always);
  template <class V> void operator()(const char* name, const V& value) {
    if constexpr (requires { V::always_printed; }) add(name, write_option(value), V::always_printed);   // even at its default
    else add(name, write_option(value), false);
  }
};
std::string call_text(std::string name, const OptionList& usual, const OptionList& given);   // "name[option=value,...]"
}  // namespace detail

// "name[option=value,...]" with the options that differ from their defaults; "name" when none do.
template <class T> std::string text_of(T ingredient) {
  T defaults{};
  detail::OptionList usual, given;
  each_option(defaults, usual);
  each_option(ingredient, given);
  return detail::call_text(ingredient_name<T>(), usual, given);
}

// The inverse; unknown options are refused by name, with the nearest known one.
template <class T> T from_options(std::string_view where, std::string_view options) {
  T ingredient{};
  std::map<std::string, std::string> given;
  for (auto& [name, text] : detail::split_options(where, options))
    if (!given.emplace(name, text).second) throw refuse(where, "{} is given twice, needs one value", name);
  std::vector<std::string> known;
  each_option(ingredient, [&](const char* name, auto& value) {
    known.push_back(name);
    if (const auto found = given.find(name); found != given.end()) {
      detail::read_option(where, name, found->second, value);
      if constexpr (std::integral<std::remove_reference_t<decltype(value)>> && !std::same_as<std::remove_reference_t<decltype(value)>, bool>)
        if (constexpr int64_t below = 1'000'000; value < 0 || value >= below)   // all of them are counts and sizes
          throw refuse(where, "{} is {}, needs a whole number of at least 0 and below {}", name, found->second, below);
      given.erase(found);
    }
  });
  if (!given.empty()) {
    const std::string& name = given.begin()->first;
    const std::string near = detail::nearest(name, known);
    std::string all;
    for (const auto& k : known) all += (all.empty() ? "" : ", ") + k;
    throw refuse(where, "option '{}' is unknown, needs one of: {}{}", name, all.empty() ? "(it has none)" : all,
                 near.empty() ? "" : "; did you mean '" + near + "'?");
  }
  return ingredient;
}

}  // namespace ttr
