// RunConfig to and from text, and what it must satisfy.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <ttr/apps/run_config.hpp>
#include <ttr/layers/vocabulary.hpp>

namespace ttr {
namespace {

std::string toml_string(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\', quoted += c;
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) quoted += fmt::format("\\u{:04x}", int(static_cast<unsigned char>(c)));
    else quoted += c;
  }
  return quoted + '"';
}
std::string toml_number(double x) {   // a float of TOML has a point or an exponent
  const std::string text = fmt::format("{}", x);
  return text.find_first_of(".e") == text.npos ? text + ".0" : text;
}

}  // namespace

std::string toml_of(RunConfig config) {
  std::string text;
  config.each([&]<class T>(const ConfigKey& key, T& value) {
    if constexpr (std::is_same_v<T, std::string>) text += fmt::format("{} = {}\n", key.name, toml_string(value));
    else if constexpr (std::is_same_v<T, std::vector<std::string>>) {
      std::string all;
      for (const std::string& one : value) all += (all.empty() ? "" : ", ") + toml_string(one);
      text += fmt::format("{} = [{}]\n", key.name, all);
    } else if constexpr (std::is_same_v<T, double>) text += fmt::format("{} = {}\n", key.name, toml_number(value));
    else text += fmt::format("{} = {}\n", key.name, value);
  });
  return text;
}

std::string json_of(RunConfig config) {
  nlohmann::ordered_json all;
  config.each([&](const ConfigKey& key, auto& value) { all[key.name] = value; });
  return all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);   // a path need not be UTF-8
}

RunConfig config_of_json(const std::string& json, const std::string& from) {
  const auto all = nlohmann::json::parse(json, nullptr, false);
  if (!all.is_object()) throw refuse("config", "the metadata \"config\" of {} is no JSON object, needs the one that ttr train writes", from);
  RunConfig config;
  config.each([&]<class T>(const ConfigKey& key, T& value) {
    const auto found = all.find(key.name);
    if (found == all.end()) throw refuse("config", "{} is missing in the metadata of {}, needs a checkpoint of ttr train", key.name, from);
    const auto are_texts = [&] { return found->is_array() && std::all_of(found->begin(), found->end(), [](const auto& part) { return part.is_string(); }); };
    const bool kind = std::is_same_v<T, std::string> ? found->is_string()
                      : std::is_same_v<T, std::vector<std::string>> ? are_texts()
                      : std::is_same_v<T, bool>      ? found->is_boolean()
                      : std::is_same_v<T, double>    ? found->is_number()
                                                     : found->is_number_integer();
    if (kind) value = found->template get<T>();
    if (!kind || !permits(key.allowed, value))
      throw refuse("config", "{} is {} in the metadata of {}, needs {}", key.name,
                   found->is_structured() ? std::string(found->type_name()) : found->dump(), from, wanted<T>(key.allowed));   // dump() recurses
  });
  return config;
}

LanguageModel model_of(const RunConfig& c, int64_t vocab, Options place) {
  LanguageModelOptions o{.vocab = vocab, .dim = c.dim, .blocks = c.blocks, .heads = c.heads};
  o.mixer = parse_recipe(c.ingredients.empty() ? c.recipe : c.ingredients);
  if (c.core_only) o.around = core_of(usual_surroundings(o.mixer));
  o.route = c.route;
  o.dropout = c.dropout;
  return LanguageModel(o, uint64_t(c.seed), place.device, place.dtype);
}

UpdateRule rule_of(const RunConfig& c) {
  if (c.optimizer == "sgd") return Sgd{};
  if (c.optimizer == "momentum") return Momentum{.momentum = c.momentum};
  const AdamW adamw{.beta2 = c.beta2, .decay = c.weight_decay};
  if (c.optimizer == "muon") return MuonAdamW{.others = adamw};
  return adamw;
}

}  // namespace ttr
