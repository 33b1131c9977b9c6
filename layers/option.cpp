// The text side of options: names of types, splitting, nearest words.
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <ttr/layers/option.hpp>

namespace ttr::detail {

std::string snake_case(std::string_view type) {
  if (const size_t angle = type.find('<'); angle != type.npos) type = type.substr(0, angle);
  if (const size_t colon = type.rfind("::"); colon != type.npos) type = type.substr(colon + 2);
  std::string name;
  for (size_t i = 0; i < type.size(); ++i) {
    const char c = type[i];
    if (c >= 'A' && c <= 'Z') {
      if (i && !(type[i - 1] >= 'A' && type[i - 1] <= 'Z')) name += '_';
      name += char(c - 'A' + 'a');
    } else {
      name += c;
    }
  }
  return name;
}

namespace {
std::string_view trim(std::string_view s) {
  while (!s.empty() && std::isspace(static_cast<unsigned char>(s.front()))) s.remove_prefix(1);
  while (!s.empty() && std::isspace(static_cast<unsigned char>(s.back()))) s.remove_suffix(1);
  return s;
}
}  // namespace

std::pair<std::string, std::string> split_call(std::string_view where, std::string_view text) {
  text = trim(text);
  const size_t open = text.find('[');
  if (open == text.npos) return {std::string(text), ""};
  if (text.back() != ']') throw refuse(where, "'{}' has an open bracket, needs a closing one at its end", text);
  return {std::string(trim(text.substr(0, open))), std::string(text.substr(open + 1, text.size() - open - 2))};
}

std::vector<std::pair<std::string, std::string>> split_options(std::string_view where, std::string_view text) {
  std::vector<std::pair<std::string, std::string>> options;
  int depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] == '[') ++depth;
    if (i < text.size() && text[i] == ']') --depth;
    if (depth < 0) throw refuse(where, "'{}' closes a bracket that is not open", text);
    if (i < text.size() && (text[i] != ',' || depth)) continue;
    const std::string_view part = trim(text.substr(begin, i - begin));
    begin = i + 1;
    if (part.empty()) {
      if (trim(text).empty()) break;
      throw refuse(where, "'{}' has an empty option, needs option=value between commas", text);
    }
    const size_t equals = part.find('=');
    if (equals == part.npos || equals == 0) throw refuse(where, "'{}' is no option, needs option=value", part);
    options.emplace_back(trim(part.substr(0, equals)), trim(part.substr(equals + 1)));
    const auto& [name, value] = options.back();
    char* end = nullptr;
    if (const double x = std::strtod(value.c_str(), &end); !value.empty() && !*end && !std::isfinite(x))
      throw refuse(where, "{} is {}, needs a finite number", name, value);
  }
  if (depth) throw refuse(where, "'{}' has an open bracket, needs a closing one", text);
  return options;
}

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  std::string best;
  size_t fewest = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& k : known) {
    if (word.size() >= k.size() + fewest) continue;   // so long a word costs nothing
    std::vector<size_t> row(k.size() + 1);
    for (size_t j = 0; j <= k.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t corner = row[0]++;
      for (size_t j = 1; j <= k.size(); ++j) {
        const size_t change = corner + (word[i - 1] != k[j - 1]);
        corner = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, change});
      }
    }
    if (row.back() < fewest) fewest = row.back(), best = k;
  }
  return best;
}

void OptionList::add(const char* name, std::string text, bool always) { entries.push_back({name, std::move(text), always}); }

std::string call_text(std::string name, const OptionList& usual, const OptionList& given) {
  std::string options;
  for (size_t i = 0; i < given.entries.size(); ++i) {
    const auto& [option, text, always] = given.entries[i];
    if (text != usual.entries[i].text || always) options += (options.empty() ? "" : ",") + std::string(option) + "=" + text;
  }
  return options.empty() ? name : name + "[" + options + "]";
}

Error wrong_option(std::string_view where, std::string_view name, const std::string& text, const std::string& want) {
  return refuse(where, "{} is '{}', needs {}", name, text, want);
}
bool read_bool(std::string_view where, std::string_view name, const std::string& text) {
  if (text != "true" && text != "false") throw wrong_option(where, name, text, "true or false");
  return text == "true";
}
double read_number(std::string_view where, std::string_view name, const std::string& text) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end) throw wrong_option(where, name, text, "a number");
  return value;
}
int64_t read_whole_number(std::string_view where, std::string_view name, const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end || errno) throw wrong_option(where, name, text, "a whole number");
  return value;
}

GivenOptions::GivenOptions(std::string_view where, std::string_view options) : where_(where) {
  for (auto& [name, text] : split_options(where, options))
    if (!given_.emplace(name, text).second) throw refuse(where, "{} is given twice, needs one value", name);
}
const std::string* GivenOptions::take(const char* name) {
  known_.push_back(name);
  const auto found = given_.find(name);
  if (found == given_.end()) return nullptr;
  text_ = std::move(found->second);
  given_.erase(found);
  return &text_;
}
void GivenOptions::must_be_count(const char* name, int64_t value) const {
  constexpr int64_t below = 1'000'000;
  if (value < 0 || value >= below) throw refuse(where_, "{} is {}, needs a whole number of at least 0 and below {}", name, text_, below);
}
void GivenOptions::must_be_taken() const {
  if (given_.empty()) return;
  const std::string& name = given_.begin()->first;
  const std::string near = nearest(name, known_);
  std::string all;
  for (const std::string& k : known_) all += (all.empty() ? "" : ", ") + k;
  throw refuse(where_, "option '{}' is unknown, needs one of: {}{}", name, all.empty() ? "(it has none)" : all,
               near.empty() ? "" : "; did you mean '" + near + "'?");
}

template void OptionList::operator()<bool>(const char*, const bool&);
template void OptionList::operator()<double>(const char*, const double&);
template void OptionList::operator()<int64_t>(const char*, const int64_t&);

std::string option_text(double value) { return fmt::format("{}", value); }

}  // namespace ttr::detail
