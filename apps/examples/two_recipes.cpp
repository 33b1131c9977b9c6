// Two recipes on one text: the same small model learns the installed Bible (or the file named on the command line, or a grammar) with softmax
// attention and with a gated delta rule, on the same windows. Their losses are printed, drawn in the terminal, and written to two_recipes.svg.
#include <ttr/apps/byte_windows.hpp>
#include <ttr/apps/plot.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/optim/schedule.hpp>
#include <ttr/optim/trainer.hpp>
using namespace ttr;

int main(int count, char** arguments) {
  constexpr int64_t kSteps = 120, kTokens = 64;
  const Text text = load_text({.files = {arguments + 1, arguments + count}});
  const Split split = split_text(text, kTokens);
  const Schedule schedule{.rate = 0.01, .kind = ScheduleKind::cosine, .warmup = 10, .schedule_steps = kSteps};
  Plot plot{.title = fmt::format("Two recipes on {}", text.source), .x_label = "step", .y_label = "loss (nats per byte)"};
  std::vector<double> validation;

  for (const char* name : {"softmax_attention", "gated_delta_net"}) {
    LanguageModel model({.vocab = 256, .dim = 48, .blocks = 2, .heads = 2, .mixer = published(name).recipe}, /*seed=*/1);
    Trainer trainer(model, AdamW{}, [](const auto& m, const ByteWindows& w) { return cross_entropy(m(w.input), w.target); });
    Series curve{.name = name};
    for (int64_t step = 0; step < kSteps; ++step) {
      const double loss = trainer.step(sample(split.train, {.rows = 16, .tokens = kTokens}, step), {.rate = schedule(step), .clip = 1}).loss();
      if (step % 5 == 4) curve.x.push_back(double(step + 1)), curve.y.push_back(loss);
    }
    plot.series.push_back(curve);
    const ByteWindows held_out = sample(split.validation, {.rows = 64, .tokens = kTokens}, 0);
    const Recording off(false);
    validation.push_back(cross_entropy(model(held_out.input), held_out.target).item());
    fmt::print("{:<18} validation {:.3f} nats per byte after {} steps, {} parameters\n", name, validation.back(), kSteps, model.parameter_count());
  }
  fmt::print("\n{}", terminal(plot));
  write_svg("two_recipes.svg", plot);
  return validation[1] < 2.4 && validation[1] < validation[0] ? 0 : 1;   // counting pairs of letters reaches 2.34, single letters 3.04
}
