// Reading a run back.
#include <filesystem>
#include <ttr/apps/checkpoint.hpp>
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
  const auto found = file.metadata().find("config");
  if (found == file.metadata().end()) throw refuse(where, "{} has no metadata \"config\", needs a checkpoint of ttr train", path);
  RunConfig config = config_of_json(found->second, path);
  config.route.clear();   // the one it was trained by need not exist here
  Tokenizer tokenizer = tokenizer_in(file);
  LanguageModel model = model_of(config, tokenizer.vocab(), place);
  load_parameters(model, file);
  return {path, std::move(config), std::move(tokenizer), std::move(model)};
}

Text text_of(const RunConfig& c) { return load_text({.files = c.data, .seed = std::uint64_t(c.seed)}); }

}  // namespace ttr
