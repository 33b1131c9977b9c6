// Tokenizers: whatever the text, it comes back; byte pairs merge what their definition says; a hostile file is one sentence.
#include <chrono>
#include <map>
#include <random>
#include <doctest/doctest.h>
#include <ttr/apps/byte_pairs.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/apps/tokenizer.hpp>
#include <ttr/apps/utf8.hpp>
#include <ttr/core/error.hpp>

namespace {

using ttr::Tokenizer;

std::string random_bytes(unsigned seed, size_t count) {
  std::mt19937 random(seed);
  std::string text;
  while (text.size() < count) text += static_cast<char>(random() % (seed % 2 ? 256 : 4) + (seed % 2 ? 0 : 'a'));
  return text;
}

std::string refusal(const std::string& json) {
  try {
    (void)Tokenizer::parse(json, "FILE");
  } catch (const ttr::Error& e) {
    return e.what();
  }
  return "none";
}

// The definition, slowly: count all pairs of neighbours in all chunks, merge the most frequent, again.
std::vector<std::pair<int32_t, int32_t>> slow_pairs(std::string_view text, size_t most) {
  std::vector<std::vector<int32_t>> chunks;
  for (size_t at = 0; at < text.size();) {
    const size_t length = ttr::chunk_length(text, at);
    chunks.emplace_back();
    for (const char c : text.substr(at, length)) chunks.back().push_back(static_cast<unsigned char>(c));
    at += length;
  }
  std::vector<std::pair<int32_t, int32_t>> merges;
  while (merges.size() < most) {
    std::map<std::pair<int32_t, int32_t>, int64_t> counts;
    for (const auto& c : chunks)
      for (size_t i = 0; i + 1 < c.size(); ++i) ++counts[{c[i], c[i + 1]}];
    auto best = counts.end();
    for (auto it = counts.begin(); it != counts.end(); ++it)
      if (best == counts.end() || it->second > best->second) best = it;
    if (best == counts.end() || best->second < 2) break;
    merges.push_back(best->first);
    for (auto& c : chunks) {
      std::vector<int32_t> merged;
      for (size_t i = 0; i < c.size(); ++i) {
        const bool here = i + 1 < c.size() && c[i] == best->first.first && c[i + 1] == best->first.second;
        merged.push_back(here ? int32_t(255 + merges.size()) : c[i]);
        i += here;
      }
      c = merged;
    }
  }
  return merges;
}

const std::string kText = "the cat sat on the mat, the cat that sat;  then  the hat!\nIn 1611 and 1612 na\xc3\xafve caf\xc3\xa9s\n\n";

}  // namespace

TEST_SUITE("tokenizer") {
  TEST_CASE("bytes and byte pairs bring any bytes back, also those they were not made from") {
    const Tokenizer bytes, pairs = Tokenizer::byte_pairs(kText, 300), none = Tokenizer::byte_pairs("", 300);
    CHECK(none.vocab() == 256);
    CHECK(pairs.vocab() > 260);
    for (unsigned seed = 0; seed < 40; ++seed) {
      std::string text = random_bytes(seed, seed * 7);
      if (seed % 3 == 0) text += kText + std::string(200, 't') + std::string(150, ' ') + std::string("\0\0", 2);
      CAPTURE(seed);
      const Tokenizer own = Tokenizer::byte_pairs(text, 400);
      for (const Tokenizer* t : {&bytes, &pairs, &none, &own}) CHECK(t->decode(t->encode(text)) == text);
    }
    CHECK(bytes.encode("a\xff") == std::vector<int32_t>{97, 255});
    CHECK(pairs.encode("the cat").size() < 5);
  }

  TEST_CASE("byte pairs are the pairs that counting everything again after each merge finds") {
    for (unsigned seed = 0; seed < 12; ++seed) {
      CAPTURE(seed);
      std::string text = random_bytes(2 * seed, 40 + 30 * seed);
      for (size_t i = 5; i < text.size(); i += 3 + seed % 5) text[i] = ' ';
      if (seed == 0) text = kText;
      if (seed == 1) text = "aaaaaaaaaaaaaaaa aaaa aaa aaaaaaa";
      CHECK(ttr::frequent_pairs(text, 60) == slow_pairs(text, 60));
    }
    CHECK(ttr::frequent_pairs("ab ab ab cd cd", 1) == std::vector<std::pair<int32_t, int32_t>>{{'a', 'b'}});
  }

  TEST_CASE("a chunk is a run of one kind with one space before it") {
    std::vector<std::string> chunks;
    const std::string text = "In  1611, the cat's\n\n x" + std::string(70, 'y');
    for (size_t at = 0; at < text.size(); at += chunks.back().size()) chunks.push_back(text.substr(at, ttr::chunk_length(text, at)));
    CHECK(chunks == std::vector<std::string>{"In", " ", " 1611", ",", " the", " cat", "'", "s", "\n\n", " x" + std::string(62, 'y'), "yyyyyyyy"});
  }

  TEST_CASE("characters are the code points of the text, in order, and strangers are refused") {
    const Tokenizer t = Tokenizer::characters("b\xc3\xa9" "a\xe2\x82\xac" "ab");
    CHECK(t.vocab() == 4);
    CHECK(t.beginning() == "a");
    CHECK(Tokenizer::characters("b\na").beginning() == "\n");
    CHECK(t.encode("ab\xc3\xa9\xe2\x82\xac") == std::vector<int32_t>{0, 1, 2, 3});
    CHECK(t.decode(std::vector<int32_t>{3, 0}) == "\xe2\x82\xac" "a");
    CHECK_THROWS_WITH_AS((void)t.encode("ab\xc3\xa8"),
                         "[tokenizer] character '\xc3\xa8' (U+00E8) at byte 2 of the text is unknown, needs one of the 4 of the text it was trained on; "
                         "models trained with --tokenizer bpe or byte know every text", ttr::Error);
    CHECK_THROWS_WITH_AS((void)Tokenizer::characters("ab\xff"),
                         "[tokenizer] byte 2 of the text is 0xff, which is no UTF-8, needs characters; take bpe or byte, which know every text", ttr::Error);
    CHECK_THROWS_AS((void)Tokenizer::characters("ab\xe2\x82"), ttr::Error);
    CHECK_THROWS_AS((void)Tokenizer::characters(""), ttr::Error);
    CHECK_THROWS_AS((void)Tokenizer().piece(256), ttr::Error);
    CHECK_THROWS_AS((void)Tokenizer().piece(-1), ttr::Error);
  }

  TEST_CASE("by name, and what does not fit") {
    CHECK(Tokenizer::named("byte", 0, kText, kText).is_byte());
    CHECK(Tokenizer::named("char", 0, kText, "the").vocab() == Tokenizer::characters(kText).vocab());
    CHECK(Tokenizer::named("bpe", 260, kText, "the the").vocab() == 258);
    CHECK_THROWS_WITH_AS((void)Tokenizer::named("byte", 512, kText, kText),
                         "[tokenizer] vocab is 512 for the tokenizer byte, needs 0, or the tokenizer bpe, whose size can be chosen", ttr::Error);
    CHECK_THROWS_WITH_AS((void)Tokenizer::named("bpe", 100, kText, kText),
                         "[tokenizer] vocab is 100, needs 256 to 65536: 256 bytes and what pairs make of them", ttr::Error);
    CHECK_THROWS_AS((void)Tokenizer::named("words", 0, kText, kText), ttr::Error);
  }

  TEST_CASE("what is written is read, and the same text gives the same file") {
    for (const Tokenizer& t : {Tokenizer(), Tokenizer::characters(kText), Tokenizer::byte_pairs(kText, 300)}) {
      const Tokenizer back = Tokenizer::parse(t.json(), "FILE");
      CHECK(back.json() == t.json());
      CHECK(back.vocab() == t.vocab());
      CHECK(back.encode("the cat") == t.encode("the cat"));
    }
    CHECK(Tokenizer::byte_pairs(kText, 300).json() == Tokenizer::byte_pairs(std::string(kText), 300).json());
    CHECK(Tokenizer::byte_pairs("ab ab", 260).json() == R"({"kind":"bpe","merges":[[97,98]]})");
  }

  TEST_CASE("a hostile file is one sentence") {
    CHECK(refusal("") == "[tokenizer] the tokenizer of FILE is no JSON object, needs the one that ttr train writes");
    CHECK(refusal("[1]").find("no JSON object") != std::string::npos);
    CHECK(refusal("{}").find("not byte, char or bpe") != std::string::npos);
    CHECK(refusal(R"({"kind": 3})").find("not byte, char or bpe") != std::string::npos);
    CHECK(refusal(R"({"kind": "char"})") == "[tokenizer] characters in the tokenizer of FILE is null, needs a text");
    CHECK(refusal(R"({"kind": "char", "characters": ""})").find("0 characters") != std::string::npos);
    CHECK(refusal(R"({"kind": "char", "characters": "ba"})").find("not in order") != std::string::npos);
    CHECK(refusal(R"({"kind": "char", "characters": "aa"})").find("each once") != std::string::npos);
    CHECK(refusal("{\"kind\": \"char\", \"characters\": \"a\xff\"}").find("no JSON object") != std::string::npos);
    CHECK(refusal(R"({"kind": "bpe"})") == "[tokenizer] merges in the tokenizer of FILE is null, needs a list of pairs");
    for (const char* pair : {"[97]", "[97, 98, 99]", "[97, 256]", "[-1, 97]", "[97, 1.5]", "[97, \"b\"]", "97", "[97, 18446744073709551615]"}) {
      CAPTURE(pair);
      CHECK(refusal(std::string(R"({"kind": "bpe", "merges": [)") + pair + "]}") ==
            "[tokenizer] merge 0 in the tokenizer of FILE is no pair of tokens below 256, needs one");
    }
    CHECK(refusal(R"({"kind": "bpe", "merges": [[97, 98], [97, 98]]})") ==
          "[tokenizer] merge 1 in the tokenizer of FILE stands there twice, needs each pair once");
    std::string doubling = "[97, 97]";   // would be 2^n bytes
    for (int i = 0; i < 40; ++i) doubling += ", [" + std::to_string(256 + i) + ", " + std::to_string(256 + i) + "]";
    CHECK(refusal(R"({"kind": "bpe", "merges": [)" + doubling + "]}").find("makes 128 bytes, needs at most 64") != std::string::npos);
    std::string many = "[0, 0]";
    for (int i = 0; i < 66000; ++i) many += ",[0,0]";
    CHECK(refusal(R"({"kind": "bpe", "merges": [)" + many + "]}").find("needs at most 65280") != std::string::npos);
    CHECK(refusal(std::string(100000, '[')).find("no JSON object") != std::string::npos);
    std::mt19937 random(5);   // whatever one byte is changed to: read, or one sentence
    const std::string good = Tokenizer::byte_pairs(kText, 280).json();
    for (int i = 0; i < 300; ++i) {
      std::string bad = good;
      bad[random() % bad.size()] = static_cast<char>(random() % 128);
      const std::string said = refusal(bad);
      CHECK((said == "none" || said.starts_with("[tokenizer] ")));
    }
  }

  TEST_CASE("four megabytes are learned and read in seconds") {
    std::string text = ttr::load_text({.files = {"grammar:1"}, .grammar_bytes = 4'000'000}).bytes;
    const auto begin = std::chrono::steady_clock::now();
    const Tokenizer t = Tokenizer::byte_pairs(text, 2048);
    const auto tokens = t.encode(text);
    CHECK(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < 30);   // about 0.5; loose for sanitizers
    CHECK(tokens.size() < text.size() / 3);
    CHECK(t.decode(tokens) == text);
    text = random_bytes(3, 300'000);   // no chunk occurs twice
    CHECK(t.decode(t.encode(text)) == text);
  }
}

TEST_SUITE("utf8") {
  TEST_CASE("characters, strictly") {
    const auto code = [](const char* text) {
      const ttr::Character c = ttr::character_at(text, 0);
      return c.bytes ? int64_t(c.code) : c.cut ? -2 : -1;
    };
    CHECK(code("a") == 'a');
    CHECK(code("\xc3\xa9") == 0xe9);
    CHECK(code("\xe2\x82\xac") == 0x20ac);
    CHECK(code("\xf0\x9f\x99\x82") == 0x1f642);
    CHECK(code("\xf4\x8f\xbf\xbf") == 0x10ffff);
    for (const char* wrong : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80",
                              "\xff", "\xc3 ", "\xe2\x82 "})
      CHECK(code(wrong) == -1);
    for (const char* cut : {"\xc3", "\xe2\x82", "\xf0\x9f\x99", "\xe2"}) CHECK(code(cut) == -2);
  }

  TEST_CASE("pieces that cut characters are shown whole, and what never becomes one as question marks") {
    const std::string text = "a\xe2\x82\xac\xf0\x9f\x99\x82\n\t\x1b[31m\xff\xc3(\xe2\x82";
    CHECK(ttr::for_people(text) == "a\xe2\x82\xac\xf0\x9f\x99\x82\n\t?[31m?" "?(??");
    ttr::Printable printable;
    std::string shown;
    for (const char c : text) {
      shown += printable.put(std::string(1, c));
      CHECK((shown.empty() || ttr::for_people(shown) == shown));   // whole at every moment
    }
    CHECK(shown + printable.end() == ttr::for_people(text));
  }
}
