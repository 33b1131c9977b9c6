// What the CPU kernels of attention share: which keys a block of queries sees, the loops over a block of scores, scratch, and rows of a head.
//
// A block of scores is held transposed, keys down and queries across: [n, width]. Then the maximum and the sum of a query's softmax are
// elementwise over rows, without a reduction inside a register, and every product is of the two kinds that BLAS does fastest at this size
// (A B and A^T B). Widths are multiples of kSimdLanes.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>
#include <ttr/layers/softmax_attention_kernel.hpp>

namespace ttr::cpu::attention {

constexpr int64_t kQueries = 64;   // queries a block, at most
constexpr int64_t kKeys = 128;     // keys a block
constexpr size_t kAlign = 64;
// Biased weights below exp(kNothing) of the largest count as 0: their products would be subnormal numbers, which are slow.
constexpr int kNothing = -69;

// ---- the loops over a block of scores, one clone per instruction set ----

// Which entries of [n, width] exist: key row r is hidden from the columns before first + r, and from queries of other documents.
struct Mask {
  int64_t n = 0, width = 0;
  int64_t first = 0;
  const int32_t* query_segments = nullptr;   // [width]; null: one document
  const int32_t* key_segments = nullptr;     // [n]
};

// bias [n] is added to the scores of a key, here and below; null: 0. top [width] rises to the largest score; hidden scores become -inf.
void mask_and_raise(float* s, const Mask&, const float* bias, float* top);
void mask_and_raise(double* s, const Mask&, const double* bias, double* top);
// The running maximum rises from `before` to `top` [width]: factor = exp(before - top) is what the sums so far are worth against the new
// one. A query that has seen nothing keeps 0 in place of -inf until its exponentials are formed: exp(-inf - 0), not exp(-inf + inf).
void lower(const float* before, int64_t width, float* top, float* sum, float* factor);
void lower(const double* before, int64_t width, double* top, double* sum, double* factor);
// s becomes exp(s + bias - top), and sum [width] grows by it.
void exponentiate(float* s, const Mask&, const float* bias, const float* top, float* sum);
void exponentiate(double* s, const Mask&, const double* bias, const double* top, double* sum);
// s becomes P = exp(s + bias - lse), dp becomes dS = P o (dP - delta); lse, delta [width].
void differentiate(float* s, float* dp, const Mask&, const float* bias, const float* lse, const float* delta);
void differentiate(double* s, double* dp, const Mask&, const double* bias, const double* lse, const double* delta);
// to[r * step] += the sum of row r of x [n, width]
void add_row_sums(const float* x, int64_t n, int64_t width, double* to, int64_t step);
void add_row_sums(const double* x, int64_t n, int64_t width, double* to, int64_t step);
// to [rows, dim] = factor [rows] times from
void multiply(const float* from, int64_t from_stride, int64_t rows, int64_t dim, const float* factor, float* to, int64_t to_stride);
void multiply(const double* from, int64_t from_stride, int64_t rows, int64_t dim, const double* factor, double* to, int64_t to_stride);
// x [rows, dim] -> columns [dim, width], zero from column `rows` to `width`
void transpose(const float* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, float* columns);
void transpose(const double* x, int64_t stride, int64_t rows, int64_t width, int64_t dim, double* columns);
// a, b [rows, dim] -> out [rows], out_t = a_t . b_t
void dot(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t rows, int64_t dim, float* out);
void dot(const double* a, int64_t a_stride, const double* b, int64_t b_stride, int64_t rows, int64_t dim, double* out);

// ---- who sees what ----

inline bool sizes_fit(const AttentionSizes& s, bool strict) {
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
inline bool segments_meet(const int32_t* a, int64_t na, const int32_t* b, int64_t nb) {
  const auto [a_low, a_high] = std::minmax_element(a, a + na);
  const auto [b_low, b_high] = std::minmax_element(b, b + nb);
  return *a_low <= *b_high && *b_low <= *a_high;
}

inline int64_t padded(int64_t rows) { return (rows + kSimdLanes - 1) / kSimdLanes * kSimdLanes; }

// A short sequence in half blocks computes a quarter less beyond the diagonal.
inline int64_t block_of(const AttentionSizes& s) { return s.tokens > kQueries ? kQueries : kQueries / 2; }
inline int64_t blocks_of(const AttentionSizes& s) { return (s.tokens + block_of(s) - 1) / block_of(s); }

// ---- scratch ----

inline size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

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

inline int64_t tokens_a_range(int64_t width) { return std::max<int64_t>(1, 16384 / width); }

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


// ---- one block of queries against the keys ----

// Rows t0 .. t0 + rows of head (b, h), padded to `width` columns. With a bias, exponents are formed against that of the newest key before
// the first query: one that all of them may see, so that no query's rounding depends on its future.
template <class A> struct QueryBlock {
  const A& a;
  int64_t b, h, t0;
  int64_t rows = std::min(block_of(a.size), a.size.tokens - t0), width = padded(rows);
  int64_t query = b * a.size.tokens + t0;                      // of the first row, for [B, T, ...]
  int64_t number = (b * a.size.heads + h) * a.size.tokens + t0;   // of the first row, for [B, H, T]
  Sight sight{a.size, a.strict};
  int64_t end = sight.end(t0 + rows - 1);                      // keys that any of them sees, documents aside

  double bias(int64_t key) const { return a.key_bias[(b * a.size.keys + key) * a.size.heads + h]; }
  double reference() const { return bias(std::max<int64_t>(sight.end(t0), 1) - 1); }
  // What the block's exponents lack of those that the border means: query t's are against the bias of the newest key before it.
  double shift(int64_t t) const {
    const int64_t own = sight.end(t0 + t);
    return a.key_bias == nullptr || own == 0 ? 0 : reference() - bias(own - 1);
  }
};

template <class A> auto head_scale(const A& a, int64_t h) { return a.head_scale ? a.scale * a.head_scale[h] : a.scale; }

// One head's keys and values.
template <class T> struct KeyRows {
  const T *k, *v;                              // [keys, K], [keys, V]
  int64_t k_step, v_step;                      // from one key to the next
};

// The longest of n rows, n at most kKeys.
template <class T> T longest(const T* x, int64_t step, int64_t n, int64_t dim) {
  T squares[kKeys];
  dot(x, step, x, step, n, dim, squares);
  return std::sqrt(*std::max_element(squares, squares + n));
}

// Calls visit(k0, mask, bias [n] or null) for every block of keys that one of the queries sees. Scratch: segments [kQueries], biases [kKeys].
// With a bias the newest keys come first, and where `against` [width] (the maximum so far, or the log-sum-exp) says that no weight of a block
// can reach exp(kNothing), the block is left out: |q.k| <= |q| |k|. What has been forgotten costs nothing.
template <class T, class A, class F>
void visit_keys(const QueryBlock<A>& q, const KeyRows<T>& keys, const T* against, int32_t* segments, T* biases, F&& visit) {
  const A& a = q.a;
  if (a.query_segments) {   // the block's documents, the last one repeated up to `width`
    std::copy_n(a.query_segments + q.query, q.rows, segments);
    std::fill(segments + q.rows, segments + q.width, segments[q.rows - 1]);
  }
  const bool biased = a.key_bias != nullptr;
  const double reference = biased && q.end > 0 ? q.reference() : 0;
  const int64_t K = a.size.key_dim;
  T reach = 0;
  if (biased && against) reach = std::abs(head_scale(a, q.h)) * longest(row(a.q, q.query, q.h, K), a.q.token_stride, q.rows, K);
  const int64_t blocks = (q.end + kKeys - 1) / kKeys;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t k0 = (biased ? blocks - 1 - i : i) * kKeys;
    Mask mask{.n = std::min(kKeys, q.end - k0), .width = q.width, .first = q.sight.first(q.t0, k0)};
    if (a.query_segments) {
      mask.query_segments = segments, mask.key_segments = a.key_segments + q.b * a.size.keys + k0;
      if (!segments_meet(segments, q.rows, mask.key_segments, mask.n)) continue;
    }
    if (biased) {
      for (int64_t r = 0; r < mask.n; ++r) biases[r] = T(q.bias(k0 + r) - reference);
      if (against) {
        const T most = reach * longest(keys.k + k0 * keys.k_step, keys.k_step, mask.n, K) + *std::max_element(biases, biases + mask.n);
        if (most - *std::min_element(against, against + q.rows) < kNothing) continue;
      }
    }
    visit(k0, mask, biased ? biases : nullptr);
  }
}


// k and v of every head in one piece where that pays; null: as they lie.
template <class T> struct KeyCopies {
  T *k, *v;     // [B, Hk, keys, K], [B, Hv, keys, V], or null

  template <class A>
  KeyCopies(Pieces& from, const A& a)
      : k(needs_copy(a.size, a.k, a.size.key_dim) ? from.take<T>(a.size.batch * a.size.key_heads * a.size.keys * a.size.key_dim) : nullptr),
        v(needs_copy(a.size, a.v, a.size.value_dim) ? from.take<T>(a.size.batch * a.size.value_heads * a.size.keys * a.size.value_dim)
                                                    : nullptr) {}
};

// Where a head writes its part of dk or dv: in place, or apart to be added up when heads share a row or its rows lie far apart.
template <class T> struct PartGradient {
  T* parts = nullptr;   // [B, H, keys, dim], or null

  PartGradient(Pieces& from, const AttentionSizes& s, Rows<T> gradient, int64_t heads, int64_t dim) {
    if (gradient.at != nullptr && (heads != s.heads || needs_copy(s, gradient, dim))) parts = from.take<T>(s.batch * s.heads * s.keys * dim), apart = true;
  }
  Heads<T> target(const AttentionSizes& s, Rows<T> gradient, int64_t dim) const {
    return apart ? Heads<T>::apart(parts, s.keys, s.heads, dim) : Heads<T>::in_place(gradient, s.keys, dim);
  }
  void add_up(const AttentionSizes& s, Rows<T> gradient, int64_t heads, int64_t dim) const {
    if (apart) add_parts(s, target(s, gradient, dim), heads, dim, gradient);
  }

 private:
  bool apart = false;
};

// Where a head's gradients go; null where nobody needs them.
template <class T> struct KeyGradients {
  T *dk = nullptr, *dv = nullptr;              // [keys, K], [keys, V]
  int64_t dk_step = 0, dv_step = 0;
};

// Both passes over heads begin alike: copies, workers, rows.
template <class T> struct KeyHeads {
  Heads<const T> k, v;
  int64_t key_group, value_group;              // heads that share a row

  template <class A>
  KeyHeads(const A& a, const KeyCopies<T>& copies)
      : k(gather(a.size, a.k, a.size.key_heads, a.size.key_dim, copies.k)),
        v(gather(a.size, a.v, a.size.value_heads, a.size.value_dim, copies.v)),
        key_group(a.size.heads / a.size.key_heads),
        value_group(a.size.heads / a.size.value_heads) {}
  KeyRows<T> of(int64_t b, int64_t h) const { return {k.of(b, h / key_group), v.of(b, h / value_group), k.token_step, v.token_step}; }
};

// body(b, h, t0, scratch) for every block of queries; each worker owns one Scratch(Pieces&, const AttentionSizes&).
template <class Scratch, class T, class A> size_t forward_workspace(const A& a) {
  Pieces count;
  KeyCopies<T>(count, a);
  return count.used + workers_bytes<Scratch>(a.size, a.size.batch * a.size.heads * blocks_of(a.size));
}
template <class Scratch, class T, class A, class F> Status each_block(const A& a, Workspace workspace, F&& body) {
  const AttentionSizes& s = a.size;
  if (!sizes_fit(s, a.strict)) return Status::bad_size;
  const int64_t blocks = blocks_of(s), tasks = s.batch * s.heads * blocks;
  if (tasks == 0) return Status::ok;
  Pieces pieces(workspace);
  const KeyCopies<T> copies(pieces, a);
  const int64_t workers = workers_that_fit<Scratch>(s, tasks, pieces, workspace);
  if (workers == 0) return Status::small_workspace;
  const KeyHeads<T> heads(a, copies);
  run_tasks<Scratch>(workers, tasks, s, pieces, [&](int64_t task, const Scratch& w) {
    const int64_t block = blocks - 1 - task % blocks;   // the last block sees most: longest first
    const int64_t b = task / blocks / s.heads, h = task / blocks % s.heads;
    body(QueryBlock<A>{a, b, h, block * block_of(s)}, heads.of(b, h), w);
  });
  return Status::ok;
}

// body(b, h, rows, gradients, scratch) for every head, then the sums over heads that share a row.
template <class Scratch, class T, class A> size_t backward_workspace(const A& a) {
  Pieces count;
  KeyCopies<T>(count, a);
  PartGradient<T>(count, a.size, a.dk, a.size.key_heads, a.size.key_dim);
  PartGradient<T>(count, a.size, a.dv, a.size.value_heads, a.size.value_dim);
  return count.used + workers_bytes<Scratch>(a.size, a.size.batch * a.size.heads);
}
template <class Scratch, class T, class A, class F> Status each_head(const A& a, Workspace workspace, F&& body) {
  const AttentionSizes& s = a.size;
  if (!sizes_fit(s, a.strict)) return Status::bad_size;
  const int64_t tasks = s.batch * s.heads;
  if (tasks == 0) return Status::ok;
  Pieces pieces(workspace);
  const KeyCopies<T> copies(pieces, a);
  const PartGradient<T> part_k(pieces, s, a.dk, s.key_heads, s.key_dim), part_v(pieces, s, a.dv, s.value_heads, s.value_dim);
  const int64_t workers = workers_that_fit<Scratch>(s, tasks, pieces, workspace);
  if (workers == 0) return Status::small_workspace;
  const KeyHeads<T> heads(a, copies);
  const Heads<T> dk = part_k.target(s, a.dk, s.key_dim), dv = part_v.target(s, a.dv, s.value_dim);
  run_tasks<Scratch>(workers, tasks, s, pieces, [&](int64_t head, const Scratch& w) {
    const int64_t b = head / s.heads, h = head % s.heads;
    body(b, h, heads.of(b, h), KeyGradients<T>{dk.of(b, h), dv.of(b, h), dk.token_step, dv.token_step}, w);
  });
  part_k.add_up(s, a.dk, s.key_heads, s.key_dim);
  part_v.add_up(s, a.dv, s.value_heads, s.value_dim);
  return Status::ok;
}

}  // namespace ttr::cpu::attention
