// A tokenizer's JSON, up to the first zero byte of the input, is either refused in a sentence or makes a tokenizer that returns what it encoded:
// the rest of the input, unless a character tokenizer refuses that in a sentence. Written and read again it is the same.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <ttr/apps/tokenizer.hpp>
#include <ttr/core/error.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const uint8_t* const zero = std::find(data, data + size, uint8_t(0));
  const std::string json(data, zero), text(std::min(zero + 1, data + size), data + size);
  try {
    const ttr::Tokenizer tokenizer = ttr::Tokenizer::parse(json, "input");
    if (ttr::Tokenizer::parse(tokenizer.json(), "written").json() != tokenizer.json()) std::abort();
    if (tokenizer.decode(tokenizer.encode(text)) != text) std::abort();
  } catch (const ttr::Error&) {
  }
  return 0;
}
