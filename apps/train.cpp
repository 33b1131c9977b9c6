// ttr train: the run from configuration to files.
#include <chrono>
#include <cmath>
#include <optional>
#include <ttr/apps/checkpoint.hpp>
#include <ttr/apps/corpus.hpp>
#include <ttr/apps/interrupt.hpp>
#include <ttr/apps/metrics.hpp>
#include <ttr/apps/ngram.hpp>
#include <ttr/apps/place.hpp>
#include <ttr/apps/plot.hpp>
#include <ttr/apps/profile_table.hpp>
#include <ttr/apps/progress.hpp>
#include <ttr/apps/sample.hpp>
#include <ttr/apps/train.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/whole_file.hpp>
#include <ttr/layers/describe.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/optim/schedule.hpp>
#include <ttr/optim/trainer.hpp>

namespace ttr {
namespace {

constexpr const char* kWhere = "train";

// Summed and counted apart, so that pieces of a batch with unlike counts of targets add up to the whole batch.
Loss loss_of(const LanguageModel& model, const Batch& b, StepKey key) {
  const Pass pass{.segments = b.segments, .dropout_key = key.key, .dropout_piece = key.piece};
  return {cross_entropy(model(b.input, pass), b.target, false), label_count(b.target)};
}
using ModelTrainer = Trainer<LanguageModel, Loss (*)(const LanguageModel&, const Batch&, StepKey)>;

// Steps, as a captured graph where that is possible.
class Stepping {
 public:
  Stepping(ModelTrainer& trainer, const LanguageModel& model, const RunConfig& c, bool segments) : trainer_(trainer) {
    if (c.device != "cuda") {
      why_ = "steps are captured on cuda only";
      return;
    }
    for (const Block& block : model.blocks) {
      const MemoryLayer& layer = block.mixer;
      Problem problem = layer.problem(c.batch, c.context, true);
      problem.segments = segments;
      const Route* route = choose(layer.options.recipe, problem, layer.options.route).route;
      if (std::string_view(route->name) == "fold") why_ = "fold does a token at a time, too many operations for a graph";
    }
    wanted_ = why_.empty();
    if (!wanted_) fmt::print("{}\n", text());
  }

  // A step that is timed is not captured.
  StepReport operator()(const std::vector<Batch>& batches, const StepOptions& options, bool plainly) {
    if (wanted_ && !plainly) {
      wanted_ = false;
      try {
        trainer_.capture(batches);
      } catch (const Error& e) {
        why_ = e.what();
      }
      fmt::print("{}\n", text());
      std::fflush(stdout);
    }
    return trainer_.captured() && !plainly ? trainer_.replay(batches, options) : trainer_.step(batches, options);
  }

  std::string text() const {
    return trainer_.captured() ? "steps: replays of a captured CUDA graph" : "steps: one operation after the other, because " + why_;
  }

 private:
  ModelTrainer& trainer_;
  std::string why_;
  bool wanted_ = false;
};

// What is printed when all steps are done, and the plot; also what an interrupted run leaves.
struct Outcome {
  double last_loss = std::nan("");
  std::optional<double> last_val;
};
Outcome outcome_in(const std::string& metrics) {
  Outcome outcome;
  const Metrics m = read_metrics(metrics);
  if (!m.loss.empty()) outcome.last_loss = m.loss.back();
  for (const double v : m.val_loss)
    if (std::isfinite(v)) outcome.last_val = v;
  return outcome;
}

Plot curve_of(const std::string& metrics, const std::string& title, const std::vector<double>& ngrams, const std::optional<double>& entropy) {
  const Metrics m = read_metrics(metrics);
  Plot plot{.title = title, .x_label = "step", .y_label = "loss (nats per byte)"};
  plot.series.push_back({.name = "training", .x = m.step, .y = m.loss});
  plot.series.push_back({.name = "validation", .x = m.step, .y = m.val_loss, .mark_best = true});
  for (const int order : {1, 3, 5}) plot.lines.push_back({fmt::format("order {}", order), ngrams[size_t(order)]});
  if (entropy) plot.lines.push_back({"entropy", *entropy});
  return plot;
}

std::string data_text(const Corpus& corpus) {
  std::string text = fmt::format("text: {}; trained on the first {}, validated on the last {}", corpus.text().source, corpus.train().size(),
                                 corpus.validation().size());
  if (corpus.documents() > 1) text += fmt::format("; {} documents without their separators, packed", corpus.documents());
  return text;
}

double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

int train_model(const TrainFlags& flags) {
  catch_interrupts();
  std::optional<RunFolder> folder;
  if (!flags.resume.empty()) folder.emplace(RunFolder::resumed(flags.resume));
  const RunConfig c = resolve(flags, folder ? &*folder : nullptr);
  const Options place = place_named(c.device, c.dtype);
  const Schedule schedule{.rate = c.lr, .kind = schedule_kind(c.schedule), .warmup = c.warmup, .schedule_steps = c.schedule_steps,
                          .floor = c.schedule == "constant" ? 1.0 : 0.1};
  schedule(0);   // refuses what does not fit together before anything is made
  if (!folder) folder.emplace(RunFolder::fresh(c.out));
  const Corpus corpus(load_text({.file = c.data, .seed = uint64_t(c.seed)}), c.documents, c.context);
  LanguageModel model = model_of(c, place);
  ModelTrainer trainer(model, rule_of(c), loss_of, uint64_t(c.seed), c.ema);
  const std::string metrics_path = folder->file("metrics.jsonl"), last = folder->file("last.safetensors"),
                    best = folder->file("best.safetensors");

  Standing standing;
  if (!folder->checkpoint().empty()) {
    const SafetensorsFile file(folder->checkpoint());
    standing = standing_in(file);
    trainer.load(file);
    if (trainer.steps() > c.steps)
      throw refuse(kWhere, "--steps is {}, needs at least {}, the steps in {}; it counts from the start of the run", c.steps, trainer.steps(),
                   folder->checkpoint());
  }
  const int64_t first = trainer.steps();
  write_whole(kWhere, folder->file("config.toml"), toml_of(c));
  cut_metrics(metrics_path, first);

  fmt::print("{}\n\n{}\n", data_text(corpus), toml_of(c));
  if (!flags.resume.empty()) fmt::print("resumed after step {} of {}\n\n", first, c.steps);
  const DescribeOptions sizes{.batch = (c.batch + c.accumulate - 1) / c.accumulate, .tokens = c.context, .segments = corpus.documents() > 1,
                              .moments = int64_t(trainer.arena().memories().size()) + (c.ema > 0)};
  fmt::print("{}\n", describe(model, sizes));
  std::fflush(stdout);
  const std::vector<double> ngrams = Ngram(corpus.train()).score(corpus.validation());

  const auto save_last = [&](int64_t step) {
    trainer.save(last, metadata_of(c, standing));
    folder->keep_last(step, c.keep);
  };
  std::string saved = folder->checkpoint();
  int64_t saved_step = first;
  const double began = seconds_now();
  int64_t step = first;
  {
    MetricsWriter metrics(metrics_path, true);
    Progress progress(c.steps, c.batch * c.context, first);
    Stepping stepping(trainer, model, c, corpus.documents() > 1);
    std::optional<Profile> profile;
    std::vector<StepReport> unread;   // on CUDA reading a report waits for the device: done where a line or a file is written
    while (step < c.steps && !interrupted()) {
      const int64_t timed_until = c.profile > 0 ? first + 1 + c.profile : 0;   // the first step fills the memory pool
      if (step == first + 1 && step < timed_until) profile.emplace(place.device);
      if (profile) profile->resume();
      const double rate = schedule(step);
      unread.push_back(stepping(corpus.draw(uint64_t(c.seed), standing.cursor, c.batch, c.accumulate), {.rate = rate, .clip = c.clip},
                                step < timed_until));
      const int64_t drawn_from = std::exchange(standing.cursor, standing.cursor + c.batch);
      ++step;
      if (profile) profile->pause();
      if (profile && (step == c.steps || step == timed_until)) {
        progress.pause();
        fmt::print("{}\n", profile_table(*profile, step - first - 1, product_rate(place)));
        std::fflush(stdout);
        profile.reset();
      }

      const bool evaluates = step % c.eval_every == 0 || step == c.steps, saves = step % c.save_every == 0 || step == c.steps;
      const bool logs = evaluates || step % c.log_every == 0 || step == 1;
      if (place.device.is_cuda() && !saves && !logs && int64_t(unread.size()) < kStepRecords / 2) continue;
      for (const StepReport& report : unread) {
        if (report.finite()) continue;
        std::string why;
        const int64_t cursor = drawn_from - (step - 1 - report.index()) * c.batch;
        for (const Batch& piece : corpus.draw(uint64_t(c.seed), cursor, c.batch, c.accumulate))
          if (why.empty() || why.ends_with("are finite")) why = trainer.explain_nonfinite(piece);
        const std::string left =
            saved.empty() ? "no checkpoint was written before it" : fmt::format("the checkpoint of step {} is {}", saved_step, saved);
        throw refuse(kWhere, "step {} has loss {} and gradient norm {}, needs both finite: {}; lower --lr; {}", report.index() + 1,
                     report.loss(), report.grad_norm(), why, left);
      }
      Measured measured{.step = step, .loss = unread.back().loss(), .lr = rate, .grad_norm = unread.back().grad_norm()};
      unread.clear();
      if (!saves && !logs) continue;
      progress.step(step, measured.loss);
      measured.tokens_per_s = progress.tokens_per_s();
      if (evaluates || saves) progress.pause();
      if (evaluates)
        trainer.averaged([&] {
          if (const auto score = corpus.evaluate(model)) measured.val_loss = score->nats;
        });
      if (measured.val_loss) progress.validated(*measured.val_loss);
      // In this order a process that is killed anywhere loses nothing: what last.safetensors does not know yet is done again.
      if (logs) metrics.write(measured);
      if (saves) metrics.flush();
      if (measured.val_loss && *measured.val_loss < standing.best) {
        standing.best = *measured.val_loss;
        trainer.save(best, metadata_of(c, standing));
      }
      if (saves) save_last(step), saved = last, saved_step = step;
    }
    progress.finish();
  }
  const double seconds = seconds_now() - began;
  if (interrupted() && step > saved_step) save_last(step);
  const Plot curve = curve_of(metrics_path, fmt::format("{} on {} bytes", c.recipe, corpus.text().bytes.size()), ngrams,
                              corpus.text().entropy_nats_per_byte);
  write_svg(folder->file("curve.svg"), curve);
  if (interrupted() && step < c.steps) {
    fmt::print(stderr, "[train] interrupted after step {} of {}; saved in {}; to go on: ttr train --resume {}\n", step, c.steps, last, folder->path());
    return kInterrupted;
  }

  const Outcome outcome = outcome_in(metrics_path);
  fmt::print("\n{}\n", terminal(curve));
  if (step > first)
    fmt::print("{} steps in {:.1f} s, {} tokens/s with validation\n", step - first, seconds,
               rate_text(double((step - first) * c.batch * c.context) / seconds));
  fmt::print("validation, nats per byte over {} targets{}\n", corpus.targets(),
             corpus.documents() > 1 ? "; the n-grams do not know where documents end" : "");
  for (size_t order = 0; order < ngrams.size(); ++order) fmt::print("  {:<24} {:.4f}\n", fmt::format("byte n-gram, order {}", order), ngrams[order]);
  if (corpus.text().entropy_nats_per_byte) fmt::print("  {:<24} {:.4f}\n", "the grammar's entropy", *corpus.text().entropy_nats_per_byte);
  fmt::print("  {:<24} {:.4f}  (training {:.4f}, best {:.4f})\n", c.recipe.size() > 24 ? "this model" : c.recipe,
             outcome.last_val.value_or(std::nan("")), outcome.last_loss, standing.best);
  SampleOptions sampling;
  sampling.seed = c.seed;
  trainer.averaged([&] {
    fmt::print("\nsample, temperature {}\n{}\n", sampling.temperature, for_people(continuation(model, sampling, c.context)));
  });
  fmt::print("\nwritten to {}\n", folder->path());
  return 0;
}

}  // namespace ttr
