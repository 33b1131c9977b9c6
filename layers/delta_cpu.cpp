// CPU kernels of the stem `delta` (chunk form of arXiv 2406.06484, 2412.06464, derived in docs/layers/delta.md). f32 and f64.
//
// One chunk of C <= 64 tokens is a handful of small matrix products. With M0 [V,K] the memory that enters, rows r, s of the chunk,
//   D_rs = a_r a_{r-1} ... a_{s+1} (D_ss = 1),   since_r = a_r ... a_0,   before_r = since_{r-1} (before_0 = 1),   rest_s = D_{C-1,s}:
//   N_rs = e_r D_{r-1,s} k_r.k_s  (s < r)         A_rs = scale D_rs q_r.k_s  (s <= r)
//   (I + N) U = w V - e before (K M0^T)           what each token really writes, u_r = w_r v_r - e_r M_{r-1} k_r      [C,V]
//   Y   = scale since (Q M0^T) + A U              [C,V]
//   M_C = since_{C-1} M0 + (rest U)^T K           [V,K]
// Everything of a pair (K over Q, adjoints alike) is stacked in one buffer of 2C rows, so that one product serves both.
// A worker owns one slab of the workspace; tasks are (sequence, group of heads that share key and value rows).
// Tested against the token recurrence in tests/delta_kernel.cpp; the same algebra, token by token, is in cuda/delta.cu.
#include <ttr/layers/delta_kernel.hpp>

#include <algorithm>

#include <ttr/core/blas.hpp>
#include <ttr/core/simd_rows.hpp>
#include <ttr/core/task_slabs.hpp>

namespace ttr {
namespace {

constexpr int64_t C = kDeltaChunk;
constexpr int64_t kBlock = 16;   // rows solved by substitution before a matrix product carries them on
constexpr int64_t kLanes = 16;   // partial sums, so that a reduction vectorises without reassociation flags

template <class T> TTR_SIMD_INLINE T dot(const T* __restrict a, const T* __restrict b, int64_t n) {
  T part[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) part[l] += a[i + l] * b[i + l];
  T sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (int64_t width = kLanes / 2; width > 0; width /= 2)
    for (int64_t l = 0; l < width; ++l) part[l] += part[l + width];
  return sum + part[0];
}

template <class T> TTR_SIMD_INLINE void scale_row(T* __restrict x, T by, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= by;
}

template <class T> TTR_SIMD_INLINE void scaled_copy(T* __restrict to, const T* __restrict from, T by, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = by * from[i];
}

template <class T> TTR_SIMD_INLINE void add_scaled(T* __restrict to, const T* __restrict from, T by, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += by * from[i];
}

// A row of a head is too short for a call of memcpy, which is what a plain copy becomes.
template <class T> TTR_SIMD_INLINE void copy(T* __restrict to, const T* __restrict from, int64_t n) { scaled_copy(to, from, T(1), n); }

// One head's coefficients inside one chunk.
template <class T> struct Gates {
  T decay[C], write[C], erase[C];
  T since[C];      // a_r ... a_0
  T before[C];     // a_{r-1} ... a_0
  const T* rest;   // a_{c-1} ... a_{s+1}, [c]
};

// Fills g and between = D [C+1, C]: row r+1 holds D_r, row 0 is zero, so that D_{r-1} exists for every r. Zero above the diagonal.
template <class T>
TTR_SIMD_INLINE void load_gates(Gates<T>& g, T* __restrict between, const T* decay, const T* write, const T* erase, int64_t heads, int64_t c) {
  T product = 1;
  for (int64_t r = 0; r < c; ++r) {
    g.decay[r] = decay ? decay[r * heads] : T(1);
    g.write[r] = write[r * heads];
    g.erase[r] = erase[r * heads];
    g.before[r] = product;
    product *= g.decay[r];
    g.since[r] = product;
  }
  for (int64_t s = 0; s < C; ++s) between[s] = 0;
  for (int64_t r = 0; r < c; ++r) {
    const T* __restrict last = between + r * C;
    T* __restrict row = between + (r + 1) * C;
    for (int64_t s = 0; s < C; ++s) row[s] = g.decay[r] * last[s];
    row[r] = 1;
  }
  g.rest = between + c * C;
}

// x <- (I + N)^{-1} x, x [c, n], N [c, C] strictly lower triangular.
template <class T> TTR_SIMD_INLINE void solve(const T* __restrict N, T* x, int64_t c, int64_t n) {
  for (int64_t begin = 0; begin < c; begin += kBlock) {
    const int64_t end = std::min(c, begin + kBlock);
    if (begin > 0) gemm<T>(false, false, end - begin, n, begin, T(-1), N + begin * C, C, x, n, T(1), x + begin * n, n);
    for (int64_t r = begin + 1; r < end; ++r) subtract_rows(x + r * n, x + begin * n, n, N + r * C + begin, 1, r - begin, n);
  }
}

// x <- (I + N)^{-T} x
template <class T> TTR_SIMD_INLINE void solve_transposed(const T* __restrict N, T* x, int64_t c, int64_t n) {
  for (int64_t begin = (c - 1) / kBlock * kBlock; begin >= 0; begin -= kBlock) {
    const int64_t end = std::min(c, begin + kBlock);
    if (end < c) gemm<T>(true, false, end - begin, n, c - end, T(-1), N + end * C + begin, C, x + end * n, n, T(1), x + begin * n, n);
    for (int64_t r = end - 2; r >= begin; --r) subtract_rows(x + r * n, x + (r + 1) * n, n, N + (r + 1) * C + r, C, end - 1 - r, n);
  }
}

template <class T> struct ForwardSlab {
  T *x, *pair, *hy, *between, *memory;
  size_t count;
  ForwardSlab(T* at, const DeltaSizes& n) {
    Pieces<T> p{at};
    x = p.take(2 * C * n.key_dim);           // K over Q                  [2C, K]
    pair = p.take(2 * C * C);                // N over A                  [2C, C]
    hy = p.take(2 * C * n.value_dim);        // U over scale since Q M0^T [2C, V]
    between = p.take((C + 1) * C);           // D                         [C+1, C]
    memory = p.take(n.value_dim * n.key_dim);   // M                      [V, K]
    count = p.used;
  }
};

template <class T> struct BackwardSlab {
  T *x, *gram, *pair, *u, *z, *outer, *e, *between, *adjoint;
  size_t count;
  BackwardSlab(T* at, const DeltaSizes& n) {
    Pieces<T> p{at};
    x = p.take(2 * C * n.key_dim);           // K over Q                       [2C, K]
    gram = p.take(2 * C * C);                // K K^T over Q K^T               [2C, C]
    pair = p.take(2 * C * C);                // N over A                       [2C, C]
    u = p.take(C * n.value_dim);             // U                              [C, V]
    z = p.take(2 * C * n.value_dim);         // dR over scale dY               [2C, V]
    outer = p.take(2 * C * C);               // dR U^T over scale dY U^T       [2C, C]
    e = p.take(2 * C * n.key_dim);           // dR M0 over scale dY M0, then dK over dQ [2C, K]
    between = p.take((C + 1) * C);           // D                              [C+1, C]
    adjoint = p.take(n.value_dim * n.key_dim);   // dM                         [V, K]
    count = p.used;
  }
};

template <class T> TTR_SIMD_INLINE const T* row(const Rows<const T>& x, const DeltaSizes& n, int64_t b, int64_t t, int64_t head, int64_t dim) {
  return x.at + (b * n.tokens + t) * x.token_stride + head * dim;
}
template <class T> TTR_SIMD_INLINE T* row(const Rows<T>& x, const DeltaSizes& n, int64_t b, int64_t t, int64_t head, int64_t dim) {
  return x.at + (b * n.tokens + t) * x.token_stride + head * dim;
}

template <class T> TTR_SIMD_INLINE void forward_head(const DeltaForward<T>& a, T* slab, int64_t b, int64_t h) {
  const DeltaSizes& n = a.size;
  const int64_t K = n.key_dim, V = n.value_dim, H = n.heads;
  const int64_t key_head = h / (H / n.key_heads), value_head = h / (H / n.value_heads);
  const ForwardSlab<T> m(slab, n);
  Gates<T> g;
  T* const u = m.hy;

  if (a.memory_in) std::copy_n(a.memory_in + (b * H + h) * V * K, V * K, m.memory);
  else std::fill_n(m.memory, V * K, T(0));

  for (int64_t chunk = 0; chunk < n.chunks(); ++chunk) {
    const int64_t t0 = chunk * C, c = std::min(C, n.tokens - t0);
    const int64_t gate = (b * n.tokens + t0) * H + h;
    const bool empty = chunk == 0 && !a.memory_in;   // M0 = 0: nothing is read from it
    if (a.saved) std::copy_n(m.memory, V * K, a.saved + ((b * H + h) * n.chunks() + chunk) * V * K);
    load_gates(g, m.between, a.decay ? a.decay + gate : nullptr, a.write + gate, a.erase + gate, H, c);
    for (int64_t r = 0; r < c; ++r) {
      copy(m.x + r * K, row(a.k, n, b, t0 + r, key_head, K), K);
      copy(m.x + (c + r) * K, row(a.q, n, b, t0 + r, h, K), K);
    }

    gemm<T>(false, true, 2 * c, c, K, T(1), m.x, K, m.x, K, T(0), m.pair, C);           // [K; Q] K^T
    for (int64_t r = 0; r < c; ++r) {
      T* __restrict N = m.pair + r * C;
      T* __restrict A = m.pair + (c + r) * C;
      const T* __restrict last = m.between + r * C;
      const T* __restrict now = last + C;
      for (int64_t s = 0; s < c; ++s) N[s] *= g.erase[r] * last[s];
      for (int64_t s = 0; s < c; ++s) A[s] *= a.scale * now[s];
    }

    if (!empty) gemm<T>(false, true, 2 * c, V, K, T(1), m.x, K, m.memory, K, T(0), m.hy, V);   // [K; Q] M0^T
    for (int64_t r = 0; r < c; ++r) {
      const T* __restrict v = row(a.v, n, b, t0 + r, value_head, V);
      T* __restrict ur = u + r * V;
      const T write = g.write[r], erased = g.erase[r] * g.before[r];
      if (empty) {
        scaled_copy(ur, v, write, V);
        continue;
      }
      for (int64_t i = 0; i < V; ++i) ur[i] = write * v[i] - erased * ur[i];
      scaled_copy(row(a.y, n, b, t0 + r, h, V), m.hy + (c + r) * V, a.scale * g.since[r], V);
    }
    solve(m.pair, u, c, V);
    gemm<T>(false, false, c, V, c, T(1), m.pair + c * C, C, u, V, T(empty ? 0 : 1), row(a.y, n, b, t0, h, V), a.y.token_stride);   // Y += A U

    if (t0 + c == n.tokens && !a.memory_out) return;
    for (int64_t r = 0; r < c; ++r) scale_row(u + r * V, g.rest[r], V);
    gemm<T>(true, false, V, K, c, T(1), u, V, m.x, K, g.since[c - 1], m.memory, K);     // M_C = since M0 + (rest U)^T K
  }
  if (a.memory_out) std::copy_n(m.memory, V * K, a.memory_out + (b * H + h) * V * K);
}

// first_key, first_value: no head before this one wrote into the shared rows of dk, dv.
template <class T>
TTR_SIMD_INLINE void backward_head(const DeltaBackward<T>& a, T* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  const DeltaSizes& n = a.size;
  const int64_t K = n.key_dim, V = n.value_dim, H = n.heads;
  const int64_t key_head = h / (H / n.key_heads), value_head = h / (H / n.value_heads);
  const BackwardSlab<T> m(slab, n);
  Gates<T> g;
  T hk[C], hq[C];                      // k_r . M0^T dR_r  and  q_r . M0^T g_r
  T since_adjoint, acc[C], carry[C];   // adjoints of since_r, of D_r, of D_{r-1} through N_r
  T pairwise[C];

  if (a.d_memory_out) std::copy_n(a.d_memory_out + (b * H + h) * V * K, V * K, m.adjoint);
  else std::fill_n(m.adjoint, V * K, T(0));

  for (int64_t chunk = n.chunks() - 1; chunk >= 0; --chunk) {
    const int64_t t0 = chunk * C, c = std::min(C, n.tokens - t0);
    const int64_t gate = (b * n.tokens + t0) * H + h;
    const T* const memory = a.saved + ((b * H + h) * n.chunks() + chunk) * V * K;
    const bool empty = chunk == 0 && a.from_zero;                                // M0 = 0: what is multiplied by it is left out
    const bool unread = chunk == n.chunks() - 1 && !a.d_memory_out;             // dM_C = 0: likewise
    T* const dR = m.z;
    T* const dy = m.z + c * V;
    load_gates(g, m.between, a.decay ? a.decay + gate : nullptr, a.write + gate, a.erase + gate, H, c);

    // The forward again, up to U.
    for (int64_t r = 0; r < c; ++r) {
      copy(m.x + r * K, row(a.k, n, b, t0 + r, key_head, K), K);
      copy(m.x + (c + r) * K, row(a.q, n, b, t0 + r, h, K), K);
      scaled_copy(dy + r * V, row(a.dy, n, b, t0 + r, h, V), a.scale, V);
    }
    gemm<T>(false, true, 2 * c, c, K, T(1), m.x, K, m.x, K, T(0), m.gram, C);
    for (int64_t r = 0; r < c; ++r) {
      const T* __restrict last = m.between + r * C;
      const T* __restrict now = last + C;
      const T* __restrict kk = m.gram + r * C;
      const T* __restrict qk = m.gram + (c + r) * C;
      T* __restrict N = m.pair + r * C;
      T* __restrict A = m.pair + (c + r) * C;
      for (int64_t s = 0; s < c; ++s) N[s] = kk[s] * (g.erase[r] * last[s]);
      for (int64_t s = 0; s < c; ++s) A[s] = qk[s] * now[s];
    }
    if (!empty) gemm<T>(false, true, c, V, K, T(1), m.x, K, memory, K, T(0), m.u, V);
    for (int64_t r = 0; r < c; ++r) {
      const T* __restrict v = row(a.v, n, b, t0 + r, value_head, V);
      T* __restrict ur = m.u + r * V;
      const T write = g.write[r], erased = g.erase[r] * g.before[r];
      if (empty) scaled_copy(ur, v, write, V);
      else for (int64_t i = 0; i < V; ++i) ur[i] = write * v[i] - erased * ur[i];
    }
    solve(m.pair, m.u, c, V);

    if (!unread) gemm<T>(false, true, c, V, K, T(1), m.x, K, m.adjoint, K, T(0), dR, V);
    else std::fill_n(acc, c, T(0));
    for (int64_t s = 0; s < c && !unread; ++s) {
      acc[s] = dot(m.u + s * V, dR + s * V, V);  // M_C = since M0 + (rest U)^T K, for rest
      scale_row(dR + s * V, g.rest[s], V);                                                          // M_C = since M0 + (rest U)^T K, for U
    }
    gemm<T>(true, false, c, V, c, T(1), m.pair + c * C, C, dy, V, T(unread ? 0 : 1), dR, V);        // Y = scale since (Q M0^T) + A U, for U
    solve_transposed(m.pair, dR, c, V);                                                             // (I + N) U = R
    gemm<T>(false, true, 2 * c, c, V, T(1), m.z, V, m.u, V, T(0), m.outer, C);                      // (I + N) U = R, for -N;  Y, for A
    if (!empty) gemm<T>(false, false, 2 * c, K, V, T(1), m.z, V, memory, K, T(0), m.e, K);          // R = w V - e before (K M0^T);  Y

    for (int64_t r = 0; r < c; ++r) {
      const T* __restrict v = row(a.v, n, b, t0 + r, value_head, V);
      const T* __restrict d = dR + r * V;
      if (a.dv.at) {
        T* to = row(a.dv, n, b, t0 + r, value_head, V);
        if (first_value) scaled_copy(to, d, g.write[r], V);                                         // R = w V - e before (K M0^T), for V
        else add_scaled(to, d, g.write[r], V);  // R = w V - ..., the next head of the group
      }
      if (a.d_write) a.d_write[gate + r * H] = dot(v, d, V);                                        // R = w V - e before (K M0^T), for w
      if (empty) {
        hk[r] = hq[r] = 0;
        continue;
      }
      hk[r] = dot(m.x + r * K, m.e + r * K, K);
      hq[r] = dot(m.x + (c + r) * K, m.e + (c + r) * K, K);
      scale_row(m.e + r * K, -g.erase[r] * g.before[r], K);                                         // R = w V - e before (K M0^T), for K
      scale_row(m.e + (c + r) * K, g.since[r], K);                                                  // Y = scale since (Q M0^T) + A U, for Q
    }

    // Row by row from the last: D_rs = a_r D_{r-1,s} and since_r = a_r before_r are differentiated as the recurrences they are.
    std::fill_n(carry, C, T(0));
    since_adjoint = a.d_decay && !empty && !unread ? dot(memory, m.adjoint, V * K) : T(0);          // M_C = since M0 + (rest U)^T K
    for (int64_t r = c - 1; r >= 0; --r) {
      const T* __restrict last = m.between + r * C;
      const T* __restrict now = last + C;
      const T* __restrict kk = m.gram + r * C;
      const T* __restrict qk = m.gram + (c + r) * C;
      T* __restrict dN = m.outer + r * C;
      T* __restrict dA = m.outer + (c + r) * C;
      const T through = r + 1 < c ? g.decay[r + 1] : T(1), erase = g.erase[r];
      since_adjoint = through * since_adjoint + hq[r];                                              // since_{r+1} = a since_r;  Y
      if (r + 1 < c) since_adjoint -= g.erase[r + 1] * hk[r + 1];                                   // R_{r+1} = ... - e before (K M0^T)
      for (int64_t s = 0; s < c; ++s) acc[s] = through * acc[s] + carry[s] + dA[s] * qk[s];  // D_{r+1} = a D_r;  N;  A_rs = D_rs q_r.k_s
      if (a.d_decay) a.d_decay[gate + r * H] = since_adjoint * g.before[r] + dot(acc, last, c);  // since_r = a_r before_r;  D_r = a D_{r-1}
      for (int64_t s = 0; s < c; ++s) pairwise[s] = kk[s] * dN[s];
      if (a.d_erase) a.d_erase[gate + r * H] = -g.before[r] * hk[r] - dot(last, pairwise, c);  // R;  N_rs = e_r D_{r-1,s} k_r.k_s
      for (int64_t s = 0; s < c; ++s) carry[s] = -erase * pairwise[s];  // N_rs = e_r D_{r-1,s} k_r.k_s, for D_{r-1}
      for (int64_t s = 0; s < c; ++s) dN[s] *= -erase * last[s];  // N_rs = e_r D_{r-1,s} k_r.k_s, for k_r.k_s
      for (int64_t s = 0; s < c; ++s) dA[s] *= now[s];  // A_rs = scale D_rs q_r.k_s, for q_r.k_s
    }

    T* const dk = m.e;
    T* const dq = m.e + c * K;
    const T* const d_qk = m.outer + c * C;
    if (a.dq.at) {
      gemm<T>(false, false, c, K, c, T(1), d_qk, C, m.x, K, T(empty ? 0 : 1), dq, K);               // q_r.k_s, for q
      for (int64_t r = 0; r < c; ++r) copy(row(a.dq, n, b, t0 + r, h, K), dq + r * K, K);
    }
    if (a.dk.at) {
      // k_r.k_s acts on both of its keys: the adjoint (below the diagonal) beside its transpose (above it).
      for (int64_t r = 1; r < c; ++r)
        for (int64_t s = 0; s < r; ++s) m.outer[s * C + r] = m.outer[r * C + s];                    // N_rs = e_r D_{r-1,s} k_r.k_s
      gemm<T>(true, false, c, K, 2 * c, T(1), m.outer, C, m.x, K, T(empty ? 0 : 1), dk, K);         // k_r.k_s and q_r.k_s, for k
      if (!unread) {
        for (int64_t s = 0; s < c; ++s) scale_row(m.u + s * V, g.rest[s], V);
        gemm<T>(false, false, c, K, V, T(1), m.u, V, m.adjoint, K, T(1), dk, K);                    // M_C = since M0 + (rest U)^T K, for K
      }
      for (int64_t r = 0; r < c; ++r) {
        T* to = row(a.dk, n, b, t0 + r, key_head, K);
        if (first_key) copy(to, dk + r * K, K);
        else add_scaled(to, dk + r * K, T(1), K);
      }
    }

    if (chunk == 0 && !a.d_memory_in) return;
    for (int64_t r = 0; r < c; ++r) {
      scale_row(dR + r * V, -g.erase[r] * g.before[r], V);
      scale_row(dy + r * V, g.since[r], V);
    }
    gemm<T>(true, false, V, K, 2 * c, T(1), m.z, V, m.x, K, g.since[c - 1], m.adjoint, K);   // R;  Y;  M_C = since M0 + (rest U)^T K
  }
  if (a.d_memory_in) std::copy_n(m.adjoint, V * K, a.d_memory_in + (b * H + h) * V * K);
}

TTR_SIMD_CLONES void forward_head_f32(const DeltaForward<float>& a, float* slab, int64_t b, int64_t h) { forward_head(a, slab, b, h); }
void forward_head_f64(const DeltaForward<double>& a, double* slab, int64_t b, int64_t h) { forward_head(a, slab, b, h); }
TTR_SIMD_CLONES void backward_head_f32(const DeltaBackward<float>& a, float* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  backward_head(a, slab, b, h, first_key, first_value);
}
void backward_head_f64(const DeltaBackward<double>& a, double* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  backward_head(a, slab, b, h, first_key, first_value);
}

}  // namespace

namespace cpu {

template <class T> size_t delta_workspace(const DeltaForward<T>& a) {
  return slabs_bytes<T>(a.size.batch * a.size.heads, ForwardSlab<T>(nullptr, a.size).count);
}

template <class T> size_t delta_workspace(const DeltaBackward<T>& a) {
  return slabs_bytes<T>(a.size.batch * head_groups(a.size), BackwardSlab<T>(nullptr, a.size).count);
}

template <class T> Status delta_forward(const DeltaForward<T>& a, Workspace work) {
  const DeltaSizes& n = a.size;
  if (!heads_hold(n)) return Status::bad_size;
  return share_tasks<T>(n.batch * n.heads, ForwardSlab<T>(nullptr, n).count, work, [&](int64_t task, T* slab) {
    if constexpr (sizeof(T) == 4) forward_head_f32(a, slab, task / n.heads, task % n.heads);
    else forward_head_f64(a, slab, task / n.heads, task % n.heads);
  });
}

template <class T> Status delta_backward(const DeltaBackward<T>& a, Workspace work) {
  const DeltaSizes& n = a.size;
  if (!heads_hold(n)) return Status::bad_size;
  const int64_t count = head_groups(n), together = n.heads / count, per_key = n.heads / n.key_heads, per_value = n.heads / n.value_heads;
  return share_tasks<T>(n.batch * count, BackwardSlab<T>(nullptr, n).count, work, [&](int64_t task, T* slab) {
    for (int64_t h = task % count * together; h < (task % count + 1) * together; ++h) {
      if constexpr (sizeof(T) == 4) backward_head_f32(a, slab, task / count, h, h % per_key == 0, h % per_value == 0);
      else backward_head_f64(a, slab, task / count, h, h % per_key == 0, h % per_value == 0);
    }
  });
}

template size_t delta_workspace<float>(const DeltaForward<float>&);
template size_t delta_workspace<double>(const DeltaForward<double>&);
template size_t delta_workspace<float>(const DeltaBackward<float>&);
template size_t delta_workspace<double>(const DeltaBackward<double>&);
template Status delta_forward<float>(const DeltaForward<float>&, Workspace);
template Status delta_forward<double>(const DeltaForward<double>&, Workspace);
template Status delta_backward<float>(const DeltaBackward<float>&, Workspace);
template Status delta_backward<double>(const DeltaBackward<double>&, Workspace);

}  // namespace cpu
}  // namespace ttr
