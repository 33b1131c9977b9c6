// ttr eval: the model and the text, the table, and the losses by position.
#include <cmath>
#include <filesystem>
#include <ttr/apps/by_position.hpp>
#include <ttr/apps/documents.hpp>
#include <ttr/apps/eval.hpp>
#include <ttr/apps/interrupt.hpp>
#include <ttr/apps/loss_table.hpp>
#include <ttr/apps/ngram.hpp>
#include <ttr/apps/place.hpp>
#include <ttr/apps/run.hpp>
#include <ttr/apps/screen.hpp>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWhere = "eval";

// What the model saw. Its files may be gone: then there is only the reason why.
struct Own {
  std::optional<Text> text;
  Documents documents;
  std::int64_t train = 0;   // bytes of the training part
  std::string missing;
};

Own own_text(const RunConfig& c, bool needed) {
  Own own;
  try {
    own.text = text_of(c);
  } catch (const Error& e) {
    if (needed) throw;
    own.missing = e.what();
    return own;
  }
  own.documents = split_documents(std::move(own.text->bytes), c.documents);
  own.text->bytes = own.documents.bytes;
  own.train = std::int64_t(split_text(*own.text, c.context).train.size());
  return own;
}

std::string folder_for(const EvalOptions& o, const Run& run) {
  if (o.out.empty()) return fs::path(run.file).parent_path().string();
  std::error_code error;
  fs::create_directories(o.out, error);
  if (!fs::is_directory(o.out, error)) throw refuse(kWhere, "--out {} cannot be made ({}), needs a folder", o.out, error.message());
  return o.out;
}

}  // namespace

int eval_model(const EvalOptions& o) {
  catch_interrupts();
  const Run run = load_run(kWhere, o.from, place_named(o.device, o.dtype));
  const RunConfig& c = run.config;
  const std::int64_t context = o.context ? o.context : c.context;
  const Own own = own_text(c, o.data.empty());

  Text text;
  Documents documents;
  if (!o.data.empty()) {
    text = load_text({.files = o.data, .seed = std::uint64_t(c.seed)});
    documents = split_documents(std::move(text.bytes), c.documents);
  }
  std::int64_t begin = 0;
  std::string part;
  if (own.text && (o.data.empty() || documents.bytes == own.documents.bytes)) {
    text = *own.text, documents = own.documents;
    begin = own.train;
    part = "; the part it was validated on";
  }
  const auto end = std::int64_t(documents.bytes.size());
  const Tokens tokens = tokens_of(run.tokenizer, documents, begin, end);
  const std::string_view scored = std::string_view(documents.bytes).substr(size_t(begin));
  if (tokens.count() < 2) throw refuse(kWhere, "the text has {} tokens, needs at least 2: the first is only read", tokens.count());

  const std::string folder = o.by_position ? folder_for(o, run) : "";
  fmt::print("model: {}, {}\ntext: {}{}, {} bytes", run.file, c.recipe, text.source, part, scored.size());
  if (!run.tokenizer.is_byte()) fmt::print(" in {} tokens of {} ({})", tokens.count(), run.tokenizer.vocab(), run.tokenizer.kind());
  fmt::print("\ncontext: {}{}\n\n", context, context == c.context ? "" : fmt::format(", trained on {}", c.context));
  std::fflush(stdout);

  Yardsticks yardsticks{.ngrams = {}, .entropy = text.entropy_nats_per_byte};
  if (own.text) yardsticks.ngrams = Ngram(std::string_view(own.documents.bytes).substr(0, size_t(own.train))).score(scored);
  else fmt::print("no n-grams, which are counted on the run's own text: {}\n", own.missing);

  Score score;
  std::vector<Score> positions;
  if (o.by_position) {
    auto found = evaluate_by_position(run.model, run.tokenizer, tokens, context);
    if (!found) return kInterrupted;
    positions = std::move(*found);
    score = total_of(positions);
  } else {
    const auto found = evaluate(run.model, run.tokenizer, tokens, context);
    if (!found) return kInterrupted;
    score = *found;
  }
  fmt::print("loss over {} targets\n{}", score.targets, loss_table(c.recipe, score, run.tokenizer, yardsticks));
  if (!o.by_position) return 0;

  const Plot plot = by_position_plot(c.recipe, positions, {.bits = !run.tokenizer.is_byte()}, yardsticks, context > c.context ? c.context : 0);
  const std::string csv = (fs::path(folder) / kByPosition).string() + ".csv", drawing = (fs::path(folder) / kByPosition).string() + ".svg";
  write_by_position(csv, positions);
  write_svg(drawing, plot);
  fmt::print("\n{}\nwritten to {} and {}\n", on_screen(plot), csv, drawing);
  return 0;
}

}  // namespace ttr
