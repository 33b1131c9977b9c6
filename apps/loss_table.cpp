// The table of losses.
#include <cmath>
#include <fmt/core.h>
#include <ttr/apps/loss_table.hpp>

namespace ttr {

std::string loss_table(const std::string& model, const Score& score, const Tokenizer& tokenizer, const Yardsticks& yardsticks, const std::string& more) {
  const double bytes = score.bytes_per_token();
  std::string text =
      fmt::format("  {:<24} {:>14} {:>13}\n", "", tokenizer.is_byte() ? "nats per byte" : "nats per token", "bits per byte");
  const auto row = [&](const std::string& name, double nats_per_token, const std::string& end) {
    text += fmt::format("  {:<24} {:>14.4f} {:>13.4f}{}\n", name, nats_per_token, bits_per_byte(nats_per_token, bytes), end);
  };
  for (size_t order = 0; order < yardsticks.ngrams.size(); ++order) row(fmt::format("byte n-gram, order {}", order), yardsticks.ngrams[order] * bytes, "");
  std::string distance;
  if (yardsticks.entropy) {
    row("the grammar's entropy", *yardsticks.entropy * bytes, "  no model is better on average");
    const double above = score.bits_per_byte() - bits_per_byte(*yardsticks.entropy, 1);
    distance = fmt::format("  {:.4f} bits per byte {} the entropy", std::abs(above), above < 0 ? "below" : "above");
  }
  row(model.size() > 24 ? "this model" : model, score.nats_per_token(), distance + more);
  return text;
}

}  // namespace ttr
