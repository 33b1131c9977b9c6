// Drawing a token: the distribution, the cuts, and the edges.
#include <cmath>
#include <limits>
#include <vector>
#include <doctest/doctest.h>
#include <ttr/apps/draw.hpp>
#include <ttr/core/error.hpp>

namespace {

const std::vector<double> kLogits = {std::log(0.1), std::log(0.4), std::log(0.2), std::log(0.3)};

// How often each token comes out over a grid of u: its probability.
std::vector<double> shares(const ttr::DrawOptions& choice, const std::vector<double>& logits = kLogits) {
  std::vector<double> p(logits.size());
  constexpr int kGrid = 10000;
  for (int i = 0; i < kGrid; ++i) p[size_t(ttr::draw(logits, choice, (i + 0.5) / kGrid))] += 1.0 / kGrid;
  return p;
}

void check_shares(const ttr::DrawOptions& choice, const std::vector<double>& want) {
  const std::vector<double> got = shares(choice);
  for (size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(got[i] - want[i]) < 2e-4);
  }
}

}  // namespace

TEST_SUITE("draw") {
  TEST_CASE("tokens come with the softmax's probabilities, and the cuts leave the likeliest") {
    check_shares({.temperature = 1}, {0.1, 0.4, 0.2, 0.3});
    check_shares({.temperature = 0.5}, {0.01 / 0.3, 0.16 / 0.3, 0.04 / 0.3, 0.09 / 0.3});
    check_shares({.temperature = 0}, {0, 1, 0, 0});
    check_shares({.temperature = 1, .top_k = 2}, {0, 4.0 / 7, 0, 3.0 / 7});
    check_shares({.temperature = 1, .top_k = 1}, {0, 1, 0, 0});
    check_shares({.temperature = 1, .top_k = 99}, {0.1, 0.4, 0.2, 0.3});
    check_shares({.temperature = 1, .top_p = 0.65}, {0, 4.0 / 7, 0, 3.0 / 7});
    check_shares({.temperature = 1, .top_p = 0.75}, {0, 4.0 / 9, 2.0 / 9, 3.0 / 9});
    check_shares({.temperature = 1, .top_p = 1e-9}, {0, 1, 0, 0});
    check_shares({.temperature = 1, .top_k = 3, .top_p = 0.7}, {0, 4.0 / 7, 0, 3.0 / 7});   // top_p of what top_k left: 0.7 of 0.9
  }

  TEST_CASE("edges: ties, the largest u, hopeless tokens") {
    CHECK(ttr::draw(std::vector<double>{1, 1, 1}, {.temperature = 0}, 0.9) == 0);
    CHECK(ttr::draw(std::vector<double>{1, 1, 1}, {.temperature = 1, .top_k = 2}, 0.99) == 1);
    CHECK(ttr::draw(kLogits, {.temperature = 1}, std::nextafter(1.0, 0.0)) == 3);
    CHECK(ttr::draw(kLogits, {.temperature = 1}, 0.0) == 0);
    CHECK(ttr::draw(std::vector<double>{0, -std::numeric_limits<double>::infinity()}, {.temperature = 1}, std::nextafter(1.0, 0.0)) == 0);
    CHECK(ttr::draw(kLogits, {.temperature = 1e-300}, 0.5) == 1);
  }

  TEST_CASE("what is out of range is a sentence") {
    const double nan = std::nan("");
    CHECK_THROWS_WITH_AS(ttr::check_draw({.temperature = -1}), "[sample] temperature is -1, needs a number of at least 0", ttr::Error);
    CHECK_THROWS_AS(ttr::check_draw({.temperature = nan}), ttr::Error);
    CHECK_THROWS_WITH_AS(ttr::check_draw({.top_k = -2}), "[sample] top_k is -2, needs at least 0; 0 takes all", ttr::Error);
    for (const double p : {0.0, -0.5, 1.5, nan}) CHECK_THROWS_AS(ttr::check_draw({.top_p = p}), ttr::Error);
    ttr::check_draw({});
  }
}
