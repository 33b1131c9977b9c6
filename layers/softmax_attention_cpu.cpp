// Softmax attention on the CPU: blocks of queries against blocks of keys (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022, arXiv 2205.14135).
//
//   S = scale Q K^T,  P = exp(S - lse),  Y = P V         dP = dY V^T,  dS = scale P o (dP - delta),  delta_t = dy_t . y_t
//
// Every block of scores is held transposed, keys down and queries across: [n, kQueries]. Then the maximum and the sum of a query's softmax
// are elementwise over rows, without a reduction inside a register, and every product is of the two kinds that BLAS does fastest at this
// size (A B and A^T B). A worker holds two such blocks; nothing grows with T but the partial dk, dv of heads that share a row.
#include <ttr/layers/softmax_attention_kernel.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include <ttr/core/blas.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>

namespace ttr::cpu {
namespace {

constexpr int64_t kQueries = 64;   // queries a block, the row stride of a block of scores
constexpr int64_t kKeys = 128;     // keys a block
constexpr size_t kAlign = 64;

// ---- the loops over a block of scores, one clone per instruction set ----

// Scores of queries that must not see the key become -inf, before any exponential. Key row r is hidden from the columns before first + r.
template <class T>
TTR_SIMD_INLINE void hide_row(T* s, int64_t hidden, int64_t width, const int32_t* query_segments, int32_t key_segment) {
  constexpr T kHidden = -std::numeric_limits<T>::infinity();
  for (int64_t c = 0; c < hidden; ++c) s[c] = kHidden;
  if (query_segments != nullptr)
    for (int64_t c = 0; c < width; ++c) s[c] = query_segments[c] == key_segment ? s[c] : kHidden;
}

TTR_SIMD_INLINE int64_t hidden_columns(int64_t first, int64_t row, int64_t width) { return std::clamp<int64_t>(first + row, 0, width); }

template <class T>   // s [n, kQueries], top [width]
TTR_SIMD_INLINE void mask_and_raise(T* s, int64_t n, int64_t width, int64_t first, const int32_t* query_segments, const int32_t* key_segments, T* top) {
  for (int64_t r = 0; r < n; ++r, s += kQueries) {
    hide_row(s, hidden_columns(first, r, width), width, query_segments, query_segments ? key_segments[r] : 0);
    for (int64_t c = 0; c < width; ++c) top[c] = top[c] < s[c] ? s[c] : top[c];
  }
}

// The running maximum rises from `before` to `top` [width]: factor = exp(before - top) is what the sums so far are worth against the new one.
// A query that has seen nothing keeps 0 in place of -inf until its exponentials are formed: exp(-inf - 0), not exp(-inf + inf).
template <class T>
TTR_SIMD_INLINE void lower_sums(const T* before, int64_t width, T* top, T* sum, T* factor) {
  constexpr T kNothing = -std::numeric_limits<T>::infinity();
  for (int64_t c = 0; c < width; ++c) {
    const T shift = top[c] == kNothing ? T(0) : top[c];
    const T f = fast_exp(before[c] - shift);
    top[c] = shift;
    sum[c] *= f;
    factor[c] = f;
  }
}

template <class T>   // s [n, kQueries] becomes exp(s - top), sum [width] grows by it
TTR_SIMD_INLINE void exponentiate(T* s, int64_t n, int64_t width, int64_t first, const T* top, T* sum) {
  for (int64_t r = 0; r < n; ++r, s += kQueries) {
    const int64_t begin = hidden_columns(first, r, width) / kSimdLanes * kSimdLanes;
    for (int64_t c = 0; c < begin; ++c) s[c] = 0;
    for (int64_t c = begin; c < width; ++c) {
      const T p = fast_exp(s[c] - top[c]);
      s[c] = p;
      sum[c] += p;
    }
  }
}

template <class T>   // s becomes P, dp becomes dS; both [n, kQueries]; lse, delta [width]
TTR_SIMD_INLINE void differentiate(T* s, T* dp, int64_t n, int64_t width, int64_t first, const int32_t* query_segments, const int32_t* key_segments, const T* lse,
                                   const T* delta, T scale) {
  for (int64_t r = 0; r < n; ++r, s += kQueries, dp += kQueries) {
    const int64_t hidden = hidden_columns(first, r, width);
    const int64_t begin = hidden / kSimdLanes * kSimdLanes;
    hide_row(s, hidden, width, query_segments, query_segments ? key_segments[r] : 0);
    for (int64_t c = 0; c < begin; ++c) s[c] = dp[c] = 0;
    for (int64_t c = begin; c < width; ++c) {
      const T p = fast_exp(s[c] - lse[c]);
      s[c] = p;
      dp[c] = scale * p * (dp[c] - delta[c]);
    }
  }
}

template <class T>   // y [rows, dim] *= factor [rows]
TTR_SIMD_INLINE void multiply_rows(T* y, int64_t stride, int64_t rows, int64_t dim, const T* factor) {
  for (int64_t t = 0; t < rows; ++t, y += stride) {
    const T f = factor[t];
    for (int64_t d = 0; d < dim; ++d) y[d] *= f;
  }
}

template <class T>   // x [rows, dim] -> columns [dim, kQueries], zero from column `rows` to `width`
TTR_SIMD_INLINE void transpose_rows(const T* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, T* columns) {
  for (int64_t d = 0; d < dim; ++d) {
    T* to = columns + d * kQueries;
    for (int64_t t = 0; t < rows; ++t) to[t] = x[t * stride + d];
    for (int64_t t = rows; t < width; ++t) to[t] = 0;
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
    for (int64_t l = 0; l < kSimdLanes; ++l) sum += lane[l];
    out[t] = sum;
  }
}

TTR_SIMD_CLONES void mask_and_raise_block(float* s, int64_t n, int64_t width, int64_t first, const int32_t* qs, const int32_t* ks, float* top) { mask_and_raise(s, n, width, first, qs, ks, top); }
TTR_SIMD_CLONES void mask_and_raise_block(double* s, int64_t n, int64_t width, int64_t first, const int32_t* qs, const int32_t* ks, double* top) { mask_and_raise(s, n, width, first, qs, ks, top); }
TTR_SIMD_CLONES void lower(const float* before, int64_t width, float* top, float* sum, float* factor) { lower_sums(before, width, top, sum, factor); }
TTR_SIMD_CLONES void lower(const double* before, int64_t width, double* top, double* sum, double* factor) { lower_sums(before, width, top, sum, factor); }
TTR_SIMD_CLONES void exponentiate_block(float* s, int64_t n, int64_t width, int64_t first, const float* top, float* sum) { exponentiate(s, n, width, first, top, sum); }
TTR_SIMD_CLONES void exponentiate_block(double* s, int64_t n, int64_t width, int64_t first, const double* top, double* sum) { exponentiate(s, n, width, first, top, sum); }
TTR_SIMD_CLONES void differentiate_block(float* s, float* dp, int64_t n, int64_t width, int64_t first, const int32_t* qs, const int32_t* ks, const float* lse, const float* delta, float scale) {
  differentiate(s, dp, n, width, first, qs, ks, lse, delta, scale);
}
TTR_SIMD_CLONES void differentiate_block(double* s, double* dp, int64_t n, int64_t width, int64_t first, const int32_t* qs, const int32_t* ks, const double* lse, const double* delta, double scale) {
  differentiate(s, dp, n, width, first, qs, ks, lse, delta, scale);
}
TTR_SIMD_CLONES void multiply(float* y, int64_t stride, int64_t rows, int64_t dim, const float* factor) { multiply_rows(y, stride, rows, dim, factor); }
TTR_SIMD_CLONES void multiply(double* y, int64_t stride, int64_t rows, int64_t dim, const double* factor) { multiply_rows(y, stride, rows, dim, factor); }
TTR_SIMD_CLONES void transpose(const float* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, float* columns) { transpose_rows(x, stride, rows, width, dim, columns); }
TTR_SIMD_CLONES void transpose(const double* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, double* columns) { transpose_rows(x, stride, rows, width, dim, columns); }
TTR_SIMD_CLONES void dot(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows, int64_t dim, float* out) { dot_rows(a, a_stride, b, b_stride, rows, dim, out); }
TTR_SIMD_CLONES void dot(const double* a, int64_t a_stride, const double* b, int64_t b_stride, int64_t rows, int64_t dim, double* out) { dot_rows(a, a_stride, b, b_stride, rows, dim, out); }

// ---- who sees what ----

bool sizes_fit(const AttentionSizes& s, bool strict) {
  return s.batch >= 0 && s.tokens >= 0 && s.keys >= 0 && (strict || s.keys >= s.tokens) && s.heads > 0 && s.key_heads > 0 && s.value_heads > 0 && s.key_dim > 0 &&
         s.value_dim > 0 && s.heads % s.key_heads == 0 && s.heads % s.value_heads == 0;
}

// Query t sees the keys before t + 1 + lead; a block of queries against a block of keys, with what the masks need to know.
struct Sight {
  int64_t lead = 0;   // keys - tokens, one less when strict
  int64_t keys = 0;

  Sight(const AttentionSizes& s, bool strict) : lead(s.keys - s.tokens - (strict ? 1 : 0)), keys(s.keys) {}
  int64_t end(int64_t t) const { return std::clamp<int64_t>(t + 1 + lead, 0, keys); }                 // keys that query t sees, documents aside
  int64_t first(int64_t t0, int64_t k0) const { return k0 - lead - t0; }   // the first column of block t0 that sees key k0; key k0 + r: r later
};

// Documents usually lie one after the other, so most pairs of blocks share none.
bool segments_meet(const int32_t* a, int64_t na, const int32_t* b, int64_t nb) {
  const auto [a_low, a_high] = std::minmax_element(a, a + na);
  const auto [b_low, b_high] = std::minmax_element(b, b + nb);
  return *a_low <= *b_high && *b_low <= *a_high;
}

int64_t padded(int64_t rows) { return (rows + kSimdLanes - 1) / kSimdLanes * kSimdLanes; }

// ---- scratch ----

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Hands out aligned pieces; over a null start it only counts.
struct Pieces {
  char* at = nullptr;
  size_t used = 0;
  template <class X> X* take(int64_t count) {
    X* piece = at == nullptr ? nullptr : reinterpret_cast<X*>(at + used);
    used += aligned(size_t(count) * sizeof(X));
    return piece;
  }
};

template <class T> struct ForwardScratch {
  T* scores;             // [kKeys, kQueries]
  T* queries;            // [K, kQueries]
  T *top, *before;       // [kQueries]: the running maximum, and what it was a block ago
  T *sum, *factor;       // [kQueries]
  int32_t* segments;     // [kQueries]

  ForwardScratch(Pieces& from, const AttentionSizes& size) {
    scores = from.take<T>(kKeys * kQueries);
    queries = from.take<T>(size.key_dim * kQueries);
    top = from.take<T>(kQueries);
    before = from.take<T>(kQueries);
    sum = from.take<T>(kQueries);
    factor = from.take<T>(kQueries);
    segments = from.take<int32_t>(kQueries);
  }
};

template <class T> struct BackwardScratch {
  T *scores, *d_scores;   // [kKeys, kQueries]
  T* queries;             // [K, kQueries]
  T* d_answers;           // [V, kQueries]
  T *lse, *delta;         // [kQueries]
  int32_t* segments;      // [kQueries]

  BackwardScratch(Pieces& from, const AttentionSizes& size) {
    scores = from.take<T>(kKeys * kQueries);
    d_scores = from.take<T>(kKeys * kQueries);
    queries = from.take<T>(size.key_dim * kQueries);
    d_answers = from.take<T>(size.value_dim * kQueries);
    lse = from.take<T>(kQueries);
    delta = from.take<T>(kQueries);
    segments = from.take<int32_t>(kQueries);
  }
};

template <class Scratch> size_t scratch_bytes(const AttentionSizes& size) {
  Pieces count;
  Scratch(count, size);
  return count.used;
}

Pieces align_start(Workspace w) {
  char* at = static_cast<char*>(w.at);
  const size_t off = at == nullptr ? 0 : (kAlign - reinterpret_cast<uintptr_t>(at) % kAlign) % kAlign;
  return {at, off};
}

// Runs body(task, scratch) for every task; each worker owns one scratch and fetches the next task when it is done with one.
template <class Scratch, class F>
Status run_tasks(int64_t tasks, const AttentionSizes& size, Pieces pieces, size_t bytes, F&& body) {
  const size_t each = scratch_bytes<Scratch>(size);
  if (tasks == 0) return Status::ok;
  if (pieces.at == nullptr || bytes < pieces.used + each) return Status::small_workspace;
  const int64_t workers = std::min({int64_t(thread_count()), tasks, int64_t((bytes - pieces.used) / each)});
  std::atomic<int64_t> next = 0;
  parallel_for(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t w = begin; w < end; ++w) {
      Pieces own{pieces.at, pieces.used + size_t(w) * each};
      Scratch scratch(own, size);
      for (int64_t task = next++; task < tasks; task = next++) body(task, scratch);
    }
  });
  return Status::ok;
}

template <class Scratch> size_t workers_bytes(const AttentionSizes& size, int64_t tasks) {
  return kAlign + size_t(std::min<int64_t>(thread_count(), tasks)) * scratch_bytes<Scratch>(size);
}

template <class T> T* row(Rows<T> x, int64_t token, int64_t head, int64_t dim) { return x.at + token * x.token_stride + head * dim; }   // token: b * T + t

template <class T> bool is_shared(const AttentionSizes& s, Rows<T> gradient, int64_t heads) { return gradient.at != nullptr && heads != s.heads; }

// ---- one block of queries forward ----

template <class T>
void answer_block(const AttentionForward<T>& a, int64_t b, int64_t h, int64_t t0, const ForwardScratch<T>& w) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const AttentionSizes& size = a.size;
  const Sight sight(size, a.strict);
  const int64_t K = size.key_dim, V = size.value_dim;
  const int64_t rows = std::min(kQueries, size.tokens - t0), width = padded(rows);
  const int64_t key_head = h / (size.heads / size.key_heads), value_head = h / (size.heads / size.value_heads);
  const int64_t query = b * size.tokens + t0, key = b * size.keys;
  T* const y = row(a.y, query, h, V);                                                       // [rows, V]
  const int32_t* key_segments = a.query_segments ? a.key_segments + key : nullptr;
  const int32_t* query_segments = nullptr;
  if (a.query_segments) {
    std::copy_n(a.query_segments + query, rows, w.segments);
    std::fill(w.segments + rows, w.segments + width, w.segments[rows - 1]);
    query_segments = w.segments;
  }

  transpose(row(a.q, query, h, K), a.q.token_stride, rows, width, K, w.queries);
  std::fill_n(w.top, width, -kInfinity);
  std::fill_n(w.sum, width, T(0));
  bool fresh = true;                                                                        // y holds nothing yet
  const int64_t end = sight.end(t0 + rows - 1);
  for (int64_t k0 = 0; k0 < end; k0 += kKeys) {
    const int64_t n = std::min(kKeys, end - k0), first = sight.first(t0, k0);
    const int32_t* segments = key_segments ? key_segments + k0 : nullptr;
    if (segments && !segments_meet(query_segments, rows, segments, n)) continue;
    gemm<T>(false, false, n, width, K, a.scale, row(a.k, key + k0, key_head, K), a.k.token_stride, w.queries, kQueries, 0, w.scores, kQueries);
    std::copy_n(w.top, width, w.before);
    mask_and_raise_block(w.scores, n, width, first, query_segments, segments, w.top);
    lower(w.before, width, w.top, w.sum, w.factor);
    exponentiate_block(w.scores, n, width, first, w.top, w.sum);
    for (int64_t c = 0; c < width; ++c) w.top[c] = w.sum[c] == 0 ? -kInfinity : w.top[c];
    if (!fresh) multiply(y, a.y.token_stride, rows, V, w.factor);
    gemm<T>(true, false, rows, V, n, 1, w.scores, kQueries, row(a.v, key + k0, value_head, V), a.v.token_stride, fresh ? 0 : 1, y, a.y.token_stride);
    fresh = false;
  }

  if (fresh)
    for (int64_t t = 0; t < rows; ++t) std::fill_n(y + t * a.y.token_stride, V, T(0));
  for (int64_t t = 0; t < rows; ++t) w.factor[t] = w.sum[t] == 0 ? T(0) : 1 / w.sum[t];
  if (!fresh) multiply(y, a.y.token_stride, rows, V, w.factor);
  if (a.lse)
    for (int64_t t = 0; t < rows; ++t) a.lse[(b * size.heads + h) * size.tokens + t0 + t] = w.sum[t] == 0 ? -kInfinity : w.top[t] + std::log(w.sum[t]);
}

// ---- one head backward ----

// dk [keys, K] and dv [keys, V] are the caller's: the gradient itself, or the head's part of it. Null where nobody needs it.
template <class T>
void differentiate_head(const AttentionBackward<T>& a, int64_t b, int64_t h, T* dk, int64_t dk_stride, T* dv, int64_t dv_stride, const BackwardScratch<T>& w) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const AttentionSizes& size = a.size;
  const Sight sight(size, a.strict);
  const int64_t K = size.key_dim, V = size.value_dim;
  const int64_t key_head = h / (size.heads / size.key_heads), value_head = h / (size.heads / size.value_heads);
  const int64_t key = b * size.keys;
  const bool need_scores = a.dq.at != nullptr || dk != nullptr;
  const int32_t* key_segments = a.query_segments ? a.key_segments + key : nullptr;

  for (int64_t i = 0; i < size.keys; ++i) {
    if (dk) std::fill_n(dk + i * dk_stride, K, T(0));
    if (dv) std::fill_n(dv + i * dv_stride, V, T(0));
  }

  for (int64_t t0 = 0; t0 < size.tokens; t0 += kQueries) {
    const int64_t rows = std::min(kQueries, size.tokens - t0), width = padded(rows);
    const int64_t query = b * size.tokens + t0;
    const T* const q = row(a.q, query, h, K);                                               // [rows, K]
    const T* const dy = row(a.dy, query, h, V);                                             // [rows, V]
    T* const dq = a.dq.at ? row(a.dq, query, h, K) : nullptr;                               // [rows, K]
    const T* const lse = a.lse + (b * size.heads + h) * size.tokens + t0;                   // [rows]
    const int32_t* query_segments = nullptr;
    if (a.query_segments) {
      std::copy_n(a.query_segments + query, rows, w.segments);
      std::fill(w.segments + rows, w.segments + width, w.segments[rows - 1]);
      query_segments = w.segments;
    }
    transpose(q, a.q.token_stride, rows, width, K, w.queries);
    transpose(dy, a.dy.token_stride, rows, width, V, w.d_answers);
    dot(dy, a.dy.token_stride, row(a.y, query, h, V), a.y.token_stride, rows, V, w.delta);
    std::fill(w.delta + rows, w.delta + width, T(0));
    for (int64_t c = 0; c < rows; ++c) w.lse[c] = lse[c] == -kInfinity ? kInfinity : lse[c];   // a query that saw nothing: P = exp(-inf) = 0
    std::fill(w.lse + rows, w.lse + width, kInfinity);

    bool fresh = true;                                                                      // dq holds nothing yet
    const int64_t end = sight.end(t0 + rows - 1);
    for (int64_t k0 = 0; k0 < end; k0 += kKeys) {
      const int64_t n = std::min(kKeys, end - k0), first = sight.first(t0, k0);
      const int32_t* segments = key_segments ? key_segments + k0 : nullptr;
      if (segments && !segments_meet(query_segments, rows, segments, n)) continue;
      const T* const k = row(a.k, key + k0, key_head, K);                                   // [n, K]
      const T* const v = row(a.v, key + k0, value_head, V);                                 // [n, V]
      gemm<T>(false, false, n, width, K, a.scale, k, a.k.token_stride, w.queries, kQueries, 0, w.scores, kQueries);       // S = scale Q K^T, again
      if (need_scores) {
        gemm<T>(false, false, n, width, V, 1, v, a.v.token_stride, w.d_answers, kQueries, 0, w.d_scores, kQueries);         // Y = P V
        differentiate_block(w.scores, w.d_scores, n, width, first, query_segments, segments, w.lse, w.delta, a.scale);       // P = softmax(S)
      } else {   // dv alone: the forward's own loops, their maximum and sum left unread
        mask_and_raise_block(w.scores, n, width, first, query_segments, segments, w.delta);
        exponentiate_block(w.scores, n, width, first, w.lse, w.delta);
      }
      if (dv) gemm<T>(false, false, n, V, rows, 1, w.scores, kQueries, dy, a.dy.token_stride, 1, dv + k0 * dv_stride, dv_stride);       // Y = P V
      if (dk) gemm<T>(false, false, n, K, rows, 1, w.d_scores, kQueries, q, a.q.token_stride, 1, dk + k0 * dk_stride, dk_stride);       // S = scale Q K^T
      if (dq) gemm<T>(true, false, rows, K, n, 1, w.d_scores, kQueries, k, a.k.token_stride, fresh ? 0 : 1, dq, a.dq.token_stride);     // S = scale Q K^T
      fresh = false;
    }
    if (dq && fresh)
      for (int64_t t = 0; t < rows; ++t) std::fill_n(dq + t * a.dq.token_stride, K, T(0));
  }
}

// heads that share a row: gradient [B, keys, heads, dim] = sum of their parts, part [B, H, keys, dim], in the order of the heads
template <class T>
void add_parts(const AttentionSizes& size, const T* part, int64_t heads, int64_t dim, Rows<T> gradient) {
  const int64_t group = size.heads / heads;
  parallel_for(size.batch * size.keys, std::max<int64_t>(1, 16384 / (size.heads * dim)), [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const int64_t b = token / size.keys, i = token % size.keys;
      for (int64_t head = 0; head < heads; ++head) {
        T* to = row(gradient, token, head, dim);
        for (int64_t g = 0; g < group; ++g) {
          const T* from = part + ((b * size.heads + head * group + g) * size.keys + i) * dim;
          for (int64_t d = 0; d < dim; ++d) to[d] = (g == 0 ? T(0) : to[d]) + from[d];
        }
      }
    }
  });
}

int64_t blocks_of(int64_t tokens) { return (tokens + kQueries - 1) / kQueries; }

}  // namespace

template <class T> size_t softmax_attention_workspace(const AttentionForward<T>& a) {
  return workers_bytes<ForwardScratch<T>>(a.size, a.size.batch * a.size.heads * blocks_of(a.size.tokens));
}

template <class T> Status softmax_attention_forward(const AttentionForward<T>& a, Workspace workspace) {
  if (!sizes_fit(a.size, a.strict)) return Status::bad_size;
  const int64_t blocks = blocks_of(a.size.tokens);
  return run_tasks<ForwardScratch<T>>(a.size.batch * a.size.heads * blocks, a.size, align_start(workspace), workspace.bytes, [&](int64_t task, const ForwardScratch<T>& w) {
    const int64_t block = blocks - 1 - task % blocks;   // the last block sees most: longest first
    const int64_t head = task / blocks;
    answer_block(a, head / a.size.heads, head % a.size.heads, block * kQueries, w);
  });
}

template <class T> size_t softmax_attention_workspace(const AttentionBackward<T>& a) {
  const AttentionSizes& s = a.size;
  Pieces count;
  if (is_shared(s, a.dk, s.key_heads)) count.take<T>(s.batch * s.heads * s.keys * s.key_dim);
  if (is_shared(s, a.dv, s.value_heads)) count.take<T>(s.batch * s.heads * s.keys * s.value_dim);
  return count.used + workers_bytes<BackwardScratch<T>>(s, s.batch * s.heads);
}

template <class T> Status softmax_attention_backward(const AttentionBackward<T>& a, Workspace workspace) {
  const AttentionSizes& s = a.size;
  if (!sizes_fit(s, a.strict)) return Status::bad_size;
  const int64_t K = s.key_dim, V = s.value_dim;
  const bool share_k = is_shared(s, a.dk, s.key_heads), share_v = is_shared(s, a.dv, s.value_heads);
  Pieces pieces = align_start(workspace);
  T* const dk_part = share_k ? pieces.take<T>(s.batch * s.heads * s.keys * K) : nullptr;   // [B, H, keys, K]
  T* const dv_part = share_v ? pieces.take<T>(s.batch * s.heads * s.keys * V) : nullptr;   // [B, H, keys, V]
  const Status status = run_tasks<BackwardScratch<T>>(s.batch * s.heads, s, pieces, workspace.bytes, [&](int64_t head, const BackwardScratch<T>& w) {
    const int64_t b = head / s.heads, h = head % s.heads;
    T* dk = share_k ? dk_part + head * s.keys * K : a.dk.at ? row(a.dk, b * s.keys, h, K) : nullptr;
    T* dv = share_v ? dv_part + head * s.keys * V : a.dv.at ? row(a.dv, b * s.keys, h, V) : nullptr;
    differentiate_head(a, b, h, dk, share_k ? K : a.dk.token_stride, dv, share_v ? V : a.dv.token_stride, w);
  });
  if (status != Status::ok) return status;
  if (share_k) add_parts(s, dk_part, s.key_heads, K, a.dk);
  if (share_v) add_parts(s, dv_part, s.value_heads, V, a.dv);
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
