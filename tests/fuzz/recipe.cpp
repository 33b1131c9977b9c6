// A recipe's text is either refused in a sentence or names a recipe whose own text names it again.
#include <cstdint>
#include <cstdlib>
#include <ttr/core/error.hpp>
#include <ttr/layers/vocabulary.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 4096) return 0;
  try {
    const ttr::Recipe recipe = ttr::parse_recipe(std::string(reinterpret_cast<const char*>(data), size));
    const std::string text = recipe.text();
    if (ttr::parse_recipe(text).text() != text) std::abort();
    (void)recipe.slots();
  } catch (const ttr::Error&) {
  }
  return 0;
}
