// Border of the stem `diagonal_decay`: one outer product a token into a memory that forgets by a diagonal. Derivation: docs/layers/diagonal_decay.md.
//
//   M_t = M_{t-1} diag(a_t) + w_t v_t k_t^T,   a_t = exp(g_t)        M [V, K]; g a number a token and head, or one a channel
//   y_t = scale (M_t q_t + ((u * k_t) . q_t) v_t)                    inclusive; strict: M_{t-1} q_t; u [K] the bonus, or 0
//   n_t = the same with 1 for v_t: the normaliser, whose memory is the last row of M [V + 1, K] where it is asked for; then the answer is y_t / z(n_t)
//
//   linear_attention (arXiv 2006.16236)               a = 1
//   retnet, simple_gla, mamba2 (arXiv 2307.08621, 2312.06635, 2405.21060)   a a number
//   gla, hgrn2 (arXiv 2312.06635, 2404.07904)         a a vector                 (hgrn2: tied, k = 1 - a)
//   rwkv6 (arXiv 2404.05892)                          a a vector, strict, u
//   mlstm (arXiv 2405.04517)                          a and w of gates on a running scale, below; n
//
// a_t may be 0, and is where a document starts: g = -inf, or another number in segments. Products of decays are formed by recurrence,
// never as a quotient or as exp of a difference of sums, so that the strongest decay costs no digit.
#pragma once
#include <ttr/layers/heads_kernel.hpp>

namespace ttr {

constexpr int64_t kDecayChunk = 64;   // tokens a saved state; the last chunk may be short
constexpr int64_t kDecayBlock = 16;   // tokens that the CPU kernels take together

struct DecaySizes {
  int64_t batch = 0, tokens = 0, heads = 0;
  int64_t key_heads = 0, value_heads = 0;      // each divides heads; head h reads key head h / (heads / key_heads)
  int64_t key_dim = 0, value_dim = 0;
  bool normaliser = false;                     // M has one row more, whose value is 1 at every token
  TTR_BOTH int64_t rows() const { return value_dim + normaliser; }   // R, of M
  TTR_BOTH int64_t chunks() const { return (tokens + kDecayChunk - 1) / kDecayChunk; }
  int64_t blocks() const { return (tokens + kDecayBlock - 1) / kDecayBlock; }
};

// What stands beside q, k and v.
template <class T> struct DecayGates {
  const Wide<T>* log_decay = nullptr;   // g: [B, T, H], or [B, T, H, K] when per_channel; null: 0
  bool per_channel = false;
  bool tied = false;                    // k_t = 1 - exp(g_t), also where a document starts; one decay a channel, key_heads = heads, k and dk are not touched
  bool strict = false;                  // y_t reads M_{t-1}
  const Wide<T>* write = nullptr;       // w: [B, T, H]; null: 1
  const Wide<T>* bonus = nullptr;       // u: [H, K]; null: 0
  const int32_t* segments = nullptr;    // [B, T]: a token whose number differs from the one before begins with an empty memory; null: one document
  Wide<T> scale = 1;
};

// z(n), what an answer is divided by: n + eps, for positive features; max(n, eps); max(|n|, floor) + eps.
enum class Divide : int { sum, clamp, magnitude };
template <class W> struct Divisor {
  Divide by = Divide::sum;
  W eps = 0;
  const W* floor = nullptr;             // [B, T, H], at `gate`; null: 1
  TTR_BOTH W least(int64_t gate) const { return by == Divide::clamp ? eps : floor ? floor[gate] : W(1); }
  TTR_BOTH bool floored(W n, int64_t gate) const { return by != Divide::sum && (by == Divide::magnitude && n < 0 ? -n : n) < least(gate); }
  TTR_BOTH W of(W n, int64_t gate) const {
    const W z = floored(n, gate) ? least(gate) : by == Divide::magnitude && n < 0 ? -n : n;
    return by == Divide::clamp ? z : z + eps;
  }
  TTR_BOTH W slope(W n, int64_t gate) const { return floored(n, gate) ? W(0) : by != Divide::magnitude ? W(1) : W((n > 0) - (n < 0)); }   // dz / dn
  TTR_BOTH W floor_slope(W n, int64_t gate) const { return W(by == Divide::magnitude && floored(n, gate)); }   // dz / dfloor
};

template <class T> struct DecayForward {
  DecaySizes size;
  DecayGates<T> gates;
  Divisor<Wide<T>> divisor;             // read where size.normaliser
  Rows<const T> q;                      // [B, T, H,  K]
  Rows<const T> k;                      // [B, T, Hk, K]; null where tied
  Rows<const T> v;                      // [B, T, Hv, V]
  const Wide<T>* memory_in = nullptr;   // [B, H, R, K]; null: zero
  Wide<T>* memory_out = nullptr;        // [B, H, R, K]
  Wide<T>* saved = nullptr;             // [B, H, chunks, R, K]: the memory that enters each chunk, for the backward; null: not wanted
  Wide<T>* pairs = nullptr;             // CPU [B, H, blocks, 16, 16]: what each block knows of its pairs of tokens, likewise
  Rows<T> y;                            // [B, T, H, V], divided where size.normaliser
  Wide<T>* normaliser = nullptr;        // n [B, T, H]; given where size.normaliser
  Wide<T>* exact_y = nullptr;           // [B, T, H, V], y before it is rounded to T: what the backward needs of bf16; null: not wanted
};

template <class T> struct DecayBackward {
  DecaySizes size;
  DecayGates<T> gates;
  Divisor<Wide<T>> divisor;
  Rows<const T> q, k, v;
  const Wide<T>* saved = nullptr;       // [B, H, chunks, R, K] from the forward
  const Wide<T>* pairs = nullptr;       // CPU [B, H, blocks, 16, 16] from the forward; null: made again
  Rows<const T> dy;                     // [B, T, H, V]
  Rows<const Wide<T>> y;                // [B, T, H, V], not rounded to bf16, and
  const Wide<T>* normaliser = nullptr;  // [B, T, H] from the forward; given where size.normaliser
  const Wide<T>* d_memory_out = nullptr;   // [B, H, R, K]; null: zero
  // Overwritten, never accumulated; a null pointer is a gradient nobody needs. dq, dk, dv sum over the heads that share a row.
  Rows<T> dq, dk, dv;                   // shapes of q, k, v
  Wide<T>* d_log_decay = nullptr;       // the shape of log_decay
  Wide<T>* d_write = nullptr;           // [B, T, H]
  Wide<T>* d_bonus = nullptr;           // [B, H, K]: one a sequence; the caller sums over B
  Wide<T>* d_floor = nullptr;           // [B, T, H], of divisor.floor
  Wide<T>* d_memory_in = nullptr;       // [B, H, R, K]
};

// The running scale of unbounded write gates: m_t = max(g_t + m_{t-1}, w_t), m_{t-1} = 0 where a document starts (arXiv 2405.04517).
// With exp(w_t - m_t) for the write and g_t + m_{t-1} - m_t for the log decay, no gate exceeds 1.
template <class A> struct RunningScale {
  int64_t batch = 0, tokens = 0, heads = 0;
  const A* log_decay = nullptr;         // g [B, T, H]
  const A* log_write = nullptr;         // w [B, T, H]
  const A* initial = nullptr;           // [B, H]; null: 0
  const int32_t* segments = nullptr;    // [B, T]; null: one document
  A* scale = nullptr;                   // m [B, T, H]: written by the forward, read by the backward
  const A* d_scale = nullptr;           // [B, T, H]
  A *d_log_decay = nullptr, *d_log_write = nullptr;   // [B, T, H]
  A* d_initial = nullptr;               // [B, H]; null: not wanted
};

namespace cpu {   // T, A: float, double
template <class T> size_t diagonal_decay_workspace(const DecayForward<T>&);
template <class T> size_t diagonal_decay_workspace(const DecayBackward<T>&);
template <class T> Status diagonal_decay_forward(const DecayForward<T>&, Workspace);
template <class T> Status diagonal_decay_backward(const DecayBackward<T>&, Workspace);
template <class A> Status running_scale_forward(const RunningScale<A>&);
template <class A> Status running_scale_backward(const RunningScale<A>&);
}  // namespace cpu

namespace cuda {  // T: float, bf16, double; A: float, double
template <class T> size_t diagonal_decay_workspace(const DecayForward<T>&);
template <class T> size_t diagonal_decay_workspace(const DecayBackward<T>&);
template <class T> Status diagonal_decay_forward(const DecayForward<T>&, Workspace, Stream);
template <class T> Status diagonal_decay_backward(const DecayBackward<T>&, Workspace, Stream);
template <class A> Status running_scale_forward(const RunningScale<A>&, Stream);
template <class A> Status running_scale_backward(const RunningScale<A>&, Stream);
}  // namespace cuda

}  // namespace ttr
