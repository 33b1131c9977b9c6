// ttr recipes: the table, printed or as JSON.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <ttr/apps/recipes.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/surroundings.hpp>

namespace ttr {
namespace {

using Json = nlohmann::ordered_json;

const char* word(Per per) {
  switch (per) {
    case Per::token: return "token";
    case Per::write: return "write";
    case Per::chunk: return "chunk";
    case Per::head: return "head";
    case Per::frozen: return "frozen";
  }
  return "";
}

Json shape_of(const Slot& slot) {
  Json shape = Json::array();
  for (const Extent& e : slot.shape)
    if (e.of == Extent::number) shape.push_back(e.times / e.over);
    else shape.push_back(e.text());
  return shape;
}

Json range_of(const Slot& slot) {
  const auto end = [](double x) { return std::isfinite(x) ? Json(x) : Json(nullptr); };
  return {end(slot.range.low), end(slot.range.high)};
}

Json entry(const Published& p) {
  Json slots = Json::array();
  for (const Slot& s : p.recipe.slots())
    slots.push_back({{"name", s.name}, {"per", word(s.per)}, {"shape", shape_of(s)}, {"range", range_of(s)}, {"required", s.required}});
  return {{"name", p.name},
          {"weights", p.recipe.weights().text()},
          {"function", p.recipe.function().text()},
          {"optimizer", p.recipe.optimizer().text()},
          {"paper", p.paper},
          {"stem", p.stem},
          {"slots", slots},
          {"around", text_of(usual_surroundings(p.recipe))},
          {"state", state_names(p.recipe)},
          {"kernels", {{"cpu", kernels_for(p.recipe, cpu_device)}, {"cuda", kernels_for(p.recipe, cuda_device)}}}};
}

void print_table() {
  size_t name = 0, triple = 0;
  for (const Published& p : published_recipes()) name = std::max(name, p.name.size()), triple = std::max(triple, p.recipe.text().size());
  triple = std::min<size_t>(triple, 84);
  fmt::print("{:<{}}  {:<{}}  {:<18}  {}\n", "name", name, "weights / function / optimizer", triple, "stem", "paper");
  for (const Published& p : published_recipes())
    fmt::print("{:<{}}  {:<{}}  {:<18}  {}\n", p.name, name, p.recipe.text(), triple, p.stem.empty() ? "-" : p.stem, p.paper);
  fmt::print("\n{} recipes; any other weights / function / optimizer that fits runs too, by fold.\n", published_recipes().size());
}

}  // namespace

std::vector<std::string> state_names(const Recipe& recipe) {
  Recording off(false);
  constexpr int64_t size = 4;   // K and V; rows that pair channels or tie K to V take it
  Arguments a;
  a.want_state = true;
  uint64_t stream = 0;
  for (const Slot& s : recipe.slots()) {
    if (!s.required && s.name != "k") continue;
    Shape shape;
    if (s.per != Per::head && s.per != Per::frozen) shape = {1, s.per == Per::write ? recipe.reading().writes : 1};
    shape.push_back(1);
    for (const Extent& e : s.shape) shape.push_back(e.at(size, size));
    const Options f64{Dtype::f64, cpu_device};
    a.slots[s.name] = s.range == any_value ? normal(shape, 1, stream++, 0, 1, f64) : full(shape, std::clamp(s.init, s.range.low, s.range.high), f64);
  }
  std::vector<std::string> names;
  for (const auto& [name, x] : fold(recipe, a).state) names.push_back(name);
  return names;
}

std::vector<std::string> kernels_for(const Recipe& recipe, Device device) {
  const Problem problem{.tokens = 64, .writes = recipe.reading().writes, .device = device, .training = true};
  const std::string on_device = device.is_cuda() ? "/cuda-" : "/cpu-";   // names are <stem>/<device>-<algorithm>
  std::vector<std::string> names;
  for (const Route& r : routes()) {
    if (std::string_view(r.name).find(on_device) == std::string_view::npos) continue;
    const std::string why = r.accepts(recipe, problem);
    if (why.empty() || why == "built without CUDA") names.push_back(r.name);
  }
  return names;
}

int list_recipes(const RecipesOptions& options) {
  if (!options.json) {
    print_table();
    return 0;
  }
  Json all = Json::array();
  for (const Published& p : published_recipes()) all.push_back(entry(p));
  fmt::print("{}\n", all.dump(2));
  return 0;
}

}  // namespace ttr
