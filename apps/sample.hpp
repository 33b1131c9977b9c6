// Sampling text from a language model, token after token, decoding by state: each token costs one step of the recipe, whatever came before it.
// How a token is chosen stands in apps/draw.hpp.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <ttr/apps/draw.hpp>
#include <ttr/apps/tokenizer.hpp>
#include <ttr/layers/language_model.hpp>

namespace ttr {

struct SampleOptions {
  std::string from, device = "cpu", dtype = "f32";
  std::optional<std::string> prompt;   // none: what the tokenizer begins a text with
  int64_t tokens = 500, seed = 1;
  DrawOptions draw = {};
};
int sample_model(SampleOptions);   // its prompt "-" is standard input

// The bytes that follow the prompt; `heard` gets those of each token as it is drawn. A memory that keeps old pairs was trained on `context` of
// them: when it holds more, it starts again from the last half of a context, so that no position is met that training never saw.
std::string continuation(const LanguageModel&, const Tokenizer&, const SampleOptions&, int64_t context,
                         const std::function<void(std::string_view)>& heard = {});

}  // namespace ttr
