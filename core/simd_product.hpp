// Small products of one instruction set, their sums held in registers. Included by what simd_sets.hpp compiles, once a set, hence without a guard.
#include <ttr/core/simd_vector.hpp>

namespace ttr::TTR_SIMD_SET {
namespace {

// c [rows, lanes] = a [rows, inner] b [inner, lanes] (+ from, or from times a number a lane); lanes a multiple of 16, from as c lies.
// Element (r, i) of a lies at a[r * row + i * step], so a may stand transposed.
template <class T> struct Operand {
  const T* at;
  int64_t row, step;
};

template <int R, int N, class T>
TTR_SIMD_INLINE void tile(int64_t inner, const T* a, int64_t row, int64_t step, const T* b, int64_t b_row, T* c, int64_t c_row, const T* from,
                          const T* times) {
  constexpr int64_t L = Register<T>::lanes;
  Vec<T> sum[R][N];
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) sum[r][n] = Vec<T>{};
  for (int64_t i = 0; i < inner; ++i) {
    Vec<T> x[N];
    for (int n = 0; n < N; ++n) x[n] = vec(b + i * b_row + n * L);
    for (int r = 0; r < R; ++r) {
      const T y = a[r * row + i * step];
      for (int n = 0; n < N; ++n) sum[r][n] += y * x[n];
    }
  }
  if (times)
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n) sum[r][n] += vec(from + r * c_row + n * L) * vec(times + n * L);
  else if (from)
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < N; ++n) sum[r][n] += vec(from + r * c_row + n * L);
  for (int r = 0; r < R; ++r)
    for (int n = 0; n < N; ++n) vec(c + r * c_row + n * L) = sum[r][n];
}

template <int R, int N, class T>
TTR_SIMD_INLINE void columns(int64_t rows, int64_t inner, const Operand<T>& a, const T* b, int64_t b_row, T* c, int64_t c_row, const T* from,
                             const T* times) {
  int64_t r = 0;
  const auto rows_from = [&]<int H>() {   // H rows
    tile<H, N>(inner, a.at + r * a.row, a.row, a.step, b, b_row, c + r * c_row, c_row, from ? from + r * c_row : nullptr, times);
    r += H;
  };
  while (r + R <= rows && rows - r != R + 1) rows_from.template operator()<R>();
  if (rows - r == R + 1) rows_from.template operator()<R + 1>();   // one row alone would wait for its own sums
  while (r < rows) rows_from.template operator()<1>();
}

// The widest tile whose sums stay in registers: 32 of them in v4, 16 elsewhere.
template <class T>
void product(int64_t rows, int64_t lanes, int64_t inner, Operand<T> a, const T* b, int64_t b_row, T* c, int64_t c_row, const T* from, const T* times) {
  constexpr int64_t L = Register<T>::lanes;
  constexpr bool many = TTR_SIMD_BYTES == 64;
  int64_t n = 0;
  const auto at = [&](const T* x) { return x ? x + n : nullptr; };
  if constexpr (many)
    for (; n + 4 * L <= lanes; n += 4 * L) columns<4, 4>(rows, inner, a, b + n, b_row, c + n, c_row, at(from), at(times));
  for (; n + 2 * L <= lanes; n += 2 * L) columns<many ? 8 : 4, 2>(rows, inner, a, b + n, b_row, c + n, c_row, at(from), at(times));
  for (; n < lanes; n += L) columns<8, 1>(rows, inner, a, b + n, b_row, c + n, c_row, at(from), at(times));
}
template <class T>
void set_product(int64_t rows, int64_t lanes, int64_t inner, Operand<T> a, const T* b, int64_t b_row, T* c, int64_t c_row) {
  product(rows, lanes, inner, a, b, b_row, c, c_row, static_cast<const T*>(nullptr), static_cast<const T*>(nullptr));
}
template <class T>
void add_product(int64_t rows, int64_t lanes, int64_t inner, Operand<T> a, const T* b, int64_t b_row, T* c, int64_t c_row, const T* times = nullptr) {
  product(rows, lanes, inner, a, b, b_row, c, c_row, static_cast<const T*>(c), times);
}

}  // namespace
}  // namespace ttr::TTR_SIMD_SET
