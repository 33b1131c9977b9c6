// Tokenizers: encoding, decoding, and their form in a file. The training of byte pairs stands in byte_pairs.cpp.
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <ttr/apps/byte_pairs.hpp>
#include <ttr/apps/tokenizer.hpp>
#include <ttr/apps/utf8.hpp>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

constexpr const char* kWhere = "tokenizer";
constexpr std::size_t kLargestFile = 32u << 20;
constexpr std::size_t kMostCached = 1u << 18;   // chunks

// The next character of a text that has to be UTF-8.
Character character_of(std::string_view text, std::size_t at) {
  const Character c = character_at(text, at);
  if (c.bytes == 0)
    throw refuse(kWhere, "byte {} of the text is {:#04x}, which is no UTF-8, needs characters; take bpe or byte, which know every text", at,
                 static_cast<unsigned char>(text[at]));
  return c;
}

}  // namespace

Tokenizer::Tokenizer() : kind_("byte") {
  for (int b = 0; b < 256; ++b) pieces_.emplace_back(1, static_cast<char>(b));
}

Tokenizer Tokenizer::characters(std::string_view text) {
  std::map<std::uint32_t, std::string> found;   // by code point
  std::vector<bool> known(0x110000);
  for (std::size_t at = 0; at < text.size();) {
    const Character c = character_of(text, at);
    if (!known[c.code]) known[c.code] = true, found[c.code] = text.substr(at, static_cast<std::size_t>(c.bytes));
    at += static_cast<std::size_t>(c.bytes);
  }
  Tokenizer made;
  made.kind_ = "char";
  made.pieces_.clear();
  for (const auto& [code, bytes] : found) made.codes_.push_back(code), made.pieces_.push_back(bytes);
  if (made.codes_.empty()) throw refuse(kWhere, "the text has 0 characters, needs at least 1");
  return made;
}

Tokenizer Tokenizer::byte_pairs(std::string_view text, std::int64_t vocab) {
  if (vocab < 256 || vocab > kLargestVocab)
    throw refuse(kWhere, "vocab is {}, needs 256 to {}: 256 bytes and what pairs make of them", vocab, kLargestVocab);
  Tokenizer made;
  made.kind_ = "bpe";
  for (const auto& [left, right] : frequent_pairs(text, vocab - 256)) made.learn(left, right);
  return made;
}

Tokenizer Tokenizer::named(const std::string& kind, std::int64_t vocab, std::string_view all, std::string_view train) {
  if (kind == "bpe") return byte_pairs(train, vocab);
  if (vocab != 0) throw refuse(kWhere, "vocab is {} for the tokenizer {}, needs 0, or the tokenizer bpe, whose size can be chosen", vocab, kind);
  if (kind == "byte") return Tokenizer();
  if (kind == "char") return characters(all);
  throw refuse(kWhere, "kind is '{}', needs byte, char or bpe", kind);
}

void Tokenizer::learn(std::int32_t left, std::int32_t right) {
  token_of_pair_.emplace(pair_key(left, right), static_cast<std::int32_t>(pieces_.size()));
  merges_.emplace_back(left, right);
  pieces_.push_back(piece(left) + piece(right));
}

std::string Tokenizer::json() const {
  nlohmann::ordered_json all;
  all["kind"] = kind_;
  if (kind_ == "char") {
    std::string characters;
    for (const std::string& piece : pieces_) characters += piece;
    all["characters"] = characters;
  }
  if (kind_ == "bpe") all["merges"] = merges_;
  return all.dump();
}

Tokenizer Tokenizer::parse(const std::string& json, const std::string& from) {
  if (json.size() > kLargestFile) throw refuse(kWhere, "the tokenizer of {} has {} bytes, needs at most {}", from, json.size(), kLargestFile);
  const auto all = nlohmann::json::parse(json, nullptr, false);
  const auto field = [&](const char* name) -> const nlohmann::json& {
    static const nlohmann::json none;
    const auto found = all.find(name);
    return found == all.end() ? none : *found;
  };
  if (!all.is_object()) throw refuse(kWhere, "the tokenizer of {} is no JSON object, needs the one that ttr train writes", from);
  const std::string kind = field("kind").is_string() ? field("kind").get<std::string>() : "";
  if (kind == "byte") return {};
  if (kind == "char") {
    const nlohmann::json& text = field("characters");
    if (!text.is_string()) throw refuse(kWhere, "characters in the tokenizer of {} is {}, needs a text", from, text.type_name());
    Tokenizer made = characters(text.get_ref<const std::string&>());
    if (made.json() != nlohmann::ordered_json{{"kind", "char"}, {"characters", text}}.dump())
      throw refuse(kWhere, "characters in the tokenizer of {} are not in order, needs each once, by code point", from);
    return made;
  }
  if (kind != "bpe") throw refuse(kWhere, "the kind of the tokenizer of {} is not byte, char or bpe, needs one of them", from);
  const nlohmann::json& merges = field("merges");
  if (!merges.is_array()) throw refuse(kWhere, "merges in the tokenizer of {} is {}, needs a list of pairs", from, merges.type_name());
  if (static_cast<std::int64_t>(merges.size()) > kLargestVocab - 256)
    throw refuse(kWhere, "the tokenizer of {} has {} merges, needs at most {}", from, merges.size(), kLargestVocab - 256);
  Tokenizer made;
  made.kind_ = "bpe";
  for (const nlohmann::json& pair : merges) {
    const auto known = [&](const nlohmann::json& token) {
      return token.is_number_unsigned() && token.get<std::uint64_t>() < static_cast<std::uint64_t>(made.vocab());
    };
    const std::size_t i = made.merges_.size();
    if (!pair.is_array() || pair.size() != 2 || !known(pair[0]) || !known(pair[1]))
      throw refuse(kWhere, "merge {} in the tokenizer of {} is no pair of tokens below {}, needs one", i, from, made.vocab());
    const auto left = pair[0].get<std::int32_t>(), right = pair[1].get<std::int32_t>();
    if (made.token_of_pair_.contains(pair_key(left, right)))
      throw refuse(kWhere, "merge {} in the tokenizer of {} stands there twice, needs each pair once", i, from);
    if (made.piece(left).size() + made.piece(right).size() > kLongestChunk)
      throw refuse(kWhere, "merge {} in the tokenizer of {} makes {} bytes, needs at most {}", i, from,
                   made.piece(left).size() + made.piece(right).size(), kLongestChunk);
    made.learn(left, right);
  }
  return made;
}

const std::string& Tokenizer::piece(std::int32_t token) const {
  if (token < 0 || token >= vocab()) throw refuse(kWhere, "token is {}, needs 0 to {}", token, vocab() - 1);
  return pieces_[static_cast<std::size_t>(token)];
}

std::string Tokenizer::beginning() const {
  const bool knows = kind_ != "char" || std::binary_search(codes_.begin(), codes_.end(), std::uint32_t{'\n'});
  return knows ? "\n" : pieces_.front();
}

void Tokenizer::encode_chunk(std::string_view chunk, std::vector<std::int32_t>& out) const {
  const std::size_t begin = out.size();
  for (const char c : chunk) out.push_back(static_cast<unsigned char>(c));
  for (;;) {
    std::int32_t best = -1;
    for (std::size_t i = begin; i + 1 < out.size(); ++i) {
      const auto found = token_of_pair_.find(pair_key(out[i], out[i + 1]));
      if (found != token_of_pair_.end() && (best < 0 || found->second < best)) best = found->second;
    }
    if (best < 0) return;
    const auto [left, right] = merges_[static_cast<std::size_t>(best) - 256];
    out.resize(begin + merge_pairs(std::span(out).subspan(begin), left, right, best));
  }
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> tokens;
  if (kind_ == "byte") {
    tokens.reserve(text.size());
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  } else if (kind_ == "char") {
    for (std::size_t at = 0; at < text.size();) {
      const Character c = character_of(text, at);
      const auto found = std::lower_bound(codes_.begin(), codes_.end(), c.code);
      if (found == codes_.end() || *found != c.code)
        throw refuse(kWhere, "character '{}' (U+{:04X}) at byte {} of the text is unknown, needs one of the {} of the text it was trained on; "
                     "models trained with --tokenizer bpe or byte know every text",
                     for_people(text.substr(at, static_cast<std::size_t>(c.bytes))), c.code, at, vocab());
      tokens.push_back(static_cast<std::int32_t>(found - codes_.begin()));
      at += static_cast<std::size_t>(c.bytes);
    }
  } else {
    struct Range { std::size_t begin, end; };
    std::unordered_map<std::string_view, Range> seen;   // where in `tokens` a chunk was encoded before
    for (std::size_t at = 0; at < text.size();) {
      const std::string_view chunk = text.substr(at, chunk_length(text, at));
      at += chunk.size();
      const std::size_t begin = tokens.size();
      if (const auto found = seen.find(chunk); found != seen.end()) {
        for (std::size_t i = found->second.begin; i < found->second.end; ++i) tokens.push_back(tokens[i]);
        continue;
      }
      encode_chunk(chunk, tokens);
      if (seen.size() < kMostCached) seen.emplace(chunk, Range{begin, tokens.size()});
    }
  }
  return tokens;
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (const std::int32_t token : tokens) text += piece(token);
  return text;
}

}  // namespace ttr
