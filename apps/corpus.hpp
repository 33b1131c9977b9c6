// Corpus: what a run is trained and validated on, as batches. A batch is a function of the seed and of how many windows were drawn before it, the
// data cursor, so that a resumed run goes on with the windows it would have seen.
#pragma once
#include <optional>
#include <ttr/apps/documents.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/layers/language_model.hpp>

namespace ttr {

struct Batch {        // i32 [rows, T]
  Tensor input;
  Tensor target;      // input one byte later; -1 where that byte is of another document
  Tensor segments;    // the documents' numbers; undefined where the text is one
  void each(auto&& f) {
    f("input", input), f("target", target);
    if (segments.defined()) f("segments", segments);
  }
};

class Corpus {
 public:
  Corpus(Text text, const std::string& separator, int64_t context);   // separator of documents; "": one
  Corpus(const Corpus&) = delete;

  std::string_view train() const { return split_.train; }
  std::string_view validation() const { return split_.validation; }
  const Text& text() const { return text_; }
  int64_t documents() const { return int64_t(documents_.ends.size()); }
  int64_t targets() const;   // of the validation part: every byte but the first one, and none across a border

  // The windows cursor, cursor + 1, ..., cursor + rows - 1 in `pieces` batches.
  std::vector<Batch> draw(uint64_t seed, int64_t cursor, int64_t rows, int64_t pieces) const;

  struct Score { double nats = 0; int64_t targets = 0; };   // nats per target
  std::optional<Score> evaluate(const LanguageModel&) const;   // on the validation part; nothing when interrupted

 private:
  Batch batch_of(const std::vector<int64_t>& starts, int64_t length) const;   // starts: in the whole text

  int64_t context_;
  Documents documents_;
  Text text_;
  Split split_;
};

}  // namespace ttr
