// From the command line, a configuration file and the folder of an earlier run to the one configuration of a run: flags override the file.
#pragma once
#include <set>
#include <ttr/apps/run_config.hpp>
#include <ttr/apps/run_folder.hpp>

namespace ttr {

struct TrainFlags {
  RunConfig config;               // what the command line said,
  std::set<std::string> given;    // and which of its keys it said
  std::string file, resume;       // --config, --resume
};

// Defaults that depend on other keys are filled in. `resumed`: the folder of the run that goes on; null: a new one begins.
RunConfig resolve(const TrainFlags&, const RunFolder* resumed);

}  // namespace ttr
