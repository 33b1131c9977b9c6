// ttr apply: the file's tensors become a call, the answer and its gradients become a file.
#include <algorithm>
#include <cstring>
#include <ttr/apps/apply.hpp>
#include <ttr/apps/place.hpp>
#include <ttr/apps/recipes.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/safetensors.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/vocabulary.hpp>
#include <ttr/optim/arena.hpp>

namespace ttr {
namespace {

constexpr const char* kWhere = "apply";

// -- the recipe with the options of the command line -----------------------------------------------------------------------------------------
// "linear[eps=1]" with eps -> "linear[eps=2]".
std::string with_option(const std::string& ingredient, const std::string& name, const std::string& value) {
  const auto [word, options] = detail::split_call(kWhere, ingredient);
  std::string text;
  for (const auto& [n, v] : detail::split_options(kWhere, options))
    if (n != name) text += n + "=" + v + ",";
  return fmt::format("{}[{}{}={}]", word, text, name, value);
}

Recipe asked_recipe(const ApplyOptions& o) {
  Recipe recipe = parse_recipe(o.recipe);
  const auto& table = published_recipes();
  const bool by_name = std::any_of(table.begin(), table.end(), [&](const Published& p) { return p.name == o.recipe; });
  const bool attends = recipe.weights().ask<KernelWeights>() || recipe.weights().ask<PathWeights>();
  const bool around_query = recipe.function().ask<Polynomial>() != nullptr;   // it reads k - q, so that the scale belongs to the kernel
  Reading reading = recipe.reading();
  if (by_name && !attends) reading.scale = {};
  if (o.scale && !around_query) {
    reading.scale = Scale{};
    if (*o.scale == "rsqrt") reading.scale = Scale::rsqrt_key();
    else detail::read_option(kWhere, "--scale", *o.scale, reading.scale.value);
  }
  if (o.read) detail::read_option(kWhere, "--read", *o.read, reading.read);
  if (o.key_norm) detail::read_option(kWhere, "--key-norm", *o.key_norm, reading.key_norm);
  if (o.key_eps) detail::read_option(kWhere, "--key-eps", *o.key_eps, reading.key_eps);

  std::string weights = recipe.weights().text(), function = recipe.function().text(), optimizer = recipe.optimizer().text();
  const auto triple = [&] { return parse_recipe(weights + " / " + function + " / " + optimizer + " / " + text_of(reading)); };
  const auto set = [&](const char* flag, std::string& ingredient, const char* option, const std::string& value) {
    const std::string before = ingredient;
    ingredient = with_option(ingredient, option, value);
    try {
      triple();
    } catch (const Error& e) {
      throw refuse(kWhere, "{} is {}, needs {} to take it: {}", flag, value, before, e.what());
    }
  };
  if (o.scale && around_query) set("--scale", weights, "scale", *o.scale);
  if (o.normaliser) set("--normaliser", function, "normaliser", *o.normaliser);
  if (o.ridge_policy) set("--ridge-policy", optimizer, "ridge", *o.ridge_policy);
  if (o.eps) {   // of the answer's division where there is one, else of the key norm
    const Recipe so_far = triple();
    const auto* map = so_far.function().ask<LinearMap>();
    if (map && map->normaliser != Normaliser::none) set("--eps", function, "eps", *o.eps);
    else if (reading.key_norm == KeyNorm::l2 || reading.key_norm == KeyNorm::rms) detail::read_option(kWhere, "--eps", *o.eps, reading.key_eps);
    else throw refuse(kWhere, "--eps is {}, needs a normaliser or a key norm that reads it; {} has neither", *o.eps, so_far.text());
  }
  return triple();
}

// -- tensors in and out of files ---------------------------------------------------------------------------------------------------------------
Tensor whole(const std::string& name, RawTensor raw, Device device) {
  std::vector<int32_t> narrow;   // other programs write I64
  if (raw.dtype == "I64") {
    for (size_t i = 0; i < raw.bytes; i += sizeof(int64_t)) {
      int64_t x;
      std::memcpy(&x, raw.data + i, sizeof x);
      if (x != int32_t(x)) throw refuse(kWhere, "{} holds {}, needs numbers of 32 bits", name, x);
      narrow.push_back(int32_t(x));
    }
    raw.dtype = "I32", raw.data = reinterpret_cast<const std::byte*>(narrow.data()), raw.bytes = narrow.size() * sizeof(int32_t);
  }
  if (raw.dtype != "I32") throw refuse(kWhere, "{} is {}, needs I32 or I64", name, raw.dtype);
  return from_raw(name, raw, {Dtype::i32, device});
}
Tensor floating(const std::string& name, const RawTensor& raw, Options place) {
  if (raw.dtype != "F32" && raw.dtype != "F64" && raw.dtype != "BF16") throw refuse(kWhere, "{} is {}, needs F32, F64 or BF16", name, raw.dtype);
  return from_raw(name, raw, place);
}

class Writer {   // keeps the bytes until the file is written
 public:
  void add(const std::string& name, const Tensor& x) {
    kept_.push_back(to_device(x, cpu_device));
    const Tensor& t = kept_.back();
    const Dtype dtype = t.dtype();
    entries_.push_back({name,
                        {.dtype = dtype == Dtype::f32 ? "F32" : dtype == Dtype::f64 ? "F64" : dtype == Dtype::bf16 ? "BF16" : "I32",
                         .shape = {t.shape().begin(), t.shape().end()},
                         .data = static_cast<const std::byte*>(t.address()),
                         .bytes = size_t(t.count()) * bytes_of(dtype)}});
  }
  void write(const std::string& path, const std::map<std::string, std::string>& metadata) const { write_safetensors(path, entries_, metadata); }

 private:
  Tensors kept_;
  std::vector<SafetensorsEntry> entries_;
};

// -- what the file holds, for this recipe ------------------------------------------------------------------------------------------------------
struct Inputs {
  Arguments arguments;
  std::vector<std::pair<std::string, Tensor>> floats;   // every floating input by its name in the file, tracked when gradients are asked for
  Tensor dy;
  Slots dstate;
};

bool without_prefix(std::string& name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return false;
  name.erase(0, prefix.size());
  return true;
}

Inputs read_inputs(const SafetensorsFile& file, const Recipe& recipe, Options place, bool grad) {
  Inputs in;
  const Options wide_place{wide(place.dtype), place.device};
  const std::vector<std::string> states = state_names(recipe);
  std::vector<std::string> known{"segments", "dy"};
  std::map<std::string, bool> narrow;   // slot -> of the dtype asked for; the others are wide
  for (const Slot& s : recipe.slots()) narrow[s.name] = s.name == "q" || s.name == "k" || s.name == "v", known.push_back(s.name);
  for (const std::string& s : states) known.push_back("state0." + s), known.push_back("dstate." + s);
  const auto floating_input = [&](const std::string& name, Options where) {
    Tensor x = floating(name, file.read(name), where);
    if (grad) x = variable(x);
    in.floats.emplace_back(name, x);
    return x;
  };
  for (const std::string& name : file.names()) {
    std::string rest = name;
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      const std::string near = detail::nearest(name, known);
      throw refuse(kWhere, "{} in {} is unknown, needs a slot, state0.NAME, dy or dstate.NAME of {}{}", name, file.path(), recipe.text(),
                   near.empty() ? "" : "; did you mean " + near + "?");
    }
    if (narrow.contains(name)) in.arguments.slots[name] = floating_input(name, narrow[name] ? place : wide_place);
    else if (name == "segments") in.arguments.segments = whole(name, file.read(name), place.device);
    else if (name == "dy") in.dy = floating(name, file.read(name), place);
    else if (name == "state0.position") in.arguments.state["position"] = whole(name, file.read(name), cpu_device);
    else if (without_prefix(rest, "state0.")) in.arguments.state[rest] = floating_input(name, wide_place);
    else if (without_prefix(rest, "dstate.")) in.dstate[rest] = floating(name, file.read(name), wide_place);
  }
  Slots& state = in.arguments.state;
  if (state.empty()) return in;
  if (const auto position = state.find("position"); position != state.end()) {
    if (position->second.count() != 1) throw refuse(kWhere, "state0.position has shape {}, needs one number", to_string(position->second.shape()));
    state["position"] = reshape(position->second, {});
  } else {   // other implementations do not count; where the count changes nothing it may be left out
    for (const std::string& s : states)
      if (s.starts_with("anchor.") || s.starts_with("optimizer."))
        throw refuse(kWhere, "state0.position is missing, needs [] I32: how many tokens the state has absorbed");
    const auto keys = state.find("keys");
    state["position"] = position_state(keys == state.end() || keys->second.rank() < 2 ? 0 : keys->second.size(1) / recipe.reading().writes);
  }
  return in;
}

}  // namespace

int apply_recipe(const ApplyOptions& o) {
  const Options place = place_named(o.device, o.dtype);
  const Recipe recipe = asked_recipe(o);
  const SafetensorsFile file(o.in);
  Inputs in = read_inputs(file, recipe, place, o.grad);
  in.arguments.want_state = true;
  if (o.grad && !in.dy.defined()) throw refuse(kWhere, "dy is missing in {}, needs [B, T, H, V] for --grad", o.in);

  Recording recording(o.grad);
  const Problem problem = examine(recipe, in.arguments);
  const Route& route = *choose(recipe, problem, o.route).route;
  const Answer answer = route.run(recipe, in.arguments, problem);

  Writer writer;
  writer.add("y", answer.y);
  for (const auto& [name, x] : answer.state) writer.add("state." + name, x);
  if (o.grad) {
    if (in.dy.shape() != answer.y.shape()) throw refuse(kWhere, "dy has shape {}, needs {}", to_string(in.dy.shape()), to_string(answer.y.shape()));
    Tensors ys, dys, xs;
    if (answer.y.tracked()) ys.push_back(answer.y), dys.push_back(in.dy);
    for (const auto& [name, d] : in.dstate) {
      const auto found = answer.state.find(name);
      if (found == answer.state.end()) throw refuse(kWhere, "dstate.{} is given, needs a state of that name from {}", name, route.name);
      const Tensor& x = found->second;
      if (!is_floating(x.dtype())) throw refuse(kWhere, "dstate.{} is given, needs a state of floating numbers; {} is {}", name, name, name_of(x.dtype()));
      if (d.shape() != x.shape()) throw refuse(kWhere, "dstate.{} has shape {}, needs {}", name, to_string(d.shape()), to_string(x.shape()));
      if (x.tracked()) ys.push_back(x), dys.push_back(cast(d, x.dtype()));
    }
    for (const auto& [name, x] : in.floats) xs.push_back(x);
    const Tensors d = grad(ys, dys, xs, {.consume = true});
    for (size_t i = 0; i < xs.size(); ++i) writer.add("d" + in.floats[i].first, d[i]);
  }
  writer.write(o.out, {{"recipe", recipe.text()}, {"route", route.name}});
  fmt::print("{}: y {} of {} by {}\n", o.out, to_string(answer.y.shape()), recipe.text(), route.name);
  return 0;
}

}  // namespace ttr
