// Softmax attention on the CPU: blocks of queries against blocks of keys (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao et al. 2022,
// arXiv 2205.14135).
//
//   S = scale Q K^T,  P = exp(S + bias - lse),  Y = P V         dP = dY V^T,  dS = P o (dP - delta),  delta_t = dy_t . y_t
//
// attention_blocks.hpp says how a block of scores is held. With several blocks of queries, k and v are first copied head by head and dk, dv
// summed there: rows a whole projection apart fall into few sets of the first cache. Scratch: two blocks of scores a worker, and those copies.
#include <ttr/layers/softmax_attention_kernel.hpp>

#include <cmath>

#include <ttr/core/blas.hpp>
#include <ttr/layers/attention_blocks.hpp>

namespace ttr::cpu {
namespace {

using namespace attention;

template <class T> struct ForwardScratch {
  T* scores;               // [kKeys, kQueries]
  T* queries;              // [K, kQueries]
  T* answers;              // [kQueries, V]
  T *top, *before;         // [kQueries]: the running maximum, and what it was a block ago
  T *sum, *factor;         // [kQueries]
  T* biases;               // [kKeys]
  int32_t* segments;       // [kQueries]

  ForwardScratch(Pieces& from, const AttentionSizes& size)
      : scores(from.take<T>(kKeys * kQueries)),
        queries(from.take<T>(size.key_dim * kQueries)),
        answers(from.take<T>(kQueries * size.value_dim)),
        top(from.take<T>(kQueries)),
        before(from.take<T>(kQueries)),
        sum(from.take<T>(kQueries)),
        factor(from.take<T>(kQueries)),
        biases(from.take<T>(kKeys)),
        segments(from.take<int32_t>(kQueries)) {}
};

template <class T> struct BackwardScratch {
  T *scores, *d_scores;    // [kKeys, kQueries]
  T *queries, *d_answers;  // [K, kQueries], [V, kQueries]
  T *q, *dy, *dq;          // [kQueries, K], [kQueries, V], [kQueries, K]
  T *lse, *delta;          // [kQueries]
  T* biases;               // [kKeys]
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
        biases(from.take<T>(kKeys)),
        segments(from.take<int32_t>(kQueries)) {}
};

// ---- one block of queries forward ----

template <class T>
void answer_block(const QueryBlock<AttentionForward<T>>& q, const KeyRows<T>& keys, const ForwardScratch<T>& w) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const AttentionForward<T>& a = q.a;
  const int64_t K = a.size.key_dim, V = a.size.value_dim, rows = q.rows, width = q.width;
  const T scale = head_scale(a, q.h);

  transpose(row(a.q, q.query, q.h, K), a.q.token_stride, rows, width, K, w.queries);
  std::fill_n(w.top, width, -kInfinity);
  std::fill_n(w.sum, width, T(0));
  bool fresh = true;                                                                        // answers [rows, V] hold nothing yet
  visit_keys<T>(q, keys, w.top, w.segments, w.biases, [&](int64_t k0, const Mask& mask, const T* bias) {
    gemm<T>(false, false, mask.n, width, K, scale, keys.k + k0 * keys.k_step, keys.k_step, w.queries, width, 0, w.scores, width);
    std::copy_n(w.top, width, w.before);
    mask_and_raise(w.scores, mask, bias, w.top);
    lower(w.before, width, w.top, w.sum, w.factor);
    exponentiate(w.scores, mask, bias, w.top, w.sum);
    for (int64_t c = 0; c < width; ++c) w.top[c] = w.sum[c] == 0 ? -kInfinity : w.top[c];
    if (!fresh) multiply(w.answers, V, rows, V, w.factor, w.answers, V);
    gemm<T>(true, false, rows, V, mask.n, 1, w.scores, width, keys.v + k0 * keys.v_step, keys.v_step, fresh ? 0 : 1, w.answers, V);
    fresh = false;
  });

  T* const y = row(a.y, q.query, q.h, V);                                                   // [rows, V]
  if (fresh) {
    for (int64_t t = 0; t < rows; ++t) std::fill_n(y + t * a.y.token_stride, V, T(0));
  } else {
    for (int64_t t = 0; t < rows; ++t) w.factor[t] = w.sum[t] == 0 ? T(0) : 1 / w.sum[t];
    multiply(w.answers, V, rows, V, w.factor, y, a.y.token_stride);
  }
  if (a.lse)
    for (int64_t t = 0; t < rows; ++t)
      a.lse[q.number + t] = w.sum[t] == 0 ? -kInfinity : w.top[t] + std::log(w.sum[t]) + T(q.shift(t));
}

// ---- one head backward ----

template <class T>
void differentiate_head(const AttentionBackward<T>& a, int64_t b, int64_t h, const KeyRows<T>& keys, const KeyGradients<T>& to,
                        const BackwardScratch<T>& w) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const AttentionSizes& size = a.size;
  const int64_t K = size.key_dim, V = size.value_dim;
  const T scale = head_scale(a, h);
  double* const d_bias = a.d_key_bias ? a.d_key_bias + b * size.keys * size.heads + h : nullptr;   // [keys], size.heads apart
  const bool need_queries = a.dq.at != nullptr || a.d_head_scale != nullptr;
  const bool need_scores = need_queries || to.dk != nullptr || d_bias != nullptr;

  // The last block of queries comes first: it sees every key that any sees and starts dk and dv, unless a document or a bias hides some.
  const int64_t last = (blocks_of(size) - 1) * block_of(size);
  const bool hides = a.query_segments || a.key_bias;
  for (int64_t i = hides ? 0 : Sight(size, a.strict).end(size.tokens - 1); i < size.keys; ++i) {
    if (to.dk) std::fill_n(to.dk + i * to.dk_step, K, T(0));
    if (to.dv) std::fill_n(to.dv + i * to.dv_step, V, T(0));
  }
  if (d_bias)
    for (int64_t i = 0; i < size.keys; ++i) d_bias[i * size.heads] = 0;

  for (int64_t t0 = last; t0 >= 0; t0 -= block_of(size)) {
    const T started = t0 == last && !hides ? T(0) : T(1);
    const QueryBlock<AttentionBackward<T>> block{a, b, h, t0};
    const int64_t rows = block.rows, width = block.width;
    const T* const q = row(a.q, block.query, h, K);                                         // [rows, K]
    const T* const dy = row(a.dy, block.query, h, V);                                       // [rows, V]
    const T* const lse = a.lse + block.number;                                              // [rows]
    transpose(q, a.q.token_stride, rows, width, K, w.queries);
    transpose(dy, a.dy.token_stride, rows, width, V, w.d_answers);
    for (int64_t t = 0; t < rows; ++t) {
      std::copy_n(q + t * a.q.token_stride, K, w.q + t * K);
      std::copy_n(dy + t * a.dy.token_stride, V, w.dy + t * V);
    }
    dot(w.dy, V, row(a.y, block.query, h, V), a.y.token_stride, rows, V, w.delta);
    std::fill(w.delta + rows, w.delta + width, T(0));
    for (int64_t t = 0; t < rows; ++t)
      w.lse[t] = lse[t] == -kInfinity ? kInfinity : lse[t] - T(block.shift(t));   // a query that saw nothing: P = exp(-inf) = 0
    std::fill(w.lse + rows, w.lse + width, kInfinity);

    bool fresh = true;                                                                      // dq [rows, K] holds nothing yet
    visit_keys<T>(block, keys, w.lse, w.segments, w.biases, [&](int64_t k0, const Mask& mask, const T* bias) {
      const T* const k_block = keys.k + k0 * keys.k_step;                                   // [n, K]
      const T* const v_block = keys.v + k0 * keys.v_step;                                   // [n, V]
      const int64_t n = mask.n;
      // S = scale Q K^T, computed anew
      gemm<T>(false, false, n, width, K, scale, k_block, keys.k_step, w.queries, width, 0, w.scores, width);
      if (need_scores) {
        gemm<T>(false, false, n, width, V, 1, v_block, keys.v_step, w.d_answers, width, 0, w.d_scores, width);   // Y = P V
        differentiate(w.scores, w.d_scores, mask, bias, w.lse, w.delta);                                         // P = exp(S + bias - lse)
      } else {   // dv alone: the forward's own loops, with the maximum and the sum they keep left unread
        mask_and_raise(w.scores, mask, bias, w.delta);
        exponentiate(w.scores, mask, bias, w.lse, w.delta);
      }
      if (to.dv) gemm<T>(false, false, n, V, rows, 1, w.scores, width, w.dy, V, started, to.dv + k0 * to.dv_step, to.dv_step);   // Y = P V
      if (to.dk)
        gemm<T>(false, false, n, K, rows, scale, w.d_scores, width, w.q, K, started, to.dk + k0 * to.dk_step, to.dk_step);   // S = scale Q K^T
      if (need_queries)
        gemm<T>(true, false, rows, K, n, 1, w.d_scores, width, k_block, keys.k_step, fresh ? 0 : 1, w.dq, K);   // S = scale Q K^T
      if (d_bias) add_row_sums(w.d_scores, n, width, d_bias + k0 * size.heads, size.heads);                     // S + bias
      fresh = false;
    });
    if (fresh) std::fill_n(w.dq, rows * K, T(0));
    if (a.d_head_scale) dot(w.q, K, w.dq, K, rows, K, w.delta);                                                 // scale = a.scale head_scale
    if (a.d_head_scale)
      for (int64_t t = 0; t < rows; ++t) a.d_head_scale[block.number + t] = a.scale * w.delta[t];
    if (a.dq.at) {
      std::fill_n(w.delta, rows, scale);
      multiply(w.dq, K, rows, K, w.delta, row(a.dq, block.query, h, K), a.dq.token_stride);                     // S = scale Q K^T
    }
  }
}

}  // namespace

template <class T> size_t softmax_attention_workspace(const AttentionForward<T>& a) { return forward_workspace<ForwardScratch<T>, T>(a); }
template <class T> Status softmax_attention_forward(const AttentionForward<T>& a, Workspace workspace) {
  return each_block<ForwardScratch<T>, T>(a, workspace, answer_block<T>);
}

template <class T> size_t softmax_attention_workspace(const AttentionBackward<T>& a) {
  return backward_workspace<BackwardScratch<T>, T>(a);
}
template <class T> Status softmax_attention_backward(const AttentionBackward<T>& a, Workspace workspace) {
  return each_head<BackwardScratch<T>, T>(a, workspace, [&](int64_t b, int64_t h, const auto&... rest) { differentiate_head(a, b, h, rest...); });
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
