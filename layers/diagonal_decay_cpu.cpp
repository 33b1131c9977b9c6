// CPU kernels of the stem `diagonal_decay` (chunk form of arXiv 2312.06635, 2405.21060, derived in docs/layers/diagonal_decay.md). f32 and f64.
//
// A block of 16 tokens is a handful of small products. With M0 [V,K] the memory that enters, rows r, s of the block, k' = w k, channels j,
//   F_rsj = a_rj a_{r-1,j} ... a_{s+1,j} (F_ss = 1),   since_r = a_r ... a_0,   before_r = since_{r-1} (before_0 = 1):
//   A_rs = sum_j q_rj k'_sj F_rsj (s <= r)        strict: F_{r-1,s} (s < r); the bonus stands on the diagonal          [16,16]
//   Y    = (Q since) M0^T + A V                   strict: before                                                    [16,V]
//   M_C  = M0 diag(since_15) + V^T Kend,   Kend_s = k'_s F_15,s                                                     [V,K]
// The work is in the products with M0: 4 K V a token, and blocks of 16 keep what is inside a block small beside it. Tokens of a block fill
// whole registers, so the memory lies [V, K] in all of them, and the products are our own: BLAS packs what is used once.
// One decay a head: F is a 16 x 16 table and A a product. One a channel: each k'_s is carried along r, times a_r, 136 pairs a block.
// Everywhere F grows by recurrence; a = 0 is nothing special.
// The normaliser is one more row of M, whose values are 1: n_r = (Q since)_r . m0 + sum_s A_rs, m_C = m0 since_15 + sum_s Kend_s. Y is divided by z(n) where
// it lies in registers of tokens. Backward the rows (dY / z, dn), dn = -z'(n) (dY / z) . (Y / z), take dY's place, and the products go one further.
// A worker owns one slab of the workspace; tasks are (sequence, group of heads that share key and value rows).
// Tested against the token recurrence in tests/diagonal_decay_kernel.cpp; the same algebra, token by token, is in cuda/diagonal_decay.cu.
#include <ttr/layers/diagonal_decay_kernel.hpp>

#include <algorithm>
#include <utility>

#include <ttr/core/simd.hpp>
#include <ttr/core/task_slabs.hpp>

namespace ttr {
namespace {

constexpr int64_t C = kDecayBlock;               // tokens a block, and elements a row is padded to
constexpr int64_t kBlocks = kDecayChunk / C;     // a saved state is good for so many

constexpr int64_t padded(int64_t n) { return (n + C - 1) / C * C; }

// -- a worker's slab -------------------------------------------------------------------------------------------------------------------------
// Rows [16, width] where they lie: whole blocks without padding are read in place.
template <class T> struct Strided {
  const T* at = nullptr;
  int64_t stride = 0;
};

// Rows of a block, and what is made of them. Kp, Vp: K and V padded to 16.
template <class T> struct Block {
  T *q, *k, *copy_q, *copy_k, *copy_v, *a, *since, *query, *end, *columns, *gram, *pair;
  Strided<T> raw_k, v;
  T w[C];
  bool hidden[C];         // a strict read where a document starts: it sees nothing
  T decay[C], seen[C];    // one decay a head: a_r;  since_r or before_r, which query_r is times
  T table[(C + 1) * C];   // one decay a head: row r + 1 holds F_r, row 0 is zero, so that F_{r-1} exists for every r
  T total[C + 1];         // one decay a head: 1, then a_r ... a_0
  void take(Pieces<T>& p, int64_t Kp, int64_t Vp) {
    q = p.take(C * Kp);              // scale q, or 0 where hidden               [16, Kp]
    k = p.take(C * Kp);              // w k                                      [16, Kp]
    copy_q = p.take(C * Kp);         // q, k, v where they are not read in place [16, Kp]
    copy_k = p.take(C * Kp);         //                                          [16, Kp]
    copy_v = p.take(C * Vp);         //                                          [16, Vp]
    a = p.take(C * Kp);              // one a channel: decays                    [16, Kp]
    since = p.take((C + 1) * Kp);    // row 0: ones, row r + 1: a_r ... a_0; one a head: row c alone   [17, Kp]
    query = p.take(C * Kp);          // Q since (strict: before)                 [16, Kp]
    end = p.take(C * Kp);            // Kend                                     [16, Kp]
    columns = p.take(Kp * C);        // of query, of end                         [Kp, 16]
    gram = p.take(C * C);            // one decay a head: K Q^T [s, r]           [16, 16]
    pair = p.take(C * C);            // A transposed: [s, r]                     [16, 16]
  }
  // What costs the most to make again lies in what the forward saves [blocks, 16, 16], if it saves: A, with one decay a head K Q^T.
  void keep_pairs(T* saved, int64_t block, bool per_channel) {
    if (saved) (per_channel ? pair : gram) = saved + block * C * C;
  }
};

template <class T> struct ForwardSlab {
  Block<T> x;
  T *yt, *y, *memory;
  size_t count;
  ForwardSlab(T* at, const DecaySizes& n, int64_t heads) {
    Pieces<T> p{at};
    const int64_t Kp = padded(n.key_dim), Vp = padded(n.value_dim);
    x.take(p, Kp, Vp);
    yt = p.take((Vp + 1) * C);         // Y transposed, then n                  [Vp + 1, 16]
    y = p.take(C * Vp);                // Y                                     [16, Vp]
    memory = p.take(heads * n.rows() * Kp);   // M                              [heads, R, Kp]
    count = p.used;
  }
};

template <class T> struct BackwardSlab {
  Block<T> x[kBlocks];
  Strided<T> dy;
  T *states, *adjoint, *copy_dy, *columns_v, *d_pair, *pair_rows, *dq, *dk, *dg, *d_since, *dvt, *dv, *d_bonus;
  size_t count;
  BackwardSlab(T* at, const DecaySizes& n, int64_t heads) {
    Pieces<T> p{at};
    const int64_t Kp = padded(n.key_dim), Vp = padded(n.value_dim);
    for (Block<T>& block : x) block.take(p, Kp, Vp);
    states = p.take(kBlocks * n.rows() * Kp);      // the memory that enters each block      [4, R, Kp]
    adjoint = p.take(heads * n.rows() * Kp);       // dM                                     [heads, R, Kp]
    copy_dy = p.take(C * (Vp + C));                // dy where it is not read in place; divided, then dn   [16, Vp + 16]
    columns_v = p.take((Vp + 1) * C);              // V transposed; ones after the values    [Vp + 1, 16]
    d_pair = p.take(C * C);                        // dA [r, s]                              [16, 16]
    pair_rows = p.take(C * C);                     // A [r, s]                               [16, 16]
    dq = p.take(C * Kp);                           // of query, then of q                    [16, Kp]
    dk = p.take(C * Kp);                           // of end, then of k                      [16, Kp]
    dg = p.take(C * Kp);                           //                                        [16, Kp]
    d_since = p.take(Kp);                          //                                        [Kp]
    dvt = p.take(Vp * C);                          // dV transposed                          [Vp, 16]
    dv = p.take(C * Vp);                           //                                        [16, Vp]
    d_bonus = p.take(heads * Kp);                  //                                        [heads, Kp]
    count = p.used;
  }
};

}  // namespace
}  // namespace ttr

#define TTR_SIMD_EACH <ttr/layers/diagonal_decay_block.hpp>
#include <ttr/core/simd_sets.hpp>

namespace ttr {
namespace {

void run_heads(const DecayForward<float>& p, float* slab, int64_t b, int64_t first, int64_t count) {
  static auto* const run = TTR_SIMD_BEST(forward_f32);
  run(p, slab, b, first, count);
}
void run_heads(const DecayForward<double>& p, double* slab, int64_t b, int64_t first, int64_t count) {
  static auto* const run = TTR_SIMD_BEST(forward_f64);
  run(p, slab, b, first, count);
}
void run_heads(const DecayBackward<float>& p, float* slab, int64_t b, int64_t first, int64_t count) {
  static auto* const run = TTR_SIMD_BEST(backward_f32);
  run(p, slab, b, first, count);
}
void run_heads(const DecayBackward<double>& p, double* slab, int64_t b, int64_t first, int64_t count) {
  static auto* const run = TTR_SIMD_BEST(backward_f64);
  run(p, slab, b, first, count);
}

// Heads that share a row of keys or of values are one task, so that dk and dv are sums in a fixed order.
// Beyond that a task takes as many heads as leave two tasks a thread.
int64_t heads_together(const DecaySizes& n) {
  const int64_t least = n.heads / head_groups(n);
  int64_t most = least;
  for (int64_t count = least; count <= n.heads; count += least)
    if (n.heads % count == 0 && n.batch * (n.heads / count) >= 2 * thread_count()) most = count;
  return most;
}
template <class T> size_t slab_of(const DecayForward<T>& p) { return ForwardSlab<T>(nullptr, p.size, heads_together(p.size)).count; }
template <class T> size_t slab_of(const DecayBackward<T>& p) {
  return BackwardSlab<T>(nullptr, p.size, heads_together(p.size)).count;
}
template <class T, class Arguments> Status share_heads(const Arguments& p, Workspace work) {
  const DecaySizes& n = p.size;
  if (!heads_hold(n)) return Status::bad_size;
  const int64_t count = heads_together(n), parts = n.heads / count;
  return share_tasks<T>(n.batch * parts, slab_of(p), work, [&](int64_t task, T* slab) { run_heads(p, slab, task / parts, task % parts * count, count); });
}

template <class A> const int32_t* starts_of(const RunningScale<A>& x, int64_t b) { return x.segments ? x.segments + b * x.tokens : nullptr; }

}  // namespace

namespace cpu {

template <class T> size_t diagonal_decay_workspace(const DecayForward<T>& p) {
  return slabs_bytes<T>(p.size.batch * p.size.heads / heads_together(p.size), slab_of(p));
}
template <class T> size_t diagonal_decay_workspace(const DecayBackward<T>& p) {
  return slabs_bytes<T>(p.size.batch * p.size.heads / heads_together(p.size), slab_of(p));
}
template <class T> Status diagonal_decay_forward(const DecayForward<T>& p, Workspace work) { return share_heads<T>(p, work); }
template <class T> Status diagonal_decay_backward(const DecayBackward<T>& p, Workspace work) { return share_heads<T>(p, work); }

template <class A> Status running_scale_forward(const RunningScale<A>& x) {
  const int64_t H = x.heads;
  parallel_for(x.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int32_t* const segments = starts_of(x, b);
      for (int64_t t = 0; t < x.tokens; ++t)
        for (int64_t h = 0; h < H; ++h) {
          const int64_t at = (b * x.tokens + t) * H + h;
          const bool starts = t > 0 && segments && segments[t] != segments[t - 1];
          const A before = starts ? A(0) : t > 0 ? x.scale[at - H] : x.initial ? x.initial[b * H + h] : A(0);
          const A decayed = x.log_decay[at] + before;
          x.scale[at] = decayed >= x.log_write[at] ? decayed : x.log_write[at];
        }
    }
  });
  return Status::ok;
}

template <class A> Status running_scale_backward(const RunningScale<A>& x) {
  const int64_t H = x.heads;
  parallel_for(x.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t h = 0; h < H; ++h) {
        const int32_t* const segments = starts_of(x, b);
        A carried = 0;   // adjoint of m_t from the future
        for (int64_t t = x.tokens - 1; t >= 0; --t) {
          const int64_t at = (b * x.tokens + t) * H + h;
          const bool starts = t > 0 && segments && segments[t] != segments[t - 1];
          const A before = starts ? A(0) : t > 0 ? x.scale[at - H] : x.initial ? x.initial[b * H + h] : A(0);
          const A d = carried + x.d_scale[at];
          const bool decays = x.log_decay[at] + before >= x.log_write[at];
          x.d_log_decay[at] = decays ? d : A(0);     // m_t = max(g_t + m_{t-1}, w_t)
          x.d_log_write[at] = decays ? A(0) : d;     // m_t = max(g_t + m_{t-1}, w_t)
          carried = decays && !starts ? d : A(0);    // m_t = max(g_t + m_{t-1}, w_t)
        }
        if (x.d_initial) x.d_initial[b * H + h] = carried;
      }
  });
  return Status::ok;
}

template size_t diagonal_decay_workspace<float>(const DecayForward<float>&);
template size_t diagonal_decay_workspace<double>(const DecayForward<double>&);
template size_t diagonal_decay_workspace<float>(const DecayBackward<float>&);
template size_t diagonal_decay_workspace<double>(const DecayBackward<double>&);
template Status diagonal_decay_forward<float>(const DecayForward<float>&, Workspace);
template Status diagonal_decay_forward<double>(const DecayForward<double>&, Workspace);
template Status diagonal_decay_backward<float>(const DecayBackward<float>&, Workspace);
template Status diagonal_decay_backward<double>(const DecayBackward<double>&, Workspace);
template Status running_scale_forward<float>(const RunningScale<float>&);
template Status running_scale_forward<double>(const RunningScale<double>&);
template Status running_scale_backward<float>(const RunningScale<float>&);
template Status running_scale_backward<double>(const RunningScale<double>&);

}  // namespace cpu
}  // namespace ttr
