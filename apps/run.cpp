// Reading a run back.
#include <filesystem>
#include <ttr/apps/checkpoint.hpp>
#include <ttr/apps/run.hpp>
#include <ttr/core/error.hpp>
#include <ttr/optim/arena.hpp>

namespace ttr {

// Before a model of these sizes is made: its embedding is in the file, and so is a tensor for every block.
void check_sizes(const char* where, const RunConfig& c, int64_t vocab, const SafetensorsFile& file) {
  constexpr const char* kTable = "embed.weight";
  const std::vector<int64_t> need{vocab, c.dim};
  if (!file.has(kTable) || file.at(kTable).shape != need)
    throw refuse(where, "{} has no tensor {} of shape [{}, {}], needs the one that its configuration says", file.path(), kTable, vocab, c.dim);
  if (c.blocks > int64_t(file.names().size()) || c.heads > c.dim)
    throw refuse(where, "{} says {} blocks of {} heads and holds {} tensors, needs a tensor a block and a channel a head", file.path(), c.blocks, c.heads,
                 file.names().size());
}

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
  check_sizes(where, config, tokenizer.vocab(), file);
  LanguageModel model = model_of(config, tokenizer.vocab(), place);
  load_parameters(model, file);
  return {path, std::move(config), std::move(tokenizer), std::move(model)};
}

Text text_of(const RunConfig& c) { return load_text({.files = c.data, .seed = std::uint64_t(c.seed)}); }

}  // namespace ttr
