// A safetensors file is either refused in a sentence or every byte it promises can be read.
#include "scratch_file.hpp"
#include <ttr/core/error.hpp>
#include <ttr/core/safetensors.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ScratchFile input(data, size);
  try {
    const ttr::SafetensorsFile file(input.path());
    unsigned sum = 0;
    for (const std::string& name : file.names()) {
      const ttr::RawTensor tensor = file.read(name);
      for (size_t i = 0; i < tensor.bytes; ++i) sum += unsigned(tensor.data[i]);
    }
    volatile unsigned keep = sum;
    (void)keep;
  } catch (const ttr::Error&) {
  }
  return 0;
}
