// Sampling: the prompt is absorbed, then each drawn byte is the next input.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <ttr/apps/interrupt.hpp>
#include <ttr/apps/place.hpp>
#include <ttr/apps/run_config.hpp>
#include <ttr/apps/sample.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/random_kernel.hpp>
#include <ttr/optim/arena.hpp>

namespace ttr {
namespace {

Tensor as_tokens(std::string_view bytes, Device device) {   // i32 [1, T]
  std::vector<int32_t> ids;
  for (const char c : bytes) ids.push_back(int32_t(static_cast<unsigned char>(c)));
  return to_device(from_vector(ids, {1, int64_t(ids.size())}), device);
}

char drawn(const std::vector<double>& logits, double temperature, double u) {
  const auto top = std::max_element(logits.begin(), logits.end());
  if (temperature == 0) return char(top - logits.begin());
  std::vector<double> up(logits.size());   // the distribution function
  double total = 0;
  for (size_t i = 0; i < logits.size(); ++i) up[i] = total += std::exp((logits[i] - *top) / temperature);
  const size_t at = size_t(std::upper_bound(up.begin(), up.end(), u * total) - up.begin());
  return char(std::min(at, logits.size() - 1));
}

}   // namespace

std::string continuation(const LanguageModel& model, const SampleOptions& o, int64_t context) {
  if (o.prompt.empty()) throw refuse("sample", "the prompt is empty, needs at least one byte");
  if (!(o.temperature >= 0)) throw refuse("sample", "temperature is {}, needs at least 0", o.temperature);
  const bool looks_back =
      std::any_of(model.blocks.begin(), model.blocks.end(), [](const Block& b) { return b.mixer.options.recipe.looks_back(); });
  const Device device = model.embed.weight->device();
  const uint64_t key = uint64_t(o.seed);
  std::string text = o.prompt;
  LanguageModelState state;
  const auto newest = [&](size_t count) { return std::string_view(text).substr(text.size() - std::min(text.size(), count)); };
  Tensor logits = model.prefill(as_tokens(looks_back ? newest(size_t(context)) : text, device), state);
  for (int64_t i = 0; i < o.tokens && !interrupted(); ++i) {
    text += drawn(logits.to_vector<double>(), o.temperature, uniform<double>({key, 0x73616d70}, uint64_t(i)));
    if (i + 1 == o.tokens) break;
    if (looks_back && state.position >= context) {
      state = {};
      logits = model.prefill(as_tokens(newest(size_t(std::max<int64_t>(1, context / 2))), device), state);
    } else {
      logits = model.step(as_tokens(newest(1), device), state);
    }
  }
  return text.substr(o.prompt.size());
}

std::string for_people(std::string bytes) {
  for (size_t i = 0; i < bytes.size();) {
    const auto at = [&](size_t j) { return j < bytes.size() ? static_cast<unsigned char>(bytes[j]) : 0u; };
    const unsigned first = at(i);
    size_t length = first < 0x80                    ? 1
                    : first >= 0xc2 && first < 0xe0 ? 2
                    : first >= 0xe0 && first < 0xf0 ? 3
                    : first >= 0xf0 && first < 0xf5 ? 4
                                                    : 0;
    for (size_t j = 1; j < length; ++j)
      if ((at(i + j) & 0xc0) != 0x80) length = 0;
    const unsigned second = at(i + 1);   // no overlong forms, no surrogates, nothing beyond U+10FFFF
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second >= 0xa0) || (first == 0xf0 && second < 0x90) ||
        (first == 0xf4 && second >= 0x90))
      length = 0;
    const bool control = length == 1 && (first == 0x7f || (first < 0x20 && first != '\n' && first != '\t'));
    if (length == 0 || control) bytes[i] = '?';
    i += length ? length : 1;
  }
  return bytes;
}

int sample_model(const SampleOptions& o) {
  namespace fs = std::filesystem;
  const Options place = place_named(o.device, o.dtype);
  std::string path;
  for (const char* name : {"best.safetensors", "last.safetensors"})
    if (path.empty() && fs::exists(fs::path(o.from) / name)) path = (fs::path(o.from) / name).string();
  if (path.empty())
    throw refuse("sample", "{} holds no best.safetensors and no last.safetensors, needs a folder that ttr train wrote", o.from);
  const SafetensorsFile file(path);
  const auto found = file.metadata().find("config");
  if (found == file.metadata().end()) throw refuse("sample", "{} has no metadata \"config\", needs a checkpoint of ttr train", path);
  RunConfig config = config_of_json(found->second, path);
  config.route.clear();   // the one it was trained by need not exist here
  LanguageModel model = model_of(config, place);
  load_parameters(model, file);
  catch_interrupts();
  fmt::print("{}{}\n", o.prompt, for_people(continuation(model, o, config.context)));
  return interrupted() ? kInterrupted : 0;
}

}   // namespace ttr
