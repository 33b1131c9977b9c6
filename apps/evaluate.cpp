// Evaluation: windows of equal length go through the model side by side.
#include <algorithm>
#include <cmath>
#include <functional>
#include <ttr/apps/evaluate.hpp>
#include <ttr/apps/interrupt.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/core/ops.hpp>

namespace ttr {
namespace {

// Tokens of one forward pass, at most, and scores of tokens, unless one window has more. A CPU is fastest where a layer's activations stay in its caches.
constexpr std::int64_t kCpuTokens = 1024, kCudaTokens = 8192, kScores = kCudaTokens * 256;

// f(logits [rows, length, vocab], target [rows, length] on the model's device and as numbers) for the windows in order; false when interrupted.
bool each_pass(const LanguageModel& model, const Tokens& tokens, std::int64_t context,
               const std::function<void(const Tensor&, const Tensor&, const std::vector<std::int32_t>&)>& f) {
  const Recording off(false);
  const Device device = model.embed.weight->device();
  const std::vector<Window> windows = validation_windows(tokens.count(), context);
  const std::int64_t most = std::max<std::int64_t>(1, std::min(device.is_cuda() ? kCudaTokens : kCpuTokens, kScores / model.options.vocab) / context);
  if (tokens.count() - std::int64_t(tokens.ends.size()) < 1)
    throw refuse("data", "the text has 0 targets in its {} tokens, needs some; bring longer documents", tokens.count());
  for (size_t at = 0; at < windows.size();) {
    std::vector<std::int64_t> starts;
    const std::int64_t length = windows[at].length;
    while (at < windows.size() && windows[at].length == length && std::int64_t(starts.size()) < most) starts.push_back(windows[at++].start);
    const Batch b = batch_of(tokens, starts, length);
    Pass pass;
    if (b.segments.defined()) pass.segments = to_device(b.segments, device);
    f(model(to_device(b.input, device), pass), to_device(b.target, device), b.target.to_vector<std::int32_t>());
    if (interrupted()) return false;
  }
  return true;
}

}  // namespace

double bits_per_byte(double nats_per_token, double bytes_per_token) { return nats_per_token / bytes_per_token / std::log(2.0); }

double Score::standard_error() const {
  const double mean = nats_per_token(), n = double(targets);
  return targets < 2 ? std::nan("") : std::sqrt(std::max(0.0, squares / n - mean * mean) / (n - 1));
}

Score targets_of(const Tokenizer& tokenizer, const Tokens& tokens) {
  Score score;
  for (std::int64_t i = 1, document = 0; i < tokens.count(); ++i) {
    const bool begins = i == tokens.ends[size_t(document)];
    document += begins;
    if (!begins) ++score.targets, score.bytes += std::int64_t(tokenizer.piece(tokens.ids[size_t(i)]).size());
  }
  return score;
}

std::optional<Score> evaluate(const LanguageModel& model, const Tokenizer& tokenizer, const Tokens& tokens, std::int64_t context) {
  Score score = targets_of(tokenizer, tokens);
  const bool done = each_pass(model, tokens, context, [&](const Tensor& logits, const Tensor& target, const std::vector<std::int32_t>&) {
    score.nats += cross_entropy(logits, target, false).item();
  });
  if (!done) return {};
  return score;
}

std::optional<std::vector<Score>> evaluate_by_position(const LanguageModel& model, const Tokenizer& tokenizer, const Tokens& tokens,
                                                       std::int64_t context) {
  std::vector<Score> scores(size_t(std::min(context, std::max<std::int64_t>(tokens.count() - 1, 0))));
  const bool done = each_pass(model, tokens, context, [&](const Tensor& logits, const Tensor& target, const std::vector<std::int32_t>& numbers) {
    const Tensor some = cast(logits, logits.dtype() == Dtype::f64 ? Dtype::f64 : Dtype::f32);
    std::vector<std::int32_t> known = numbers;   // any token where there is no target
    for (std::int32_t& t : known) t = std::max(t, 0);
    const Tensor picked = pick(some, to_device(from_vector(known, target.shape()), target.device()));
    const std::vector<double> nats = (logsumexp(some, -1) - picked).to_vector<double>();
    const size_t length = size_t(target.size(1));
    for (size_t i = 0; i < nats.size(); ++i) {
      if (numbers[i] < 0) continue;
      Score& score = scores[i % length];
      score.nats += nats[i], score.squares += nats[i] * nats[i], ++score.targets;
      score.bytes += std::int64_t(tokenizer.piece(numbers[i]).size());
    }
  });
  if (!done) return {};
  return scores;
}

Score total_of(const std::vector<Score>& scores) {
  Score total;
  for (const Score& s : scores) total.nats += s.nats, total.squares += s.squares, total.targets += s.targets, total.bytes += s.bytes;
  return total;
}

}  // namespace ttr
