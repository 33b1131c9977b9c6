// Learning byte pairs from a text: which pairs of neighbouring tokens to merge, the most frequent first (apps/tokenizer.hpp says what they are for).
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace ttr {

inline std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

std::size_t chunk_length(std::string_view text, std::size_t at);   // of the chunk that begins there; at least 1, at < text.size()

// Every left right of `tokens`, from the front, becomes `made`; how many tokens are left.
std::size_t merge_pairs(std::span<std::int32_t> tokens, std::int32_t left, std::int32_t right, std::int32_t made);

// At most `most` merges, in order; merge i makes token 256 + i. Of equally frequent pairs the smaller comes first; none that occurs once.
std::vector<std::pair<std::int32_t, std::int32_t>> frequent_pairs(std::string_view text, std::int64_t most);

}  // namespace ttr
