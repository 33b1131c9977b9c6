// Border of the stem `normal_equations`: a linear memory solved to the end at every token. Derivation: docs/layers/normal_equations.md.
//
//   H_t = a_t H_{t-1} + w_t k_t k_t^T [K, K]       F_t = a_t F_{t-1} + w_t v_t k_t^T [V, K]       a = exp(log_decay), w = write
//   A_t = H_t + rho_t diag(ridge)                  x_t = A_t^{-1} (scale q_t) [K]                 y_t = F_t x_t [V]
//
//   rho_t   constant   1                           decaying   a_t rho_{t-1}, from 1 before a document (recursive least squares with forgetting)
//           refreshed  as decaying, but from 1 before every token whose place in its document is a multiple of `refresh`
//           relative   a_t rho_{t-1} + w_t, from 0: the sum of the weights
//
//   mesa (arXiv 2309.05858)                        a = 1, w = 1, constant
//   mesa_net, mesa_net_cg (arXiv 2506.05233)       constant, one ridge a channel
//   weighted, decaying, refreshed least squares (arXiv 2501.12352)   w = 1
//
// Three ways to x_t:
//   chunk      where A_t = a_t A_{t-1} + w_t k_t k_t^T (decaying, refreshed; constant without decay): one factorisation of A a chunk, and one of
//              the chunk's C x C Gram matrix, serve all of its tokens
//   token      a factorisation a token
//   iterative  conjugate gradients from zero, the tokens of a chunk together; at most `steps`, fewer when the residual is below `tolerance` |q|
// The gradient is that of the solution, at the x that was found: with s_t = A_t^{-1} F_t^T dy_t nothing of the way to x is differentiated.
#pragma once
#include <ttr/layers/heads_kernel.hpp>

namespace ttr {

constexpr int64_t kNormalChunk = 64;   // tokens between two saved moments; spans (documents, refreshes) may be shorter

enum class RidgePolicy : int32_t { constant, decaying, refreshed, relative };
enum class NormalMethod : int32_t { chunk, token, iterative };

// Where chunk is a way: the ridge forgets as the memory does.
TTR_BOTH constexpr bool follows_by_rank_one(RidgePolicy policy, bool decays) {
  return policy == RidgePolicy::decaying || policy == RidgePolicy::refreshed || (policy == RidgePolicy::constant && !decays);
}

struct NormalSizes {
  int64_t batch = 0, tokens = 0;               // tokens: those with a pair, carried ones included
  int64_t past = 0;                            // carried tokens, which come first and are not asked
  int64_t heads = 0, key_heads = 0, value_heads = 0;   // head h reads key head h / (heads / key_heads)
  int64_t key_dim = 0, value_dim = 0;
  TTR_BOTH int64_t chunks() const { return (tokens + kNormalChunk - 1) / kNormalChunk; }
  TTR_BOTH int64_t asked() const { return tokens - past; }
};

template <class T> struct NormalProblem {
  NormalSizes size;
  Rows<const T> q;                         // [B, T - past, H, K]
  Rows<const T> k;                         // [B, T, Hk, K]
  Rows<const T> v;                         // [B, T, Hv, V]
  const Wide<T>* log_decay = nullptr;      // [B, T, H] contiguous; null: 0
  const Wide<T>* write = nullptr;          // [B, T, H]; null: 1
  const Wide<T>* ridge = nullptr;          // [H, K]
  const int32_t* documents = nullptr;      // [B, T]: where the number changes, memory starts afresh; null: one document
  int64_t first = 0;                       // place of token 0 in its document
  RidgePolicy policy = RidgePolicy::constant;
  int64_t refresh = 0;                     // tokens, of policy refreshed
  NormalMethod method = NormalMethod::token;
  int64_t steps = 0;                       // of method iterative
  Wide<T> tolerance = 0;
  Wide<T> scale = 1;
};

template <class T> struct NormalForward : NormalProblem<T> {
  Wide<T>* saved = nullptr;                // [B, H, chunks, K + V, K]: H over F as they enter each chunk, for the backward; null: not wanted
  Rows<T> y;                               // [B, T - past, H, V]
};

template <class T> struct NormalBackward : NormalProblem<T> {
  const Wide<T>* saved = nullptr;          // [B, H, chunks, K + V, K] from the forward
  Rows<const T> dy;                        // [B, T - past, H, V]
  // Overwritten, never accumulated; a null pointer is a gradient nobody needs. dk, dv sum over the heads that share a row.
  Rows<T> dq, dk, dv;                      // shapes of q, k, v
  Wide<T>* d_log_decay = nullptr;          // [B, T, H]
  Wide<T>* d_write = nullptr;              // [B, T, H]
  Wide<T>* d_ridge = nullptr;              // [B, H, K]: a sequence's own part
};

namespace cpu {   // T: float, double
template <class T> size_t normal_equations_workspace(const NormalForward<T>&);
template <class T> size_t normal_equations_workspace(const NormalBackward<T>&);
template <class T> Status normal_equations_forward(const NormalForward<T>&, Workspace);
template <class T> Status normal_equations_backward(const NormalBackward<T>&, Workspace);
}
namespace cuda {   // T: float, double, bf16
template <class T> size_t normal_equations_workspace(const NormalForward<T>&);
template <class T> size_t normal_equations_workspace(const NormalBackward<T>&);
template <class T> Status normal_equations_forward(const NormalForward<T>&, Workspace, Stream);
template <class T> Status normal_equations_backward(const NormalBackward<T>&, Workspace, Stream);
}

}  // namespace ttr
