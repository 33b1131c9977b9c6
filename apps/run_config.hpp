// RunConfig: everything that makes a training run. It is the command line of `ttr train`, the file config.toml, and, as JSON under "config", the
// metadata of each checkpoint, from which the model is made again.
#pragma once
#include <cstdint>
#include <string>
#include <ttr/layers/language_model.hpp>

namespace ttr {

struct RunConfig {
  std::string recipe = "gated_delta_net", ingredients;   // as asked for; written out in full
  std::string data, out;                                 // no data: the Bible if it is installed, else a grammar
  int64_t steps = 1000, batch = 16, context = 128;
  int64_t dim = 128, blocks = 4, heads = 4;
  double lr = 1e-3;
  int64_t warmup = -1;                                   // steps; negative: a tenth of the run, at most 100
  std::string schedule = "constant";
  int64_t schedule_steps = 0;                            // of cosine and wsd
  double clip = 1, weight_decay = 0.1, beta2 = 0.99;
  int64_t seed = 1, eval_every = 0, log_every = 10;      // eval_every 0: four times in the run
  int64_t profile = 0;                                   // steps to time by operation; 0: none
  std::string device = "cpu", dtype = "f32", route;

  void each(auto&& f) {
    f("recipe", recipe), f("ingredients", ingredients), f("data", data), f("out", out), f("steps", steps), f("batch", batch), f("context", context);
    f("dim", dim), f("blocks", blocks), f("heads", heads), f("lr", lr), f("warmup", warmup), f("schedule", schedule), f("schedule_steps", schedule_steps);
    f("clip", clip), f("weight_decay", weight_decay), f("beta2", beta2), f("seed", seed), f("eval_every", eval_every), f("log_every", log_every);
    f("device", device), f("dtype", dtype), f("route", route), f("profile", profile);
  }
};

std::string toml_of(RunConfig);
std::string json_of(RunConfig);
RunConfig config_of_json(const std::string& json, const std::string& from);   // `from` names the file in refusals

LanguageModel model_of(const RunConfig&, Options place);   // bytes in, bytes out; initial values by the seed

}  // namespace ttr
