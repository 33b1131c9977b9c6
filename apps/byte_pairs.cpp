// Byte pairs: each different chunk of the text is kept once with its count. A merge changes only the chunks that have its pair, so all merges
// together cost little more than reading the text.
#include <algorithm>
#include <queue>
#include <unordered_map>
#include <ttr/apps/byte_pairs.hpp>
#include <ttr/apps/tokenizer.hpp>

namespace ttr {
namespace {

enum class Kind { letter, digit, space, sign };

Kind kind_of(char c) {
  const auto b = static_cast<unsigned char>(c);
  if ((b | 0x20) >= 'a' && (b | 0x20) <= 'z') return Kind::letter;
  if (b >= 0x80) return Kind::letter;   // a part of a character beyond ASCII
  if (b >= '0' && b <= '9') return Kind::digit;
  return b == ' ' || (b >= '\t' && b <= '\r') ? Kind::space : Kind::sign;
}

struct Chunk {
  std::vector<std::int32_t> tokens;
  std::int64_t count = 0;   // in the text
};

struct Candidate {
  std::int64_t count = 0;
  std::uint64_t pair = 0;
  bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : pair > other.pair; }
};

struct Pair {
  std::int64_t count = 0;
  std::vector<std::int32_t> chunks;   // that have it, or had it
};

}  // namespace

std::size_t chunk_length(std::string_view text, std::size_t at) {
  const std::size_t end = std::min(text.size(), at + Tokenizer::kLongestChunk);
  std::size_t i = at;
  if (text[i] == ' ' && i + 1 < end && kind_of(text[i + 1]) != Kind::space) ++i;   // one space belongs to the word behind it
  const Kind kind = kind_of(text[i]);
  while (i < end && kind_of(text[i]) == kind) ++i;
  if (kind == Kind::space && i < text.size() && text[i - 1] == ' ' && i - at > 1 && kind_of(text[i]) != Kind::space) --i;
  return i - at;
}

std::size_t merge_pairs(std::span<std::int32_t> tokens, std::int32_t left, std::int32_t right, std::int32_t made) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i, ++kept) {
    const bool here = i + 1 < tokens.size() && tokens[i] == left && tokens[i + 1] == right;
    tokens[kept] = here ? made : tokens[i];
    i += here;
  }
  return kept;
}

std::vector<std::pair<std::int32_t, std::int32_t>> frequent_pairs(std::string_view text, std::int64_t most) {
  std::vector<Chunk> chunks;
  {
    std::unordered_map<std::string_view, std::int32_t> number;
    for (std::size_t at = 0; at < text.size();) {
      const std::string_view bytes = text.substr(at, chunk_length(text, at));
      at += bytes.size();
      const auto [found, fresh] = number.emplace(bytes, static_cast<std::int32_t>(chunks.size()));
      if (fresh) {
        chunks.emplace_back();
        for (const char c : bytes) chunks.back().tokens.push_back(static_cast<unsigned char>(c));
      }
      ++chunks[static_cast<std::size_t>(found->second)].count;
    }
  }
  std::unordered_map<std::uint64_t, Pair> pairs;
  std::priority_queue<Candidate> candidates;   // at least one for each pair with a count as high as its own; lower counts are found when it is popped
  const auto each_pair = [&](const Chunk& chunk, auto&& f) {
    for (std::size_t i = 0; i + 1 < chunk.tokens.size(); ++i) f(pair_key(chunk.tokens[i], chunk.tokens[i + 1]));
  };
  for (std::size_t n = 0; n < chunks.size(); ++n)
    each_pair(chunks[n], [&](std::uint64_t key) {
      Pair& pair = pairs[key];
      pair.count += chunks[n].count;
      if (pair.chunks.empty() || pair.chunks.back() != static_cast<std::int32_t>(n)) pair.chunks.push_back(static_cast<std::int32_t>(n));
    });
  for (const auto& [key, pair] : pairs) candidates.push({pair.count, key});

  std::vector<std::pair<std::int32_t, std::int32_t>> merges;
  std::vector<std::uint64_t> raised;   // pairs whose count grew by this merge
  while (static_cast<std::int64_t>(merges.size()) < most && !candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    const std::int64_t count = pairs[best.pair].count;
    if (count != best.count) {
      if (count > 1) candidates.push({count, best.pair});
      continue;
    }
    if (count < 2) break;
    const auto left = static_cast<std::int32_t>(best.pair >> 32), right = static_cast<std::int32_t>(best.pair & 0xffffffffu);
    const auto made = static_cast<std::int32_t>(256 + merges.size());
    merges.emplace_back(left, right);
    raised.clear();
    const std::vector<std::int32_t> where = std::move(pairs[best.pair].chunks);
    for (const std::int32_t n : where) {
      Chunk& chunk = chunks[static_cast<std::size_t>(n)];
      std::vector<std::int32_t> merged = chunk.tokens;
      merged.resize(merge_pairs(merged, left, right, made));
      if (merged.size() == chunk.tokens.size()) continue;   // another merge took the pair before
      each_pair(chunk, [&](std::uint64_t key) { pairs[key].count -= chunk.count; });
      chunk.tokens = std::move(merged);
      each_pair(chunk, [&](std::uint64_t key) {
        Pair& pair = pairs[key];
        pair.count += chunk.count;
        if (static_cast<std::int32_t>(key >> 32) != made && static_cast<std::int32_t>(key & 0xffffffffu) != made) return;
        if (pair.chunks.empty() || pair.chunks.back() != n) pair.chunks.push_back(n);
        raised.push_back(key);
      });
    }
    std::sort(raised.begin(), raised.end());
    raised.erase(std::unique(raised.begin(), raised.end()), raised.end());
    for (const std::uint64_t key : raised) candidates.push({pairs[key].count, key});
  }
  return merges;
}

}  // namespace ttr
