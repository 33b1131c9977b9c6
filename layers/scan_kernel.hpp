// Border of the stem `scan`: memories whose entries never meet. Every entry decays and grows on its own. Derivation: docs/layers/scan.md.
//
//   M_t = a_t * M_{t-1} + x_t k_t^T      y_t = scale M_t q_t       M, a [V, K] entry by entry;   without keys: h_t = a_t * h_{t-1} + x_t, y_t = h_t [V]
//
//   kind                                      gate                     rate               a                     x
//   value     hgrn (arXiv 2311.04823)         log_decay [B, T, H, V]   -                  exp(g)                v, or (1 - exp g) v if written
//   rotation  lru (arXiv 2303.06349)          log_decay [H, V/2]       phase [H, V/2]     exp(g + i phase)      v; channels (j, j + V/2) are a number
//   entry     geometric[per=entry]            log_decay [B,T,H,V,K]    -                  exp(g)                v
//   product   mamba (arXiv 2312.00752)        delta [B, T, H, V]       rate [H, V, K]     exp(-delta rate)      v, or delta v if written
//   proximal  longhorn_diagonal (2407.14207)  delta [B, T, H, V]       -                  1 - s k^2             s v, s = delta / (1 + delta |k|^2)
//
// value and rotation have no keys: key_dim is 1, q and k are null. The memory lives in registers and in the nearest cache; main memory sees it
// once every kScanChunk tokens, where the backward starts its recomputation.
#pragma once
#include <ttr/layers/heads_kernel.hpp>

namespace ttr {

constexpr int64_t kScanChunk = 64;   // tokens a saved state; the last chunk may be short

enum class ScanKind : int32_t { value, rotation, entry, product, proximal };

struct ScanSizes {
  int64_t batch = 0, tokens = 0, heads = 0;
  int64_t key_heads = 0, value_heads = 0;      // each divides heads; head h reads key head h / (heads / key_heads). Without keys both are heads
  int64_t key_dim = 0, value_dim = 0;
  TTR_BOTH int64_t chunks() const { return (tokens + kScanChunk - 1) / kScanChunk; }
};

template <class T> struct ScanForward {
  ScanSizes size;
  ScanKind kind = ScanKind::value;
  bool written = false;                 // value: x = (1 - a) v; product: x = delta v
  Rows<const T> q;                      // [B, T, H,  K]
  Rows<const T> k;                      // [B, T, Hk, K]
  Rows<const T> v;                      // [B, T, Hv, V]
  const Wide<T>* gate = nullptr;        // the table above, contiguous
  const Wide<T>* rate = nullptr;
  const int32_t* segments = nullptr;    // [B, T]: a token whose number differs from the one before forgets all (a = 0); null: one document
  Wide<T> scale = 1;
  const Wide<T>* memory_in = nullptr;   // [B, H, V, K]; null: zero
  Wide<T>* memory_out = nullptr;        // [B, H, V, K]
  Wide<T>* saved = nullptr;             // [B, chunks, H, V, K]: the memory that enters each chunk, for the backward; null: not wanted
  Rows<T> y;                            // [B, T, H, V]
};

template <class T> struct ScanBackward {
  ScanSizes size;
  ScanKind kind = ScanKind::value;
  bool written = false;
  Rows<const T> q, k, v;
  const Wide<T>* gate = nullptr;
  const Wide<T>* rate = nullptr;
  const int32_t* segments = nullptr;
  Wide<T> scale = 1;
  const Wide<T>* saved = nullptr;          // [B, chunks, H, V, K] from the forward
  Rows<const T> dy;                        // [B, T, H, V]
  const Wide<T>* d_memory_out = nullptr;   // [B, H, V, K]; null: zero
  // Overwritten, never accumulated; a null pointer is a gradient nobody needs. dq, dk, dv sum over the heads that share a row.
  Rows<T> dq, dk, dv;                      // shapes of q, k, v
  Wide<T>* d_gate = nullptr;               // shape of gate; rotation: [B, H, V/2], each sequence's own part
  Wide<T>* d_rate = nullptr;               // product: [B, H, V, K], rotation: [B, H, V/2], each sequence's own part
  Wide<T>* d_memory_in = nullptr;          // [B, H, V, K]
};

// 0 where token t of sequence b begins a document, else 1. The first token of a call goes on with memory_in.
template <class A> TTR_BOTH int goes_on(const A& a, int64_t b, int64_t t) {
  return !a.segments || t == 0 || a.segments[b * a.size.tokens + t] == a.segments[b * a.size.tokens + t - 1];
}

inline bool sizes_hold(const ScanSizes& n, ScanKind kind) {
  const bool keyed = kind != ScanKind::value && kind != ScanKind::rotation;
  return heads_hold(n) && (keyed || (n.key_dim == 1 && n.key_heads == n.heads && n.value_heads == n.heads)) &&
         (kind != ScanKind::rotation || n.value_dim % 2 == 0);
}

namespace cpu {   // T: float, double
template <class T> size_t scan_workspace(const ScanForward<T>&);
template <class T> size_t scan_workspace(const ScanBackward<T>&);
template <class T> Status scan_forward(const ScanForward<T>&, Workspace);
template <class T> Status scan_backward(const ScanBackward<T>&, Workspace);
}  // namespace cpu

namespace cuda {  // T: float, bf16, double
template <class T> size_t scan_workspace(const ScanForward<T>&);
template <class T> size_t scan_workspace(const ScanBackward<T>&);
template <class T> Status scan_forward(const ScanForward<T>&, Workspace, Stream);
template <class T> Status scan_backward(const ScanBackward<T>&, Workspace, Stream);
}  // namespace cuda

}  // namespace ttr
