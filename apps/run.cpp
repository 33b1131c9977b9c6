// Reading a run back.
#include <filesystem>
#include <ttr/apps/run.hpp>
#include <ttr/core/error.hpp>
#include <ttr/optim/arena.hpp>

namespace ttr {

Run load_run(const char* where, const std::string& from, Options place) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::string path = fs::is_regular_file(from, error) ? from : "";
  for (const char* name : {"best.safetensors", "last.safetensors"})
    if (path.empty() && fs::exists(fs::path(from) / name, error)) path = (fs::path(from) / name).string();
  if (path.empty())
    throw refuse(where, "{} holds no best.safetensors and no last.safetensors, needs a folder that ttr train wrote", from);
  const SafetensorsFile file(path);
  const auto metadata = [&](const char* name) -> const std::string& {
    const auto found = file.metadata().find(name);
    if (found == file.metadata().end()) throw refuse(where, "{} has no metadata \"{}\", needs a checkpoint of ttr train", path, name);
    return found->second;
  };
  RunConfig config = config_of_json(metadata("config"), path);
  config.route.clear();   // the one it was trained by need not exist here
  Tokenizer tokenizer = Tokenizer::parse(metadata("tokenizer"), path);
  LanguageModel model = model_of(config, tokenizer.vocab(), place);
  load_parameters(model, file);
  return {path, std::move(config), std::move(tokenizer), std::move(model)};
}

Text text_of(const RunConfig& c) { return load_text({.files = c.data, .seed = std::uint64_t(c.seed)}); }

}  // namespace ttr
