// gemm and gemm_parallel against the plain triple loop: transposes, leading dimensions, scaling, empty sizes, many threads.
#include <doctest/doctest.h>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>
#include <ttr/core/blas.hpp>
#include <ttr/core/error.hpp>
#include <ttr/core/parallel.hpp>

using namespace ttr;

namespace {

template <class T> std::vector<T> random_values(int64_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> uniform(-1, 1);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& x : values) x = T(uniform(engine));
  return values;
}

// Largest error of C over [m, n] in units of k * epsilon, and whether anything outside [m, n] moved.
template <class T> double error_of(bool parallel, bool ta, bool tb, int64_t m, int64_t n, int64_t k, T alpha, T beta) {
  const int64_t pad = 3;
  const int64_t lda = (ta ? m : k) + pad, ldb = (tb ? k : n) + pad, ldc = n + pad;
  const auto a = random_values<T>((ta ? k : m) * lda, 1), b = random_values<T>((tb ? n : k) * ldb, 2);
  auto c = random_values<T>(m * ldc, 3);
  const auto before = c;
  (parallel ? gemm_parallel<T> : gemm<T>)(ta, tb, m, n, k, alpha, a.data(), lda, b.data(), ldb, beta, c.data(), ldc);
  double worst = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < ldc; ++j) {
      const double old = double(before[size_t(i * ldc + j)]), got = double(c[size_t(i * ldc + j)]);
      double want = old;
      if (j < n) {
        double sum = 0;
        for (int64_t l = 0; l < k; ++l)
          sum += double(a[size_t(ta ? l * lda + i : i * lda + l)]) * double(b[size_t(tb ? j * ldb + l : l * ldb + j)]);
        want = double(alpha) * sum + double(beta) * old;
      }
      worst = std::max(worst, std::abs(got - want));
    }
  return worst / (double(std::numeric_limits<T>::epsilon()) * double(k + 1));
}

template <class T> void check_all(int64_t m, int64_t n, int64_t k) {
  for (const bool parallel : {false, true})
    for (const bool ta : {false, true})
      for (const bool tb : {false, true})
        for (const auto& [alpha, beta] : {std::pair<T, T>{1, 0}, {T(-0.5), 1}, {2, T(0.25)}}) {
          CAPTURE(parallel);
          CAPTURE(ta);
          CAPTURE(tb);
          CAPTURE(m);
          CAPTURE(n);
          CAPTURE(k);
          CAPTURE(alpha);
          CAPTURE(beta);
          CHECK(error_of<T>(parallel, ta, tb, m, n, k, alpha, beta) < 4.0);
        }
}

}  // namespace

TEST_SUITE("blas") {
  TEST_CASE("products agree with the triple loop") {
    const int before = thread_count();
    for (const int threads : {2, 3, 7}) {
      set_thread_count(threads);
      for (const auto& [m, n, k] :
           {std::array<int64_t, 3>{1, 1, 1}, {5, 3, 7}, {130, 65, 63}, {1, 200, 300}, {97, 300, 33}, {300, 17, 130}, {476, 70, 300}}) {
        check_all<float>(m, n, k);
        check_all<double>(m, n, k);
      }
    }
    set_thread_count(before);
  }

  TEST_CASE("nothing to sum leaves beta C, and beta 0 forgets a NaN") {
    for (const bool parallel : {false, true}) {
      const auto product = parallel ? gemm_parallel<float> : gemm<float>;
      std::vector<float> c{1, 2, 3, 4};
      product(false, false, 2, 2, 0, 1.f, nullptr, 1, nullptr, 2, 0.5f, c.data(), 2);
      CHECK(c == std::vector<float>{0.5f, 1, 1.5f, 2});
      c[0] = std::numeric_limits<float>::quiet_NaN();
      product(false, false, 2, 2, 0, 1.f, nullptr, 1, nullptr, 2, 0.f, c.data(), 2);
      CHECK(c == std::vector<float>{0, 0, 0, 0});
      const std::vector<float> a{1, 2}, b{3, 4};
      std::vector<float> d(1, std::numeric_limits<float>::quiet_NaN());
      product(false, false, 1, 1, 2, 1.f, a.data(), 2, b.data(), 1, 0.f, d.data(), 1);
      CHECK(d[0] == 11.f);
      product(false, false, 0, 5, 2, 1.f, nullptr, 2, nullptr, 5, 0.f, nullptr, 5);
      product(false, false, 5, 0, 2, 1.f, nullptr, 2, nullptr, 1, 0.f, nullptr, 1);
    }
  }

  TEST_CASE("inside a parallel region every range computes its own product") {
    const int64_t n = 96, count = 12;
    const auto a = random_values<float>(n * n, 4), b = random_values<float>(n * n, 5);
    std::vector<float> want(size_t(n * n));
    gemm<float>(false, false, n, n, n, 1, a.data(), n, b.data(), n, 0, want.data(), n);
    std::vector<float> got(size_t(n * n * count));
    parallel_for(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        gemm_parallel<float>(false, false, n, n, n, 1, a.data(), n, b.data(), n, 0, got.data() + i * n * n, n);
    });
    for (int64_t i = 0; i < count; ++i) CHECK(std::equal(want.begin(), want.end(), got.begin() + i * n * n));
  }

  TEST_CASE("a size beyond the BLAS is refused by name") {
    const float x = 1;
    float y = 0;
    CHECK_THROWS_WITH_AS(gemm<float>(false, false, 1, 1, int64_t(1) << 40, 1, &x, 1, &x, 1, 0, &y, 1),
                         "[gemm] k is 1099511627776, needs 0 to 2147483647, the sizes that this BLAS can count", Error);
  }

  TEST_CASE("the kernels are not older than the CPU") {
    const std::string core = blas_core();
    MESSAGE("BLAS core: " << core);
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && std::getenv("OPENBLAS_CORETYPE") == nullptr)
      for (const char* old : {"Prescott", "Core2", "Nehalem", "Sandybridge"}) CHECK(core != old);
#endif
  }
}
