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
template <class E> struct Naming { E value; const char* name; };
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

// What is not a template here is compiled once, in option.cpp: every ingredient of a program would compile it again.
Error wrong_option(std::string_view where, std::string_view name, const std::string& text, const std::string& want);
bool read_bool(std::string_view where, std::string_view name, const std::string& text);
double read_number(std::string_view where, std::string_view name, const std::string& text);
int64_t read_whole_number(std::string_view where, std::string_view name, const std::string& text);

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
  if constexpr (std::same_as<T, bool>) value = read_bool(where, name, text);
  else if constexpr (std::floating_point<T>) value = T(read_number(where, name, text));
  else if constexpr (std::integral<T>) value = T(read_whole_number(where, name, text));
  else if constexpr (Named<T>) {
    std::string known;
    for (const auto& [v, word] : NamesOf<T>::names) {
      if (text == word) { value = v; return; }
      known.append(known.empty() ? "" : ", ").append(word);
    }
    throw wrong_option(where, name, text, known.insert(0, "one of "));
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
  template <class V> void operator()(const char* name, const V& value);
};
template <class V> void OptionList::operator()(const char* name, const V& value) {
  if constexpr (requires { V::always_printed; }) add(name, write_option(value), V::always_printed);   // even at its default
  else add(name, write_option(value), false);
}
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

namespace detail {
class GivenOptions {   // what a text gives, taken one by one
 public:
  GivenOptions(std::string_view where, std::string_view options);   // one that is given twice is refused
  const std::string* take(const char* name);                        // null: not given
  void must_be_count(const char* name, int64_t value) const;        // all whole numbers are counts and sizes
  void must_be_taken() const;                                       // what is left is unknown, and refused by name with the nearest known one

 private:
  std::string where_, text_;   // text_: of the one taken last
  std::map<std::string, std::string> given_;
  std::vector<std::string> known_;
};
}  // namespace detail

// The inverse.
template <class T> T from_options(std::string_view where, std::string_view options) {
  T ingredient{};
  detail::GivenOptions given(where, options);
  each_option(ingredient, [&](const char* name, auto& value) {
    using V = std::remove_reference_t<decltype(value)>;
    const std::string* text = given.take(name);
    if (!text) return;
    detail::read_option(where, name, *text, value);
    if constexpr (std::integral<V> && !std::same_as<V, bool>) given.must_be_count(name, value);
  });
  given.must_be_taken();
  return ingredient;
}

namespace detail {
extern template void OptionList::operator()<bool>(const char*, const bool&);
extern template void OptionList::operator()<double>(const char*, const double&);
extern template void OptionList::operator()<int64_t>(const char*, const int64_t&);
}  // namespace detail

}  // namespace ttr
