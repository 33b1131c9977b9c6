// Philox against the published vectors of Random123, and what the fills promise: moments, bounds, the same element however a fill is split.
#include <doctest/doctest.h>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>
#include <ttr/core/parallel.hpp>
#include <ttr/core/random.hpp>

using namespace ttr;

namespace {

struct Moments {
  double mean = 0, variance = 0, skew = 0, fourth = 0;
};

template <class T> Moments moments_of(const std::vector<T>& x) {
  Moments m;
  for (const T v : x) m.mean += double(v);
  m.mean /= double(x.size());
  for (const T v : x) {
    const double d = double(v) - m.mean;
    m.variance += d * d;
    m.skew += d * d * d;
    m.fourth += d * d * d * d;
  }
  m.variance /= double(x.size()), m.skew /= double(x.size()), m.fourth /= double(x.size());
  return m;
}

template <class T> void check_moments() {
  constexpr int64_t n = 1 << 20;
  std::vector<T> x(n);
  fill_uniform<T>({7, 1}, 0, x.data(), n);
  CHECK(*std::min_element(x.begin(), x.end()) >= T(0));
  CHECK(*std::max_element(x.begin(), x.end()) < T(1));
  Moments m = moments_of(x);
  CHECK(std::abs(m.mean - 0.5) < 5 * std::sqrt(1.0 / 12 / n));   // five standard errors
  CHECK(std::abs(m.variance - 1.0 / 12) < 5 * std::sqrt(1.0 / 180 / n));
  double correlation = 0;
  for (int64_t i = 0; i + 1 < n; ++i) correlation += (double(x[size_t(i)]) - 0.5) * (double(x[size_t(i + 1)]) - 0.5);
  CHECK(std::abs(correlation / n * 12) < 5 / std::sqrt(double(n)));
  fill_normal<T>({7, 2}, 0, x.data(), n);
  m = moments_of(x);
  CHECK(std::abs(m.mean) < 5 / std::sqrt(double(n)));
  CHECK(std::abs(m.variance - 1) < 5 * std::sqrt(2.0 / n));
  CHECK(std::abs(m.skew) < 5 * std::sqrt(15.0 / n));
  CHECK(std::abs(m.fourth - 3) < 5 * std::sqrt(96.0 / n));
  double neighbours = 0, squares = 0;   // the two of a pair: uncorrelated, also in their squares
  for (int64_t i = 0; i < n; i += 2) {
    const double a = double(x[size_t(i)]), b = double(x[size_t(i + 1)]);
    neighbours += a * b;
    squares += (a * a - 1) * (b * b - 1);
  }
  CHECK(std::abs(neighbours / (n / 2)) < 5 / std::sqrt(n / 2.0));
  CHECK(std::abs(squares / (n / 2)) < 5 * 2 / std::sqrt(n / 2.0));
}

template <class T> void check_split(void (*fill)(Key, int64_t, T*, int64_t), T (*element)(Key, uint64_t)) {
  constexpr int64_t n = 70'001;   // several ranges of the pool
  const Key key{0x0123456789abcdefu, 0xfedcba9876543210u};
  const int64_t start = (int64_t(1) << 33) + 3;   // the counter's upper word is used
  std::vector<T> whole(n);
  fill(key, start, whole.data(), n);
  bool alike = true;
  for (int64_t i = 0; i < n; ++i) alike = alike && whole[size_t(i)] == element(key, uint64_t(start + i));
  CHECK(alike);
  for (const int64_t length : {1, 2, 3, 5, 127, 128, 129, 4099}) {
    std::vector<T> part(static_cast<size_t>(length), T(99));
    for (const int64_t from : {0, 1, 2, 3, 126, 131}) {
      fill(key, start + from, part.data(), length);
      CHECK(std::equal(part.begin(), part.end(), whole.begin() + from));
    }
  }
  const int before = thread_count();
  for (const int threads : {1, 3}) {
    set_thread_count(threads);
    std::vector<T> again(n);
    fill(key, start, again.data(), n);
    CHECK(again == whole);
  }
  set_thread_count(before);
}

}  // namespace

TEST_SUITE("random") {
  TEST_CASE("Philox4x32-10 gives the published words") {
    struct Known {
      std::array<uint32_t, 4> counter;
      uint32_t key0, key1;
      std::array<uint32_t, 4> words;
    };
    const Known known[] = {
        {{0, 0, 0, 0}, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, 0xffffffff, 0xffffffff, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (const Known& one : known) {
      const Words got = philox4x32({{one.counter[0], one.counter[1], one.counter[2], one.counter[3]}}, one.key0, one.key1);
      const Words same = philox({one.key0 | uint64_t(one.key1) << 32, one.counter[2] | uint64_t(one.counter[3]) << 32},
                                one.counter[0] | uint64_t(one.counter[1]) << 32);
      for (size_t i = 0; i < 4; ++i) {
        CHECK(got.at[i] == one.words[i]);
        CHECK(same.at[i] == one.words[i]);
      }
    }
  }

  TEST_CASE("uniforms are the upper bits of the words") {
    CHECK(uniform_of(0u) == 0.f);
    CHECK(uniform_of(0xffffffffu) == 1.f - 0x1p-24f);
    CHECK(uniform_of(0xffffffffu, 0xffffffffu) == 1.0 - 0x1p-53);
    CHECK(uniform<float>({0, 0}, 0) == float(0x6627e8) * 0x1p-24f);
    CHECK(uniform<float>({0, 0}, 3) == float(0x9b00db) * 0x1p-24f);
    CHECK(uniform<double>({0, 0}, 1) == double(0x9b00dbd8bc57ac4cu >> 11) * 0x1p-53);
  }

  TEST_CASE("moments") {
    check_moments<float>();
    check_moments<double>();
  }

  TEST_CASE("normals are finite at the ends of the words") {
    for (const uint32_t a : {0u, 1u, 0xffffffffu})
      for (const uint32_t b : {0u, 0x80000000u, 0xffffffffu}) {
        CHECK(std::isfinite(normals_of(a, b).first));
        CHECK(std::isfinite(normals_of(a, b).second));
        CHECK(std::isfinite(normals_of(Words{{a, a, b, b}}).first));
      }
    CHECK(normals_of(0, 0).first > 6.7f);
  }

  TEST_CASE("bounds, mean and deviation") {
    std::vector<float> u(10'000), z(10'000), unit(10'000);
    fill_uniform<float>({3, 0}, 0, u.data(), 10'000, -2.f, 3.f);
    CHECK(*std::min_element(u.begin(), u.end()) >= -2.f);
    CHECK(*std::max_element(u.begin(), u.end()) <= 3.f);
    CHECK(*std::max_element(u.begin(), u.end()) > 2.9f);
    fill_normal<float>({3, 0}, 0, z.data(), 10'000, 5.f, 0.5f);
    fill_normal<float>({3, 0}, 0, unit.data(), 10'000);
    for (size_t i = 0; i < z.size(); ++i) CHECK(z[i] == doctest::Approx(5 + 0.5 * double(unit[i])).epsilon(1e-6));
  }

  TEST_CASE("an element depends on nothing but key and index") {
    check_split<float>([](Key k, int64_t o, float* p, int64_t n) { fill_uniform(k, o, p, n); }, uniform<float>);
    check_split<double>([](Key k, int64_t o, double* p, int64_t n) { fill_uniform(k, o, p, n); }, uniform<double>);
    check_split<float>([](Key k, int64_t o, float* p, int64_t n) { fill_normal(k, o, p, n); }, normal<float>);
    check_split<double>([](Key k, int64_t o, double* p, int64_t n) { fill_normal(k, o, p, n); }, normal<double>);
    check_split<float>([](Key k, int64_t o, float* p, int64_t n) { fill_keep(k, o, p, n, 0.9f, 1.f); },
                       [](Key k, uint64_t i) { return keep(k, i, 0.9f) ? 1.f : 0.f; });
  }

  TEST_CASE("streams and seeds differ") {
    std::vector<float> a(1000), b(1000), c(1000);
    fill_uniform<float>({1, 0}, 0, a.data(), 1000);
    fill_uniform<float>({1, 1}, 0, b.data(), 1000);
    fill_uniform<float>({2, 0}, 0, c.data(), 1000);
    int same = 0;
    for (size_t i = 0; i < 1000; ++i) same += (a[i] == b[i]) + (a[i] == c[i]);
    CHECK(same == 0);
  }

  TEST_CASE("dropout keeps the share it is told") {
    constexpr int64_t n = 1 << 20;
    std::vector<float> mask(n);
    for (const float p : {0.1f, 0.5f, 0.9f}) {
      fill_keep<float>({11, 4}, 0, mask.data(), n, p, 1 / p);
      const auto kept = n - std::count(mask.begin(), mask.end(), 0.f);
      CHECK(std::abs(double(kept) / n - double(p)) < 5 * std::sqrt(double(p * (1 - p)) / n));
      CHECK(std::count(mask.begin(), mask.end(), 1 / p) == kept);
    }
    fill_keep<float>({11, 4}, 0, mask.data(), n, 1.f, 1.f);
    CHECK(std::count(mask.begin(), mask.end(), 1.f) == n);
    fill_keep<float>({11, 4}, 0, mask.data(), n, 0.f, 1.f);
    CHECK(std::count(mask.begin(), mask.end(), 0.f) == n);
  }
}
