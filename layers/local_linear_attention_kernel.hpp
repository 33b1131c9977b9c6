// Border of local linear attention (arXiv 2510.01450): the stem `softmax_attention` with a line in place of the constant.
//
//   p_t  the weights of softmax attention          mu = sum_i p_i k_i,   c_i = k_i - mu,   C = sum_i p_i c_i c_i^T + lambda I
//   u = C^{-1} (q - mu)                            y_t = sum_i p_i (1 + c_i.u) v_i
//
// The line is fitted in keys around the query, with a ridge on its slope alone: lambda = ridge, or ridge / sum_i gamma_i when the ridge is
// absolute. A query that sees nothing answers 0. Who sees what, head_scale and key_bias: softmax_attention_kernel.hpp.
#pragma once
#include <ttr/layers/softmax_attention_kernel.hpp>

namespace ttr {

template <class T> struct LocalLinearForward {
  AttentionSizes size;
  Rows<const T> q, k, v;                  // [B, T, H, K], [B, keys, Hk, K], [B, keys, Hv, V]
  Wide<T> scale = 1;
  const Wide<T>* head_scale = nullptr;    // [H]; null: 1
  const double* key_bias = nullptr;       // [B, keys, H]; null: 0
  const Wide<T>* ridge = nullptr;         // [H]
  bool absolute = false;                  // the ridge is not a multiple of the sum of weights; needs no key_bias
  bool strict = false;
  const int32_t* query_segments = nullptr;
  const int32_t* key_segments = nullptr;
  Rows<T> y;                              // [B, T, H, V]
  // What the backward reads; all null at inference.
  Wide<T>* lse = nullptr;                 // [B, H, T]
  Wide<T>* mean = nullptr;                // [B, H, T, K]: mu
  Wide<T>* slope = nullptr;               // [B, H, T, K]: u
};

template <class T> struct LocalLinearBackward {
  AttentionSizes size;
  Rows<const T> q, k, v;
  Wide<T> scale = 1;
  const Wide<T>* head_scale = nullptr;
  const double* key_bias = nullptr;
  const Wide<T>* ridge = nullptr;
  bool absolute = false;
  bool strict = false;
  const int32_t* query_segments = nullptr;
  const int32_t* key_segments = nullptr;
  const Wide<T> *lse = nullptr, *mean = nullptr, *slope = nullptr;   // from the forward
  Rows<const T> dy;                       // [B, T, H, V]
  // Overwritten, never accumulated; a null pointer is a gradient nobody needs. dk, dv sum over the heads that share a row.
  Rows<T> dq, dk, dv;
  Wide<T>* d_head_scale = nullptr;        // [B, H, T]: each query's term, to be summed over b and t
  double* d_key_bias = nullptr;           // [B, keys, H]
  Wide<T>* d_ridge = nullptr;             // [B, H, T]: each query's term
};

namespace cpu {   // T: float, double
constexpr int64_t kLocalLinearDirect = 16;   // the largest K whose C is formed and factorised; beyond, conjugate gradients
template <class T> size_t local_linear_attention_workspace(const LocalLinearForward<T>&);
template <class T> size_t local_linear_attention_workspace(const LocalLinearBackward<T>&);
template <class T> Status local_linear_attention_forward(const LocalLinearForward<T>&, Workspace);
template <class T> Status local_linear_attention_backward(const LocalLinearBackward<T>&, Workspace);
}  // namespace cpu

namespace cuda {  // T: float, bf16, double
// Rows of the widest kernels must fit a block's shared memory, in f64 too.
constexpr int64_t kLocalLinearRow = 1490;
constexpr int64_t local_linear_row(int64_t key_dim, int64_t value_dim) {
  return 7 * key_dim + 2 * value_dim > 5 * key_dim + 3 * value_dim ? 7 * key_dim + 2 * value_dim : 5 * key_dim + 3 * value_dim;
}
template <class T> size_t local_linear_attention_workspace(const LocalLinearForward<T>&);
template <class T> size_t local_linear_attention_workspace(const LocalLinearBackward<T>&);
template <class T> Status local_linear_attention_forward(const LocalLinearForward<T>&, Workspace, Stream);
template <class T> Status local_linear_attention_backward(const LocalLinearBackward<T>&, Workspace, Stream);
}  // namespace cuda

}  // namespace ttr
