// RunConfig: everything that makes a training run. One table, each(), is the command line of `ttr train`, the keys of a configuration file
// (apps/config_file.hpp), the file config.toml of a run, and, as JSON under "config", the metadata of each checkpoint, from which the model is
// made again.
#pragma once
#include <cstdint>
#include <string>
#include <vector>
#include <ttr/apps/allowed.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/optim/stepper.hpp>

namespace ttr {

struct ConfigKey {             // one option
  const char* name;      // in a file; --name with dashes for underscores on the command line
  const char* help;
  Allowed allowed = {};
  bool fixed = false;    // a resumed run keeps it: it shapes the model, its numbers or its data
};

struct RunConfig {
  std::string recipe = "gated_delta_net", ingredients;   // as asked for; written out in full
  bool core_only = false;
  int64_t dim = 128, blocks = 4, heads = 4;
  double dropout = 0;
  std::vector<std::string> data;                         // none: the Bible if it is installed, else a grammar
  std::string documents, tokenizer = "byte", out;
  int64_t vocab = 0;                                     // of byte pairs; 0: 1024
  int64_t steps = 1000, batch = 16, accumulate = 1, context = 128;
  std::string optimizer = "adamw";
  double lr = 1e-3;
  int64_t warmup = -1;                                   // steps; negative: a tenth of the run, at most 100
  std::string schedule = "constant";
  int64_t schedule_steps = 0;                            // of cosine and wsd
  double clip = 1, weight_decay = 0.1, beta2 = 0.99, momentum = 0.9, ema = 0;
  int64_t seed = 1;
  int64_t eval_every = 0, save_every = 0, keep = 0, log_every = 10;
  std::string device = "cpu", dtype = "f32", route;
  int64_t profile = 0;

  void each(auto&& f) {
    const Allowed positive{.least = 1, .below = 1e15}, size{.least = 1, .below = 1e6}, count{.least = 0, .below = 1e15};
    const Allowed natural{.least = 0}, amount{.least = 0}, share{.least = 0, .below = 1};
    f(ConfigKey{"recipe", "A published name, or weights / function / optimizer", {}, true}, recipe);
    f(ConfigKey{"ingredients", "What the recipe's name stands for; written by the program", {}, true}, ingredients);
    f(ConfigKey{"core_only", "The memory without what usually stands around it: no convolution, shift, norm or output gate", {}, true}, core_only);
    f(ConfigKey{"dim", "Width of the model", size, true}, dim);
    f(ConfigKey{"blocks", "Blocks", size, true}, blocks);
    f(ConfigKey{"heads", "Heads of a block", size, true}, heads);
    f(ConfigKey{"dropout", "Share of the residual stream's additions that a step drops", share}, dropout);
    f(ConfigKey{"data", "Text files, or bible, grammar or grammar:SEED; none: the King James Bible if it is installed, else a grammar", {}, true}, data);
    f(ConfigKey{"tokenizer", "byte, char (the characters of the text) or bpe (learned byte pairs)", {.words = {"byte", "char", "bpe"}}, true}, tokenizer);
    f(ConfigKey{"vocab", "Tokens of bpe, 256 to 65536; 0: 1024", count, true}, vocab);
    f(ConfigKey{"documents", "What ends a document in the text, such as <|endoftext|>; the memory starts afresh after it", {}, true}, documents);
    f(ConfigKey{"out", "A new or empty folder for what the run writes"}, out);
    f(ConfigKey{"steps", "Updates in all, also those before a resume", positive}, steps);
    f(ConfigKey{"batch", "Sequences of a step", size, true}, batch);
    f(ConfigKey{"accumulate", "Pieces in which a step takes its batch: the same step with less memory", positive}, accumulate);
    f(ConfigKey{"context", "Tokens of a sequence", {.least = 1, .below = 1e9}, true}, context);
    f(ConfigKey{"optimizer", "adamw, sgd or momentum", {.words = {"adamw", "sgd", "momentum"}}, true}, optimizer);
    f(ConfigKey{"lr", "Highest learning rate", amount}, lr);
    f(ConfigKey{"warmup", "Steps up to it; -1: a tenth of the run, at most 100", {.least = -1, .below = 1e15}}, warmup);
    f(ConfigKey{"schedule", "What follows: constant, cosine or wsd", {.words = {"constant", "cosine", "wsd"}}}, schedule);
    f(ConfigKey{"schedule_steps", "Length of cosine and wsd; 0: --steps", count}, schedule_steps);
    f(ConfigKey{"clip", "Largest norm of the gradient; 0: no clipping", amount}, clip);
    f(ConfigKey{"weight_decay", "Of adamw, on matrices", amount}, weight_decay);
    f(ConfigKey{"beta2", "Of adamw", share}, beta2);
    f(ConfigKey{"momentum", "Of momentum", share}, momentum);
    f(ConfigKey{"ema", "Decay of the running average of the weights that is evaluated and sampled; 0: none", share, true}, ema);
    f(ConfigKey{"seed", "Of initial values, data and samples", natural, true}, seed);
    f(ConfigKey{"eval_every", "Steps between validations; 0: four in the run", count}, eval_every);
    f(ConfigKey{"save_every", "Steps between checkpoints; 0: as eval_every", count}, save_every);
    f(ConfigKey{"keep", "Numbered checkpoints kept beside last and best", count}, keep);
    f(ConfigKey{"log_every", "Steps between lines of metrics.jsonl", positive}, log_every);
    f(ConfigKey{"device", "cpu or cuda", {.words = {"cpu", "cuda"}}}, device);
    f(ConfigKey{"dtype", "f32, f64 or bf16 (on cuda)", {.words = {"f32", "f64", "bf16"}}, true}, dtype);
    f(ConfigKey{"route", "Force one by name"}, route);
    f(ConfigKey{"profile", "Steps to time by operation, for a table; 0: none", count}, profile);
  }
};

std::string toml_of(RunConfig);
std::string json_of(RunConfig);
RunConfig config_of_json(const std::string& json, const std::string& from);   // `from` names the file in refusals

LanguageModel model_of(const RunConfig&, int64_t vocab, Options place);   // vocab: of its tokenizer; initial values by the seed
UpdateRule rule_of(const RunConfig&);

}  // namespace ttr
