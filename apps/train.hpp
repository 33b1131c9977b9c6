// ttr train: a language model over bytes, from nothing, or from where an earlier run stopped, to files and a sample. What the folder of a run
// holds is said in run_folder.hpp; docs/6-training.md teaches the rest.
// Losses are nats per byte. Validation is the last tenth of the text, in consecutive windows of `context`, the last one partial.
#pragma once
#include <ttr/apps/resolve.hpp>

namespace ttr {

int train_model(const TrainFlags&);

}  // namespace ttr
