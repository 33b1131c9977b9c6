// What a language model pays for a text: the tokens are cut into consecutive windows (apps/text.hpp), each read from an empty memory. Every token
// is the target of exactly one window, but for the first of each document.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>
#include <ttr/apps/tokens.hpp>
#include <ttr/layers/language_model.hpp>

namespace ttr {

double bits_per_byte(double nats_per_token, double bytes_per_token);

struct Score {
  double nats = 0, squares = 0;             // of the targets; of each, squared
  std::int64_t targets = 0, bytes = 0;      // bytes: what the targets stand for

  double nats_per_token() const { return nats / double(targets); }
  double bytes_per_token() const { return double(bytes) / double(targets); }
  double bits_per_byte() const { return ttr::bits_per_byte(nats_per_token(), bytes_per_token()); }
  double standard_error() const;            // of nats_per_token, if targets were independent; needs squares
};

Score targets_of(const Tokenizer&, const Tokens&);   // how many there are, and their bytes

// Of all targets; nothing when interrupted. squares are not filled.
std::optional<Score> evaluate(const LanguageModel&, const Tokenizer&, const Tokens&, std::int64_t context);

// By position: [p] is of the targets that are predicted from p + 1 tokens of their window. Together they are evaluate's.
std::optional<std::vector<Score>> evaluate_by_position(const LanguageModel&, const Tokenizer&, const Tokens&, std::int64_t context);
Score total_of(const std::vector<Score>&);

}  // namespace ttr
