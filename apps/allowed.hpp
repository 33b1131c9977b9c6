// What a value of the configuration may be, said once for the command line and for files.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

namespace ttr {

struct Allowed {
  double least = -std::numeric_limits<double>::infinity(), below = std::numeric_limits<double>::infinity();   // [least, below)
  std::vector<std::string> words = {};                                                                        // of a text; none: any
};

// The end of a refusal, such as "a whole number of at least 1"; T is the value's type.
template <class T> std::string wanted(const Allowed& a) {
  const auto number = [](double x) {
    std::string text = std::to_string(x);
    text.erase(text.find_last_not_of('0') + 1);
    return text.ends_with('.') ? text.substr(0, text.size() - 1) : text;
  };
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return "a text in quotation marks, or a list of them in brackets";
  if constexpr (std::is_same_v<T, std::string>) {
    std::string all;
    for (size_t i = 0; i < a.words.size(); ++i) all += (i == 0 ? "" : i + 1 == a.words.size() ? " or " : ", ") + a.words[i];
    return all.empty() ? "text in quotation marks" : all;
  }
  std::string text = std::is_same_v<T, int64_t> ? "a whole number" : "a number";
  if (std::isfinite(a.least)) text += " of at least " + number(a.least);
  if (std::isfinite(a.below)) text += (std::isfinite(a.least) ? " and" : "") + std::string(" below ") + number(a.below);
  return text;
}

template <class T> bool permits(const Allowed& a, const T& value) {
  if constexpr (std::is_same_v<T, bool>) {
    return true;
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    for (const std::string& text : value)
      if (text.empty()) return false;
    return true;
  } else if constexpr (std::is_same_v<T, std::string>) {
    for (const std::string& word : a.words)
      if (word == value) return true;
    return a.words.empty();
  } else {
    return double(value) >= a.least && double(value) < a.below && std::isfinite(double(value));
  }
}

}  // namespace ttr
