// C = alpha op(A) op(B) + beta C in panels: the columns of B that fill a tile are packed, A is read where it lies. Compiled once for each
// instruction set (simd_sets.hpp); blas.cpp says when it is used.
//
// OpenBLAS packs both factors and scales C in a pass of its own, which pays at inner sizes of 500 and costs a quarter at 64 to 128, the sizes of
// heads, chunks and small models. Every element is summed in the order of k, whatever the tiles: the bits do not depend on the threads.
#include <ttr/core/simd_product.hpp>

namespace ttr::TTR_SIMD_SET {
namespace {

constexpr int kTileRows = TTR_SIMD_BYTES == 64 ? 12 : 6, kTileRegisters = 2;
constexpr int64_t kPanel = kTileRegisters * Register<float>::lanes;   // columns
static_assert(kPanel <= kWidestPanel);

// panel [k, kPanel] <- alpha op(B) of `columns` columns from b, zeros beyond them
TTR_SIMD_INLINE void pack_panel(bool transposed, int64_t k, int64_t columns, float alpha, const float* b, int64_t ldb, float* panel) {
  constexpr int64_t L = Register<float>::lanes;
  if (columns == kPanel && !transposed) {
    for (int64_t i = 0; i < k; ++i)
      for (int64_t l = 0; l < kPanel; l += L) vec(panel + i * kPanel + l) = alpha * vec(b + i * ldb + l);
    return;
  }
  if (columns == kPanel) {
    int64_t i = 0;
    for (; i + L <= k; i += L)
      for (int64_t l = 0; l < kPanel; l += L) {
        Vec<float> x[L];
        for (int64_t r = 0; r < L; ++r) x[r] = alpha * vec(b + (l + r) * ldb + i);
        swap_lanes<L / 2, float>(x);
        for (int64_t r = 0; r < L; ++r) vec(panel + (i + r) * kPanel + l) = x[r];
      }
    for (; i < k; ++i)
      for (int64_t l = 0; l < kPanel; ++l) panel[i * kPanel + l] = alpha * b[l * ldb + i];
    return;
  }
  for (int64_t i = 0; i < k; ++i)
    for (int64_t l = 0; l < kPanel; ++l) panel[i * kPanel + l] = l >= columns ? 0.0f : alpha * (transposed ? b[l * ldb + i] : b[i * ldb + l]);
}

// The rows that are left after whole tiles, in tiles half as high, a quarter as high ...
template <int R>
TTR_SIMD_INLINE void panel_rows(int64_t m, int64_t k, const float* a, int64_t row, int64_t step, const float* panel, float* c, int64_t ldc, const float* from,
                                const float* times) {
  int64_t r = 0;
  for (; r + R <= m; r += R)
    tile<R, kTileRegisters, float>(k, a + r * row, row, step, panel, kPanel, c + r * ldc, ldc, from ? from + r * ldc : nullptr, times);
  if constexpr (R > 1)
    if (r < m) panel_rows<(R + 1) / 2>(m - r, k, a + r * row, row, step, panel, c + r * ldc, ldc, from ? from + r * ldc : nullptr, times);
}

// One block: at most kGemmDepth of k and as many rows as stay in the second cache while the panels pass.
void gemm_block(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
                bool adds, const float* times, float* c, int64_t ldc, float* panel) {
  const int64_t row = transpose_a ? 1 : lda, step = transpose_a ? lda : 1;
  float edge[kTileRows * kPanel];
  for (int64_t j = 0; j < n; j += kPanel) {
    const int64_t columns = std::min(kPanel, n - j);
    pack_panel(transpose_b, k, columns, alpha, transpose_b ? b + j * ldb : b + j, ldb, panel);
    float* const to = c + j;
    if (columns == kPanel) {
      panel_rows<kTileRows>(m, k, a, row, step, panel, to, ldc, adds ? to : nullptr, times);
      continue;
    }
    for (int64_t r0 = 0; r0 < m; r0 += kTileRows) {   // the last columns go through a tile of their own
      const int64_t rows = std::min<int64_t>(kTileRows, m - r0);
      for (int64_t r = 0; r < rows && adds; ++r)
        for (int64_t l = 0; l < kPanel; ++l) edge[r * kPanel + l] = l < columns ? to[(r0 + r) * ldc + l] : 0.0f;
      panel_rows<kTileRows>(rows, k, a + r0 * row, row, step, panel, edge, kPanel, adds ? edge : nullptr, times);
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t l = 0; l < columns; ++l) to[(r0 + r) * ldc + l] = edge[r * kPanel + l];
    }
  }
}

// a, b as stored: [m, k] and [k, n], or their transposes
void gemm_f32(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
              float beta, float* c, int64_t ldc, float* panel) {
  float times[kPanel];
  for (float& t : times) t = beta;
  for (int64_t r = 0; r < m; r += kGemmRows)
    for (int64_t i = 0; i < k; i += kGemmDepth)
      gemm_block(transpose_a, transpose_b, std::min(kGemmRows, m - r), n, std::min(kGemmDepth, k - i), alpha, a + (transpose_a ? i * lda + r : r * lda + i),
                 lda, b + (transpose_b ? i : i * ldb), ldb, i > 0 || beta != 0, i == 0 && beta != 0 && beta != 1 ? times : nullptr, c + r * ldc, ldc, panel);
}

}  // namespace
}  // namespace ttr::TTR_SIMD_SET
