// A model's loss among what it is to be measured against: byte n-grams, and the entropy of the source where that is known. Every loss stands there
// in nats per token and in bits per byte; only the second can be compared between tokenizers.
#pragma once
#include <optional>
#include <string>
#include <vector>
#include <ttr/apps/evaluate.hpp>

namespace ttr {

struct Yardsticks {                    // of one text, nats per byte
  std::vector<double> ngrams;          // of order 0, 1, ...; may be empty
  std::optional<double> entropy;
};

// A column a unit, a row a predictor, the model last; `more` ends its row.
std::string loss_table(const std::string& model, const Score&, const Tokenizer&, const Yardsticks&, const std::string& more = "");

// How losses are drawn: nats per byte where tokens are bytes, else bits per byte.
struct LossUnit {
  bool bits = false;
  std::string label() const { return bits ? "bits per byte" : "nats per byte"; }
  double of_nats_per_byte(double nats) const { return bits ? bits_per_byte(nats, 1) : nats; }
  double of(const Score& s) const { return of_nats_per_byte(s.nats / double(s.bytes)); }
};

}  // namespace ttr
