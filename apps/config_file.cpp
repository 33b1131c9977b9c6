// Reading configuration files. The one place where the TOML library is seen.
#include <sstream>
// toml++ 3.3 asserts what some bad inputs break, such as a line "[}", and in a release build takes it for granted. Here it is thrown.
struct TomlAssertion {};
#undef NDEBUG
#define TOML_ASSERT(expression) ((expression) ? void() : throw TomlAssertion())
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wterminate"   // some of its assertions stand in noexcept functions: there the program ends
#endif
#include <toml++/toml.h>
#include <ttr/apps/config_file.hpp>
#include <ttr/core/open_file.hpp>
#include <ttr/layers/option.hpp>

namespace ttr {
namespace {

constexpr const char* kWhere = "config";
constexpr std::size_t kLargestFile = 1 << 20;

std::string shown(const toml::node& node) {   // a value as written, short enough for a sentence
  std::ostringstream text;
  if (node.is_table()) return "a table";
  if (node.is_array()) return "an array";
  node.visit([&](const auto& value) {
    if constexpr (toml::is_string<decltype(value)>) text << '"' << *value << '"';
    else if constexpr (toml::is_value<decltype(value)>) text << value;
  });
  std::string line = text.str().substr(0, 60);
  for (char& c : line)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  return line;
}

template <class T> bool take(const toml::node& node, T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    if (!node.is_string()) return false;
    value = **node.as_string();
  } else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
    value.clear();
    if (node.is_string()) {
      if (const std::string& one = **node.as_string(); !one.empty()) value.push_back(one);   // "" is none
      return true;
    }
    if (!node.is_array()) return false;
    for (const toml::node& part : *node.as_array()) {
      if (!part.is_string()) return false;
      value.push_back(**part.as_string());
    }
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!node.is_boolean()) return false;
    value = **node.as_boolean();
  } else if constexpr (std::is_same_v<T, double>) {
    if (!node.is_number()) return false;
    value = *node.value<double>();
  } else {
    if (!node.is_integer()) return false;
    value = **node.as_integer();
  }
  return true;
}

}  // namespace

RunConfig config_of_toml(const std::string& text, const std::string& path) {
  toml::table table;
  try {
    table = toml::parse(text);
  } catch (const toml::parse_error& e) {
    std::string what(e.description());
    for (char& c : what)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
    throw refuse(kWhere, "line {} of {} is no TOML: {}; needs key = value", e.source().begin.line, path, what);
  } catch (const TomlAssertion&) {
    throw refuse(kWhere, "{} is no TOML, needs lines of key = value", path);
  }
  RunConfig config;
  std::vector<std::string> known;
  config.each([&]<class T>(const ConfigKey& key, T& value) {
    known.push_back(key.name);
    const toml::node* node = table.get(key.name);
    if (!node) return;
    if (!take(*node, value) || !permits(key.allowed, value))
      throw refuse(kWhere, "{} in line {} of {} is {}, needs {}", key.name, node->source().begin.line, path, shown(*node),
                   wanted<T>(key.allowed));
  });
  const toml::node* first = nullptr;   // of the unknown ones in the file
  std::string name;
  for (const auto& [key, node] : table)
    if (std::find(known.begin(), known.end(), key.str()) == known.end() &&
        (!first || key.source().begin.line < first->source().begin.line))
      first = &node, name = std::string(key.str());
  if (first) {
    const std::string near = detail::nearest(name, known);
    for (char& c : name)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    throw refuse(kWhere, "{} in line {} of {} is unknown, needs a key that `ttr train --help` lists{}", name.substr(0, 60),
                 first->source().begin.line, path, near.empty() ? "" : "; did you mean " + near + "?");
  }
  return config;
}

RunConfig read_config(const std::string& path) { return config_of_toml(read_whole(kWhere, path, false, kLargestFile), path); }

}  // namespace ttr
