// ttr train: a language model over bytes, from nothing to files and a sample. `out` receives
//   config.toml         everything that made the run
//   metrics.jsonl       one object a logged step
//   curve.svg           losses over steps, with the n-grams as lines
//   last.safetensors    the newest parameters and the optimizer's memories; best.safetensors: those with the lowest validation loss
// Losses are nats per byte. Validation is the last tenth of the text, in consecutive windows of `context`, the last one partial.
#pragma once
#include <ttr/apps/run_config.hpp>

namespace ttr {

int train_model(RunConfig);

}  // namespace ttr
