// Tokens and batches of a text.
#include <algorithm>
#include <ttr/apps/tokens.hpp>

namespace ttr {

std::int64_t Tokens::document_of(std::int64_t at) const { return std::upper_bound(ends.begin(), ends.end(), at) - ends.begin(); }

Tokens tokens_of(const Tokenizer& tokenizer, const Documents& documents, std::int64_t begin, std::int64_t end) {
  Tokens tokens;
  for (std::int64_t at = begin; at < end;) {
    const std::int64_t next = std::min(end, documents.ends[size_t(documents.document_of(at))]);
    const std::vector<std::int32_t> document = tokenizer.encode(std::string_view(documents.bytes).substr(size_t(at), size_t(next - at)));
    tokens.ids.insert(tokens.ids.end(), document.begin(), document.end());
    tokens.ends.push_back(tokens.count());
    at = next;
  }
  return tokens;
}

Batch batch_of(const Tokens& tokens, const std::vector<std::int64_t>& starts, std::int64_t length) {
  std::vector<std::int32_t> input, target, segments;
  for (const std::int64_t start : starts) {
    std::int64_t document = tokens.document_of(start);
    for (std::int64_t i = start; i < start + length; ++i) {
      const bool ends = i + 1 == tokens.ends[size_t(document)];
      input.push_back(tokens.ids[size_t(i)]);
      target.push_back(ends ? -1 : tokens.ids[size_t(i) + 1]);
      segments.push_back(std::int32_t(document));
      document += ends;
    }
  }
  const Shape shape{std::int64_t(starts.size()), length};
  return {from_vector(input, shape), from_vector(target, shape), tokens.ends.size() > 1 ? from_vector(segments, shape) : Tensor()};
}

}  // namespace ttr
