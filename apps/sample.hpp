// Sampling text from a language model, byte after byte, decoding by state: each byte costs one step of the recipe, whatever came before it.
//   p(byte) = softmax(logits / temperature); temperature 0 takes the likeliest
#pragma once
#include <string>
#include <ttr/layers/language_model.hpp>

namespace ttr {

struct SampleOptions {
  std::string from, prompt = "\n", device = "cpu", dtype = "f32";
  int64_t tokens = 500, seed = 1;
  double temperature = 0.8;
};
int sample_model(const SampleOptions&);

// The bytes that follow the prompt. A memory that keeps old pairs was trained on `context` of them: when it holds more, it starts again from the last
// half of a context, so that no position is met that training never saw.
std::string continuation(const LanguageModel&, const SampleOptions&, int64_t context);

}  // namespace ttr
