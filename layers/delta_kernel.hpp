// Border of the stem `delta`: one rank-1 write a token with scalar coefficients. Derivation: docs/layers/delta.md.
//
//   M_t = a_t M_{t-1} + (w_t v_t - e_t M_{t-1} k_t) k_t^T          M [V, K],  a decay, w write, e erase: one number a token and head
//   y_t = scale * M_t q_t
//
//   delta_net (arXiv 2102.11174, 2406.06484)   a = 1          w = e = beta
//   gated_delta_net (arXiv 2412.06464)         a = alpha      w = beta, e = alpha beta       (erases the decayed memory)
//   l2_sgd (arXiv 2501.12352)                  a = 1-beta l   w = e = beta                   (erases the memory before the decay)
//   longhorn (arXiv 2407.14207)                a = 1          w = e = delta / (1 + delta |k|^2)
//
// Products of decays inside a chunk are formed by recurrence, D_rs = a_r D_{r-1,s}, never by division or logarithm: a may be 0
// (a document starts: a = e = 0) or negative (l2_sgd with beta lambda > 1).
#pragma once
#include <ttr/layers/heads_kernel.hpp>

namespace ttr {

constexpr int64_t kDeltaChunk = 64;   // tokens a saved state; the last chunk may be short

struct DeltaSizes {
  int64_t batch = 0, tokens = 0, heads = 0;
  int64_t key_heads = 0, value_heads = 0;      // each divides heads; head h reads key head h / (heads / key_heads)
  int64_t key_dim = 0, value_dim = 0;
  TTR_BOTH int64_t chunks() const { return (tokens + kDeltaChunk - 1) / kDeltaChunk; }
};

template <class T> struct DeltaForward {
  DeltaSizes size;
  Rows<const T> q;                 // [B, T, H,  K]
  Rows<const T> k;                 // [B, T, Hk, K]
  Rows<const T> v;                 // [B, T, Hv, V]
  const Wide<T>* decay = nullptr;  // [B, T, H] contiguous; null: 1
  const Wide<T>* write = nullptr;  // [B, T, H]
  const Wide<T>* erase = nullptr;  // [B, T, H]
  Wide<T> scale = 1;
  const Wide<T>* memory_in = nullptr;   // [B, H, V, K]; null: zero
  Wide<T>* memory_out = nullptr;        // [B, H, V, K]
  Wide<T>* saved = nullptr;             // [B, H, chunks, V, K]: the memory that enters each chunk, for the backward; null: not wanted
  Rows<T> y;                            // [B, T, H, V]
};

template <class T> struct DeltaBackward {
  DeltaSizes size;
  Rows<const T> q, k, v;
  const Wide<T>* decay = nullptr;
  const Wide<T>* write = nullptr;
  const Wide<T>* erase = nullptr;
  Wide<T> scale = 1;
  const Wide<T>* saved = nullptr;       // [B, H, chunks, V, K] from the forward
  bool from_zero = false;               // memory_in was null: the first of them is zero
  Rows<const T> dy;                     // [B, T, H, V]
  const Wide<T>* d_memory_out = nullptr;   // [B, H, V, K]; null: zero
  // Overwritten, never accumulated; a null pointer is a gradient nobody needs. dq, dk, dv sum over the heads that share a row.
  Rows<T> dq, dk, dv;                   // shapes of q, k, v
  Wide<T>* d_decay = nullptr;           // [B, T, H]
  Wide<T>* d_write = nullptr;           // [B, T, H]
  Wide<T>* d_erase = nullptr;           // [B, T, H]
  Wide<T>* d_memory_in = nullptr;       // [B, H, V, K]
};

namespace cpu {   // T: float, double
template <class T> size_t delta_workspace(const DeltaForward<T>&);
template <class T> size_t delta_workspace(const DeltaBackward<T>&);
template <class T> Status delta_forward(const DeltaForward<T>&, Workspace);
template <class T> Status delta_backward(const DeltaBackward<T>&, Workspace);
}  // namespace cpu

namespace cuda {  // T: float, bf16, double
template <class T> size_t delta_workspace(const DeltaForward<T>&);
template <class T> size_t delta_workspace(const DeltaBackward<T>&);
template <class T> Status delta_forward(const DeltaForward<T>&, Workspace, Stream);
template <class T> Status delta_backward(const DeltaBackward<T>&, Workspace, Stream);
}  // namespace cuda

}  // namespace ttr
