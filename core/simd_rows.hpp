// Rows that a substitution has solved, taken from the next one: the inner loops of triangular systems of a few rows. Internal to the CPU kernels.
#pragma once
#include <ttr/core/simd.hpp>

namespace ttr {

// Columns [j, n) of x -= sum of by[s * step] rows_s, in strips that wait in registers while the rows pass; the first column left.
template <int64_t kStrip, class T>
TTR_SIMD_INLINE int64_t subtract_strips(T* __restrict x, const T* __restrict rows, int64_t stride, const T* __restrict by, int64_t step, int64_t count,
                                        int64_t j, int64_t n) {
  for (; j + kStrip <= n; j += kStrip) {
    T sum[kStrip];
    for (int64_t l = 0; l < kStrip; ++l) sum[l] = x[j + l];
    for (int64_t s = 0; s < count; ++s)
      for (int64_t l = 0; l < kStrip; ++l) sum[l] -= by[s * step] * rows[s * stride + j + l];
    for (int64_t l = 0; l < kStrip; ++l) x[j + l] = sum[l];
  }
  return j;
}

// x [n] -= sum of by[s * step] rows_s over s < count; row s lies at rows + s * stride. x is none of them.
template <class T>
TTR_SIMD_INLINE void subtract_rows(T* __restrict x, const T* __restrict rows, int64_t stride, const T* __restrict by, int64_t step, int64_t count, int64_t n) {
  int64_t j = subtract_strips<2 * kSimdLanes>(x, rows, stride, by, step, count, 0, n);
  j = subtract_strips<kSimdLanes>(x, rows, stride, by, step, count, j, n);
  for (int64_t s = 0; s < count; ++s)
    for (int64_t i = j; i < n; ++i) x[i] -= by[s * step] * rows[s * stride + i];
}

}  // namespace ttr
