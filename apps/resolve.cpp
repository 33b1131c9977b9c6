// Which of its sources a configuration takes each key from.
#include <algorithm>
#include <filesystem>
#include <optional>
#include <fmt/ranges.h>
#include <ttr/apps/config_file.hpp>
#include <ttr/apps/resolve.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/core/safetensors.hpp>
#include <ttr/layers/vocabulary.hpp>

namespace ttr {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWhere = "train";

// f(key, value of a, value of b) for every key.
template <class F> void each_pair(RunConfig& a, RunConfig b, F&& f) {
  a.each([&]<class T>(const ConfigKey& key, T& value) {
    b.each([&]<class U>(const ConfigKey& other, U& its) {
      if constexpr (std::is_same_v<T, U>)
        if (std::string_view(key.name) == other.name) f(key, value, its);
    });
  });
}

std::string dashed(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return "--" + name;
}

// The configuration is read from elsewhere too.
void place_files(std::vector<std::string>& files) {
  for (std::string& file : files)
    if (!is_built_in(file)) file = fs::absolute(file).lexically_normal().string();
}

RunConfig config_of_run(const RunFolder& folder) {
  std::optional<RunConfig> kept;   // with the weights
  if (!folder.checkpoint().empty()) {
    const SafetensorsFile file(folder.checkpoint());
    const auto found = file.metadata().find("config");
    if (found == file.metadata().end())
      throw refuse(kWhere, "{} has no metadata \"config\", needs a checkpoint of ttr train", folder.checkpoint());
    kept = config_of_json(found->second, folder.checkpoint());
  }
  const std::string path = folder.file("config.toml");
  if (!fs::exists(path)) return *kept;
  RunConfig config = read_config(path);
  if (kept)
    each_pair(config, *kept, [&](const ConfigKey& key, auto& value, auto& was) {
      if (key.fixed && value != was)
        throw refuse(kWhere, "{} is {} in {}, needs {} as in {}; a resumed run keeps it", key.name, value, path, was, folder.checkpoint());
    });
  return config;
}

}  // namespace

RunConfig resolve(const TrainFlags& flags, const RunFolder* resumed) {
  if (resumed && !flags.file.empty())
    throw refuse(kWhere, "--config is given with --resume, needs one of them; a run goes on with its own config.toml");
  if (resumed && flags.given.contains("out"))
    throw refuse(kWhere, "--out is given with --resume, needs one of them; a run goes on in its own folder");
  RunConfig c = resumed ? config_of_run(*resumed) : flags.file.empty() ? RunConfig{} : read_config(flags.file);
  RunConfig said = flags.config;
  place_files(said.data);
  each_pair(c, said, [&](const ConfigKey& key, auto& value, auto& mine) {
    if (!flags.given.contains(key.name)) return;
    if (resumed && key.fixed && value != mine)
      throw refuse(kWhere, "{} is {}, needs {} as in the run of {}; a resumed run keeps it", dashed(key.name), mine, value, resumed->path());
    value = mine;
  });
  if (resumed) c.out = resumed->path();
  if (c.out.empty()) throw refuse(kWhere, "--out is missing, needs a new or empty folder");
  place_files(c.data);

  const std::string full = parse_recipe(c.recipe).text();
  if (flags.given.contains("recipe")) c.ingredients.clear();
  if (!c.ingredients.empty() && parse_recipe(c.ingredients).text() != full)
    throw refuse(kWhere, "ingredients is {}, needs {}, which the recipe {} stands for; drop one of the two", c.ingredients, full, c.recipe);
  c.ingredients = full;
  if (c.vocab == 0 && c.tokenizer == "bpe") c.vocab = 1024;
  if (c.accumulate > c.batch)
    throw refuse(kWhere, "--accumulate is {}, needs at most the batch of {}: a piece has at least one sequence", c.accumulate, c.batch);
  if (c.warmup < 0) c.warmup = std::min<int64_t>(100, c.steps / 10);
  if (c.eval_every == 0) c.eval_every = std::max<int64_t>(1, (c.steps + 3) / 4);
  if (c.save_every == 0) c.save_every = c.eval_every;
  if (c.schedule_steps == 0) c.schedule_steps = c.steps;
  if (c.schedule != "constant" && c.schedule_steps <= c.warmup)
    throw refuse(kWhere, "{} is {}, needs more than the {} steps of --warmup with --schedule {}; give a smaller --warmup too",
                 c.schedule_steps == c.steps ? "--steps" : "--schedule-steps", c.schedule_steps, c.warmup, c.schedule);
  config_of_toml(toml_of(c), "the configuration");   // what could not be read again is refused now: a path that is no UTF-8
  return c;
}

}  // namespace ttr
