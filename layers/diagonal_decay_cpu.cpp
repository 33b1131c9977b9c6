// CPU kernels of the stem `diagonal_decay` (chunk form of arXiv 2312.06635, 2405.21060, derived in docs/layers/diagonal_decay.md). f32 and f64.
//
// A block of 16 tokens is a handful of small products. With M0 [V,K] the memory that enters, rows r, s of the block, k' = w k, channels j,
//   F_rsj = a_rj a_{r-1,j} ... a_{s+1,j} (F_ss = 1),   since_r = a_r ... a_0,   before_r = since_{r-1} (before_0 = 1):
//   A_rs = sum_j q_rj k'_sj F_rsj (s <= r)        strict: F_{r-1,s} (s < r); the bonus stands on the diagonal          [16,16]
//   Y    = (Q since) M0^T + A V                   strict: before                                                    [16,V]
//   M_C  = M0 diag(since_15) + V^T Kend,   Kend_s = k'_s F_15,s                                                     [V,K]
// The work is in the products with M0: 4 K V a token, and blocks of 16 keep what is inside a block small beside it. Tokens of a block fill one
// register, so the memory lies [V, K] in all of them, and the products are our own: BLAS packs what is used once.
// One decay a head: F is a 16 x 16 table and A a product. One a channel: each k'_s is carried along r, times a_r, 136 pairs a block.
// Everywhere F grows by recurrence; a = 0 is nothing special.
// A worker owns one slab of the workspace; tasks are (sequence, group of heads that share key and value rows).
// Tested against the token recurrence in tests/diagonal_decay_kernel.cpp; the same algebra, token by token, is in cuda/diagonal_decay.cu.
#include <ttr/layers/diagonal_decay_kernel.hpp>

#include <algorithm>
#include <utility>

#include <ttr/core/simd.hpp>
#include <ttr/core/task_slabs.hpp>

namespace ttr {
namespace {

constexpr int64_t C = 16;                        // tokens a block, and elements a row is padded to
constexpr int64_t kBlocks = kDecayChunk / C;     // a saved state is good for so many

constexpr int64_t padded(int64_t n) { return (n + C - 1) / C * C; }

// A register of the widest kind; narrower machines use several.
template <class T> struct Register {
  typedef T type __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
  static constexpr int64_t lanes = 64 / sizeof(T);
};
template <class T> using Vec = typename Register<T>::type;
template <class T> TTR_SIMD_INLINE Vec<T>& vec(T* at) { return *reinterpret_cast<Vec<T>*>(at); }
template <class T> TTR_SIMD_INLINE const Vec<T>& vec(const T* at) { return *reinterpret_cast<const Vec<T>*>(at); }

// -- products ----------------------------------------------------------------------------------------------------------------------------------
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
  for (; r + R <= rows; r += R) tile<R, N>(inner, a.at + r * a.row, a.row, a.step, b, b_row, c + r * c_row, c_row, from ? from + r * c_row : nullptr, times);
  for (; r < rows; ++r) tile<1, N>(inner, a.at + r * a.row, a.row, a.step, b, b_row, c + r * c_row, c_row, from ? from + r * c_row : nullptr, times);
}

template <class T>
TTR_SIMD_INLINE void any_product(int64_t rows, int64_t lanes, int64_t inner, const Operand<T>& a, const T* b, int64_t b_row, T* c, int64_t c_row,
                                 const T* from, const T* times) {
  constexpr int64_t L = Register<T>::lanes;
  int64_t n = 0;
  const auto at = [&](const T* x) { return x ? x + n : nullptr; };
  for (; n + 4 * L <= lanes; n += 4 * L) columns<4, 4>(rows, inner, a, b + n, b_row, c + n, c_row, at(from), at(times));
  for (; n + 2 * L <= lanes; n += 2 * L) columns<8, 2>(rows, inner, a, b + n, b_row, c + n, c_row, at(from), at(times));
  for (; n < lanes; n += L) columns<8, 1>(rows, inner, a, b + n, b_row, c + n, c_row, at(from), at(times));
}

// Functions of their own, so that each is compiled once an instruction set.
TTR_SIMD_CLONES void product(int64_t rows, int64_t lanes, int64_t inner, Operand<float> a, const float* b, int64_t b_row, float* c, int64_t c_row,
                             const float* from, const float* times) {
  any_product(rows, lanes, inner, a, b, b_row, c, c_row, from, times);
}
TTR_SIMD_CLONES void product(int64_t rows, int64_t lanes, int64_t inner, Operand<double> a, const double* b, int64_t b_row, double* c,
                             int64_t c_row, const double* from, const double* times) {
  any_product(rows, lanes, inner, a, b, b_row, c, c_row, from, times);
}
template <class T>
void set_product(int64_t rows, int64_t lanes, int64_t inner, Operand<T> a, const T* b, int64_t b_row, T* c, int64_t c_row) {
  product(rows, lanes, inner, a, b, b_row, c, c_row, nullptr, nullptr);
}
template <class T>
void add_product(int64_t rows, int64_t lanes, int64_t inner, Operand<T> a, const T* b, int64_t b_row, T* c, int64_t c_row, const T* times = nullptr) {
  product(rows, lanes, inner, a, b, b_row, c, c_row, c, times);
}

// -- transposes and sums across a register: swap lanes between two registers at distance 8, 4, 2, 1 --------------------------------------------
typedef int32_t Lanes __attribute__((vector_size(64)));
template <int D, class> struct Swap;
template <int D, int... L> struct Swap<D, std::integer_sequence<int, L...>> {   // 16 + l names lane l of the second register
  static constexpr Lanes low = {((L & D) ? 16 + L - D : L)...};
  static constexpr Lanes high = {((L & D) ? 16 + L : L + D)...};
};
template <int D> using SwapAt = Swap<D, std::make_integer_sequence<int, 16>>;

template <int D> TTR_SIMD_INLINE void swap_lanes(Vec<float>* x) {
  for (int i = 0; i < 16; ++i) {
    if (i & D) continue;
    const Vec<float> a = x[i], b = x[i + D];
    x[i] = __builtin_shuffle(a, b, SwapAt<D>::low);
    x[i + D] = __builtin_shuffle(a, b, SwapAt<D>::high);
  }
}
// to [16, 16] <- the transpose of from [16, 16]
TTR_SIMD_INLINE void transpose_square(const float* from, int64_t from_row, float* to, int64_t to_row) {
  Vec<float> x[16];
  for (int i = 0; i < 16; ++i) x[i] = vec(from + i * from_row);
  swap_lanes<8>(x), swap_lanes<4>(x), swap_lanes<2>(x), swap_lanes<1>(x);
  for (int i = 0; i < 16; ++i) vec(to + i * to_row) = x[i];
}
TTR_SIMD_INLINE void transpose_square(const double* from, int64_t from_row, double* to, int64_t to_row) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) to[i * to_row + j] = from[j * from_row + i];
}
template <class T> TTR_SIMD_INLINE void to_columns(const T* from, int64_t width, T* to) {   // [16, width] -> [width, 16]
  for (int64_t j = 0; j < width; j += C) transpose_square(from + j, width, to + j * C, C);
}
template <class T> TTR_SIMD_INLINE void to_rows(const T* from, int64_t width, T* to) {   // [width, 16] -> [16, width]
  for (int64_t j = 0; j < width; j += C) transpose_square(from + j * C, C, to + j, width);
}

// sums[i] <- the sum of the lanes of x[i], 16 of them
TTR_SIMD_INLINE void sum_lanes(Vec<float>* x, float* sums) {
  const auto halve = [&]<int D>() {
    for (int i = 0; i < D; ++i)
      x[i] = __builtin_shuffle(x[i], x[i + D], SwapAt<D>::low) + __builtin_shuffle(x[i], x[i + D], SwapAt<D>::high);
  };
  halve.operator()<8>(), halve.operator()<4>(), halve.operator()<2>(), halve.operator()<1>();
  vec(sums) = x[0];
}
TTR_SIMD_INLINE void sum_lanes(Vec<double>* x, double* sums) {
  for (int i = 0; i < 16; ++i) {
    double sum = 0;
    for (int l = 0; l < 8; ++l) sum += x[i][l];
    sums[i] = sum;
  }
}

template <class T> TTR_SIMD_INLINE T dot(const T* __restrict a, const T* __restrict b, int64_t n) {   // n a multiple of 16
  T part[C] = {};
  for (int64_t i = 0; i < n; i += C)
    for (int64_t l = 0; l < C; ++l) part[l] += a[i + l] * b[i + l];
  for (int64_t width = C / 2; width > 0; width /= 2)
    for (int64_t l = 0; l < width; ++l) part[l] += part[l + width];
  return part[0];
}

// -- a worker's slab -------------------------------------------------------------------------------------------------------------------------
// Rows of a block, and what is made of them. Kp, Vp: K and V padded to 16.
template <class T> struct Block {
  T *q, *k, *raw_k, *a, *v, *since, *query, *end, *columns, *gram, *pair;
  T w[C];
  bool hidden[C];      // a strict read where a document starts: it sees nothing
  T decay[C];          // one decay a head: a_r
  T table[(C + 1) * C];   // one decay a head: row r + 1 holds F_r, row 0 is zero, so that F_{r-1} exists for every r
  void take(Pieces<T>& p, int64_t Kp, int64_t Vp) {
    q = p.take(C * Kp);              // scale q, or 0 where hidden               [16, Kp]
    k = p.take(C * Kp);              // w k                                      [16, Kp]
    raw_k = p.take(C * Kp);          // k                                        [16, Kp]
    a = p.take(C * Kp);              // decays                                   [16, Kp]
    v = p.take(C * Vp);              //                                          [16, Vp]
    since = p.take((C + 1) * Kp);    // row 0: ones, row r + 1: a_r ... a_0      [17, Kp]
    query = p.take(C * Kp);          // Q since (strict: before)                 [16, Kp]
    end = p.take(C * Kp);            // Kend                                     [16, Kp]
    columns = p.take(Kp * C);        // of query, of end                         [Kp, 16]
    gram = p.take(C * C);            // one decay a head: K Q^T [s, r]           [16, 16]
    pair = p.take(C * C);            // A transposed: [s, r]                     [16, 16]
  }
};

template <class T> struct ForwardSlab {
  Block<T> x;
  T *yt, *y, *memory;
  size_t count;
  ForwardSlab(T* at, const DecaySizes& n, int64_t heads) {
    Pieces<T> p{at};
    const int64_t Kp = padded(n.key_dim), Vp = padded(n.value_dim);
    x.take(p, Kp, Vp);
    yt = p.take(Vp * C);               // Y transposed                          [Vp, 16]
    y = p.take(C * Vp);                // Y                                     [16, Vp]
    memory = p.take(heads * n.value_dim * Kp);   // M                           [heads, V, Kp]
    count = p.used;
  }
};

template <class T> struct BackwardSlab {
  Block<T> x[kBlocks];
  T *states, *adjoint, *dy, *columns_v, *d_pair, *pair_rows, *dq, *dk, *dg, *d_since, *dvt, *dv, *carried, *d_bonus;
  size_t count;
  BackwardSlab(T* at, const DecaySizes& n, int64_t heads, bool per_channel) {
    Pieces<T> p{at};
    const int64_t Kp = padded(n.key_dim), Vp = padded(n.value_dim);
    for (Block<T>& block : x) block.take(p, Kp, Vp);
    states = p.take(kBlocks * n.value_dim * Kp);   // the memory that enters each block      [4, V, Kp]
    adjoint = p.take(heads * n.value_dim * Kp);    // dM                                     [heads, V, Kp]
    dy = p.take(C * Vp);                           //                                        [16, Vp]
    columns_v = p.take(Vp * C);                    // V transposed                           [Vp, 16]
    d_pair = p.take(C * C);                        // dA [r, s]                              [16, 16]
    pair_rows = p.take(C * C);                     // A [r, s]                               [16, 16]
    dq = p.take(C * Kp);                           // of query, then of q                    [16, Kp]
    dk = p.take(C * Kp);                           // of end, then of k                      [16, Kp]
    dg = p.take(C * Kp);                           //                                        [16, Kp]
    d_since = p.take(Kp);                          //                                        [Kp]
    dvt = p.take(Vp * C);                          // dV transposed                          [Vp, 16]
    dv = p.take(C * Vp);                           //                                        [16, Vp]
    carried = p.take(per_channel ? C * C * Kp : 0);   // k'_s as it stands at token r: [r, s] [16, 16, Kp]
    d_bonus = p.take(heads * Kp);                  //                                        [heads, Kp]
    count = p.used;
  }
};

template <class T> TTR_SIMD_INLINE T* row(const Rows<T>& x, const DecaySizes& n, int64_t b, int64_t t, int64_t head, int64_t dim) {
  return x.at + (b * n.tokens + t) * x.token_stride + head * dim;
}

template <class T> TTR_SIMD_INLINE void pad_row(T* to, int64_t from, int64_t width) {
  for (int64_t i = from; i < width; ++i) to[i] = 0;
}
template <class T> TTR_SIMD_INLINE void write_row(T* __restrict to, const T* __restrict from, int64_t n, bool first) {
  constexpr int64_t L = Register<T>::lanes;
  int64_t j = 0;
  for (; j + L <= n; j += L) vec(to + j) = first ? vec(from + j) : vec(to + j) + vec(from + j);
  for (; j < n; ++j) to[j] = first ? from[j] : to[j] + from[j];
}
// Rows of c tokens into [16, width], zeros around them.
template <class T>
TTR_SIMD_INLINE void load_rows(T* to, const Rows<const T>& x, const DecaySizes& n, int64_t b, int64_t t0, int64_t c, int64_t head, int64_t dim,
                               int64_t width) {
  for (int64_t r = 0; r < c; ++r) {
    write_row(to + r * width, row(x, n, b, t0 + r, head, dim), dim, true);
    if (dim < width) pad_row(to + r * width, dim, width);
  }
  if (c < C) pad_row(to, c * width, C * width);
}

template <class T, class Arguments>
TTR_SIMD_INLINE void load_block(Block<T>& x, const Arguments& p, int64_t b, int64_t h, int64_t t0, int64_t c) {
  const DecaySizes& n = p.size;
  const DecayGates<T>& g = p.gates;
  const int64_t K = n.key_dim, V = n.value_dim, H = n.heads, Kp = padded(K);
  load_rows(x.q, p.q, n, b, t0, c, h, K, Kp);
  load_rows(x.raw_k, p.k, n, b, t0, c, h / (H / n.key_heads), K, Kp);
  load_rows(x.v, p.v, n, b, t0, c, h / (H / n.value_heads), V, padded(V));
  for (int64_t j = 0; j < Kp; ++j) x.since[j] = 1;
  for (int64_t r = 0; r < C; ++r) {
    const int64_t token = b * n.tokens + t0 + r, gate = token * H + h;
    const bool inside = r < c, starts = inside && g.segments && t0 + r > 0 && g.segments[token] != g.segments[token - 1];
    x.hidden[r] = starts && g.strict;
    x.w[r] = inside && g.write ? g.write[gate] : T(1);
    const T scale = x.hidden[r] ? T(0) : g.scale;
    T* const q = x.q + r * Kp;
    T* const k = x.k + r * Kp;
    T* const a = x.a + r * Kp;
    const T* const raw = x.raw_k + r * Kp;
    for (int64_t j = 0; j < Kp; ++j) q[j] *= scale;
    for (int64_t j = 0; j < Kp; ++j) k[j] = x.w[r] * raw[j];
    if (!inside || !g.log_decay || starts || !g.per_channel) {
      const T one = starts ? T(0) : inside && g.log_decay && !g.per_channel ? fast_exp(g.log_decay[gate]) : T(1);
      x.decay[r] = one;
      for (int64_t j = 0; j < Kp; ++j) a[j] = one;
    } else {
      const T* __restrict from = g.log_decay + gate * K;
      for (int64_t j = 0; j < K; ++j) a[j] = fast_exp(from[j]);
      for (int64_t j = K; j < Kp; ++j) a[j] = 1;
    }
    const T* const last = x.since + r * Kp;
    T* const since = x.since + (r + 1) * Kp;
    T* const query = x.query + r * Kp;
    for (int64_t j = 0; j < Kp; ++j) since[j] = last[j] * a[j];
    const T* const seen = g.strict ? last : since;
    for (int64_t j = 0; j < Kp; ++j) query[j] = q[j] * seen[j];
  }
}

// Kend_s = k'_s a_{s+1} ... a_{c-1}
template <class T> TTR_SIMD_INLINE void fade_keys(Block<T>& x, int64_t Kp, int64_t c) {
  constexpr int64_t L = Register<T>::lanes;
  for (int64_t j = 0; j < Kp; j += L) {
    Vec<T> left = Vec<T>{} + T(1);
    for (int64_t s = c - 1; s >= 0; --s) {
      vec(x.end + s * Kp + j) = vec(x.k + s * Kp + j) * left;
      left *= vec(x.a + s * Kp + j);
    }
  }
  pad_row(x.end, c * Kp, C * Kp);
}

// One decay a head: the table F.
template <class T> TTR_SIMD_INLINE void fill_table(Block<T>& x) {
  for (int64_t s = 0; s < C; ++s) x.table[s] = 0;
  for (int64_t r = 0; r < C; ++r) {
    const T* __restrict last = x.table + r * C;
    T* __restrict next = x.table + (r + 1) * C;
    for (int64_t s = 0; s < C; ++s) next[s] = x.decay[r] * last[s];
    next[r] = 1;
  }
}

// One decay a channel, N registers of channels at a time: token s is carried along r. sums[r] += q_r k_s F_rs before its lanes are added.
template <int N, class T>
TTR_SIMD_INLINE void carry_key(Block<T>& x, int64_t j, int64_t s, int64_t Kp, int64_t c, bool strict, T* carried, Vec<T>* sums) {
  constexpr int64_t L = Register<T>::lanes;
  Vec<T> k[N];
  for (int i = 0; i < N; ++i) k[i] = vec(x.k + s * Kp + j + i * L);
  const auto read = [&](int64_t r) {
    for (int i = 0; i < N; ++i) sums[r] += vec(x.q + r * Kp + j + i * L) * k[i];
  };
  const auto keep = [&](int64_t r) {
    if (carried)
      for (int i = 0; i < N; ++i) vec(carried + (r * C + s) * Kp + j + i * L) = k[i];
  };
  if (!strict) read(s);
  keep(s);
  for (int64_t r = s + 1; r < c; ++r) {
    if (strict) read(r);
    for (int i = 0; i < N; ++i) k[i] *= vec(x.a + r * Kp + j + i * L);
    if (!strict) read(r);
    keep(r);
  }
  for (int i = 0; i < N; ++i) vec(x.end + s * Kp + j + i * L) = k[i];
}

// A transposed into x.pair, Kend into x.end; carried, if given, as in BackwardSlab.
template <class T, class Arguments>
TTR_SIMD_INLINE void make_pairs(Block<T>& x, const Arguments& p, int64_t b, int64_t h, int64_t t0, int64_t c, T* carried) {
  constexpr int64_t L = Register<T>::lanes;
  const DecayGates<T>& g = p.gates;
  const int64_t Kp = padded(p.size.key_dim);
  if (g.per_channel) {
    for (int64_t s = 0; s < c; ++s) {
      Vec<T> sums[C] = {};
      int64_t j = 0;
      for (; j + 4 * L <= Kp; j += 4 * L) carry_key<4>(x, j, s, Kp, c, g.strict, carried, sums);
      for (; j < Kp; j += L) carry_key<1>(x, j, s, Kp, c, g.strict, carried, sums);
      sum_lanes(sums, x.pair + s * C);
    }
    pad_row(x.end, c * Kp, C * Kp);
    pad_row(x.pair, c * C, C * C);
  } else {
    fill_table(x);
    to_columns(x.q, Kp, x.columns);
    set_product(C, C, Kp, Operand<T>{x.k, Kp, 1}, x.columns, C, x.gram, C);
    transpose_square(x.table + (g.strict ? 0 : C), C, x.pair, C);
    for (int64_t i = 0; i < C * C; ++i) x.pair[i] *= x.gram[i];
    fade_keys(x, Kp, c);
  }
  if (!g.bonus) return;
  const int64_t K = p.size.key_dim;
  const T* const u = g.bonus + h * K;
  for (int64_t r = 0; r < c; ++r) {
    const T* const q = row(p.q, p.size, b, t0 + r, h, K);
    T sum = 0;
    for (int64_t j = 0; j < K; ++j) sum += q[j] * u[j] * x.raw_k[r * Kp + j];
    x.pair[r * C + r] += g.scale * sum;
  }
}

template <class T> TTR_SIMD_INLINE void load_matrix(T* to, int64_t to_row, const T* from, int64_t from_row, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) {
    if (from) write_row(to + i * to_row, from + i * from_row, width, true);
    pad_row(to + i * to_row, from ? width : 0, to_row);
  }
}
template <class T> TTR_SIMD_INLINE void store_matrix(T* to, int64_t to_row, const T* from, int64_t from_row, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) write_row(to + i * to_row, from + i * from_row, width, true);
}

// Heads [first, first + count) of sequence b, block by block: neighbours in a token's row are read while it is near.
template <class T> TTR_SIMD_INLINE void forward_heads(const DecayForward<T>& p, T* slab, int64_t b, int64_t first, int64_t count) {
  const DecaySizes& n = p.size;
  const int64_t K = n.key_dim, V = n.value_dim, Kp = padded(K), Vp = padded(V), head = b * n.heads + first;
  ForwardSlab<T> m(slab, n, count);
  Block<T>& x = m.x;

  for (int64_t i = 0; i < count; ++i) load_matrix(m.memory + i * V * Kp, Kp, p.memory_in ? p.memory_in + (head + i) * V * K : nullptr, K, V, K);
  for (int64_t t0 = 0; t0 < n.tokens; t0 += C)
    for (int64_t i = 0; i < count; ++i) {
      const int64_t c = std::min(C, n.tokens - t0), h = first + i;
      T* const memory = m.memory + i * V * Kp;
      if (p.saved && t0 % kDecayChunk == 0) store_matrix(p.saved + ((head + i) * n.chunks() + t0 / kDecayChunk) * V * K, K, memory, Kp, V, K);
      load_block(x, p, b, h, t0, c);
      make_pairs(x, p, b, h, t0, c, static_cast<T*>(nullptr));
      to_columns(x.query, Kp, x.columns);
      set_product(V, C, Kp, Operand<T>{memory, Kp, 1}, x.columns, C, m.yt, C);   // Y^T = M0 (Q since)^T
      add_product(V, C, c, Operand<T>{x.v, 1, Vp}, x.pair, C, m.yt, C);          //     + V^T A^T
      to_rows(m.yt, Vp, m.y);
      store_matrix(row(p.y, n, b, t0, h, V), p.y.token_stride, m.y, Vp, c, V);
      if (t0 + c == n.tokens && !p.memory_out) continue;
      add_product(V, Kp, c, Operand<T>{x.v, 1, Vp}, x.end, Kp, memory, Kp, x.since + c * Kp);   // M_C = M0 diag(since) + V^T Kend
    }
  for (int64_t i = 0; i < count && p.memory_out; ++i) store_matrix(p.memory_out + (head + i) * V * K, K, m.memory + i * V * Kp, Kp, V, K);
}

// One decay a channel, N registers of them: the recurrences k'_s <- a_r k'_s and since <- a_r since, differentiated from the last token.
// dq [16, Kp] holds the adjoint of query and becomes that of q; dk holds that of Kend and becomes that of k'.
template <int N, class T> TTR_SIMD_INLINE void sweep_channels(const Block<T>& x, const BackwardSlab<T>& m, int64_t j, int64_t Kp, int64_t c, bool strict) {
  constexpr int64_t L = Register<T>::lanes;
  Vec<T> ds[N];
  for (int i = 0; i < N; ++i) ds[i] = vec(m.d_since + j + i * L);
  for (int64_t r = c - 1; r >= 0; --r) {
    const T* const pairs = m.d_pair + r * C;
    const int64_t at = r * Kp + j;
    Vec<T> q[N], a[N], dq[N], da[N];
    for (int i = 0; i < N; ++i) q[i] = vec(x.q + at + i * L), a[i] = vec(x.a + at + i * L), dq[i] = da[i] = Vec<T>{};
    const T* const carried = m.carried + (r - 1) * C * Kp + j;   // k' as it entered token r
    for (int64_t s = 0; s < r; ++s) {
      const T d = pairs[s];
      for (int i = 0; i < N; ++i) {
        const Vec<T> k = vec(carried + s * Kp + i * L);
        Vec<T>& dk = vec(m.dk + s * Kp + j + i * L);
        const Vec<T> dk_read = dk + d * q[i];                      // A_rs = sum_j q_rj k'_sj F_rsj
        dq[i] += d * k;                                            // A_rs = sum_j q_rj k'_sj F_rsj
        da[i] += (strict ? dk : dk_read) * k;                      // k'_s <- a_r k'_s
        dk = strict ? dk * a[i] + d * q[i] : dk_read * a[i];       // k'_s <- a_r k'_s
      }
    }
    for (int i = 0; i < N; ++i) {
      const Vec<T> d_query = vec(m.dq + at + i * L), last = vec(x.since + at + i * L), now = vec(x.since + at + Kp + i * L);
      if (strict) {
        da[i] += ds[i] * last;                                     // since_r = a_r before_r
        ds[i] = ds[i] * a[i] + q[i] * d_query;                     // since_r = a_r before_r;  query_r = q_r before_r
        dq[i] += last * d_query;                                   // query_r = q_r before_r
      } else {
        dq[i] = a[i] * dq[i] + pairs[r] * vec(x.k + at + i * L) + now * d_query;   // A_rs;  A_rr = q_r.k'_r;  query_r = q_r since_r
        vec(m.dk + at + i * L) += pairs[r] * q[i];                 // A_rr = q_r.k'_r
        ds[i] += q[i] * d_query;                                   // query_r = q_r since_r
        da[i] += ds[i] * last;                                     // since_r = a_r before_r
        ds[i] *= a[i];                                             // since_r = a_r before_r
      }
      vec(m.dq + at + i * L) = dq[i];
      vec(m.dg + at + i * L) = a[i] * da[i];                       // a = exp(g)
    }
  }
}

// One decay a head: the same with the table F. dg [16] at m.dg.
template <class T> TTR_SIMD_INLINE void sweep_heads(const Block<T>& x, const BackwardSlab<T>& m, int64_t Kp, int64_t c, bool strict, bool gates) {
  T ds = 0, acc[C] = {}, read[C] = {};   // adjoints of since_r, of F_rs;  q_r . d query_r
  const T* const rest = x.table + c * C;   // F_{c-1,s}
  if (gates) {
    for (int64_t j = 0; j < Kp; ++j) ds += m.d_since[j];                                          // M_C = M0 since + V^T Kend
    for (int64_t r = 0; r < c; ++r) {
      acc[r] = dot(x.k + r * Kp, m.dk + r * Kp, Kp);                                              // Kend_s = k'_s F_{c-1,s}
      read[r] = dot(x.q + r * Kp, m.dq + r * Kp, Kp);                                             // query_r = q_r since_r
    }
    for (int64_t r = c - 1; r >= 0; --r) {
      const T* __restrict d = m.d_pair + r * C;
      const T* __restrict last = x.table + r * C;
      const auto see = [&] {
        ds += read[r];                                                                            // query_r = q_r since_r
        for (int64_t s = 0; s < C; ++s) acc[s] += d[s] * x.gram[s * C + r];                       // A_rs = F_rs q_r.k'_s
      };
      if (!strict) see();
      T da = ds * x.since[r * Kp];                                                                // since_r = a_r before_r
      for (int64_t s = 0; s < C; ++s) da += acc[s] * last[s];                                     // F_r = a_r F_{r-1}
      for (int64_t s = 0; s < C; ++s) acc[s] *= x.decay[r];                                       // F_r = a_r F_{r-1}
      ds *= x.decay[r];                                                                           // since_r = a_r before_r
      if (strict) see();
      m.dg[r] = x.decay[r] * da;                                                                  // a = exp(g)
    }
  }
  const T* const table = x.table + (strict ? 0 : C);
  for (int64_t i = 0; i < C * C; ++i) m.d_pair[i] *= table[i];                                    // A_rs = F_rs q_r.k'_s, for q_r.k'_s
  for (int64_t r = 0; r < c; ++r) {
    const T seen = x.since[(strict ? r : r + 1) * Kp], left = rest[r];
    T* const dq = m.dq + r * Kp;
    T* const dk = m.dk + r * Kp;
    for (int64_t j = 0; j < Kp; ++j) dq[j] *= seen;                                               // query_r = q_r since_r
    for (int64_t j = 0; j < Kp; ++j) dk[j] *= left;                                               // Kend_s = k'_s F_{c-1,s}
  }
  add_product(c, Kp, c, Operand<T>{m.d_pair, C, 1}, x.k, Kp, m.dq, Kp);                           // q_r.k'_s, for q
  add_product(c, Kp, c, Operand<T>{m.d_pair, 1, C}, x.q, Kp, m.dk, Kp);                           // q_r.k'_s, for k'
}

// The block's part of dq, dk, dw, du and dg, from dq, dk' of the sweep and the diagonal of dA.
template <class T>
TTR_SIMD_INLINE void write_block(const DecayBackward<T>& p, const Block<T>& x, const BackwardSlab<T>& m, const T* diagonal, int64_t b, int64_t h,
                                 int64_t t0, int64_t c, bool first_key) {
  const DecaySizes& n = p.size;
  const DecayGates<T>& g = p.gates;
  const int64_t K = n.key_dim, H = n.heads, Kp = padded(K), key_head = h / (H / n.key_heads);
  const T* const u = g.bonus ? g.bonus + h * K : nullptr;
  for (int64_t r = 0; r < c; ++r) {
    const int64_t gate = (b * n.tokens + t0 + r) * H + h;
    T* __restrict dq = m.dq + r * Kp;
    T* __restrict dk = m.dk + r * Kp;
    const T* __restrict k = x.raw_k + r * Kp;
    const T own = g.scale * diagonal[r], scale = x.hidden[r] ? T(0) : g.scale;
    if (p.d_write) p.d_write[gate] = dot(k, dk, Kp);                                              // k' = w k
    for (int64_t j = 0; j < K; ++j) dq[j] *= scale;                                               // Y = scale (...)
    for (int64_t j = 0; j < K; ++j) dk[j] *= x.w[r];                                              // k' = w k
    if (u) {
      const T* __restrict q = row(p.q, n, b, t0 + r, h, K);
      for (int64_t j = 0; j < K; ++j) {
        dq[j] += own * u[j] * k[j];                                                               // A_rr += scale (u * k_r) . q_r
        dk[j] += own * u[j] * q[j];                                                               // A_rr += scale (u * k_r) . q_r
        m.d_bonus[j] += own * q[j] * k[j];                                                        // A_rr += scale (u * k_r) . q_r
      }
    }
    if (p.dq.at) write_row(row(p.dq, n, b, t0 + r, h, K), dq, K, true);
    if (p.dk.at) write_row(row(p.dk, n, b, t0 + r, key_head, K), dk, K, first_key);
    if (p.d_log_decay && g.per_channel) write_row(p.d_log_decay + gate * K, m.dg + r * Kp, K, true);
    if (p.d_log_decay && !g.per_channel) p.d_log_decay[gate] = m.dg[r];
  }
}

// One chunk of one head; m.adjoint and m.d_bonus are that head's.
template <class T> TTR_SIMD_INLINE void backward_chunk(const DecayBackward<T>& p, BackwardSlab<T>& m, int64_t b, int64_t h, int64_t chunk) {
  constexpr int64_t L = Register<T>::lanes;
  const DecaySizes& n = p.size;
  const DecayGates<T>& g = p.gates;
  const int64_t K = n.key_dim, V = n.value_dim, Kp = padded(K), Vp = padded(V), head = b * n.heads + h;
  const int64_t per_key = n.heads / n.key_heads, per_value = n.heads / n.value_heads, value_head = h / per_value;
  const bool first_key = h % per_key == 0, first_value = h % per_value == 0;   // no head before this one wrote into the shared rows of dk, dv
  T diagonal[C];

  const int64_t first = chunk * kDecayChunk, blocks = (std::min(kDecayChunk, n.tokens - first) + C - 1) / C;
  load_matrix(m.states, Kp, p.saved + (head * n.chunks() + chunk) * V * K, K, V, K);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t t0 = first + i * C, c = std::min(C, n.tokens - t0);
    load_block(m.x[i], p, b, h, t0, c);
    if (i + 1 == blocks) break;
    fade_keys(m.x[i], Kp, c);
    T* const next = m.states + (i + 1) * V * Kp;
    product(V, Kp, c, Operand<T>{m.x[i].v, 1, Vp}, m.x[i].end, Kp, next, Kp, next - V * Kp, m.x[i].since + c * Kp);
  }
  for (int64_t i = blocks - 1; i >= 0; --i) {
    const int64_t t0 = first + i * C, c = std::min(C, n.tokens - t0);
    Block<T>& x = m.x[i];
    const T* const memory = m.states + i * V * Kp;
    make_pairs(x, p, b, h, t0, c, g.per_channel ? m.carried : nullptr);
    load_rows(m.dy, p.dy, n, b, t0, c, h, V, Vp);

    to_columns(x.v, Vp, m.columns_v);
    set_product(C, C, V, Operand<T>{m.dy, Vp, 1}, m.columns_v, C, m.d_pair, C);                 // Y = query M0^T + A V, for A
    set_product(C, Kp, V, Operand<T>{m.dy, Vp, 1}, memory, Kp, m.dq, Kp);                       // Y, for query
    set_product(C, Kp, V, Operand<T>{x.v, Vp, 1}, m.adjoint, Kp, m.dk, Kp);                     // M_C = M0 since + V^T Kend, for Kend
    if (p.dv.at) {
      to_columns(x.end, Kp, x.columns);
      set_product(V, C, Kp, Operand<T>{m.adjoint, Kp, 1}, x.columns, C, m.dvt, C);              // M_C, for V
      transpose_square(x.pair, C, m.pair_rows, C);
      add_product(V, C, c, Operand<T>{m.dy, 1, Vp}, m.pair_rows, C, m.dvt, C);                  // Y, for V
      to_rows(m.dvt, Vp, m.dv);
      for (int64_t s = 0; s < c; ++s) write_row(row(p.dv, n, b, t0 + s, value_head, V), m.dv + s * Vp, V, first_value);
    }
    for (int64_t r = 0; r < C; ++r) {
      diagonal[r] = m.d_pair[r * C + r];
      const int64_t seen = g.strict ? r : r + 1;
      T* const d = m.d_pair + r * C;
      for (int64_t s = 0; s < C; ++s) d[s] = s < seen ? d[s] : T(0);
    }
    if (p.d_log_decay)
      for (int64_t j = 0; j < Kp; j += L) {
        Vec<T> sum{};
        for (int64_t r = 0; r < V; ++r) sum += vec(memory + r * Kp + j) * vec(m.adjoint + r * Kp + j);
        vec(m.d_since + j) = sum;                                                               // M_C = M0 since + V^T Kend, for since
      }
    else pad_row(m.d_since, 0, Kp);
    if (g.per_channel) {
      int64_t j = 0;
      for (; j + 2 * L <= Kp; j += 2 * L) sweep_channels<2>(x, m, j, Kp, c, g.strict);
      for (; j < Kp; j += L) sweep_channels<1>(x, m, j, Kp, c, g.strict);
    } else {
      sweep_heads(x, m, Kp, c, g.strict, p.d_log_decay != nullptr);
    }
    write_block(p, x, m, diagonal, b, h, t0, c, first_key);
    if (t0 == 0 && !p.d_memory_in) break;
    add_product(V, Kp, c, Operand<T>{m.dy, 1, Vp}, x.query, Kp, m.adjoint, Kp, x.since + c * Kp);   // M_C;  Y, for M0
  }
}

// Heads [first, first + count) of sequence b, chunk by chunk from the last.
template <class T> TTR_SIMD_INLINE void backward_heads(const DecayBackward<T>& p, T* slab, int64_t b, int64_t first, int64_t count) {
  const DecaySizes& n = p.size;
  const int64_t K = n.key_dim, V = n.value_dim, Kp = padded(K), head = b * n.heads + first;
  const BackwardSlab<T> all(slab, n, count, p.gates.per_channel);
  for (int64_t i = 0; i < count; ++i)
    load_matrix(all.adjoint + i * V * Kp, Kp, p.d_memory_out ? p.d_memory_out + (head + i) * V * K : nullptr, K, V, K);
  pad_row(all.d_bonus, 0, count * Kp);
  for (int64_t chunk = n.chunks() - 1; chunk >= 0; --chunk)
    for (int64_t i = 0; i < count; ++i) {
      BackwardSlab<T> m = all;
      m.adjoint += i * V * Kp, m.d_bonus += i * Kp;
      backward_chunk(p, m, b, first + i, chunk);
    }
  for (int64_t i = 0; i < count; ++i) {
    if (p.d_memory_in) store_matrix(p.d_memory_in + (head + i) * V * K, K, all.adjoint + i * V * Kp, Kp, V, K);
    if (p.d_bonus) write_row(p.d_bonus + (head + i) * K, all.d_bonus + i * Kp, K, true);
  }
}

// f64 is for checking: its products have clones, what stands around them has not.
TTR_SIMD_CLONES void run_heads(const DecayForward<float>& p, float* slab, int64_t b, int64_t first, int64_t count) {
  forward_heads(p, slab, b, first, count);
}
void run_heads(const DecayForward<double>& p, double* slab, int64_t b, int64_t first, int64_t count) {
  forward_heads(p, slab, b, first, count);
}
TTR_SIMD_CLONES void run_heads(const DecayBackward<float>& p, float* slab, int64_t b, int64_t first, int64_t count) {
  backward_heads(p, slab, b, first, count);
}
void run_heads(const DecayBackward<double>& p, double* slab, int64_t b, int64_t first, int64_t count) {
  backward_heads(p, slab, b, first, count);
}

// Heads that share a row of keys or of values are one task, so that dk and dv are sums in a fixed order.
// Beyond that a task takes as many heads as leave two tasks a thread.
int64_t heads_together(const DecaySizes& n) {
  const int64_t least = n.heads / head_groups(n);
  int64_t most = least;
  for (int64_t count = least; count <= n.heads; count += least)
    if (n.heads % count == 0 && n.batch * (n.heads / count) >= 2 * thread_count()) most = count;
  return most;
}
template <class T> size_t slab_of(const DecayForward<T>& p) { return ForwardSlab<T>(nullptr, p.size, heads_together(p.size)).count; }
template <class T> size_t slab_of(const DecayBackward<T>& p) {
  return BackwardSlab<T>(nullptr, p.size, heads_together(p.size), p.gates.per_channel).count;
}
template <class T, class Arguments> Status share_heads(const Arguments& p, Workspace work) {
  const DecaySizes& n = p.size;
  if (!heads_hold(n)) return Status::bad_size;
  const int64_t count = heads_together(n), parts = n.heads / count;
  return share_tasks<T>(n.batch * parts, slab_of(p), work, [&](int64_t task, T* slab) { run_heads(p, slab, task / parts, task % parts * count, count); });
}

template <class A> const int32_t* starts_of(const RunningScale<A>& x, int64_t b) { return x.segments ? x.segments + b * x.tokens : nullptr; }

}  // namespace

namespace cpu {

template <class T> size_t diagonal_decay_workspace(const DecayForward<T>& p) {
  return slabs_bytes<T>(p.size.batch * p.size.heads / heads_together(p.size), slab_of(p));
}
template <class T> size_t diagonal_decay_workspace(const DecayBackward<T>& p) {
  return slabs_bytes<T>(p.size.batch * p.size.heads / heads_together(p.size), slab_of(p));
}
template <class T> Status diagonal_decay_forward(const DecayForward<T>& p, Workspace work) { return share_heads<T>(p, work); }
template <class T> Status diagonal_decay_backward(const DecayBackward<T>& p, Workspace work) { return share_heads<T>(p, work); }

template <class A> Status running_scale_forward(const RunningScale<A>& x) {
  const int64_t H = x.heads;
  parallel_for(x.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int32_t* const segments = starts_of(x, b);
      for (int64_t t = 0; t < x.tokens; ++t)
        for (int64_t h = 0; h < H; ++h) {
          const int64_t at = (b * x.tokens + t) * H + h;
          const bool starts = t > 0 && segments && segments[t] != segments[t - 1];
          const A before = starts ? A(0) : t > 0 ? x.scale[at - H] : x.initial ? x.initial[b * H + h] : A(0);
          const A decayed = x.log_decay[at] + before;
          x.scale[at] = decayed >= x.log_write[at] ? decayed : x.log_write[at];
        }
    }
  });
  return Status::ok;
}

template <class A> Status running_scale_backward(const RunningScale<A>& x) {
  const int64_t H = x.heads;
  parallel_for(x.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t h = 0; h < H; ++h) {
        const int32_t* const segments = starts_of(x, b);
        A carried = 0;   // adjoint of m_t from the future
        for (int64_t t = x.tokens - 1; t >= 0; --t) {
          const int64_t at = (b * x.tokens + t) * H + h;
          const bool starts = t > 0 && segments && segments[t] != segments[t - 1];
          const A before = starts ? A(0) : t > 0 ? x.scale[at - H] : x.initial ? x.initial[b * H + h] : A(0);
          const A d = carried + x.d_scale[at];
          const bool decays = x.log_decay[at] + before >= x.log_write[at];
          x.d_log_decay[at] = decays ? d : A(0);     // m_t = max(g_t + m_{t-1}, w_t)
          x.d_log_write[at] = decays ? A(0) : d;     // m_t = max(g_t + m_{t-1}, w_t)
          carried = decays && !starts ? d : A(0);    // m_t = max(g_t + m_{t-1}, w_t)
        }
        if (x.d_initial) x.d_initial[b * H + h] = carried;
      }
  });
  return Status::ok;
}

template size_t diagonal_decay_workspace<float>(const DecayForward<float>&);
template size_t diagonal_decay_workspace<double>(const DecayForward<double>&);
template size_t diagonal_decay_workspace<float>(const DecayBackward<float>&);
template size_t diagonal_decay_workspace<double>(const DecayBackward<double>&);
template Status diagonal_decay_forward<float>(const DecayForward<float>&, Workspace);
template Status diagonal_decay_forward<double>(const DecayForward<double>&, Workspace);
template Status diagonal_decay_backward<float>(const DecayBackward<float>&, Workspace);
template Status diagonal_decay_backward<double>(const DecayBackward<double>&, Workspace);
template Status running_scale_forward<float>(const RunningScale<float>&);
template Status running_scale_forward<double>(const RunningScale<double>&);
template Status running_scale_backward<float>(const RunningScale<float>&);
template Status running_scale_backward<double>(const RunningScale<double>&);

}  // namespace cpu
}  // namespace ttr
