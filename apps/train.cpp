// ttr train: the run from configuration to files.
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <ttr/apps/interrupt.hpp>
#include <ttr/apps/metrics.hpp>
#include <ttr/apps/ngram.hpp>
#include <ttr/apps/place.hpp>
#include <ttr/apps/plot.hpp>
#include <ttr/apps/profile_table.hpp>
#include <ttr/apps/progress.hpp>
#include <ttr/apps/sample.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/apps/train.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/random_kernel.hpp>
#include <ttr/layers/describe.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/vocabulary.hpp>
#include <ttr/optim/schedule.hpp>
#include <ttr/optim/trainer.hpp>

namespace ttr {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWhere = "train";
constexpr uint64_t kDataStream = 0x64617461;   // of the seed's random numbers, apart from those of the initial values

struct Batch {   // i32 [rows, T]; target is input one byte later
  Tensor input, target;
  void each(auto&& f) { f("input", input), f("target", target); }
};

Batch batch_of(std::string_view text, const std::vector<int64_t>& starts, int64_t length) {
  std::vector<int32_t> input, target;
  for (const int64_t start : starts)
    for (int64_t i = start; i < start + length; ++i) {
      input.push_back(int32_t(static_cast<unsigned char>(text[size_t(i)])));
      target.push_back(int32_t(static_cast<unsigned char>(text[size_t(i) + 1])));
    }
  const Shape shape{int64_t(starts.size()), length};
  return {from_vector(input, shape), from_vector(target, shape)};
}

Batch training_batch(std::string_view text, const RunConfig& c, int64_t step) {
  return batch_of(text,
                  sample_windows(int64_t(text.size()), c.context, c.batch, uint64_t(step),
                                 [&](uint64_t i) {
                                   return uniform<double>({uint64_t(c.seed), kDataStream}, i);
                                 }),
                  c.context);
}

// Mean nats per byte over every target of the text; nothing when interrupted.
std::optional<double> evaluate(const LanguageModel& model, std::string_view text, const RunConfig& c) {
  constexpr int64_t kTokens = 8192;   // of one forward pass
  const Recording off(false);
  const Device device = model.embed.weight->device();
  const std::vector<Window> windows = validation_windows(int64_t(text.size()), c.context);
  const size_t most = size_t(std::max<int64_t>(1, kTokens / c.context));
  double total = 0;
  for (size_t at = 0; at < windows.size();) {
    std::vector<int64_t> starts;
    const int64_t length = windows[at].length;
    while (at < windows.size() && windows[at].length == length && starts.size() < most) starts.push_back(windows[at++].start);
    const Batch b = batch_of(text, starts, length);
    total += cross_entropy(model(to_device(b.input, device)), to_device(b.target, device), false).item();
    if (interrupted()) return {};
  }
  return total / double(text.size() - 1);
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  if (!file.flush()) throw refuse(kWhere, "{} cannot be written, needs a folder that can", path);
}

void prepare_folder(const std::string& out) {
  std::error_code error;
  if (fs::exists(out, error) && !fs::is_directory(out, error)) throw refuse(kWhere, "--out {} is a file, needs a new or empty folder", out);
  if (fs::exists(out, error) && !fs::is_empty(out, error))
    throw refuse(kWhere, "--out {} is not empty, needs a new or empty folder; no run is overwritten", out);
  fs::create_directories(out, error);
  if (!fs::is_directory(out)) throw refuse(kWhere, "--out {} cannot be made: {}", out, error.message());
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

}  // namespace

int train_model(RunConfig c) {
  const Options place = place_named(c.device, c.dtype);
  const Recipe recipe = parse_recipe(c.recipe);
  c.ingredients = recipe.text();
  if (c.warmup < 0) c.warmup = std::min<int64_t>(100, c.steps / 10);
  if (c.eval_every == 0) c.eval_every = std::max<int64_t>(1, (c.steps + 3) / 4);
  const Schedule schedule{.rate = c.lr, .kind = schedule_kind(c.schedule), .warmup = c.warmup, .schedule_steps = c.schedule_steps ? c.schedule_steps : c.steps,
                          .floor = c.schedule == "constant" ? 1.0 : 0.1};
  schedule(0);   // refuses what does not fit together before anything is made
  const Text text = load_text({.file = c.data, .seed = uint64_t(c.seed)});
  const Split split = split_text(text, c.context);
  prepare_folder(c.out);
  const auto in_out = [&](const char* name) { return (fs::path(c.out) / name).string(); };
  write_text(in_out("config.toml"), toml_of(c));
  catch_interrupts();

  fmt::print("text: {}; trained on the first {}, validated on the last {}\n\n{}\n", text.source, split.train.size(), split.validation.size(), toml_of(c));
  LanguageModel model = model_of(c, place);
  fmt::print("{}\n", describe(model, {.batch = c.batch, .tokens = c.context}));
  std::fflush(stdout);
  const std::vector<double> ngrams = Ngram(split.train).score(split.validation);

  Trainer trainer(
      model, AdamW{.beta2 = c.beta2, .decay = c.weight_decay},
      [](const LanguageModel& m, const Batch& b) { return cross_entropy(m(b.input), b.target); }, uint64_t(c.seed));
  const std::map<std::string, std::string> metadata{{"config", json_of(c)}, {"format", "ttr language model"}};
  const auto clock = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
  const double began = clock();
  double best = std::numeric_limits<double>::infinity(), last_loss = std::nan("");
  std::optional<double> last_val;
  int64_t step = 0;
  {
    MetricsWriter metrics(in_out("metrics.jsonl"));
    Progress progress(c.steps, c.batch * c.context);
    std::vector<StepReport> unread;   // reading a report waits for the device, so they are read where a line is written
    std::optional<Profile> profile;
    while (step < c.steps && !interrupted()) {
      if (step == 1 && c.profile > 0) profile.emplace(place.device);   // the first one fills the memory pool
      if (profile) profile->resume();
      const Batch batch = training_batch(split.train, c, step);
      const double rate = schedule(step);
      unread.push_back(trainer.step(batch, {.rate = rate, .clip = c.clip}));
      ++step;
      if (profile) profile->pause();
      if (profile && (step == c.steps || step == c.profile + 1)) {
        progress.pause();
        fmt::print("{}\n", profile_table(*profile, step - 1, product_rate(place)));
        std::fflush(stdout);
        profile.reset();
      }
      const bool evaluates = step % c.eval_every == 0 || step == c.steps;
      if (!evaluates && step % c.log_every != 0 && step != 1) continue;
      for (const StepReport& report : unread)
        if (!report.finite())
          throw refuse(kWhere, "the loss of step {} is {}, needs a finite one: {}; lower --lr", report.index() + 1, report.loss(),
                       trainer.explain_nonfinite(training_batch(split.train, c, report.index())));
      Measured measured{.step = step, .loss = unread.back().loss(), .lr = rate, .grad_norm = unread.back().grad_norm()};
      last_loss = measured.loss;
      unread.clear();
      progress.step(step, measured.loss);
      measured.tokens_per_s = progress.tokens_per_s();
      if (evaluates) {
        progress.pause();
        measured.val_loss = evaluate(model, split.validation, c);
        if (measured.val_loss) {
          last_val = measured.val_loss;
          progress.validated(*last_val);
          trainer.save(in_out("last.safetensors"), metadata);
          if (*last_val < best) best = *last_val, trainer.save(in_out("best.safetensors"), metadata);
        }
      }
      metrics.write(measured);
    }
    progress.finish();
  }
  const double seconds = clock() - began;
  trainer.save(in_out("last.safetensors"), metadata);
  const Plot curve = curve_of(in_out("metrics.jsonl"), fmt::format("{} on {} bytes", c.recipe, text.bytes.size()), ngrams, text.entropy_nats_per_byte);
  write_svg(in_out("curve.svg"), curve);
  if (interrupted()) {
    fmt::print(stderr, "[train] interrupted after step {} of {}; saved in {}\n", step, c.steps, in_out("last.safetensors"));
    return kInterrupted;
  }

  fmt::print("\n{}\n", terminal(curve));
  fmt::print("{} steps in {:.1f} s, {} tokens/s with validation\nvalidation, nats per byte over {} targets\n", c.steps, seconds,
             rate_text(double(c.steps * c.batch * c.context) / seconds), split.validation.size() - 1);
  for (size_t order = 0; order < ngrams.size(); ++order) fmt::print("  {:<24} {:.4f}\n", fmt::format("byte n-gram, order {}", order), ngrams[order]);
  if (text.entropy_nats_per_byte) fmt::print("  {:<24} {:.4f}\n", "the grammar's entropy", *text.entropy_nats_per_byte);
  fmt::print("  {:<24} {:.4f}  (training {:.4f}, best {:.4f})\n", c.recipe.size() > 24 ? "this model" : c.recipe, *last_val, last_loss, best);
  SampleOptions sampling;
  sampling.seed = c.seed;
  const std::string sample = for_people(continuation(model, sampling, c.context));
  fmt::print("\nsample, temperature {}\n{}\n\nwritten to {}\n", sampling.temperature, sample, c.out);
  return 0;
}

}  // namespace ttr
