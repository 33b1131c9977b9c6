// ttr: the program. This file reads the command line and turns what went wrong into one sentence and an exit code; each subcommand has a file of its own.
//   0 done, 1 refused or failed, 2 usage, 130 interrupted
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <map>
#include <new>
#include <CLI/CLI.hpp>
#include <ttr/apps/apply.hpp>
#include <ttr/apps/bench.hpp>
#include <ttr/apps/compare.hpp>
#include <ttr/apps/eval.hpp>
#include <ttr/apps/plan.hpp>
#include <ttr/apps/recipes.hpp>
#include <ttr/apps/sample.hpp>
#include <ttr/apps/train.hpp>
#include <ttr/core/error.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/layers/option.hpp>

namespace ttr {
namespace {

constexpr int kUsage = 2;

// What CLI11 did not understand, with the nearest thing it would have: "" when it understood every word.
std::string stranger(const CLI::App& app) {
  const std::vector<std::string> strangers = app.remaining(true);
  if (strangers.empty()) return {};
  const auto chosen = app.get_subcommands();
  const CLI::App& at = chosen.empty() ? app : *chosen.front();
  const std::string word = strangers.front().substr(0, strangers.front().find('='));
  std::vector<std::string> known;
  if (word.starts_with("-"))
    for (const CLI::Option* o : at.get_options())
      for (const std::string& name : o->get_lnames()) known.push_back("--" + name);
  else
    for (const CLI::App* sub : at.get_subcommands([](const CLI::App*) { return true; })) known.push_back(sub->get_name());
  const std::string near = detail::nearest(word, known), command = chosen.empty() ? "ttr" : "ttr " + at.get_name();
  return fmt::format("[{}] '{}' is unknown, needs what `{} --help` lists{}", command, word, command, near.empty() ? "" : "; did you mean '" + near + "'?");
}

// The one line on standard error, whatever stands in the names that it quotes.
void say(std::string sentence) {
  for (char& c : sentence)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  fmt::print(stderr, "{}\n", sentence.starts_with('[') ? sentence : "[ttr] " + sentence);
}

template <class T> CLI::Validator as_allowed(const Allowed& allowed) {
  return CLI::Validator(
      [allowed](std::string& text) {
        bool good = true;
        if constexpr (std::is_same_v<T, std::vector<std::string>>) {
          good = permits(allowed, T{text});   // one of them
        } else if constexpr (std::is_same_v<T, std::string>) {
          good = permits(allowed, text);
        } else {
          T value{};
          try {
            detail::read_option("ttr", "the value", text, value);
            good = permits(allowed, value);
          } catch (const Error&) {
            good = false;
          }
        }
        return good ? std::string() : fmt::format("is {}, needs {}", text, wanted<T>(allowed));
      },
      "");
}

CLI::Validator at_least(int64_t least) { return as_allowed<int64_t>({.least = double(least)}); }
CLI::Validator a_size(int64_t least) { return as_allowed<int64_t>({.least = double(least), .below = 1e9}); }   // a context's, a head's

// A number in (0, 1].
CLI::Validator share() {
  return CLI::Validator(
      [](std::string& text) {
        char* end = nullptr;
        const double p = std::strtod(text.c_str(), &end);
        return !text.empty() && *end == 0 && p > 0 && p <= 1 ? std::string() : fmt::format("is {}, needs a number above 0 and at most 1", text);
      },
      "");
}

int run(int argc, char** argv) {
  CLI::App app{"Sequence layers from three ingredients: regression weights, function class, optimizer."};
  app.name("ttr");
  app.set_version_flag("--version", std::string("ttr 0.1.0"));
  app.require_subcommand(1);
  app.option_defaults()->always_capture_default();
  const auto devices = [](CLI::Option* o) { o->check(CLI::IsMember({"cpu", "cuda"})); };
  const auto dtypes = [](CLI::Option* o) { o->check(CLI::IsMember({"f32", "f64", "bf16"})); };

  RecipesOptions recipes;
  CLI::App* list = app.add_subcommand("recipes", "The published recipes, their slots, their state and their kernels");
  list->add_flag("--json", recipes.json, "As JSON");

  PlanOptions plan;
  CLI::App* plans = app.add_subcommand("plan", "Which kernel says a recipe, and why not the others");
  plans->add_option("--recipe", plan.recipe, "A published name, or weights / function / optimizer")->required();
  plans->add_option("--batch", plan.batch, "Sequences")->check(a_size(1));
  plans->add_option("--tokens", plan.tokens, "Tokens of a sequence")->check(a_size(1));
  plans->add_option("--heads", plan.heads, "Heads")->check(a_size(1));
  plans->add_option("--key-heads", plan.key_heads, "Heads of keys, a divisor of the heads; 0: as many")->check(a_size(0));
  plans->add_option("--value-heads", plan.value_heads, "Heads of values, a divisor of the heads; 0: as many")->check(a_size(0));
  plans->add_option("--key-dim", plan.key_dim, "Size K of a key")->check(a_size(1));
  plans->add_option("--value-dim", plan.value_dim, "Size V of a value")->check(a_size(1));
  devices(plans->add_option("--device", plan.device, "cpu or cuda"));
  dtypes(plans->add_option("--dtype", plan.dtype, "f32, f64 or bf16"));
  plans->add_option("--route", plan.route, "Force one by name");
  plans->add_flag("--inference", plan.inference, "Without derivatives");

  ApplyOptions apply;
  CLI::App* applies = app.add_subcommand("apply", "A recipe on tensors from a file, nothing around it");
  applies->add_option("--recipe", apply.recipe, "A published name, or weights / function / optimizer")->required();
  applies->add_option("--in", apply.in, "safetensors: the slots, state0.NAME, dy, dstate.NAME")->required();
  applies->add_option("--out", apply.out, "safetensors: y, state.NAME, and dNAME of every floating input under --grad")->required();
  applies->add_flag("--grad", apply.grad, "Gradients too; needs dy");
  applies->add_option("--route", apply.route, "Force one by name");
  devices(applies->add_option("--device", apply.device, "cpu or cuda"));
  dtypes(applies->add_option("--dtype", apply.dtype, "f32, f64 or bf16 (on cuda)"));
  applies->add_option("--scale", apply.scale, "Of the query: a number or rsqrt, 1/sqrt(K)");
  applies->add_option("--read", apply.read, "inclusive or strict: after or before the token is written");
  applies->add_option("--normaliser", apply.normaliser, "Of a linear map: none, sum, clamp or max1");
  applies->add_option("--eps", apply.eps, "Of the normaliser, else of the key norm");
  applies->add_option("--key-norm", apply.key_norm, "Of q and k: none, l2, rms or sum");
  applies->add_option("--key-eps", apply.key_eps, "Of the key norm");
  applies->add_option("--ridge-policy", apply.ridge_policy, "Of a least-squares solve: none, constant, decaying, relative or refreshed");

  TrainFlags train;
  CLI::App* trains = app.add_subcommand("train", "A language model on your text, with any recipe");
  trains->add_option("--config", train.file, "A TOML file with any of these options, underscores for dashes; flags override it");
  trains->add_option("--resume", train.resume, "The folder of a run, or one of its checkpoints, to go on from");
  std::map<std::string, CLI::Option*> keys;
  train.config.each([&]<class T>(const ConfigKey& key, T& value) {
    if (std::string_view(key.name) == "ingredients") return;   // written by the program, read from files only
    std::string flag = "--" + std::string(key.name);
    std::replace(flag.begin(), flag.end(), '_', '-');
    CLI::Option* option = nullptr;
    if constexpr (std::is_same_v<T, bool>) option = trains->add_flag(flag, value, key.help);
    else option = trains->add_option(flag, value, key.help)->check(as_allowed<T>(key.allowed));
    keys[key.name] = option;
  });

  SampleOptions sample;
  CLI::App* samples = app.add_subcommand("sample", "Text from a model that ttr train wrote, as it is drawn");
  samples->add_option("--from", sample.from, "The folder of the run, whose best model is taken, or a checkpoint")->required();
  samples->add_option("--prompt", sample.prompt, "What the text begins with; - reads standard input; a line break if not given");
  samples->add_option("--tokens", sample.tokens, "Tokens to write")->check(at_least(0));
  samples->add_option("--temperature", sample.draw.temperature, "0 takes the likeliest token every time")->check(as_allowed<double>({.least = 0}));
  samples->add_option("--top-k", sample.draw.top_k, "Draws from the k likeliest tokens; 0: from all")->check(at_least(0));
  samples->add_option("--top-p", sample.draw.top_p, "Draws from the fewest tokens that hold this share of the probability; 1: from all")
      ->check(share());
  samples->add_option("--seed", sample.seed, "Of the draws")->check(at_least(0));
  devices(samples->add_option("--device", sample.device, "cpu or cuda"));
  dtypes(samples->add_option("--dtype", sample.dtype, "f32, f64 or bf16 (on cuda)"));

  EvalOptions eval;
  CLI::App* evals = app.add_subcommand("eval", "What a model that ttr train wrote pays for a text, beside n-grams");
  evals->add_option("--from", eval.from, "The folder of the run, whose best model is taken, or a checkpoint")->required();
  evals->add_option("--data", eval.data, "Text files, or bible, grammar or grammar:SEED; none: what the run was validated on");
  evals->add_option("--context", eval.context, "Tokens of a window; 0: as trained")->check(a_size(0));
  evals->add_flag("--by-position", eval.by_position, "The loss by position in the window too, as by_position.csv and by_position.svg");
  evals->add_option("--out", eval.out, "The folder for these; the run's if not given");
  devices(evals->add_option("--device", eval.device, "cpu or cuda"));
  dtypes(evals->add_option("--dtype", eval.dtype, "f32, f64 or bf16 (on cuda)"));

  CompareOptions compare;
  CLI::App* plots = app.add_subcommand("plot", "The validation curves of runs over each other");
  plots->add_option("runs", compare.runs, "Folders that ttr train wrote")->required();
  plots->add_option("--out", compare.out, "The SVG file to write");
  plots->add_flag("--by-position", compare.by_position, "Losses by position instead, as ttr eval --by-position left them");
  plots->add_flag("--log-x", compare.log_x, "Steps on a logarithmic axis");

  BenchOptions bench;
  CLI::App* benches = app.add_subcommand("bench", "Time, floor and ratio of what ttr computes, parity first");
  const std::vector<std::string> things{"all", "op", "matmul", "copy", "delta", "diagonal_decay", "normal_equations", "scan",
                                        "softmax_attention", "fold", "train"};
  benches->add_option("--what", bench.what, "What to time; a stem's name: its routes")->check(CLI::IsMember(things));
  devices(benches->add_option("--device", bench.device, "cpu or cuda"));

  std::vector<std::string> words;   // from the last to the first
  const std::vector<CLI::App*> named = app.get_subcommands([&](const CLI::App* command) { return argc > 1 && command->get_name() == argv[1]; });
  for (int i = argc; i-- > 1;) {
    const std::string word = argv[i];
    const size_t equals = word.starts_with("--") ? word.find('=') : word.npos;
    const std::string name = word.substr(0, equals), value = equals == word.npos ? "" : word.substr(equals + 1);
    const CLI::Option* option = !named.empty() && equals != word.npos && name.size() > 2 ? named.front()->get_option_no_throw(name) : nullptr;
    if (option && option->get_expected_max() == 0 && value != "true" && value != "false") {   // CLI11 takes 1x for true
      say(fmt::format("[ttr {}] {} is {}, needs true or false, or nothing; see `ttr {} --help`", argv[1], name, value, argv[1]));
      return kUsage;
    }
    if (option && value.empty()) words.insert(words.end(), {"", name});   // "--prompt=" must not take the next word
    else words.push_back(word);
  }

  try {
    app.parse(words);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);   // --help, --version
    const std::string unknown = stranger(app);
    const auto chosen = app.get_subcommands();
    const std::string command = chosen.empty() ? "ttr" : "ttr " + chosen.front()->get_name();
    std::string what = e.what();
    if (const size_t colon = what.find(": is "); colon != what.npos) what.erase(colon, 1);   // of a validator: "--dim: is 0, needs ..."
    const char* end = what.find(", needs ") == what.npos ? ", needs what `{} --help` says" : "; see `{} --help`";
    say(!unknown.empty() ? unknown : fmt::format("[{}] {}", command, what) + fmt::format(fmt::runtime(end), command));
    return kUsage;
  }
  if (*list) return list_recipes(recipes);
  if (*plans) return print_plan(plan);
  if (*plots) return compare_runs(compare);
  thread_count();   // refuses a wrong TTR_THREADS before anything is made
  if (*trains) {
    for (const auto& [name, option] : keys)
      if (option->count() > 0) train.given.insert(name);
    return train_model(train);
  }
  if (*benches) return run_bench(bench);
  if (*samples) return sample_model(sample);
  if (*evals) return eval_model(eval);
  return apply_recipe(apply);
}

}  // namespace
}  // namespace ttr

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);   // a file that may not grow further is an error of its writer
  try {
    return ttr::run(argc, argv);
  } catch (const std::bad_alloc&) {
    ttr::say("[ttr] memory is used up, needs less: a smaller batch, context or model");
  } catch (const std::exception& e) {
    ttr::say(e.what());
  }
  return 1;
}
