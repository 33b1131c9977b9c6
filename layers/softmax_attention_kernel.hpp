// Border of the stem `softmax_attention`: locally constant regression (arXiv 1706.03762, 2010.04245, 2503.02130).
//
//   l_ti = scale head_scale q_t . k_i + bias_i   for visible i,   p_t = softmax(l_t),   y_t = sum_i p_ti v_i
//
// What depends on the query alone cancels in the softmax, so a bias of the keys says forgetting (minus the sum of log decays up to the key)
// and the Gaussian kernel (-|k_i|^2 / 2h^2 beside q.k / h^2). It comes in f64: only differences matter, and sums over a long sequence are large.
// lse_t = log sum_i exp(l_ti - bias of the newest key before the query), documents aside: the same size at any length.
// Query t sees keys i <= t + (keys - tokens): the last query sees every key, so carried keys stand in front. With `segments`, only keys of
// its own document. A query that sees nothing answers 0, with lse = -inf. The T x T matrix is never held.
#pragma once
#include <ttr/core/border.hpp>

namespace ttr {

struct AttentionSizes {
  int64_t batch = 0, tokens = 0, keys = 0, heads = 0;   // tokens: queries; keys >= tokens unless strict
  int64_t key_heads = 0, value_heads = 0;               // each divides heads
  int64_t key_dim = 0, value_dim = 0;
};

template <class T> struct AttentionForward {
  AttentionSizes size;
  Rows<const T> q;                        // [B, T,    H,  K]
  Rows<const T> k;                        // [B, keys, Hk, K]
  Rows<const T> v;                        // [B, keys, Hv, V]
  Wide<T> scale = 1;
  const Wide<T>* head_scale = nullptr;    // [H]; null: 1
  const double* key_bias = nullptr;       // [B, keys, H]; null: 0
  bool strict = false;                    // query t sees i < t + (keys - tokens): the read comes before the write
  const int32_t* query_segments = nullptr;   // [B, T] document of each query; null: one document
  const int32_t* key_segments = nullptr;     // [B, keys]
  Rows<T> y;                              // [B, T, H, V]
  Wide<T>* lse = nullptr;                 // [B, H, T]; null at inference
};

template <class T> struct AttentionBackward {
  AttentionSizes size;
  Rows<const T> q, k, v;
  Wide<T> scale = 1;
  const Wide<T>* head_scale = nullptr;
  const double* key_bias = nullptr;
  bool strict = false;
  const int32_t* query_segments = nullptr;
  const int32_t* key_segments = nullptr;
  Rows<const T> y;                        // from the forward
  const Wide<T>* lse = nullptr;           // from the forward
  Rows<const T> dy;                       // [B, T, H, V]
  // Overwritten, never accumulated; a null pointer is a gradient nobody needs. dk, dv sum over the heads that share a row.
  Rows<T> dq, dk, dv;
  Wide<T>* d_head_scale = nullptr;        // [B, H, T]: each query's term, to be summed over b and t
  double* d_key_bias = nullptr;           // [B, keys, H]
};

namespace cpu {   // T: float, double
template <class T> size_t softmax_attention_workspace(const AttentionForward<T>&);
template <class T> size_t softmax_attention_workspace(const AttentionBackward<T>&);
template <class T> Status softmax_attention_forward(const AttentionForward<T>&, Workspace);
template <class T> Status softmax_attention_backward(const AttentionBackward<T>&, Workspace);
}  // namespace cpu

namespace cuda {  // T: float, bf16, double
template <class T> size_t softmax_attention_workspace(const AttentionForward<T>&);
template <class T> size_t softmax_attention_workspace(const AttentionBackward<T>&);
template <class T> Status softmax_attention_forward(const AttentionForward<T>&, Workspace, Stream);
template <class T> Status softmax_attention_backward(const AttentionBackward<T>&, Workspace, Stream);
}  // namespace cuda

}  // namespace ttr
