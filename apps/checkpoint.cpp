// The metadata of a checkpoint.
#include <ttr/apps/checkpoint.hpp>
#include <ttr/layers/option.hpp>

namespace ttr {

std::map<std::string, std::string> metadata_of(RunConfig config, const Tokenizer& tokenizer, const Standing& standing) {
  config.out.clear();   // where a run is written does not belong to what it is
  return {{"config", json_of(config)},
          {"tokenizer", tokenizer.json()},
          {"format", "ttr language model"},
          {"cursor", std::to_string(standing.cursor)},
          {"best", fmt::format("{}", standing.best)}};
}

Standing standing_in(const SafetensorsFile& file) {
  Standing standing;
  const auto read = [&](const char* name, auto& value) {
    const auto found = file.metadata().find(name);
    if (found == file.metadata().end())
      throw refuse("resume", "{} is missing in the metadata of {}, needs a checkpoint of ttr train", name, file.path());
    detail::read_option("resume", fmt::format("{} in the metadata of {}", name, file.path()), found->second, value);
  };
  read("cursor", standing.cursor);
  read("best", standing.best);
  if (standing.cursor < 0 || standing.cursor > int64_t(1) << 60)
    throw refuse("resume", "cursor is {} in the metadata of {}, needs 0 to 2^60", standing.cursor, file.path());
  return standing;
}

Tokenizer tokenizer_in(const SafetensorsFile& file) {
  const auto found = file.metadata().find("tokenizer");
  if (found == file.metadata().end())
    throw refuse("tokenizer", "tokenizer is missing in the metadata of {}, needs a checkpoint of ttr train", file.path());
  return Tokenizer::parse(found->second, file.path());
}

}  // namespace ttr
