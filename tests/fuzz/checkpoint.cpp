// A checkpoint is either refused in a sentence or makes a model; so is what a resumed run reads of it.
#include "scratch_file.hpp"
#include <ttr/apps/checkpoint.hpp>
#include <ttr/apps/run.hpp>
#include <ttr/core/error.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ScratchFile input(data, size);
  try {
    (void)ttr::standing_in(ttr::SafetensorsFile(input.path()));
  } catch (const ttr::Error&) {
  }
  try {
    (void)ttr::load_run("fuzz", input.path(), {});
  } catch (const ttr::Error&) {
  }
  return 0;
}
