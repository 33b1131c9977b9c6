// CPU batched Cholesky and triangular solves, row-major, in blocks: matrix products between blocks, vector code along rows inside one.
#include <algorithm>
#include <cmath>
#include <limits>
#include <ttr/core/blas.hpp>
#include <ttr/core/ops/lanes.hpp>
#include <ttr/core/ops/linalg_kernel.hpp>
#include <ttr/core/parallel.hpp>

namespace ttr::cpu {
namespace {

constexpr int64_t kBlock = 64, kColumns = 128;

TTR_SIMD_CLONES float dot(int64_t n, const float* x, const float* y) { return row_dot(n, x, y); }
double dot(int64_t n, const double* x, const double* y) { return row_dot(n, x, y); }

template <class T> TTR_SIMD_INLINE void subtract_row(int64_t n, T c, const T* __restrict from, T* __restrict to) {   // from, to [n]
  for (int64_t i = 0; i < n; ++i) to[i] -= c * from[i];
}
TTR_SIMD_CLONES void subtract(int64_t n, float c, const float* from, float* to) { subtract_row(n, c, from, to); }
void subtract(int64_t n, double c, const double* from, double* to) { subtract_row(n, c, from, to); }

// Rows [begin, end) of U [n, n], whose rows before `begin` have been subtracted: scale one, take it out of those below.
template <class T> TTR_SIMD_INLINE void factor_block(int64_t n, int64_t begin, int64_t end, T* u) {
  for (int64_t j = begin; j < end; ++j) {
    T* const row = u + j * n;
    const T pivot = row[j] > 0 ? std::sqrt(row[j]) : std::numeric_limits<T>::quiet_NaN();
    const T scale = 1 / pivot;
    row[j] = pivot;
    for (int64_t c = j + 1; c < n; ++c) row[c] *= scale;
    for (int64_t i = j + 1; i < end; ++i) subtract_row(n - i, row[i], row + i, u + i * n + i);
  }
}
TTR_SIMD_CLONES void factor_rows(int64_t n, int64_t begin, int64_t end, float* u) { factor_block(n, begin, end, u); }
void factor_rows(int64_t n, int64_t begin, int64_t end, double* u) { factor_block(n, begin, end, u); }

// Works on U = L^T above the diagonal, where every inner loop runs along a row, and turns it over at the end.
template <class T> void factor(int64_t n, const T* a, T* l) {   // a, l [n, n]
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) l[j * n + i] = a[i * n + j];
  for (int64_t k = 0; k < n; k += kBlock) {
    const int64_t end = std::min(k + kBlock, n);
    if (k > 0) gemm(true, false, end - k, n - k, k, T(-1), l + k, n, l + k, n, T(1), l + k * n + k, n);   // what the rows before k explain
    factor_rows(n, k, end, l);
  }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < i; ++j) {
      l[i * n + j] = l[j * n + i];
      l[j * n + i] = 0;
    }
}

// In place on columns [0, columns) of x, rows m apart; l [n, n]. From the top when the matrix that acts is lower triangular.
template <class T> void substitute(int64_t n, int64_t m, int64_t columns, bool upper, bool transpose, const T* l, T* x) {
  const bool down = upper == transpose;
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  for (int64_t step = 0; step < blocks; ++step) {
    const int64_t begin = (down ? step : blocks - 1 - step) * kBlock, end = std::min(begin + kBlock, n);
    for (int64_t s = 0; s < end - begin; ++s) {
      const int64_t i = down ? begin + s : end - 1 - s;
      const int64_t first = down ? i + 1 : begin, last = down ? end : i;   // rows of this block that still wait for row i
      if (!transpose && columns == 1 && m == 1) {                           // one column: rows of l are contiguous, so take dot products
        const int64_t known = down ? begin : i + 1, count = down ? i - begin : end - i - 1;
        x[i] = (x[i] - dot(count, l + i * n + known, x + known)) / l[i * n + i];
        continue;
      }
      T* const row = x + i * m;
      const T scale = l[i * n + i];
      for (int64_t c = 0; c < columns; ++c) row[c] /= scale;
      if (m == 1) subtract(last - first, row[0], l + i * n + first, x + first);   // transposed, so column i of what acts is row i of l
      else for (int64_t r = first; r < last; ++r) subtract(columns, transpose ? l[i * n + r] : l[r * n + i], row, x + r * m);
    }
    const int64_t first = down ? end : 0, count = down ? n - end : begin;   // rows of the blocks to come
    const T* const between = transpose ? l + begin * n + first : l + first * n + begin;
    if (count > 0) gemm(transpose, false, count, columns, end - begin, T(-1), between, n, x + begin * m, m, T(1), x + first * m, m);
  }
}

}  // namespace

template <class T> Status cholesky(int64_t batch, int64_t n, const T* a, T* l) {   // a, l [batch, n, n]
  if (batch < 0 || n < 0) return Status::bad_size;
  parallel_for(batch, std::max<int64_t>(1, 65536 / std::max<int64_t>(n * n * n, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) factor(n, a + i * n * n, l + i * n * n);
  });
  return Status::ok;
}

template <class T>
Status solve_triangular(int64_t batch, int64_t n, int64_t m, bool upper, bool transpose, const T* l, const T* b,
                        T* x) {   // b, x [batch, n, m]
  if (batch < 0 || n < 0 || m < 0) return Status::bad_size;
  if (n == 0 || m == 0) return Status::ok;
  const int64_t strips = (m + kColumns - 1) / kColumns;   // of columns, independent of each other; fixed, so results do not depend on the threads
  parallel_for(batch * strips, std::max<int64_t>(1, 65536 / (n * n * std::min(m, kColumns))), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t which = i / strips, first = i % strips * kColumns, columns = std::min(kColumns, m - first);
      const int64_t at = which * n * m + first;
      if (b != x)
        for (int64_t r = 0; r < n; ++r) std::copy(b + at + r * m, b + at + r * m + columns, x + at + r * m);
      substitute(n, m, columns, upper, transpose, l + which * n * n, x + at);
    }
  });
  return Status::ok;
}

template Status cholesky<float>(int64_t, int64_t, const float*, float*);
template Status cholesky<double>(int64_t, int64_t, const double*, double*);
template Status solve_triangular<float>(int64_t, int64_t, int64_t, bool, bool, const float*, const float*, float*);
template Status solve_triangular<double>(int64_t, int64_t, int64_t, bool, bool, const double*, const double*, double*);

}  // namespace ttr::cpu
