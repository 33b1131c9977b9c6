// The factorisations of normal_equations_token_cpu.cpp, which tells what they are; compiled once for each instruction set (core/simd_sets.hpp).
#include <ttr/core/simd_vector.hpp>

namespace ttr::least_squares {
namespace TTR_SIMD_SET {
namespace {

using namespace ttr::TTR_SIMD_SET;

constexpr int64_t kTile = 4;
template <class T> using Lanes = Vec<T>;
template <class T> constexpr int64_t kWidth = Register<T>::lanes;

int64_t padded(int64_t K) { return (K + kTile - 1) / kTile * kTile; }
TTR_SIMD_INLINE int64_t row_of(int64_t i) { return i * (i + 1) / 2; }   // of a packed lower triangle

template <class T> struct Slab {
  T* start;                  // H as it enters the group [P, P]
  Lanes<T> *lower, *keys, *weighted, *x;   // L, packed [P (P + 1) / 2]; each lane's key, and times its weight [P]; right-hand sides [2, P]
  int64_t count;
  Slab(T* at, int64_t P) {
    constexpr int64_t W = kWidth<T>;
    Pieces<T> p{at};
    start = p.take(P * P);
    lower = reinterpret_cast<Lanes<T>*>(p.take(P * (P + 1) / 2 * W));
    keys = reinterpret_cast<Lanes<T>*>(p.take(P * W));
    weighted = reinterpret_cast<Lanes<T>*>(p.take(P * W));
    x = reinterpret_cast<Lanes<T>*>(p.take(2 * P * W));
    count = int64_t(p.used);
  }
};

// What the lanes' matrices are made of: decayed * start + the running sum, over the lanes before and with it, of weighted keys^T, which fades by
// the decay of each lane it passes; and what is added on the diagonal.
constexpr int kDoublings = TTR_SIMD_BYTES == 64 ? 4 : TTR_SIMD_BYTES == 32 ? 3 : 2;   // 2^kDoublings f32 lanes
template <class T> struct Group {
  int64_t P;
  Lanes<T> decayed;            // what is left of start
  Lanes<T> left[kDoublings];   // what is left in lane l of lane l - 2^n: a_l ... a_{l - 2^n + 1}; 0 where there is no such lane
};

template <class T, int D, class> struct Earlier;
template <class T, int D, int... L> struct Earlier<T, D, std::integer_sequence<int, L...>> {
  static constexpr typename IndexRegister<T>::type from = {(L >= D ? L - D : L)...};
};
template <int D, class T> TTR_SIMD_INLINE Lanes<T> earlier(const Lanes<T>& x) {   // lane l <- lane l - D; the first D lanes are anything
  return pick_lanes(x, Earlier<T, D, std::make_integer_sequence<int, int(kWidth<T>)>>::from);
}

// x_l <- x_l + a_l x_{l-1} + a_l a_{l-1} x_{l-2} + ..., in as many steps as the number of lanes has bits
template <class T, int D = 1, int N = 0> TTR_SIMD_INLINE void add_earlier(Lanes<T>& x, const Group<T>& g) {
  if constexpr (D < kWidth<T>) {
    x += g.left[N] * earlier<D, T>(x);
    add_earlier<T, 2 * D, N + 1>(x, g);
  }
}

// Rows of a tile whose sums stay in registers beside what they are made of: 32 registers in v4, 16 elsewhere.
constexpr int64_t kRows = TTR_SIMD_BYTES == 64 ? kTile : kTile / 2;

// acc <- A_{i, j} - sum_{k < j0} L_ik L_jk for kRows rows from i0 and the kTile columns from j0
template <class T>
TTR_SIMD_INLINE void fill_rows(const Slab<T>& m, const Group<T>& g, const Lanes<T>* diagonal, int64_t i0, int64_t j0, Lanes<T> (&acc)[kRows][kTile]) {
  for (int64_t i = 0; i < kRows; ++i)
    for (int64_t j = 0; j < kTile; ++j) {
      Lanes<T> pairs = m.weighted[i0 + i] * m.keys[j0 + j];
      add_earlier<T>(pairs, g);
      acc[i][j] = pairs + g.decayed * m.start[(i0 + i) * g.P + j0 + j];
    }
  if (i0 >= j0 && i0 < j0 + kTile)
    for (int64_t i = 0; i < kRows; ++i)
      for (int64_t j = 0; j < kTile; ++j)
        if (i0 + i == j0 + j) acc[i][j] += diagonal[i0 + i];
  const Lanes<T>*left[kRows], *above[kTile];
  for (int64_t i = 0; i < kRows; ++i) left[i] = m.lower + row_of(i0 + i);
  for (int64_t j = 0; j < kTile; ++j) above[j] = m.lower + row_of(j0 + j);
  for (int64_t k = 0; k < j0; ++k) {
    Lanes<T> l[kRows];
    for (int64_t i = 0; i < kRows; ++i) l[i] = left[i][k];
    for (int64_t j = 0; j < kTile; ++j) {
      const Lanes<T> a = above[j][k];
      for (int64_t i = 0; i < kRows; ++i) acc[i][j] -= l[i] * a;
    }
  }
}

// 1 / sqrt x a lane; NaN where x is not positive, for then A is not. The builtins, since std::sqrt may be a call into the build's own instructions.
TTR_SIMD_INLINE float root(float x) { return __builtin_sqrtf(x); }
TTR_SIMD_INLINE double root(double x) { return __builtin_sqrt(x); }
template <class T> TTR_SIMD_INLINE Lanes<T> inverse_root(const Lanes<T>& x) {
  T from[kWidth<T>], to[kWidth<T>];
  vec(from) = x;
  for (int64_t l = 0; l < kWidth<T>; ++l) to[l] = root(from[l] > 0 ? from[l] : std::numeric_limits<T>::quiet_NaN());
  return T(1) / vec(to);
}

template <class T> TTR_SIMD_INLINE void factor(const Slab<T>& m, const Group<T>& g, const Lanes<T>* diagonal) {
  const int64_t P = g.P;
  for (int64_t j0 = 0; j0 < P; j0 += kTile) {
    Lanes<T> tile[kTile][kTile];   // on the diagonal: entries above it are not used
    for (int64_t i = 0; i < kTile; i += kRows) {
      Lanes<T> acc[kRows][kTile];
      fill_rows(m, g, diagonal, j0 + i, j0, acc);
      for (int64_t r = 0; r < kRows; ++r)
        for (int64_t j = 0; j < kTile; ++j) tile[i + r][j] = acc[r][j];
    }
    for (int64_t j = 0; j < kTile; ++j) {   // column j is factored, then leaves the columns to its right
      Lanes<T>* const column = m.lower + j0 + j;
      const Lanes<T> inverse = inverse_root<T>(tile[j][j]);
      column[row_of(j0 + j)] = inverse;     // the diagonal is stored inverted
      for (int64_t i = j + 1; i < kTile; ++i) {
        tile[i][j] *= inverse;
        column[row_of(j0 + i)] = tile[i][j];
      }
      for (int64_t n = j + 1; n < kTile; ++n)
        for (int64_t i = n; i < kTile; ++i) tile[i][n] -= tile[i][j] * tile[n][j];
    }
    const Lanes<T>* above[kTile];
    for (int64_t j = 0; j < kTile; ++j) above[j] = m.lower + row_of(j0 + j) + j0;
    for (int64_t i0 = j0 + kTile; i0 < P; i0 += kRows) {   // below: solved against the tile
      Lanes<T> acc[kRows][kTile];
      fill_rows(m, g, diagonal, i0, j0, acc);
      for (int64_t j = 0; j < kTile; ++j) {
        for (int64_t n = 0; n < j; ++n)
          for (int64_t i = 0; i < kRows; ++i) acc[i][j] -= acc[i][n] * above[j][n];
        for (int64_t i = 0; i < kRows; ++i) acc[i][j] *= above[j][j];
      }
      for (int64_t i = 0; i < kRows; ++i)
        for (int64_t j = 0; j < kTile; ++j) m.lower[row_of(i0 + i) + j0 + j] = acc[i][j];
    }
  }
}

// x <- L^-T L^-1 x of N right-hand sides, x [N, P]: kTile rows at once, so that a loaded number meets several
template <int N, class T> TTR_SIMD_INLINE void substitute(const Slab<T>& m, int64_t P) {
  Lanes<T>* const x = m.x;
  for (int64_t i0 = 0; i0 < P; i0 += kTile) {
    const Lanes<T>* row[kTile];
    for (int64_t i = 0; i < kTile; ++i) row[i] = m.lower + row_of(i0 + i);
    Lanes<T> acc[N][kTile];
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < kTile; ++i) acc[n][i] = x[n * P + i0 + i];
    for (int64_t j = 0; j < i0; ++j)
      for (int64_t i = 0; i < kTile; ++i) {
        const Lanes<T> l = row[i][j];
        for (int64_t n = 0; n < N; ++n) acc[n][i] -= l * x[n * P + j];
      }
    for (int64_t i = 0; i < kTile; ++i)
      for (int64_t n = 0; n < N; ++n) {
        for (int64_t j = 0; j < i; ++j) acc[n][i] -= row[i][i0 + j] * acc[n][j];
        x[n * P + i0 + i] = acc[n][i] *= row[i][i0 + i];
      }
  }
  for (int64_t i0 = P - kTile; i0 >= 0; i0 -= kTile) {
    Lanes<T> acc[N][kTile];
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < kTile; ++i) acc[n][i] = x[n * P + i0 + i];
    for (int64_t j = i0 + kTile; j < P; ++j) {
      const Lanes<T>* const below = m.lower + row_of(j) + i0;
      for (int64_t n = 0; n < N; ++n) {
        const Lanes<T> known = x[n * P + j];
        for (int64_t i = 0; i < kTile; ++i) acc[n][i] -= below[i] * known;
      }
    }
    for (int64_t i = kTile - 1; i >= 0; --i)
      for (int64_t n = 0; n < N; ++n) {
        for (int64_t j = i + 1; j < kTile; ++j) acc[n][i] -= m.lower[row_of(i0 + j) + i0 + i] * acc[n][j];
        x[n * P + i0 + i] = acc[n][i] *= m.lower[row_of(i0 + i) + i0 + i];
      }
  }
}

// Rows [n, K] to lanes [P]: row l to lane l, the last to the lanes from n on, zeros to the columns from K on. And back.
template <class T> TTR_SIMD_INLINE void to_lanes(const T* rows, int64_t stride, int64_t n, int64_t K, int64_t P, Lanes<T>* to) {
  constexpr int64_t W = kWidth<T>;
  int64_t i = 0;
  for (; n == W && i + W <= K; i += W) transpose_square<int(W)>(rows + i, stride, reinterpret_cast<T*>(to + i), W);
  for (; i < P; ++i)
    for (int64_t l = 0; l < W; ++l) to[i][l] = i < K ? rows[(l < n ? l : n - 1) * stride + i] : T(0);
}
template <class T> TTR_SIMD_INLINE void to_rows(const Lanes<T>* from, int64_t n, int64_t K, T* rows, int64_t stride) {
  constexpr int64_t W = kWidth<T>;
  int64_t i = 0;
  for (; n == W && i + W <= K; i += W) transpose_square<int(W)>(reinterpret_cast<const T*>(from + i), W, rows + i, stride);
  for (int64_t l = 0; l < n; ++l)
    for (int64_t j = i; j < K; ++j) rows[l * stride + j] = from[j][l];
}

// row [K] <- through row + sum_s by_s keys_s, N registers of columns at a time
template <int N, class T>
TTR_SIMD_INLINE int64_t add_keys(T* row, int64_t j, int64_t K, T through, const T* by, const T* keys, int64_t stride, int64_t n) {
  constexpr int64_t W = kWidth<T>;
  for (; j + N * W <= K; j += N * W) {
    Lanes<T> sum[N];
    for (int i = 0; i < N; ++i) sum[i] = through * vec(row + j + i * W);
    for (int64_t s = 0; s < n; ++s)
      for (int i = 0; i < N; ++i) sum[i] += by[s] * vec(keys + s * stride + j + i * W);
    for (int i = 0; i < N; ++i) vec(row + j + i * W) = sum[i];
  }
  return j;
}

// Rows of `sets` right-hand sides to lanes, and back: x [sets, c, K] from token r0, n of them.
template <int N, class T> TTR_SIMD_INLINE void solve_sets(const Slab<T>& m, T* x, int64_t c, int64_t r0, int64_t n, int64_t K, int64_t P) {
  for (int64_t set = 0; set < N; ++set) to_lanes(x + (set * c + r0) * K, K, n, K, P, m.x + set * P);
  substitute<N>(m, P);
  for (int64_t set = 0; set < N; ++set) to_rows(m.x + set * P, n, K, x + (set * c + r0) * K, K);
}

template <class T> TTR_SIMD_INLINE void solve_span(const Span<T>& span, T* x, int64_t sets, T* at) {
  constexpr int64_t W = kWidth<T>;
  const int64_t K = span.K, P = padded(K), c = span.count, stride = span.width();
  const Slab<T> m(at, P);
  Lanes<T>* const diagonal = m.x;   // until the factors stand
  for (int64_t i = 0; i < P; ++i)
    for (int64_t j = 0; j < P; ++j) m.start[i * P + j] = i < K && j < K ? span.moments[i * K + j] : T(0);

  for (int64_t r0 = 0; r0 < c; r0 += W) {
    const int64_t n = W < c - r0 ? W : c - r0;   // lanes beyond the last token repeat it
    if (r0 + n > span.skip) {
      T decayed[W], left[W], write[W], rho[W];
      for (int64_t l = 0; l < W; ++l) {   // lanes beyond the last token repeat it: no decay, no weight
        const int64_t r = r0 + (l < n ? l : n - 1);
        decayed[l] = r0 == 0 ? span.since[r] : span.between[r * C + r0 - 1];
        left[l] = l == 0 ? T(0) : l < n ? span.between[r * C + r - 1] : T(1);
        write[l] = l < n ? span.write[r] : T(0), rho[l] = span.rho[r];
      }
      Group<T> g{P, vec(decayed), {vec(left)}};
      for (int64_t step = 1, at = 1; 2 * step < W; step *= 2, ++at)
        for (int64_t l = 0; l < W; ++l) g.left[at][l] = l < 2 * step ? T(0) : g.left[at - 1][l] * g.left[at - 1][l - step];
      to_lanes(span.kv + r0 * stride, stride, n, K, P, m.keys);
      for (int64_t i = 0; i < P; ++i) m.weighted[i] = vec(write) * m.keys[i];
      for (int64_t i = 0; i < P; ++i) diagonal[i] = i < K ? vec(rho) * span.ridge[i] : Lanes<T>{} + T(1);
      factor(m, g, diagonal);
      if (sets == 2) solve_sets<2>(m, x, c, r0, n, K, P);
      else for (int64_t set = 0; set < sets; ++set) solve_sets<1>(m, x + set * c * K, c, r0, n, K, P);
    }
    if (r0 + n == c) break;
    const T through = r0 == 0 ? span.since[n - 1] : span.between[(r0 + n - 1) * C + r0 - 1];   // H after the group
    const T* const keys = span.kv + r0 * stride;
    for (int64_t i = 0; i < K; ++i) {
      T* const row = m.start + i * P;
      T by[W];
      for (int64_t s = 0; s < n; ++s) by[s] = span.between[(r0 + n - 1) * C + r0 + s] * span.write[r0 + s] * keys[s * stride + i];
      int64_t j = add_keys<1>(row, add_keys<4>(row, 0, K, through, by, keys, stride, n), K, through, by, keys, stride, n);
      for (; j < K; ++j) {
        row[j] *= through;
        for (int64_t s = 0; s < n; ++s) row[j] += by[s] * keys[s * stride + j];
      }
    }
  }
}

int64_t slab_f32(int64_t K) { return Slab<float>(nullptr, padded(K)).count; }
int64_t slab_f64(int64_t K) { return Slab<double>(nullptr, padded(K)).count; }
void solve_f32(const Span<float>& span, float* x, int64_t sets, float* slab) { solve_span(span, x, sets, slab); }
void solve_f64(const Span<double>& span, double* x, int64_t sets, double* slab) { solve_span(span, x, sets, slab); }

}  // namespace
}  // namespace TTR_SIMD_SET
}  // namespace ttr::least_squares
