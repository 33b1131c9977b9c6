// ttr train: the run from configuration to files.
#include <chrono>
#include <cmath>
#include <optional>
#include <unistd.h>
#include <ttr/apps/checkpoint.hpp>
#include <ttr/apps/corpus.hpp>
#include <ttr/apps/curve.hpp>
#include <ttr/apps/interrupt.hpp>
#include <ttr/apps/metrics.hpp>
#include <ttr/apps/ngram.hpp>
#include <ttr/apps/place.hpp>
#include <ttr/apps/profile_table.hpp>
#include <ttr/apps/progress.hpp>
#include <ttr/apps/run.hpp>
#include <ttr/apps/sample.hpp>
#include <ttr/apps/screen.hpp>
#include <ttr/apps/train.hpp>
#include <ttr/apps/utf8.hpp>
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
  const Pass pass{.segments = b.segments, .dropout_key = key.key, .dropout_row = key.row};
  return {cross_entropy(model(b.input, pass), b.target, false), label_count(b.target)};
}
using ModelTrainer = Trainer<LanguageModel, Loss (*)(const LanguageModel&, const Batch&, StepKey)>;

// What a step holds at the very least, before anything is made that the machine would only kill us for: weights, gradients and two moments,
// logits and a stream a block.
void check_memory(const RunConfig& c, int64_t vocab, Options place) {
  if (place.device.is_cuda()) return;
  const double dim = double(c.dim), tokens = double(c.context) * double((c.batch + c.accumulate - 1) / c.accumulate), blocks = double(c.blocks);
  const double numbers = 4 * (double(vocab) * dim + blocks * 4 * dim * dim) + tokens * (double(vocab) + blocks * dim);
  const double least = numbers * double(bytes_of(place.dtype)), most = double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGESIZE));
  if (least > most)
    throw refuse(kWhere, "a step with --dim {}, --blocks {}, --batch {} and --context {} takes at least {:.0f} GB, "
                 "needs at most the {:.0f} GB of this machine; lower one",
                 c.dim, c.blocks, c.batch, c.context, least * 1e-9, most * 1e-9);
}

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

double seconds_now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

int train_model(const TrainFlags& flags) {
  catch_interrupts();
  std::optional<RunFolder> folder;
  if (!flags.resume.empty()) folder.emplace(RunFolder::resumed(flags.resume));
  RunConfig c = resolve(flags, folder ? &*folder : nullptr);
  const Options place = place_named(c.device, c.dtype);
  const Schedule schedule{.rate = c.lr, .kind = schedule_kind(c.schedule), .warmup = c.warmup, .schedule_steps = c.schedule_steps,
                          .floor = c.schedule == "constant" ? 1.0 : 0.1};
  schedule(0);   // refuses what does not fit together before anything is made
  if (!folder) folder.emplace(RunFolder::fresh(c.out));
  std::optional<Tokenizer> known;
  if (!folder->checkpoint().empty()) known = tokenizer_in(SafetensorsFile(folder->checkpoint()));
  Text text = text_of(c);
  c.data = text.files;   // a run on the installed Bible never goes on with a grammar
  const Corpus corpus(std::move(text), c, known);
  const Tokenizer& tokenizer = corpus.tokenizer();
  check_memory(c, tokenizer.vocab(), place);
  if (!folder->checkpoint().empty()) check_sizes(kWhere, c, tokenizer.vocab(), SafetensorsFile(folder->checkpoint()));
  LanguageModel model = model_of(c, tokenizer.vocab(), place);
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
  const DescribeOptions sizes{.batch = (c.batch + c.accumulate - 1) / c.accumulate, .tokens = c.context, .segments = corpus.documents() > 1,
                              .moments = int64_t(trainer.arena().memories().size()) + (c.ema > 0)};
  const std::string description = describe(model, sizes);   // refuses a route that is not there, before anything is written
  write_whole(kWhere, folder->file("config.toml"), toml_of(c));
  cut_metrics(metrics_path, first);

  fmt::print("{}\n\n{}\n", about(corpus), toml_of(c));
  if (!flags.resume.empty()) fmt::print("resumed after step {} of {}\n\n", first, c.steps);
  fmt::print("{}\n", description);
  std::fflush(stdout);
  const Yardsticks yardsticks{.ngrams = Ngram(corpus.split().train).score(corpus.split().validation), .entropy = corpus.text().entropy_nats_per_byte};
  const double bits = bits_per_byte(1, corpus.bytes_per_token());   // of a nat of the training loss

  const auto save_last = [&](int64_t step) {
    trainer.save(last, metadata_of(c, tokenizer, standing));
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
    std::optional<ProductRate> products;
    std::vector<StepReport> unread;   // on CUDA reading a report waits for the device: done where a line or a file is written
    while (step < c.steps && !interrupted()) {
      const int64_t timed_until = c.profile > 0 ? first + 1 + c.profile : 0;   // the first step fills the memory pool
      if (step == first + 1 && step < timed_until) products.emplace(place), profile.emplace(place.device);
      if (profile) profile->resume();
      const double rate = schedule(step);
      unread.push_back(stepping(corpus.draw(uint64_t(c.seed), standing.cursor, c.batch, c.accumulate), {.rate = rate, .clip = c.clip},
                                step < timed_until));
      const int64_t drawn_from = std::exchange(standing.cursor, standing.cursor + c.batch);
      ++step;
      if (profile) profile->pause();
      if (profile && (step - first) % 4 == 0) products->take();
      if (profile && (step == c.steps || step == timed_until)) {
        progress.pause();
        products->take();
        fmt::print("{}\n", profile_table(*profile, step - first - 1, products->median()));
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
      if (!tokenizer.is_byte()) measured.bits_per_byte = bits * measured.loss;
      progress.step(step, measured.loss, measured.bits_per_byte);
      measured.tokens_per_s = progress.tokens_per_s();
      if (evaluates || saves) progress.pause();
      if (evaluates)
        trainer.averaged([&] {
          if (const auto score = evaluate(model, tokenizer, corpus.validation(), c.context)) {
            measured.val_loss = score->nats_per_token();
            if (!tokenizer.is_byte()) measured.val_bits_per_byte = score->bits_per_byte();
          }
        });
      if (measured.val_loss) progress.validated(*measured.val_loss, measured.val_bits_per_byte);
      // In this order a process that is killed anywhere loses nothing: what last.safetensors does not know yet is done again.
      if (logs) metrics.write(measured);
      if (saves) metrics.flush();
      if (measured.val_loss && *measured.val_loss < standing.best) {
        standing.best = *measured.val_loss;
        trainer.save(best, metadata_of(c, tokenizer, standing));
      }
      if (saves) save_last(step), saved = last, saved_step = step;
    }
    progress.finish();
  }
  const double seconds = seconds_now() - began;
  if (interrupted() && step > saved_step) save_last(step);
  const Plot curve =
      curve_of(metrics_path, fmt::format("{} on {} bytes", c.recipe, corpus.text().bytes.size()), {.bits = !tokenizer.is_byte()}, yardsticks);
  write_svg(folder->file("curve.svg"), curve);
  if (interrupted() && step < c.steps) {
    fmt::print(stderr, "[train] interrupted after step {} of {}; saved in {}; to go on: ttr train --resume {}\n", step, c.steps, last, folder->path());
    return kInterrupted;
  }

  const Outcome outcome = outcome_in(metrics_path);
  fmt::print("\n{}\n", on_screen(curve));
  if (step > first)
    fmt::print("{} steps in {:.1f} s, {} tokens/s with validation\n", step - first, seconds,
               rate_text(double((step - first) * c.batch * c.context) / seconds));
  Score score = targets_of(tokenizer, corpus.validation());
  score.nats = outcome.last_val.value_or(std::nan("")) * double(score.targets);
  const auto in_bits = [&](double loss, double per_nat) { return tokenizer.is_byte() ? "" : fmt::format(" ({:.4f} bits per byte)", loss * per_nat); };
  fmt::print("validation, {} over {} targets{}\n{}", tokenizer.is_byte() ? "nats per byte" : "nats per token", score.targets,
             corpus.documents() > 1 ? "; the n-grams do not know where documents end" : "", loss_table(c.recipe, score, tokenizer, yardsticks));
  fmt::print("  training {:.4f}{}, best validation {:.4f}{}\n", outcome.last_loss, in_bits(outcome.last_loss, bits), standing.best,
             in_bits(standing.best, bits_per_byte(1, score.bytes_per_token())));
  SampleOptions sampling;
  sampling.seed = c.seed;
  trainer.averaged([&] {
    fmt::print("\nsample, temperature {}\n{}\n", sampling.draw.temperature, for_people(continuation(model, tokenizer, sampling, c.context)));
  });
  fmt::print("\nwritten to {}\n", folder->path());
  return 0;
}

}  // namespace ttr
