// A factorisation a token, as many tokens at once as a vector register has lanes: A_r = L L^T, L z = x, L^T x = z (normal_equations_span.hpp).
//
// Entry (i, j) of the lanes' matrices is one register, so the Cholesky below is the scalar one on tiles of 4 x 4 entries, left-looking: a tile
// is filled from H as it enters the group of lanes and from the group's own keys, loses what the columns to its left explain, and is solved
// against the diagonal tile above it. K is padded to a multiple of 4 with an identity. CUDA twin: solve_kernel of cuda/normal_equations.cu.
#include <ttr/layers/normal_equations_span.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace ttr::least_squares {
namespace {

constexpr int64_t kTile = 4;
constexpr size_t kRegister = 64;   // bytes

template <class T> struct LanesOf { typedef T type __attribute__((vector_size(kRegister), aligned(kRegister), may_alias)); };
template <class T> using Lanes = typename LanesOf<T>::type;
template <class T> constexpr int64_t kWidth = int64_t(kRegister / sizeof(T));

int64_t padded(int64_t K) { return (K + kTile - 1) / kTile * kTile; }
TTR_SIMD_INLINE int64_t row_of(int64_t i) { return i * (i + 1) / 2; }   // of a packed lower triangle

template <class T> struct Slab {
  T *start, *keys;           // H as it enters the group [P, P]; the group's keys [lanes, P]
  Lanes<T> *lower, *weighted, *x;   // L, packed [P (P + 1) / 2]; key s times its weight in each lane [lanes, P]; right-hand side [P]
  int64_t count;
  Slab(T* at, int64_t P) {
    constexpr int64_t W = kWidth<T>;
    const size_t skip = (kRegister - reinterpret_cast<uintptr_t>(at) % kRegister) % kRegister / sizeof(T);
    Pieces<T> p{at ? at + skip : nullptr};
    start = p.take(P * P);
    keys = p.take(W * P);
    lower = reinterpret_cast<Lanes<T>*>(p.take(P * (P + 1) / 2 * W));
    weighted = reinterpret_cast<Lanes<T>*>(p.take(W * P * W));
    x = reinterpret_cast<Lanes<T>*>(p.take(P * W));
    count = int64_t(p.used) + W;
  }
};

// What a lane's matrix is made of: decayed * start + sum_s weighted_s keys_s^T + added on the diagonal.
template <class T> struct Group {
  int64_t P, tokens;
  Lanes<T> decayed;
};

template <class T> TTR_SIMD_INLINE void fill_tile(const Slab<T>& m, const Group<T>& g, int64_t i0, int64_t j0, Lanes<T> (&acc)[kTile][kTile]) {
  for (int64_t i = 0; i < kTile; ++i)
    for (int64_t j = 0; j < kTile; ++j) acc[i][j] = g.decayed * m.start[(i0 + i) * g.P + j0 + j];
  for (int64_t s = 0; s < g.tokens; ++s)
    for (int64_t i = 0; i < kTile; ++i) {
      const Lanes<T> w = m.weighted[s * g.P + i0 + i];
      for (int64_t j = 0; j < kTile; ++j) acc[i][j] += w * m.keys[s * g.P + j0 + j];
    }
}

template <class T> TTR_SIMD_INLINE void factor(const Slab<T>& m, const Group<T>& g, const Lanes<T>* diagonal) {
  const int64_t P = g.P;
  for (int64_t j0 = 0; j0 < P; j0 += kTile)
    for (int64_t i0 = j0; i0 < P; i0 += kTile) {
      Lanes<T> acc[kTile][kTile];
      fill_tile(m, g, i0, j0, acc);
      if (i0 == j0)
        for (int64_t i = 0; i < kTile; ++i) acc[i][i] += diagonal[i0 + i];
      const Lanes<T>*left[kTile], *above[kTile];
      for (int64_t i = 0; i < kTile; ++i) left[i] = m.lower + row_of(i0 + i), above[i] = m.lower + row_of(j0 + i);
      for (int64_t k = 0; k < j0; ++k) {
        Lanes<T> a[kTile];
        for (int64_t j = 0; j < kTile; ++j) a[j] = above[j][k];
        for (int64_t i = 0; i < kTile; ++i) {
          const Lanes<T> l = left[i][k];
          for (int64_t j = 0; j < kTile; ++j) acc[i][j] -= l * a[j];
        }
      }
      for (int64_t j = 0; j < kTile; ++j) {   // inside the tile: column j is solved or factored, then leaves the columns to its right
        Lanes<T> inverse;
        if (i0 == j0) {
          for (int64_t l = 0; l < kWidth<T>; ++l)
            inverse[l] = acc[j][j][l] > 0 ? 1 / std::sqrt(acc[j][j][l]) : std::numeric_limits<T>::quiet_NaN();
          m.lower[row_of(j0 + j) + j0 + j] = inverse;   // the diagonal is stored inverted
        } else {
          inverse = m.lower[row_of(j0 + j) + j0 + j];
        }
        for (int64_t i = i0 == j0 ? j + 1 : 0; i < kTile; ++i) {
          acc[i][j] *= inverse;
          m.lower[row_of(i0 + i) + j0 + j] = acc[i][j];
        }
        for (int64_t n = j + 1; n < kTile; ++n) {
          const Lanes<T> l = i0 == j0 ? acc[n][j] : m.lower[row_of(j0 + n) + j0 + j];
          for (int64_t i = i0 == j0 ? n : 0; i < kTile; ++i) acc[i][n] -= acc[i][j] * l;
        }
      }
    }
}

template <class T> TTR_SIMD_INLINE void substitute(const Slab<T>& m, int64_t P) {
  Lanes<T>* const x = m.x;
  for (int64_t i = 0; i < P; ++i) {
    const Lanes<T>* const row = m.lower + row_of(i);
    Lanes<T> sum[kTile] = {x[i]};
    for (int64_t j = 0; j < i; ++j) sum[j % kTile] -= row[j] * x[j];
    x[i] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) * row[i];
  }
  for (int64_t i = P - 1; i >= 0; --i) {
    const Lanes<T>* const row = m.lower + row_of(i);
    const Lanes<T> value = x[i] * row[i];
    x[i] = value;
    for (int64_t j = 0; j < i; ++j) x[j] -= row[j] * value;
  }
}

template <class T> TTR_SIMD_INLINE void solve_span(const Span<T>& span, T* x, int64_t sets, T* at) {
  constexpr int64_t W = kWidth<T>;
  const int64_t K = span.K, P = padded(K), c = span.count, stride = span.width();
  const Slab<T> m(at, P);
  Lanes<T>* const diagonal = m.x;   // until the factors stand
  for (int64_t i = 0; i < P; ++i)
    for (int64_t j = 0; j < P; ++j) m.start[i * P + j] = i < K && j < K ? span.moments[i * K + j] : T(0);

  for (int64_t r0 = 0; r0 < c; r0 += W) {
    const int64_t n = std::min(W, c - r0);   // lanes beyond the last token repeat it
    if (r0 + n > span.skip) {
      Group<T> g{P, n, {}};
      for (int64_t l = 0; l < W; ++l) {
        const int64_t r = r0 + std::min(l, n - 1);
        g.decayed[l] = r0 == 0 ? span.since[r] : span.between[r * C + r0 - 1];
      }
      for (int64_t s = 0; s < n; ++s) {
        Lanes<T> weight;
        for (int64_t l = 0; l < W; ++l) weight[l] = span.between[(r0 + std::min(l, n - 1)) * C + r0 + s] * span.write[r0 + s];
        for (int64_t i = 0; i < P; ++i) {
          const T key = i < K ? span.kv[(r0 + s) * stride + i] : T(0);
          m.keys[s * P + i] = key;
          m.weighted[s * P + i] = weight * key;
        }
      }
      for (int64_t i = 0; i < P; ++i)
        for (int64_t l = 0; l < W; ++l) diagonal[i][l] = i < K ? span.rho[r0 + std::min(l, n - 1)] * span.ridge[i] : T(1);
      factor(m, g, diagonal);
      for (int64_t set = 0; set < sets; ++set) {
        T* const rows = x + (set * c + r0) * K;
        for (int64_t i = 0; i < P; ++i)
          for (int64_t l = 0; l < W; ++l) m.x[i][l] = i < K ? rows[std::min(l, n - 1) * K + i] : T(0);
        substitute(m, P);
        for (int64_t l = 0; l < n; ++l)
          for (int64_t i = 0; i < K; ++i) rows[l * K + i] = m.x[i][l];
      }
    }
    if (r0 + n == c) break;
    const T through = r0 == 0 ? span.since[n - 1] : span.between[(r0 + n - 1) * C + r0 - 1];   // H after the group
    for (int64_t i = 0; i < K; ++i) {
      T* const row = m.start + i * P;
      for (int64_t j = 0; j < K; ++j) row[j] *= through;
      for (int64_t s = 0; s < n; ++s) {
        const T* const key = span.kv + (r0 + s) * stride;
        const T by = span.between[(r0 + n - 1) * C + r0 + s] * span.write[r0 + s] * key[i];
        for (int64_t j = 0; j < K; ++j) row[j] += by * key[j];
      }
    }
  }
}

TTR_SIMD_CLONES void solve_f32(const Span<float>& span, float* x, int64_t sets, float* slab) { solve_span(span, x, sets, slab); }
TTR_SIMD_CLONES void solve_f64(const Span<double>& span, double* x, int64_t sets, double* slab) { solve_span(span, x, sets, slab); }

}  // namespace

int64_t by_token_slab(int64_t key_dim, bool wide) { return wide ? Slab<double>(nullptr, padded(key_dim)).count : Slab<float>(nullptr, padded(key_dim)).count; }
void solve_by_token(const Span<float>& span, float* x, int64_t sets, float* slab) { solve_f32(span, x, sets, slab); }
void solve_by_token(const Span<double>& span, double* x, int64_t sets, double* slab) { solve_f64(span, x, sets, slab); }

}  // namespace ttr::least_squares
