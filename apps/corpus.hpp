// Corpus: what a run is trained and validated on, as tokens and as batches. A batch is a function of the seed and of how many windows were drawn
// before it, the data cursor, so that a resumed run goes on with the windows it would have seen.
#pragma once
#include <optional>
#include <ttr/apps/run_config.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/apps/tokens.hpp>

namespace ttr {

class Corpus {
 public:
  // tokenizer: of the run that goes on; without one it is made as the configuration says.
  Corpus(Text, const RunConfig&, std::optional<Tokenizer> tokenizer = {});
  Corpus(const Corpus&) = delete;

  const Text& text() const { return text_; }                              // without what separated the documents
  const Split& split() const { return split_; }                           // in bytes
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const Tokens& train() const { return train_; }
  const Tokens& validation() const { return validation_; }
  int64_t documents() const { return int64_t(documents_.ends.size()); }
  double bytes_per_token() const { return double(split_.train.size()) / double(train_.count()); }   // of the training part

  // The windows cursor, cursor + 1, ..., cursor + rows - 1 in `pieces` batches.
  std::vector<Batch> draw(uint64_t seed, int64_t cursor, int64_t rows, int64_t pieces) const;

 private:
  int64_t context_;
  Documents documents_;
  Text text_;
  Split split_;
  Tokenizer tokenizer_;
  Tokens train_, validation_;
};

std::string about(const Corpus&);   // which text, how it is split, how it is spelled: a paragraph for the user

}  // namespace ttr
