// Reductions and running sums on the CPU over the middle of [outer, n, inner]. f32 and f64.
// Sums are pairwise over blocks whose borders depend on sizes alone: the error grows with log n, and the number of threads changes no bit.
#include <algorithm>
#include <ttr/core/ops/reduce_kernel.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>

namespace ttr::cpu {

namespace {

constexpr int64_t kGrain = 32768;   // elements below which a second thread costs more than it gives
constexpr int64_t kLanes = 32;      // independent partial results inside a run
constexpr int64_t kRun = 2048;      // elements reduced lane by lane
constexpr int64_t kColumns = 128;   // columns reduced together
constexpr int64_t kRows = 64;       // rows added before the block joins the total
constexpr int64_t kPieces = 32;     // pieces of one large reduction

template <Reduce op, class T> constexpr T neutral() { return op == Reduce::sum ? T(0) : -std::numeric_limits<T>::infinity(); }
template <Reduce op, class T> TTR_SIMD_INLINE T join(T a, T b) {
  if constexpr (op == Reduce::sum)
    return a + b;
  else
    return (b > a) | (b != b) ? b : a;   // NaN stays
}

template <Reduce op, class T> TTR_SIMD_INLINE T reduce_lanes(int64_t n, const T* x) {
  T lane[kLanes];
  for (int64_t j = 0; j < kLanes; ++j) lane[j] = neutral<op, T>();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t j = 0; j < kLanes; ++j) lane[j] = join<op>(lane[j], x[i + j]);
  for (int64_t j = 0; i + j < n; ++j) lane[j] = join<op>(lane[j], x[i + j]);
  for (int64_t half = kLanes / 2; half > 0; half /= 2)
    for (int64_t j = 0; j < half; ++j) lane[j] = join<op>(lane[j], lane[j + half]);
  return lane[0];
}
TTR_SIMD_CLONES float run_of(Reduce op, int64_t n, const float* x) {
  return op == Reduce::sum ? reduce_lanes<Reduce::sum>(n, x) : reduce_lanes<Reduce::max>(n, x);
}
double run_of(Reduce op, int64_t n, const double* x) {
  return op == Reduce::sum ? reduce_lanes<Reduce::sum>(n, x) : reduce_lanes<Reduce::max>(n, x);
}

// Many short rows in one call: out[r] of x[r, 0..n).
template <Reduce op, class T> TTR_SIMD_INLINE void short_rows(int64_t rows, int64_t n, const T* x, T* y) {
  for (int64_t r = 0; r < rows; ++r) y[r] = reduce_lanes<op>(n, x + r * n);
}
TTR_SIMD_CLONES void rows_of(Reduce op, int64_t rows, int64_t n, const float* x, float* y) {
  if (op == Reduce::sum)
    short_rows<Reduce::sum>(rows, n, x, y);
  else
    short_rows<Reduce::max>(rows, n, x, y);
}
void rows_of(Reduce op, int64_t rows, int64_t n, const double* x, double* y) {
  if (op == Reduce::sum)
    short_rows<Reduce::sum>(rows, n, x, y);
  else
    short_rows<Reduce::max>(rows, n, x, y);
}

template <class T> T pair(Reduce op, T a, T b) { return op == Reduce::sum ? join<Reduce::sum>(a, b) : join<Reduce::max>(a, b); }

template <class T> T pairwise(Reduce op, int64_t n, const T* x) {
  if (n <= kRun) return run_of(op, n, x);
  const int64_t half = (n / kRun + 1) / 2 * kRun;
  return pair(op, pairwise(op, half, x), pairwise(op, n - half, x + half));
}

// One long row: pieces side by side, then pairwise.
template <class T> T long_row(Reduce op, int64_t n, const T* x) {
  if (n <= kGrain) return pairwise(op, n, x);
  const int64_t size = ((n + kPieces - 1) / kPieces + kRun - 1) / kRun * kRun;
  T piece[kPieces];
  std::fill(piece, piece + kPieces, op == Reduce::sum ? neutral<Reduce::sum, T>() : neutral<Reduce::max, T>());
  parallel_for(kPieces, std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      if (p * size < n) piece[p] = pairwise(op, std::min(size, n - p * size), x + p * size);
  });
  return pairwise(op, kPieces, piece);
}

// y[c] = over r of x[r * stride + c], c < width <= kColumns.
template <Reduce op, class T> TTR_SIMD_INLINE void reduce_columns(int64_t n, int64_t width, int64_t stride, const T* x, T* y) {
  T total[kColumns], block[kColumns];
  for (int64_t c = 0; c < width; ++c) total[c] = neutral<op, T>();
  for (int64_t r0 = 0; r0 < n; r0 += kRows) {
    const int64_t r1 = r0 + kRows < n ? r0 + kRows : n;
    for (int64_t c = 0; c < width; ++c) block[c] = neutral<op, T>();
    for (int64_t r = r0; r < r1; ++r)
      for (int64_t c = 0; c < width; ++c) block[c] = join<op>(block[c], x[r * stride + c]);
    for (int64_t c = 0; c < width; ++c) total[c] = join<op>(total[c], block[c]);
  }
  for (int64_t c = 0; c < width; ++c) y[c] = total[c];
}
TTR_SIMD_CLONES void columns_of(Reduce op, int64_t n, int64_t width, int64_t stride, const float* x, float* y) {
  if (op == Reduce::sum)
    reduce_columns<Reduce::sum>(n, width, stride, x, y);
  else
    reduce_columns<Reduce::max>(n, width, stride, x, y);
}
void columns_of(Reduce op, int64_t n, int64_t width, int64_t stride, const double* x, double* y) {
  if (op == Reduce::sum)
    reduce_columns<Reduce::sum>(n, width, stride, x, y);
  else
    reduce_columns<Reduce::max>(n, width, stride, x, y);
}

// Few columns over many rows: pieces of the rows side by side.
template <class T> void long_columns(Reduce op, int64_t n, int64_t width, int64_t stride, const T* x, T* y) {
  T piece[kPieces * kColumns];
  const int64_t size = (n + kPieces - 1) / kPieces;
  parallel_for(kPieces, std::max<int64_t>(1, kGrain / (size * width)), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p)
      columns_of(op, std::clamp<int64_t>(n - p * size, 0, size), width, stride, x + std::min(p * size, n) * stride, piece + p * width);
  });
  columns_of(op, kPieces, width, width, piece, y);
}

// y[t] = y[t - 1] + x[t] over rows of `width` columns, from the end when reversed.
template <class T> TTR_SIMD_INLINE void running_columns(int64_t n, int64_t width, int64_t stride, bool reverse, const T* x, T* y) {
  if (stride == 1) {   // one column: the sum so far stays in a register
    T total = 0;
    if (reverse)
      for (int64_t i = n - 1; i >= 0; --i) y[i] = total += x[i];
    else
      for (int64_t i = 0; i < n; ++i) y[i] = total += x[i];
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = (reverse ? n - 1 - i : i) * stride, before = reverse ? at + stride : at - stride;
    if (i == 0) {
      for (int64_t c = 0; c < width; ++c) y[at + c] = x[at + c];
    } else {
#pragma GCC ivdep
      for (int64_t c = 0; c < width; ++c) y[at + c] = y[before + c] + x[at + c];
    }
  }
}
TTR_SIMD_CLONES void running_of(int64_t n, int64_t width, int64_t stride, bool reverse, const float* x, float* y) {
  running_columns(n, width, stride, reverse, x, y);
}
void running_of(int64_t n, int64_t width, int64_t stride, bool reverse, const double* x, double* y) {
  running_columns(n, width, stride, reverse, x, y);
}

}   // namespace

template <class T> Status reduce(Reduce op, Middle m, const T* x, T* y) {
  if (m.outer * m.inner == 0) return Status::ok;
  if (m.inner == 1) {
    if (m.n <= kRun) {
      parallel_for(m.outer, std::max<int64_t>(1, kGrain / std::max<int64_t>(m.n, 8)),
                   [&](int64_t first, int64_t last) { rows_of(op, last - first, m.n, x + first * m.n, y + first); });
    } else if (m.outer < kPieces) {
      for (int64_t r = 0; r < m.outer; ++r) y[r] = long_row(op, m.n, x + r * m.n);
    } else {
      parallel_for(m.outer, std::max<int64_t>(1, kGrain / m.n), [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) y[r] = pairwise(op, m.n, x + r * m.n);
      });
    }
    return Status::ok;
  }
  const int64_t strips = (m.inner + kColumns - 1) / kColumns, width = std::min(m.inner, kColumns);
  const auto strip = [&](int64_t i, auto&& columns) {
    const int64_t o = i / strips, c = i % strips * kColumns;
    columns(op, m.n, std::min(kColumns, m.inner - c), m.inner, x + o * m.n * m.inner + c, y + o * m.inner + c);
  };
  if (m.outer * strips < kPieces && m.n * width > 2 * kGrain) {
    for (int64_t i = 0; i < m.outer * strips; ++i) strip(i, long_columns<T>);
  } else {
    parallel_for(m.outer * strips, std::max<int64_t>(1, kGrain / std::max<int64_t>(m.n * width, 1)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) strip(i, [](auto... arguments) { columns_of(arguments...); });
    });
  }
  return Status::ok;
}

template <class T> Status cumsum(Middle m, bool reverse, const T* x, T* y) {
  if (m.outer * m.n * m.inner == 0) return Status::ok;
  const int64_t strips = (m.inner + kColumns - 1) / kColumns, width = std::min(m.inner, kColumns);
  parallel_for(m.outer * strips, std::max<int64_t>(1, kGrain / (m.n * width)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i % strips * kColumns, at = i / strips * m.n * m.inner + c;
      running_of(m.n, std::min(kColumns, m.inner - c), m.inner, reverse, x + at, y + at);
    }
  });
  return Status::ok;
}

template Status reduce<float>(Reduce, Middle, const float*, float*);
template Status reduce<double>(Reduce, Middle, const double*, double*);
template Status cumsum<float>(Middle, bool, const float*, float*);
template Status cumsum<double>(Middle, bool, const double*, double*);

}   // namespace ttr::cpu
