// A text as tokens, with the borders of its documents, and the batches cut from it.
#pragma once
#include <cstdint>
#include <vector>
#include <ttr/apps/documents.hpp>
#include <ttr/apps/tokenizer.hpp>
#include <ttr/core/tensor.hpp>

namespace ttr {

struct Tokens {
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> ends;   // one past the last token of each document; ascending, the last is the number of tokens

  std::int64_t count() const { return std::int64_t(ids.size()); }
  std::int64_t document_of(std::int64_t at) const;   // which one holds token `at`
};

// Of the bytes [begin, end) of the documents. No token crosses a border.
Tokens tokens_of(const Tokenizer&, const Documents&, std::int64_t begin, std::int64_t end);

struct Batch {        // i32 [rows, T]
  Tensor input;
  Tensor target;      // input one token later; -1 where that token is of another document
  Tensor segments;    // the documents' numbers; undefined where the text is one
  void each(auto&& f) {
    f("input", input), f("target", target);
    if (segments.defined()) f("segments", segments);
  }
};

Batch batch_of(const Tokens&, const std::vector<std::int64_t>& starts, std::int64_t length);

}  // namespace ttr
