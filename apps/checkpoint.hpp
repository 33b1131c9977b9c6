// What a checkpoint of `ttr train` says beside the trainer's tensors, in the file's metadata: the configuration, the tokenizer, the data cursor and the lowest
// validation loss so far. With them one file alone continues a run, to the bit. It holds no times, so that equal runs write equal files.
#pragma once
#include <limits>
#include <map>
#include <string>
#include <ttr/apps/run_config.hpp>
#include <ttr/apps/tokenizer.hpp>
#include <ttr/core/safetensors.hpp>

namespace ttr {

struct Standing {
  int64_t cursor = 0;                                     // windows drawn
  double best = std::numeric_limits<double>::infinity();  // lowest validation loss
};

std::map<std::string, std::string> metadata_of(RunConfig, const Tokenizer&, const Standing&);
Standing standing_in(const SafetensorsFile&);
Tokenizer tokenizer_in(const SafetensorsFile&);

}  // namespace ttr
