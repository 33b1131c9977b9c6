// Sampling: the prompt is absorbed, then each drawn token is the next input.
#include <algorithm>
#include <cstdio>
#include <span>
#include <ttr/apps/interrupt.hpp>
#include <ttr/apps/place.hpp>
#include <ttr/apps/run.hpp>
#include <ttr/apps/sample.hpp>
#include <ttr/apps/utf8.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/random_kernel.hpp>

namespace ttr {
namespace {

constexpr size_t kLongestPrompt = size_t(1) << 24;

Tensor as_row(std::span<const int32_t> tokens, Device device) {   // i32 [1, T]
  return to_device(from_vector(std::vector<int32_t>(tokens.begin(), tokens.end()), {1, int64_t(tokens.size())}), device);
}

std::string all_of(std::FILE* file) {
  std::string text;
  char block[4096];
  for (size_t n; (n = std::fread(block, 1, sizeof block, file)) > 0;) {
    text.append(block, n);
    if (text.size() > kLongestPrompt) throw refuse("sample", "the prompt is more than {} bytes, needs fewer", kLongestPrompt);
  }
  return text;
}

}   // namespace

std::string continuation(const LanguageModel& model, const Tokenizer& tokenizer, const SampleOptions& o, int64_t context,
                         const std::function<void(std::string_view)>& heard) {
  check_draw(o.draw);
  std::vector<int32_t> tokens = tokenizer.encode(o.prompt.value_or(tokenizer.beginning()));
  if (tokens.empty()) throw refuse("sample", "the prompt is empty, needs at least one byte");
  const size_t prompt = tokens.size();
  const bool looks_back =
      std::any_of(model.blocks.begin(), model.blocks.end(), [](const Block& b) { return b.mixer.options.recipe.looks_back(); });
  const Device device = model.embed.weight->device();
  const uint64_t key = uint64_t(o.seed);
  LanguageModelState state;
  const auto newest = [&](size_t count) { return as_row(std::span(tokens).last(std::min(tokens.size(), count)), device); };
  Tensor logits = model.prefill(newest(looks_back ? size_t(context) : tokens.size()), state);
  for (int64_t i = 0; i < o.tokens && !interrupted(); ++i) {
    tokens.push_back(draw(logits.to_vector<double>(), o.draw, uniform<double>({key, 0x73616d70}, uint64_t(i))));
    if (heard) heard(tokenizer.piece(tokens.back()));
    if (i + 1 == o.tokens) break;
    if (looks_back && state.position >= context) {
      state = {};
      logits = model.prefill(newest(size_t(std::max<int64_t>(1, context / 2))), state);
    } else {
      logits = model.step(newest(1), state);
    }
  }
  return tokenizer.decode(std::span(tokens).subspan(prompt));
}

int sample_model(SampleOptions o) {
  check_draw(o.draw);
  const Run run = load_run("sample", o.from, place_named(o.device, o.dtype));
  if (o.prompt == "-") o.prompt = all_of(stdin);
  const std::string prompt = o.prompt.value_or(run.tokenizer.beginning());
  catch_interrupts();
  const auto show = [](const std::string& text) {
    if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
      throw refuse("sample", "standard output takes no more text, needs a reader");
  };
  Printable text;
  bool begun = false;   // nothing is shown of a prompt that is refused
  const auto begin = [&] {
    if (!begun) show(text.put(prompt));
    begun = true;
  };
  continuation(run.model, run.tokenizer, o, run.config.context, [&](std::string_view piece) {
    begin();
    show(text.put(piece));
  });
  begin();
  show(text.end() + "\n");
  return interrupted() ? kInterrupted : 0;
}

}   // namespace ttr
