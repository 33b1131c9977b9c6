// A run of ttr train, read back: its checkpoint alone says how to make the model, how its tokens are spelled, and what text it saw.
#pragma once
#include <string>
#include <ttr/apps/run_config.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/apps/tokenizer.hpp>
#include <ttr/core/safetensors.hpp>

namespace ttr {

struct Run {
  std::string file;   // the checkpoint
  RunConfig config;
  Tokenizer tokenizer;
  LanguageModel model;
};

// `from`: a run's folder, whose best checkpoint is taken, else its last; or a checkpoint. `where` is the first word of refusals.
Run load_run(const char* where, const std::string& from, Options place);

// Before a model is made that a checkpoint does not hold.
void check_sizes(const char* where, const RunConfig&, int64_t vocab, const SafetensorsFile&);

Text text_of(const RunConfig&);   // what it trains on

}  // namespace ttr
