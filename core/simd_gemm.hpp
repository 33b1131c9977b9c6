// C = alpha op(A) op(B) + beta C in panels: the columns of B that fill a tile are packed, A is read where it lies, or, where it would be read down its
// columns for several panels, packed in strips of a tile's rows. Compiled once for each instruction set (simd_sets.hpp); blas.cpp says when it is used.
//
// OpenBLAS packs both factors and scales C in a pass of its own, which pays at inner sizes of 500 and costs a quarter at 64 to 128, the sizes of
// heads, chunks and small models. Every element is summed in the order of k, whatever the tiles: the bits do not depend on the threads.
#include <ttr/core/simd_product.hpp>

namespace ttr::TTR_SIMD_SET {
namespace {

constexpr int kTileRows = TTR_SIMD_BYTES == 64 ? 8 : 6;   // times two registers: as many sums as there are registers for
template <int N> constexpr int64_t kPanel = N * Register<float>::lanes;   // columns
static_assert(kPanel<2> <= kWidestPanel);

// panel [k, kPanel] <- alpha op(B) of `columns` columns from b, zeros beyond them
template <int N>
TTR_SIMD_INLINE void pack_panel(bool transposed, int64_t k, int64_t columns, float alpha, const float* b, int64_t ldb, float* panel) {
  constexpr int64_t L = Register<float>::lanes, W = kPanel<N>;
  int64_t i = 0;
  if (columns == W && !transposed) {
    for (; i < k; ++i)
      for (int64_t l = 0; l < W; l += L) vec(panel + i * W + l) = alpha * vec(b + i * ldb + l);
  } else if (columns == W) {
    for (; i + L <= k; i += L)
      for (int64_t l = 0; l < W; l += L) {
        Vec<float> x[L];
        for (int64_t r = 0; r < L; ++r) x[r] = alpha * vec(b + (l + r) * ldb + i);
        swap_lanes<L / 2, float>(x);
        for (int64_t r = 0; r < L; ++r) vec(panel + (i + r) * W + l) = x[r];
      }
  }
  for (; i < k; ++i)
    for (int64_t l = 0; l < W; ++l) panel[i * W + l] = l >= columns ? 0.0f : alpha * (transposed ? b[l * ldb + i] : b[i * ldb + l]);
}

// strips [m / kTileRows, k, kTileRows] <- A^T [k, m]: down a column every step is another line, and lines a power of two apart share few places in a cache
TTR_SIMD_INLINE void pack_strips(int64_t m, int64_t k, const float* a, int64_t lda, float* strips) {
  constexpr int64_t R = kTileRows;
  const auto copy = [&]<int count>(int64_t r) __attribute__((always_inline)) {   // strips from row r on, read together
    for (int64_t i = 0; i < k; ++i)
      for (int64_t s = 0; s < count; ++s)
        for (int64_t l = 0; l < R; ++l) strips[(r + s * R) * k + i * R + l] = a[i * lda + r + s * R + l];
  };
  int64_t r = 0;
  for (; r + 2 * R <= m; r += 2 * R) copy.template operator()<2>(r);
  for (; r + R <= m; r += R) copy.template operator()<1>(r);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t l = r; l < m; ++l) strips[r * k + i * R + l - r] = a[i * lda + l];
}

// Where a tile finds its rows: element (r, i) of the tile that begins with row r0 lies at at[r0 * lead + r * row + i * step].
struct Left {
  const float* at;
  int64_t lead, row, step;
};

// Rows of A against a panel; what whole tiles leave is one tile of its own height.
template <int R, int N>
TTR_SIMD_INLINE void last_rows(int64_t m, int64_t k, const float* a, int64_t row, int64_t step, const float* panel, float* c, int64_t ldc, const float* from,
                               const float* times) {
  if constexpr (R > 0) {
    if (m == R) tile<R, N, float>(k, a, row, step, panel, kPanel<N>, c, ldc, from, times);
    else last_rows<R - 1, N>(m, k, a, row, step, panel, c, ldc, from, times);
  }
}
template <int N>
void panel_rows(int64_t m, int64_t k, const Left& a, const float* panel, float* c, int64_t ldc, const float* from, const float* times) {
  constexpr int R = kTileRows;
  int64_t r = 0;
  for (; r + R <= m; r += R)
    tile<R, N, float>(k, a.at + r * a.lead, a.row, a.step, panel, kPanel<N>, c + r * ldc, ldc, from ? from + r * ldc : nullptr, times);
  last_rows<R - 1, N>(m - r, k, a.at + r * a.lead, a.row, a.step, panel, c + r * ldc, ldc, from ? from + r * ldc : nullptr, times);
}

// Columns of C, at most a panel of them, from c on; b where they begin.
template <int N>
void gemm_columns(bool transpose_b, int64_t m, int64_t columns, int64_t k, float alpha, const Left& a, const float* b, int64_t ldb, bool adds,
                  const float* times, float* c, int64_t ldc, float* panel) {
  constexpr int64_t W = kPanel<N>;
  pack_panel<N>(transpose_b, k, columns, alpha, b, ldb, panel);
  if (columns == W) return panel_rows<N>(m, k, a, panel, c, ldc, adds ? c : nullptr, times);
  float edge[kTileRows * W];   // the last columns go through a tile of their own
  for (int64_t r0 = 0; r0 < m; r0 += kTileRows) {
    const int64_t rows = std::min<int64_t>(kTileRows, m - r0);
    for (int64_t r = 0; r < rows && adds; ++r)
      for (int64_t l = 0; l < W; ++l) edge[r * W + l] = l < columns ? c[(r0 + r) * ldc + l] : 0.0f;
    panel_rows<N>(rows, k, {a.at + r0 * a.lead, a.lead, a.row, a.step}, panel, edge, W, adds ? edge : nullptr, times);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t l = 0; l < columns; ++l) c[(r0 + r) * ldc + l] = edge[r * W + l];
  }
}

// One block: at most kGemmDepth of k and as many rows as stay in the second cache while the panels pass.
void gemm_block(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
                bool adds, const float* times, float* c, int64_t ldc, float* panel, float* strips) {
  const bool packed = transpose_a && n > 2 * kPanel<2> && m > kTileRows;
  if (packed) pack_strips(m, k, a, lda, strips);
  const Left left = packed ? Left{strips, k, 1, kTileRows} : transpose_a ? Left{a, 1, 1, lda} : Left{a, lda, lda, 1};
  for (int64_t j = 0; j < n; j += kPanel<2>) {
    const int64_t columns = std::min(kPanel<2>, n - j);
    const float* const right = transpose_b ? b + j * ldb : b + j;
    if (columns <= kPanel<1>) gemm_columns<1>(transpose_b, m, columns, k, alpha, left, right, ldb, adds, times, c + j, ldc, panel);
    else gemm_columns<2>(transpose_b, m, columns, k, alpha, left, right, ldb, adds, times, c + j, ldc, panel);
  }
}

// a, b as stored: [m, k] and [k, n], or their transposes
void gemm_f32(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
              float beta, float* c, int64_t ldc, float* panel, float* strips) {
  float times[kPanel<2>];
  for (float& t : times) t = beta;
  for (int64_t r = 0; r < m; r += kGemmRows)
    for (int64_t i = 0; i < k; i += kGemmDepth) {
      const float* const left = a + (transpose_a ? i * lda + r : r * lda + i);
      const float* const right = b + (transpose_b ? i : i * ldb);
      const bool scales = i == 0 && beta != 0 && beta != 1;
      gemm_block(transpose_a, transpose_b, std::min(kGemmRows, m - r), n, std::min(kGemmDepth, k - i), alpha, left, lda, right, ldb, i > 0 || beta != 0,
                 scales ? times : nullptr, c + r * ldc, ldc, panel, strips);
    }
}

}  // namespace
}  // namespace ttr::TTR_SIMD_SET
