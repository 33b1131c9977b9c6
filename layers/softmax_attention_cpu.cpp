// Softmax attention on the CPU: blocks of queries against blocks of keys (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022,
// arXiv 2205.14135).
//
//   S = scale Q K^T,  P = exp(S - lse),  Y = P V         dP = dY V^T,  dS = scale P o (dP - delta),  delta_t = dy_t . y_t
//
// Every block of scores is held transposed, keys down and queries across: [n, width]. Then the maximum and the sum of a query's softmax
// are elementwise over rows, without a reduction inside a register, and every product is of the two kinds that BLAS does fastest at this
// size (A B and A^T B). With several blocks of queries, k and v are first copied head by head and dk, dv summed there: rows a whole
// projection apart fall into few sets of the first cache. Scratch: two blocks of scores a worker, and those copies.
#include <ttr/layers/softmax_attention_kernel.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include <ttr/core/blas.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>

namespace ttr::cpu {
namespace {

constexpr int64_t kQueries = 64;   // queries a block, at most
constexpr int64_t kKeys = 128;     // keys a block
constexpr size_t kAlign = 64;

// ---- the loops over a block of scores, one clone per instruction set ----
// Widths are multiples of kSimdLanes and loops run over whole registers. Key row r is hidden from the columns before first + r.

TTR_SIMD_INLINE int64_t hidden_columns(int64_t first, int64_t row, int64_t width) { return std::clamp<int64_t>(first + row, 0, width); }
TTR_SIMD_INLINE int64_t whole_registers(int64_t columns) { return columns / kSimdLanes * kSimdLanes; }

template <class T> TTR_SIMD_INLINE void clear_columns(T* s, int64_t end) {
  for (int64_t c = 0; c < end; c += kSimdLanes)
    for (int64_t l = 0; l < kSimdLanes; ++l) s[c + l] = 0;
}

// Scores of queries that must not see the key become -inf, before any exponential; columns before `begin` are cleared elsewhere.
template <class T>
TTR_SIMD_INLINE void hide_row(T* s, int64_t begin, int64_t hidden, int64_t width, const int32_t* query_segments, int32_t key_segment) {
  constexpr T kHidden = -std::numeric_limits<T>::infinity();
  if (begin < hidden)
    for (int64_t l = 0; l < kSimdLanes; ++l) s[begin + l] = l < hidden - begin ? kHidden : s[begin + l];
  if (query_segments != nullptr)
    for (int64_t c = begin; c < width; ++c) s[c] = query_segments[c] == key_segment ? s[c] : kHidden;
}

template <class T>   // s [n, width], top [width]
TTR_SIMD_INLINE void mask_and_raise(T* __restrict__ s, int64_t n, int64_t width, int64_t first, const int32_t* query_segments,
                                    const int32_t* key_segments, T* __restrict__ top) {
  for (int64_t r = 0; r < n; ++r, s += width) {
    const int64_t hidden = hidden_columns(first, r, width), begin = whole_registers(hidden);
    hide_row(s, begin, hidden, width, query_segments, query_segments ? key_segments[r] : 0);
    for (int64_t c = begin; c < width; c += kSimdLanes)
      for (int64_t l = 0; l < kSimdLanes; ++l) top[c + l] = top[c + l] < s[c + l] ? s[c + l] : top[c + l];
  }
}

// The running maximum rises from `before` to `top` [width]: factor = exp(before - top) is what the sums so far are worth against the new
// one. A query that has seen nothing keeps 0 in place of -inf until its exponentials are formed: exp(-inf - 0), not exp(-inf + inf).
template <class T>
TTR_SIMD_INLINE void lower_sums(const T* __restrict__ before, int64_t width, T* __restrict__ top, T* __restrict__ sum,
                                T* __restrict__ factor) {
  constexpr T kNothing = -std::numeric_limits<T>::infinity();
  for (int64_t c = 0; c < width; ++c) {
    const T shift = top[c] == kNothing ? T(0) : top[c];
    const T f = fast_exp(before[c] - shift);
    top[c] = shift;
    sum[c] *= f;
    factor[c] = f;
  }
}

template <class T>   // s [n, width] becomes exp(s - top), sum [width] grows by it
TTR_SIMD_INLINE void exponentiate(T* __restrict__ s, int64_t n, int64_t width, int64_t first, const T* __restrict__ top,
                                  T* __restrict__ sum) {
  for (int64_t r = 0; r < n; ++r, s += width) {
    const int64_t begin = whole_registers(hidden_columns(first, r, width));
    clear_columns(s, begin);
    for (int64_t c = begin; c < width; c += kSimdLanes)
      for (int64_t l = 0; l < kSimdLanes; ++l) {
        const T p = fast_exp(s[c + l] - top[c + l]);
        s[c + l] = p;
        sum[c + l] += p;
      }
  }
}

template <class T>   // s becomes P, dp becomes dS; both [n, width]; lse, delta [width]
TTR_SIMD_INLINE void differentiate(T* __restrict__ s, T* __restrict__ dp, int64_t n, int64_t width, int64_t first,
                                   const int32_t* query_segments, const int32_t* key_segments, const T* __restrict__ lse,
                                   const T* __restrict__ delta, T scale) {
  for (int64_t r = 0; r < n; ++r, s += width, dp += width) {
    const int64_t hidden = hidden_columns(first, r, width), begin = whole_registers(hidden);
    clear_columns(s, begin);
    clear_columns(dp, begin);
    hide_row(s, begin, hidden, width, query_segments, query_segments ? key_segments[r] : 0);
    for (int64_t c = begin; c < width; c += kSimdLanes)
      for (int64_t l = 0; l < kSimdLanes; ++l) {
        const T p = fast_exp(s[c + l] - lse[c + l]);               // P = exp(S - lse)
        dp[c + l] = scale * p * (dp[c + l] - delta[c + l]);        // P = exp(S - lse), S = scale Q K^T
        s[c + l] = p;
      }
  }
}

template <class T>   // to [rows, dim] = factor [rows] times from
TTR_SIMD_INLINE void multiply_rows(const T* from, int64_t from_stride, int64_t rows, int64_t dim, const T* factor, T* to,
                                   int64_t to_stride) {
  for (int64_t t = 0; t < rows; ++t, from += from_stride, to += to_stride) {
    const T f = factor[t];
    for (int64_t d = 0; d < dim; ++d) to[d] = f * from[d];
  }
}

// An 8 x 8 corner turned in registers: three rounds, each swapping the off-diagonal quarters of 8, 4 and 2.
template <class T> TTR_SIMD_INLINE void transpose_corner(const T* x, int64_t stride, T* columns, int64_t width) {
  typedef T Eight __attribute__((vector_size(8 * sizeof(T))));
  Eight a[8], b[8];
  for (int i = 0; i < 8; ++i) std::memcpy(&a[i], x + i * stride, sizeof(Eight));
  for (int i = 0; i < 4; ++i) {
    b[i] = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    b[i + 4] = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int i = 0; i < 8; i += 4)
    for (int j = i; j < i + 2; ++j) {
      a[j] = __builtin_shufflevector(b[j], b[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      a[j + 2] = __builtin_shufflevector(b[j], b[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 8; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; ++i) std::memcpy(columns + i * width, &b[i], sizeof(Eight));
}

template <class T>   // x [rows, dim] -> columns [dim, width], zero from column `rows` to `width`
TTR_SIMD_INLINE void transpose_rows(const T* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, T* columns) {
  const int64_t whole_rows = rows / 8 * 8, whole_dim = dim / 8 * 8;
  for (int64_t t = 0; t < whole_rows; t += 8) {
    for (int64_t d = 0; d < whole_dim; d += 8) transpose_corner(x + t * stride + d, stride, columns + d * width + t, width);
    for (int64_t d = whole_dim; d < dim; ++d)
      for (int64_t l = t; l < t + 8; ++l) columns[d * width + l] = x[l * stride + d];
  }
  if (whole_rows < width)
    for (int64_t d = 0; d < dim; ++d) {
      for (int64_t t = whole_rows; t < rows; ++t) columns[d * width + t] = x[t * stride + d];
      for (int64_t t = rows; t < width; ++t) columns[d * width + t] = 0;
    }
}

template <class T>   // a, b [rows, dim] -> out [rows], out_t = a_t . b_t
TTR_SIMD_INLINE void dot_rows(const T* a, int64_t a_stride, const T* b, int64_t b_stride, int64_t rows, int64_t dim, T* out) {
  for (int64_t t = 0; t < rows; ++t, a += a_stride, b += b_stride) {
    T lane[kSimdLanes] = {};
    int64_t d = 0;
    for (; d + kSimdLanes <= dim; d += kSimdLanes)
      for (int64_t l = 0; l < kSimdLanes; ++l) lane[l] += a[d + l] * b[d + l];
    T sum = 0;
    for (; d < dim; ++d) sum += a[d] * b[d];
    for (int64_t half = kSimdLanes / 2; half > 0; half /= 2)
      for (int64_t l = 0; l < half; ++l) lane[l] += lane[l + half];
    out[t] = sum + lane[0];
  }
}

TTR_SIMD_CLONES void mask_and_raise_block(float* s, int64_t n, int64_t width, int64_t first, const int32_t* qs, const int32_t* ks,
                                          float* top) {
  mask_and_raise(s, n, width, first, qs, ks, top);
}
TTR_SIMD_CLONES void mask_and_raise_block(double* s, int64_t n, int64_t width, int64_t first, const int32_t* qs, const int32_t* ks,
                                          double* top) {
  mask_and_raise(s, n, width, first, qs, ks, top);
}
TTR_SIMD_CLONES void lower(const float* before, int64_t width, float* top, float* sum, float* factor) {
  lower_sums(before, width, top, sum, factor);
}
TTR_SIMD_CLONES void lower(const double* before, int64_t width, double* top, double* sum, double* factor) {
  lower_sums(before, width, top, sum, factor);
}
TTR_SIMD_CLONES void exponentiate_block(float* s, int64_t n, int64_t width, int64_t first, const float* top, float* sum) {
  exponentiate(s, n, width, first, top, sum);
}
TTR_SIMD_CLONES void exponentiate_block(double* s, int64_t n, int64_t width, int64_t first, const double* top, double* sum) {
  exponentiate(s, n, width, first, top, sum);
}
TTR_SIMD_CLONES void differentiate_block(float* s, float* dp, int64_t n, int64_t width, int64_t first, const int32_t* qs, const int32_t* ks,
                                         const float* lse, const float* delta, float scale) {
  differentiate(s, dp, n, width, first, qs, ks, lse, delta, scale);
}
TTR_SIMD_CLONES void differentiate_block(double* s, double* dp, int64_t n, int64_t width, int64_t first, const int32_t* qs,
                                         const int32_t* ks, const double* lse, const double* delta, double scale) {
  differentiate(s, dp, n, width, first, qs, ks, lse, delta, scale);
}
TTR_SIMD_CLONES void multiply(const float* from, int64_t from_stride, int64_t rows, int64_t dim, const float* factor, float* to,
                              int64_t to_stride) {
  multiply_rows(from, from_stride, rows, dim, factor, to, to_stride);
}
TTR_SIMD_CLONES void multiply(const double* from, int64_t from_stride, int64_t rows, int64_t dim, const double* factor, double* to,
                              int64_t to_stride) {
  multiply_rows(from, from_stride, rows, dim, factor, to, to_stride);
}
TTR_SIMD_CLONES void transpose(const float* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, float* columns) {
  transpose_rows(x, stride, rows, width, dim, columns);
}
TTR_SIMD_CLONES void transpose(const double* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, double* columns) {
  transpose_rows(x, stride, rows, width, dim, columns);
}
TTR_SIMD_CLONES void dot(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows, int64_t dim, float* out) {
  dot_rows(a, a_stride, b, b_stride, rows, dim, out);
}
TTR_SIMD_CLONES void dot(const double* a, int64_t a_stride, const double* b, int64_t b_stride, int64_t rows, int64_t dim, double* out) {
  dot_rows(a, a_stride, b, b_stride, rows, dim, out);
}

// ---- who sees what ----

bool sizes_fit(const AttentionSizes& s, bool strict) {
  return s.batch >= 0 && s.tokens >= 0 && s.keys >= 0 && (strict || s.keys >= s.tokens) && s.heads > 0 && s.key_heads > 0 &&
         s.value_heads > 0 && s.key_dim > 0 && s.value_dim > 0 && s.heads % s.key_heads == 0 && s.heads % s.value_heads == 0;
}

// Query t sees the keys before t + 1 + lead; a block of queries against a block of keys, with what the masks need to know.
struct Sight {
  int64_t lead = 0;   // keys - tokens, one less when strict
  int64_t keys = 0;

  Sight(const AttentionSizes& s, bool strict) : lead(s.keys - s.tokens - (strict ? 1 : 0)), keys(s.keys) {}
  int64_t end(int64_t t) const { return std::clamp<int64_t>(t + 1 + lead, 0, keys); }   // keys that query t sees, documents aside
  int64_t first(int64_t t0, int64_t k0) const { return k0 - lead - t0; }   // first column of block t0 that sees key k0; key k0 + r: r later
};

// Documents usually lie one after the other, so most pairs of blocks share none.
bool segments_meet(const int32_t* a, int64_t na, const int32_t* b, int64_t nb) {
  const auto [a_low, a_high] = std::minmax_element(a, a + na);
  const auto [b_low, b_high] = std::minmax_element(b, b + nb);
  return *a_low <= *b_high && *b_low <= *a_high;
}

int64_t padded(int64_t rows) { return (rows + kSimdLanes - 1) / kSimdLanes * kSimdLanes; }

// A short sequence in half blocks computes a quarter less beyond the diagonal.
int64_t block_of(const AttentionSizes& s) { return s.tokens > kQueries ? kQueries : kQueries / 2; }
int64_t blocks_of(const AttentionSizes& s) { return (s.tokens + block_of(s) - 1) / block_of(s); }

// ---- scratch ----

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Hands out aligned pieces; over a null start it only counts.
struct Pieces {
  char* at = nullptr;
  size_t used = 0;

  Pieces() = default;
  explicit Pieces(Workspace w)
      : at(static_cast<char*>(w.at)), used(at == nullptr ? 0 : (kAlign - reinterpret_cast<uintptr_t>(at) % kAlign) % kAlign) {}
  template <class X> X* take(int64_t count) {
    X* piece = at == nullptr ? nullptr : reinterpret_cast<X*>(at + used);
    used += aligned(size_t(count) * sizeof(X));
    return piece;
  }
};

template <class T> struct ForwardScratch {
  T* scores;               // [kKeys, kQueries]
  T* queries;              // [K, kQueries]
  T* answers;              // [kQueries, V]
  T *top, *before;         // [kQueries]: the running maximum, and what it was a block ago
  T *sum, *factor;         // [kQueries]
  int32_t* segments;       // [kQueries]

  ForwardScratch(Pieces& from, const AttentionSizes& size)
      : scores(from.take<T>(kKeys * kQueries)),
        queries(from.take<T>(size.key_dim * kQueries)),
        answers(from.take<T>(kQueries * size.value_dim)),
        top(from.take<T>(kQueries)),
        before(from.take<T>(kQueries)),
        sum(from.take<T>(kQueries)),
        factor(from.take<T>(kQueries)),
        segments(from.take<int32_t>(kQueries)) {}
};

template <class T> struct BackwardScratch {
  T *scores, *d_scores;    // [kKeys, kQueries]
  T *queries, *d_answers;  // [K, kQueries], [V, kQueries]
  T *q, *dy, *dq;          // [kQueries, K], [kQueries, V], [kQueries, K]
  T *lse, *delta;          // [kQueries]
  int32_t* segments;       // [kQueries]

  BackwardScratch(Pieces& from, const AttentionSizes& size)
      : scores(from.take<T>(kKeys * kQueries)),
        d_scores(from.take<T>(kKeys * kQueries)),
        queries(from.take<T>(size.key_dim * kQueries)),
        d_answers(from.take<T>(size.value_dim * kQueries)),
        q(from.take<T>(kQueries * size.key_dim)),
        dy(from.take<T>(kQueries * size.value_dim)),
        dq(from.take<T>(kQueries * size.key_dim)),
        lse(from.take<T>(kQueries)),
        delta(from.take<T>(kQueries)),
        segments(from.take<int32_t>(kQueries)) {}
};

template <class Scratch> size_t scratch_bytes(const AttentionSizes& size) {
  Pieces count;
  Scratch(count, size);
  return count.used;
}

template <class Scratch> size_t workers_bytes(const AttentionSizes& size, int64_t tasks) {
  return kAlign + size_t(std::min<int64_t>(thread_count(), tasks)) * scratch_bytes<Scratch>(size);
}

// How many workers the rest of the workspace has room for: it was sized for the threads of an earlier moment.
template <class Scratch> int64_t workers_that_fit(const AttentionSizes& size, int64_t tasks, const Pieces& pieces, Workspace workspace) {
  if (pieces.at == nullptr || pieces.used > workspace.bytes) return 0;
  return std::min({int64_t(thread_count()), tasks, int64_t((workspace.bytes - pieces.used) / scratch_bytes<Scratch>(size))});
}

// Runs body(task, scratch) for every task; each worker owns one scratch and fetches the next task when it is done with one.
template <class Scratch, class F>
void run_tasks(int64_t workers, int64_t tasks, const AttentionSizes& size, const Pieces& pieces, F&& body) {
  const size_t each = scratch_bytes<Scratch>(size);
  std::atomic<int64_t> next = 0;
  parallel_for(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t w = begin; w < end; ++w) {
      Pieces own = pieces;
      own.used += size_t(w) * each;
      const Scratch scratch(own, size);
      for (int64_t task = next++; task < tasks; task = next++) body(task, scratch);
    }
  });
}

// ---- rows of one head ----

template <class T>   // token: b * T + t
T* row(Rows<T> x, int64_t token, int64_t head, int64_t dim) {
  return x.at + token * x.token_stride + head * dim;
}

// Either the caller's rows or a copy [B, heads, keys, dim] that holds each head in one piece.
template <class T> struct Heads {
  T* at = nullptr;
  int64_t batch_step = 0, head_step = 0, token_step = 0;

  T* of(int64_t b, int64_t h) const { return at == nullptr ? nullptr : at + b * batch_step + h * head_step; }
  static Heads in_place(Rows<T> x, int64_t keys, int64_t dim) { return {x.at, keys * x.token_stride, dim, x.token_stride}; }
  static Heads apart(T* copy, int64_t keys, int64_t heads, int64_t dim) { return {copy, heads * keys * dim, keys * dim, dim}; }
};

template <class T>
bool needs_copy(const AttentionSizes& s, Rows<T> x, int64_t dim) {
  return x.at != nullptr && s.tokens > kQueries && x.token_stride != dim;
}

int64_t tokens_a_range(int64_t width) { return std::max<int64_t>(1, 16384 / width); }

template <class T>   // copy [B, heads, keys, dim] or null
Heads<const T> gather(const AttentionSizes& s, Rows<const T> x, int64_t heads, int64_t dim, T* copy) {
  if (copy == nullptr) return Heads<const T>::in_place(x, s.keys, dim);
  const Heads<T> to = Heads<T>::apart(copy, s.keys, heads, dim);
  parallel_for(s.batch * s.keys, tokens_a_range(heads * dim), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token)
      for (int64_t h = 0; h < heads; ++h) std::copy_n(row(x, token, h, dim), dim, to.of(token / s.keys, h) + token % s.keys * dim);
  });
  return Heads<const T>::apart(copy, s.keys, heads, dim);
}

// gradient [B, keys, heads, dim] = the sum of part [B, H, keys, dim] over the heads that share a row, in their order
template <class T> void add_parts(const AttentionSizes& s, const Heads<T>& part, int64_t heads, int64_t dim, Rows<T> gradient) {
  const int64_t group = s.heads / heads;
  parallel_for(s.batch * s.keys, tokens_a_range(s.heads * dim), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token)
      for (int64_t head = 0; head < heads; ++head) {
        T* to = row(gradient, token, head, dim);
        for (int64_t h = head * group; h < (head + 1) * group; ++h) {
          const T* from = part.of(token / s.keys, h) + token % s.keys * dim;
          for (int64_t d = 0; d < dim; ++d) to[d] = (h == head * group ? T(0) : to[d]) + from[d];
        }
      }
  });
}

template <class T> struct ForwardCopies {
  T *k, *v;     // [B, Hk, keys, K], [B, Hv, keys, V], or null

  ForwardCopies(Pieces& from, const AttentionForward<T>& a)
      : k(needs_copy(a.size, a.k, a.size.key_dim) ? from.take<T>(a.size.batch * a.size.key_heads * a.size.keys * a.size.key_dim) : nullptr),
        v(needs_copy(a.size, a.v, a.size.value_dim) ? from.take<T>(a.size.batch * a.size.value_heads * a.size.keys * a.size.value_dim)
                                                    : nullptr) {}
};

template <class T> struct BackwardCopies {
  bool part_k, part_v;   // dk, dv come in parts: heads share a row, or its rows lie far apart
  T *k, *v;              // [B, Hk, keys, K], [B, Hv, keys, V], or null
  T *dk, *dv;            // [B, H, keys, K], [B, H, keys, V], or null

  BackwardCopies(Pieces& from, const AttentionBackward<T>& a) {
    const AttentionSizes& s = a.size;
    part_k = a.dk.at != nullptr && (s.key_heads != s.heads || needs_copy(s, a.dk, s.key_dim));
    part_v = a.dv.at != nullptr && (s.value_heads != s.heads || needs_copy(s, a.dv, s.value_dim));
    k = needs_copy(s, a.k, s.key_dim) ? from.take<T>(s.batch * s.key_heads * s.keys * s.key_dim) : nullptr;
    v = needs_copy(s, a.v, s.value_dim) ? from.take<T>(s.batch * s.value_heads * s.keys * s.value_dim) : nullptr;
    dk = part_k ? from.take<T>(s.batch * s.heads * s.keys * s.key_dim) : nullptr;
    dv = part_v ? from.take<T>(s.batch * s.heads * s.keys * s.value_dim) : nullptr;
  }
};

// Null for one document; otherwise the block's documents, the last one repeated up to `width`.
const int32_t* block_segments(const int32_t* segments, int64_t rows, int64_t width, int32_t* into) {
  if (segments == nullptr) return nullptr;
  std::copy_n(segments, rows, into);
  std::fill(into + rows, into + width, segments[rows - 1]);
  return into;
}

// ---- one block of queries forward ----

template <class T>
void answer_block(const AttentionForward<T>& a, int64_t b, int64_t h, int64_t t0, const Heads<const T>& keys, const Heads<const T>& values,
                  const ForwardScratch<T>& w) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const AttentionSizes& size = a.size;
  const Sight sight(size, a.strict);
  const int64_t K = size.key_dim, V = size.value_dim;
  const int64_t rows = std::min(block_of(size), size.tokens - t0), width = padded(rows);
  const int64_t query = b * size.tokens + t0;
  const T* const k = keys.of(b, h / (size.heads / size.key_heads));                         // [keys, K]
  const T* const v = values.of(b, h / (size.heads / size.value_heads));                     // [keys, V]
  const int32_t* const query_segments = block_segments(a.query_segments ? a.query_segments + query : nullptr, rows, width, w.segments);

  transpose(row(a.q, query, h, K), a.q.token_stride, rows, width, K, w.queries);
  std::fill_n(w.top, width, -kInfinity);
  std::fill_n(w.sum, width, T(0));
  bool fresh = true;                                                                        // answers [rows, V] hold nothing yet
  const int64_t end = sight.end(t0 + rows - 1);
  for (int64_t k0 = 0; k0 < end; k0 += kKeys) {
    const int64_t n = std::min(kKeys, end - k0), first = sight.first(t0, k0);
    const int32_t* key_segments = query_segments ? a.key_segments + b * size.keys + k0 : nullptr;
    if (query_segments && !segments_meet(query_segments, rows, key_segments, n)) continue;
    gemm<T>(false, false, n, width, K, a.scale, k + k0 * keys.token_step, keys.token_step, w.queries, width, 0, w.scores, width);
    std::copy_n(w.top, width, w.before);
    mask_and_raise_block(w.scores, n, width, first, query_segments, key_segments, w.top);
    lower(w.before, width, w.top, w.sum, w.factor);
    exponentiate_block(w.scores, n, width, first, w.top, w.sum);
    for (int64_t c = 0; c < width; ++c) w.top[c] = w.sum[c] == 0 ? -kInfinity : w.top[c];
    if (!fresh) multiply(w.answers, V, rows, V, w.factor, w.answers, V);
    gemm<T>(true, false, rows, V, n, 1, w.scores, width, v + k0 * values.token_step, values.token_step, fresh ? 0 : 1, w.answers, V);
    fresh = false;
  }

  T* const y = row(a.y, query, h, V);                                                       // [rows, V]
  if (fresh) {
    for (int64_t t = 0; t < rows; ++t) std::fill_n(y + t * a.y.token_stride, V, T(0));
  } else {
    for (int64_t t = 0; t < rows; ++t) w.factor[t] = w.sum[t] == 0 ? T(0) : 1 / w.sum[t];
    multiply(w.answers, V, rows, V, w.factor, y, a.y.token_stride);
  }
  if (a.lse)
    for (int64_t t = 0; t < rows; ++t)
      a.lse[(b * size.heads + h) * size.tokens + t0 + t] = w.sum[t] == 0 ? -kInfinity : w.top[t] + std::log(w.sum[t]);
}

// ---- one head backward ----

template <class T> struct HeadGradients {   // null where nobody needs it
  T* dk = nullptr;                          // [keys, K]
  T* dv = nullptr;                          // [keys, V]
  int64_t dk_step = 0, dv_step = 0;         // from one key to the next
};

template <class T>
void differentiate_head(const AttentionBackward<T>& a, int64_t b, int64_t h, const Heads<const T>& keys, const Heads<const T>& values,
                        const HeadGradients<T>& to, const BackwardScratch<T>& w) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const AttentionSizes& size = a.size;
  const Sight sight(size, a.strict);
  const int64_t K = size.key_dim, V = size.value_dim;
  const T* const k = keys.of(b, h / (size.heads / size.key_heads));                         // [keys, K]
  const T* const v = values.of(b, h / (size.heads / size.value_heads));                     // [keys, V]
  const bool need_scores = a.dq.at != nullptr || to.dk != nullptr;

  // The last block of queries comes first: it sees every key that any sees and starts dk and dv, unless a document hides a block from it.
  const int64_t last = (blocks_of(size) - 1) * block_of(size);
  for (int64_t i = a.query_segments ? 0 : sight.end(size.tokens - 1); i < size.keys; ++i) {
    if (to.dk) std::fill_n(to.dk + i * to.dk_step, K, T(0));
    if (to.dv) std::fill_n(to.dv + i * to.dv_step, V, T(0));
  }

  for (int64_t t0 = last; t0 >= 0; t0 -= block_of(size)) {
    const T started = t0 == last && !a.query_segments ? T(0) : T(1);
    const int64_t rows = std::min(block_of(size), size.tokens - t0), width = padded(rows);
    const int64_t query = b * size.tokens + t0;
    const T* const q = row(a.q, query, h, K);                                               // [rows, K]
    const T* const dy = row(a.dy, query, h, V);                                             // [rows, V]
    const T* const lse = a.lse + (b * size.heads + h) * size.tokens + t0;                   // [rows]
    const int32_t* const query_segments = block_segments(a.query_segments ? a.query_segments + query : nullptr, rows, width, w.segments);
    transpose(q, a.q.token_stride, rows, width, K, w.queries);
    transpose(dy, a.dy.token_stride, rows, width, V, w.d_answers);
    for (int64_t t = 0; t < rows; ++t) {
      std::copy_n(q + t * a.q.token_stride, K, w.q + t * K);
      std::copy_n(dy + t * a.dy.token_stride, V, w.dy + t * V);
    }
    dot(w.dy, V, row(a.y, query, h, V), a.y.token_stride, rows, V, w.delta);
    std::fill(w.delta + rows, w.delta + width, T(0));
    for (int64_t t = 0; t < rows; ++t)
      w.lse[t] = lse[t] == -kInfinity ? kInfinity : lse[t];   // a query that saw nothing: P = exp(-inf) = 0
    std::fill(w.lse + rows, w.lse + width, kInfinity);

    bool fresh = true;                                                                      // dq [rows, K] holds nothing yet
    const int64_t end = sight.end(t0 + rows - 1);
    for (int64_t k0 = 0; k0 < end; k0 += kKeys) {
      const int64_t n = std::min(kKeys, end - k0), first = sight.first(t0, k0);
      const int32_t* key_segments = query_segments ? a.key_segments + b * size.keys + k0 : nullptr;
      if (query_segments && !segments_meet(query_segments, rows, key_segments, n)) continue;
      const T* const k_block = k + k0 * keys.token_step;                                    // [n, K]
      const T* const v_block = v + k0 * values.token_step;                                  // [n, V]
      // S = scale Q K^T, computed anew
      gemm<T>(false, false, n, width, K, a.scale, k_block, keys.token_step, w.queries, width, 0, w.scores, width);
      if (need_scores) {
        gemm<T>(false, false, n, width, V, 1, v_block, values.token_step, w.d_answers, width, 0, w.d_scores, width);   // Y = P V
        differentiate_block(w.scores, w.d_scores, n, width, first, query_segments, key_segments, w.lse, w.delta,
                            a.scale);                                                                                   // P = exp(S - lse)
      } else {   // dv alone: the forward's own loops, with the maximum and the sum they keep left unread
        mask_and_raise_block(w.scores, n, width, first, query_segments, key_segments, w.delta);
        exponentiate_block(w.scores, n, width, first, w.lse, w.delta);
      }
      if (to.dv) gemm<T>(false, false, n, V, rows, 1, w.scores, width, w.dy, V, started, to.dv + k0 * to.dv_step, to.dv_step);   // Y = P V
      if (to.dk)
        gemm<T>(false, false, n, K, rows, 1, w.d_scores, width, w.q, K, started, to.dk + k0 * to.dk_step, to.dk_step);   // S = scale Q K^T
      if (a.dq.at)
        gemm<T>(true, false, rows, K, n, 1, w.d_scores, width, k_block, keys.token_step, fresh ? 0 : 1, w.dq, K);   // S = scale Q K^T
      fresh = false;
    }
    if (a.dq.at)
      for (int64_t t = 0; t < rows; ++t) {
        if (fresh) std::fill_n(row(a.dq, query + t, h, K), K, T(0));
        else std::copy_n(w.dq + t * K, K, row(a.dq, query + t, h, K));
      }
  }
}

}  // namespace

template <class T> size_t softmax_attention_workspace(const AttentionForward<T>& a) {
  Pieces count;
  ForwardCopies<T>(count, a);
  return count.used + workers_bytes<ForwardScratch<T>>(a.size, a.size.batch * a.size.heads * blocks_of(a.size));
}

template <class T> Status softmax_attention_forward(const AttentionForward<T>& a, Workspace workspace) {
  const AttentionSizes& s = a.size;
  if (!sizes_fit(s, a.strict)) return Status::bad_size;
  const int64_t blocks = blocks_of(s), tasks = s.batch * s.heads * blocks;
  if (tasks == 0) return Status::ok;
  Pieces pieces(workspace);
  const ForwardCopies<T> copies(pieces, a);
  const int64_t workers = workers_that_fit<ForwardScratch<T>>(s, tasks, pieces, workspace);
  if (workers == 0) return Status::small_workspace;
  const Heads<const T> keys = gather(s, a.k, s.key_heads, s.key_dim, copies.k),
                       values = gather(s, a.v, s.value_heads, s.value_dim, copies.v);
  run_tasks<ForwardScratch<T>>(workers, tasks, s, pieces, [&](int64_t task, const ForwardScratch<T>& w) {
    const int64_t block = blocks - 1 - task % blocks;   // the last block sees most: longest first
    const int64_t head = task / blocks;
    answer_block(a, head / s.heads, head % s.heads, block * block_of(s), keys, values, w);
  });
  return Status::ok;
}

template <class T> size_t softmax_attention_workspace(const AttentionBackward<T>& a) {
  Pieces count;
  BackwardCopies<T>(count, a);
  return count.used + workers_bytes<BackwardScratch<T>>(a.size, a.size.batch * a.size.heads);
}

template <class T> Status softmax_attention_backward(const AttentionBackward<T>& a, Workspace workspace) {
  const AttentionSizes& s = a.size;
  if (!sizes_fit(s, a.strict)) return Status::bad_size;
  const int64_t tasks = s.batch * s.heads;
  if (tasks == 0) return Status::ok;
  Pieces pieces(workspace);
  const BackwardCopies<T> copies(pieces, a);
  const int64_t workers = workers_that_fit<BackwardScratch<T>>(s, tasks, pieces, workspace);
  if (workers == 0) return Status::small_workspace;
  const Heads<const T> keys = gather(s, a.k, s.key_heads, s.key_dim, copies.k),
                       values = gather(s, a.v, s.value_heads, s.value_dim, copies.v);
  const Heads<T> dk = copies.part_k ? Heads<T>::apart(copies.dk, s.keys, s.heads, s.key_dim) : Heads<T>::in_place(a.dk, s.keys, s.key_dim);
  const Heads<T> dv =
      copies.part_v ? Heads<T>::apart(copies.dv, s.keys, s.heads, s.value_dim) : Heads<T>::in_place(a.dv, s.keys, s.value_dim);
  run_tasks<BackwardScratch<T>>(workers, tasks, s, pieces, [&](int64_t head, const BackwardScratch<T>& w) {
    const int64_t b = head / s.heads, h = head % s.heads;
    differentiate_head(a, b, h, keys, values, {dk.of(b, h), dv.of(b, h), dk.token_step, dv.token_step}, w);
  });
  if (copies.part_k) add_parts(s, dk, s.key_heads, s.key_dim, a.dk);
  if (copies.part_v) add_parts(s, dv, s.value_heads, s.value_dim, a.dv);
  return Status::ok;
}

template size_t softmax_attention_workspace(const AttentionForward<float>&);
template size_t softmax_attention_workspace(const AttentionForward<double>&);
template size_t softmax_attention_workspace(const AttentionBackward<float>&);
template size_t softmax_attention_workspace(const AttentionBackward<double>&);
template Status softmax_attention_forward(const AttentionForward<float>&, Workspace);
template Status softmax_attention_forward(const AttentionForward<double>&, Workspace);
template Status softmax_attention_backward(const AttentionBackward<float>&, Workspace);
template Status softmax_attention_backward(const AttentionBackward<double>&, Workspace);

}  // namespace ttr::cpu
