// Tokenizers: a text as numbers in [0, vocab), and back. Whatever the tokens are, decode(encode(text)) is the text.
//   byte   256 tokens, the bytes
//   char   the characters of the text it was made from, in the order of their code points; refuses a text that has others
//   bpe    byte pairs: the 256 bytes, then what the most frequent pair of neighbouring tokens makes, merged again and again. Knows every text.
// Byte pairs never reach over the border of a chunk: a run of letters, of digits, of other signs, each with one space before it, or of white
// space; none longer than kLongestChunk. Encoding a chunk merges, of the pairs it has, the one that was learned first, until it has none.
// Source: Gage 1994, A New Algorithm for Data Compression; Sennrich, Haddow, Birch, arXiv 1508.07909.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ttr {

class Tokenizer {
 public:
  static constexpr std::int64_t kLargestVocab = 1 << 16;   // of byte pairs
  static constexpr std::size_t kLongestChunk = 64;         // bytes

  Tokenizer();   // bytes
  static Tokenizer characters(std::string_view text);
  // `vocab` tokens; fewer where no pair occurs twice any more. The same text gives the same tokenizer everywhere.
  static Tokenizer byte_pairs(std::string_view text, std::int64_t vocab);
  // By name: byte, char (of `all`), bpe (of `train`). vocab is of bpe, and 0 for the others.
  static Tokenizer named(const std::string& kind, std::int64_t vocab, std::string_view all, std::string_view train);

  // {"kind": "byte"}, {"kind": "char", "characters": "abc"}, {"kind": "bpe", "merges": [[101, 32], ...]}
  std::string json() const;
  static Tokenizer parse(const std::string& json, const std::string& from);   // `from` names the source in refusals; trusts nothing

  const std::string& kind() const { return kind_; }
  bool is_byte() const { return kind_ == "byte"; }
  std::int64_t vocab() const { return static_cast<std::int64_t>(pieces_.size()); }
  const std::string& piece(std::int32_t token) const;   // its bytes
  std::string beginning() const;                         // what a text may begin with: a line break where it is known, else the first token
  std::vector<std::int32_t> encode(std::string_view text) const;
  std::string decode(std::span<const std::int32_t> tokens) const;

 private:
  void learn(std::int32_t left, std::int32_t right);
  void encode_chunk(std::string_view chunk, std::vector<std::int32_t>& out) const;   // appends

  std::string kind_;
  std::vector<std::string> pieces_;                                // [vocab]
  std::vector<std::uint32_t> codes_;                               // of char: [vocab], ascending
  std::vector<std::pair<std::int32_t, std::int32_t>> merges_;      // of bpe: [vocab - 256]; merge i makes token 256 + i
  std::unordered_map<std::uint64_t, std::int32_t> token_of_pair_;
};

}  // namespace ttr
