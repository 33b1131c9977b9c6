// Matrix products: our own panels where factors are small, else cblas, and the choice of OpenBLAS kernels (see blas.hpp).
#include <ttr/core/blas.hpp>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <vector>
#include <string_view>
#include <utility>
#include <cblas.h>
#include <ttr/core/error.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/core/profile.hpp>

namespace ttr {
namespace {
// A packed panel of B, depth x width floats, stays in the nearest cache; a block of A, rows x depth, packed or not, in the next.
constexpr int64_t kGemmDepth = 256, kWidestPanel = 32, kGemmRows = 480;
}
}  // namespace ttr
#define TTR_SIMD_EACH <ttr/core/simd_gemm.hpp>
#include <ttr/core/simd_sets.hpp>

// Inner doors of OpenBLAS, weak so that any other BLAS still links: there they are null and everything below is skipped.
extern "C" {
[[gnu::weak]] char* openblas_get_corename(void);
[[gnu::weak]] void openblas_set_num_threads(int);
[[gnu::weak]] void gotoblas_dynamic_init(void);
[[gnu::weak]] void gotoblas_dynamic_quit(void);
}

namespace ttr {
namespace {

constexpr const char* kCoreVariable = "OPENBLAS_CORETYPE";

std::string core_name() { return openblas_get_corename != nullptr ? openblas_get_corename() : "unknown"; }

// The kernels this CPU deserves when OpenBLAS chose ones from before AVX2; null: its choice stands.
const char* better_core([[maybe_unused]] const std::string& chosen) {
#if defined(__x86_64__)
  constexpr std::string_view kOld[] = {"Katmai",       "Coppermine", "Northwood", "Prescott",  "Banias",      "Atom",   "Core2",
                                       "Penryn",       "Dunnington", "Nehalem",   "Nano",      "Sandybridge", "Athlon", "Opteron",
                                       "Opteron_SSE3", "Barcelona",  "Bobcat",    "Bulldozer", "Piledriver",  "unknown"};
  if (std::find(std::begin(kOld), std::end(kOld), chosen) == std::end(kOld)) return nullptr;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return "SkylakeX";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
#endif
  return nullptr;
}

void choose_core() {
  if (openblas_get_corename == nullptr || gotoblas_dynamic_init == nullptr || gotoblas_dynamic_quit == nullptr) return;
  if (std::getenv(kCoreVariable) != nullptr) return;   // the user chose
  const char* better = better_core(core_name());
  if (better == nullptr) return;
  setenv(kCoreVariable, better, 1);
  gotoblas_dynamic_quit();
  gotoblas_dynamic_init();
  unsetenv(kCoreVariable);   // children of this process choose for themselves
}

int blas_int(const char* name, int64_t value) {
  if (value < 0 || value > std::numeric_limits<int>::max())
    throw refuse("gemm", "{} is {}, needs 0 to {}, the sizes that this BLAS can count", name, value, std::numeric_limits<int>::max());
  return int(value);
}

CBLAS_TRANSPOSE op(bool transpose) { return transpose ? CblasTrans : CblasNoTrans; }

void call(bool ta, bool tb, int m, int n, int k, float alpha, const float* a, int lda, const float* b, int ldb, float beta, float* c,
          int ldc) {
  cblas_sgemm(CblasRowMajor, op(ta), op(tb), m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
void call(bool ta, bool tb, int m, int n, int k, double alpha, const double* a, int lda, const double* b, int ldb, double beta, double* c,
          int ldc) {
  cblas_dgemm(CblasRowMajor, op(ta), op(tb), m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

// Our own panels serve where packing both factors whole would not pay: few rows where A is read down its columns, else an inner size that is not long.
bool in_panels(bool transpose_a, int64_t m, int64_t k) { return transpose_a ? m <= kGemmDepth : k <= 3 * kGemmDepth; }

void call_panels(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b, int64_t ldb, float beta,
                 float* c, int64_t ldc) {
  static auto* const run = TTR_SIMD_BEST(gemm_f32);
  alignas(64) float panel[kGemmDepth * kWidestPanel];
  thread_local std::vector<float> strips;   // of A^T
  if (ta && strips.empty()) strips.resize(size_t(kGemmRows * kGemmDepth));
  run(ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, panel, strips.data());
}

template <class T> void scale(int64_t m, int64_t n, T beta, T* c, int64_t ldc) {   // C[m,n] *= beta, where beta = 0 forgets even a NaN
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = beta == T(0) ? T(0) : beta * c[i * ldc + j];
}

// C is cut into rows x columns tiles, one a thread where it can be: the cut with the least to pack, since each tile reads
// [m / rows, k] and [k, n / columns].
struct Tiles {
  int64_t rows, columns;
};

Tiles cut(int64_t m, int64_t n, int64_t k, int64_t threads) {
  constexpr double kLeastWork = 64.0 * 64 * 64;   // multiplications a tile: below, waking a thread costs more than it gives
  constexpr int64_t kLeastSide = 16;
  Tiles best{1, 1};
  const auto most = int64_t(std::min(double(threads), double(m) * double(n) * double(k) / kLeastWork));
  for (int64_t parts = most; parts > 1 && best.rows * best.columns == 1; --parts) {
    double least = std::numeric_limits<double>::infinity();
    for (int64_t rows = 1; rows <= parts; ++rows) {
      const int64_t columns = parts / rows;
      if (rows * columns != parts || m / rows < kLeastSide || n / columns < kLeastSide) continue;
      const double packed = double(m) / double(rows) + double(n) / double(columns);
      if (packed < least) {
        least = packed;
        best = {rows, columns};
      }
    }
  }
  return best;
}

int64_t edge(int64_t index, int64_t parts, int64_t size) {   // borders on multiples of 16, the width of the inner kernels
  return index == parts ? size : (size * index / parts + 8) / 16 * 16;
}

}  // namespace

void prepare_blas() {
  static std::once_flag once;
  std::call_once(once, [] {
    choose_core();
    if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  });
}

std::string blas_core() {
  prepare_blas();
  return core_name();
}

template <class T>
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b, int64_t ldb,
          T beta, T* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k == 0 || alpha == T(0)) return scale(m, n, beta, c, ldc);
  const detail::TimedProduct timed(2 * m * n * k);
  if constexpr (sizeof(T) == 4)
    if (in_panels(transpose_a, m, k)) return call_panels(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  prepare_blas();
  call(transpose_a, transpose_b, blas_int("m", m), blas_int("n", n), blas_int("k", k), alpha, a, blas_int("lda", lda), b,
       blas_int("ldb", ldb), beta, c, blas_int("ldc", ldc));
}

// A small C of a long k, the gradient of a layer's weight: cut along k each half reads half of A and of B, where a tile of C reads one of them whole.
// By the sizes alone, and the second half is added in the end, so that the bits do not depend on the threads.
bool halves(int64_t m, int64_t n, int64_t k) { return m * n <= 256 * 256 && k >= 512; }

template <class T>
void gemm_halves(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b, int64_t ldb, T beta, T* c,
                 int64_t ldc) {
  thread_local std::vector<T> memory;   // what the second half comes to [m, n]
  if (int64_t(memory.size()) < m * n) memory.resize(size_t(m * n));
  T* const second = memory.data();
  const int64_t half = edge(1, 2, k);
  const auto [rows, columns] = cut(m, n, half, thread_count() / 2);
  const int64_t tiles = rows * columns;
  parallel_for(2 * tiles, 1, [&, rows = rows, columns = columns](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t tile = i % tiles, from = i < tiles ? 0 : half, depth = i < tiles ? half : k - half;
      const int64_t row = edge(tile / columns, rows, m), row_end = edge(tile / columns + 1, rows, m);
      const int64_t column = edge(tile % columns, columns, n), column_end = edge(tile % columns + 1, columns, n);
      gemm(transpose_a, transpose_b, row_end - row, column_end - column, depth, alpha, a + (transpose_a ? from * lda + row : row * lda + from), lda,
           b + (transpose_b ? column * ldb + from : from * ldb + column), ldb, i < tiles ? beta : T(0),
           (i < tiles ? c + row * ldc : second + row * n) + column, i < tiles ? ldc : n);
    }
  });
  constexpr int64_t kLeastRows = 64;
  parallel_for(m, kLeastRows, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < n; ++j) c[i * ldc + j] += second[i * n + j];
  });
}

template <class T>
void gemm_parallel(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b,
                   int64_t ldb, T beta, T* c, int64_t ldc) {
  if (halves(m, n, k)) return gemm_halves(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  const auto [rows, columns] = cut(m, n, k, thread_count());
  const int64_t tiles = rows * columns;
  auto whole = [&] { gemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc); };
  if (tiles == 1) return whole();
  prepare_blas();
  parallel_for(tiles, 1, [&, rows = rows, columns = columns](int64_t begin, int64_t end) {
    if (end - begin == tiles) return whole();   // inside a parallel region
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t row = edge(tile / columns, rows, m), row_end = edge(tile / columns + 1, rows, m);
      const int64_t column = edge(tile % columns, columns, n), column_end = edge(tile % columns + 1, columns, n);
      gemm(transpose_a, transpose_b, row_end - row, column_end - column, k, alpha, a + row * (transpose_a ? 1 : lda), lda,
           b + column * (transpose_b ? ldb : 1), ldb, beta, c + row * ldc + column, ldc);
    }
  });
}

#define INSTANTIATE(T)                                                                                                   \
  template void gemm<T>(bool, bool, int64_t, int64_t, int64_t, T, const T*, int64_t, const T*, int64_t, T, T*, int64_t); \
  template void gemm_parallel<T>(bool, bool, int64_t, int64_t, int64_t, T, const T*, int64_t, const T*, int64_t, T, T*, int64_t)
INSTANTIATE(float);
INSTANTIATE(double);
#undef INSTANTIATE

}  // namespace ttr
