// CPU kernels of the stem `scan` (border: scan_kernel.hpp, derivation: docs/layers/scan.md). f32 and f64.
//
//   M_t = a_t * M_{t-1} + x_t k_t^T,   y_t = scale M_t q_t          M, a [V, K] entry by entry
//
// Without keys (value, rotation) a worker walks the tokens with up to 256 neighbouring channels in the nearest cache: bound by main memory.
// With keys a worker owns the heads that share rows. It cuts a head into tiles of kLanes values x kTile keys, whose memory stays in registers
// while the kScanChunk tokens of a chunk pass: every lane is a value, so keys and queries are broadcast, and y needs no sum over lanes.
//   decays()   fills a_t of a tile for all tokens of the chunk: where the exponentials are
//   forward    M = a M + x k, y += M q
//   backward   the same from the saved memory, keeping M_t in the second cache; then from the last token
//                dM += g q^T;  dq += g M_t, dk += dM x, dx += dM k, da = dM M_{t-1};  dM = a dM
//   chain()    from da to the gradient of what a was made of
// Tested against the token recurrence in tests/scan_kernel.cpp; the same algebra on a GPU is in cuda/scan.cu.
#include <ttr/layers/scan_kernel.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>

namespace ttr {
namespace {

constexpr int64_t C = kScanChunk;
constexpr int64_t kTile = 4;                                       // keys of a tile
constexpr int64_t kWidth = 256;                                    // channels a worker without keys takes at once
template <class T> constexpr int64_t kLanes = 64 / int64_t(sizeof(T));   // values of a tile: one wide register

constexpr int64_t up_to(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Hands out pieces of a slab, each on a cache line.
template <class T> struct Pieces {
  T* at;
  size_t used = 0;
  T* take(int64_t count) {
    T* piece = at ? at + used : nullptr;
    used += size_t(up_to(count, 16));
    return piece;
  }
};

// -- without keys ------------------------------------------------------------------------------------------------------------------------------
// Channels are counted through all heads: channel c of sequence b, D = H V of them.

template <class T> struct ChannelSlab {   // of `width` channels; the backward keeps a chunk
  T *state, *adjoint, *a, *less_one, *states;
  size_t count;
  ChannelSlab(T* at, int64_t width, bool backward) {
    Pieces<T> p{at};
    state = p.take(2 * width);
    adjoint = p.take(2 * width);
    a = p.take((backward ? C : 2) * width);
    less_one = p.take((backward ? C : 2) * width);
    states = p.take(backward ? 2 * (C + 1) * width : 0);
    count = p.used;
  }
};

// One token: h <- a h + x, and y <- h.
template <bool kWritten, class T>
TTR_SIMD_INLINE void value_token(const T* __restrict gate, const T* __restrict v, T keep, const T* h, T* next, T* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const ExpPair<T> e = fast_exp_pair(gate[i]);
    const T now = keep * e.whole * h[i] + (kWritten ? -e.less_one * v[i] : v[i]);
    next[i] = now;
    if (y) y[i] = now;
  }
}

template <bool kWritten, class T> TTR_SIMD_INLINE void value_forward(const ScanForward<T>& f, T* slab, int64_t b, int64_t first, int64_t n) {
  const ScanSizes& s = f.size;
  const int64_t D = s.heads * s.value_dim;
  T* const h = ChannelSlab<T>(slab, n, false).state;
  if (f.memory_in) std::copy_n(f.memory_in + b * D + first, n, h);
  else std::fill_n(h, n, T(0));
  for (int64_t t = 0; t < s.tokens; ++t) {
    const int64_t token = b * s.tokens + t;
    if (f.saved && t % C == 0) std::copy_n(h, n, f.saved + (b * s.chunks() + t / C) * D + first);
    value_token<kWritten, T>(f.gate + token * D + first, f.v.at + token * f.v.token_stride + first, T(goes_on(f, b, t)), h, h,
                             f.y.at + token * f.y.token_stride + first, n);
  }
  if (f.memory_out) std::copy_n(h, n, f.memory_out + b * D + first);
}

template <bool kWritten, class T> TTR_SIMD_INLINE void value_backward(const ScanBackward<T>& g, T* slab, int64_t b, int64_t first, int64_t n) {
  const ScanSizes& s = g.size;
  const int64_t D = s.heads * s.value_dim;
  const ChannelSlab<T> m(slab, n, true);
  T* __restrict const adjoint = m.adjoint;
  if (g.d_memory_out) std::copy_n(g.d_memory_out + b * D + first, n, adjoint);
  else std::fill_n(adjoint, n, T(0));
  for (int64_t chunk = s.chunks() - 1; chunk >= 0; --chunk) {
    const int64_t t0 = chunk * C, c = std::min(C, s.tokens - t0);
    std::copy_n(g.saved + (b * s.chunks() + chunk) * D + first, n, m.states);
    for (int64_t r = 0; r < c; ++r) {   // the forward again, keeping what it made
      const int64_t token = b * s.tokens + t0 + r;
      const T* __restrict gate = g.gate + token * D + first;
      const T* __restrict v = g.v.at + token * g.v.token_stride + first;
      const T* __restrict h = m.states + r * n;
      T* __restrict next = m.states + (r + 1) * n;
      T* __restrict a = m.a + r * n;
      T* __restrict less_one = m.less_one + r * n;
      const T keep = T(goes_on(g, b, t0 + r));
      for (int64_t i = 0; i < n; ++i) {
        const ExpPair<T> e = fast_exp_pair(gate[i]);
        a[i] = e.whole;
        less_one[i] = e.less_one;
        next[i] = keep * e.whole * h[i] + (kWritten ? -e.less_one * v[i] : v[i]);
      }
    }
    for (int64_t r = c - 1; r >= 0; --r) {
      const int64_t token = b * s.tokens + t0 + r;
      const T* __restrict v = g.v.at + token * g.v.token_stride + first;
      const T* __restrict dy = g.dy.at + token * g.dy.token_stride + first;
      const T* __restrict h = m.states + r * n;
      const T* __restrict a = m.a + r * n;
      const T* __restrict less_one = m.less_one + r * n;
      const T keep = T(goes_on(g, b, t0 + r));
      for (int64_t i = 0; i < n; ++i) adjoint[i] += dy[i];                                            // y = h
      if (g.dv.at) {
        T* __restrict dv = g.dv.at + token * g.dv.token_stride + first;
        for (int64_t i = 0; i < n; ++i) dv[i] = kWritten ? -less_one[i] * adjoint[i] : adjoint[i];    // h = a h + (1 - a) v
      }
      if (g.d_gate) {
        T* __restrict d_gate = g.d_gate + token * D + first;
        for (int64_t i = 0; i < n; ++i) d_gate[i] = adjoint[i] * a[i] * (keep * h[i] - (kWritten ? v[i] : T(0)));   // a = exp g
      }
      for (int64_t i = 0; i < n; ++i) adjoint[i] *= keep * a[i];                                      // h = a h + (1 - a) v
    }
  }
  if (g.d_memory_in) std::copy_n(adjoint, n, g.d_memory_in + b * D + first);
}

// rotation: heads [first, first + heads), n = V / 2 numbers each, laid out (real, imaginary) as in the memory, so that rows are copied whole.
template <class A, class T> TTR_SIMD_INLINE void turns(const A& f, int64_t first, int64_t heads, T* real, T* imaginary) {
  const int64_t n = f.size.value_dim / 2;
  for (int64_t i = 0; i < heads * n; ++i) {
    const T size = std::exp(f.gate[first * n + i]), phase = f.rate[first * n + i];
    real[i] = size * std::cos(phase);
    imaginary[i] = size * std::sin(phase);
  }
}

template <class T> TTR_SIMD_INLINE void rotation_forward(const ScanForward<T>& f, T* slab, int64_t b, int64_t first, int64_t heads) {
  const ScanSizes& s = f.size;
  const int64_t V = s.value_dim, n = V / 2, D = s.heads * V, at = first * V, width = heads * V;
  const ChannelSlab<T> m(slab, width, false);
  turns(f, first, heads, m.a, m.less_one);
  T* const h = m.state;
  if (f.memory_in) std::copy_n(f.memory_in + b * D + at, width, h);
  else std::fill_n(h, width, T(0));
  for (int64_t t = 0; t < s.tokens; ++t) {
    const int64_t token = b * s.tokens + t;
    if (f.saved && t % C == 0) std::copy_n(h, width, f.saved + (b * s.chunks() + t / C) * D + at);
    const T keep = T(goes_on(f, b, t));
    for (int64_t j = 0; j < heads; ++j) {
      const T* __restrict v = f.v.at + token * f.v.token_stride + at + j * V;
      T* __restrict y = f.y.at + token * f.y.token_stride + at + j * V;
      T* __restrict hr = h + j * V;
      T* __restrict hi = h + j * V + n;
      const T* __restrict ar = m.a + j * n;
      const T* __restrict ai = m.less_one + j * n;
      for (int64_t i = 0; i < n; ++i) {
        const T re = keep * (ar[i] * hr[i] - ai[i] * hi[i]) + v[i], im = keep * (ai[i] * hr[i] + ar[i] * hi[i]) + v[n + i];
        hr[i] = re;
        hi[i] = im;
        y[i] = re;
        y[n + i] = im;
      }
    }
  }
  if (f.memory_out) std::copy_n(h, width, f.memory_out + b * D + at);
}

template <class T> TTR_SIMD_INLINE void rotation_backward(const ScanBackward<T>& g, T* slab, int64_t b, int64_t first, int64_t heads) {
  const ScanSizes& s = g.size;
  const int64_t V = s.value_dim, n = V / 2, D = s.heads * V, at = first * V, width = heads * V;
  const ChannelSlab<T> m(slab, width, true);
  turns(g, first, heads, m.a, m.less_one);
  T* const d_real = m.a + width;        // summed over tokens: the adjoint of a
  T* const d_imaginary = m.less_one + width;
  std::fill_n(d_real, width, T(0));
  std::fill_n(d_imaginary, width, T(0));
  if (g.d_memory_out) std::copy_n(g.d_memory_out + b * D + at, width, m.adjoint);
  else std::fill_n(m.adjoint, width, T(0));
  for (int64_t chunk = s.chunks() - 1; chunk >= 0; --chunk) {
    const int64_t t0 = chunk * C, c = std::min(C, s.tokens - t0);
    std::copy_n(g.saved + (b * s.chunks() + chunk) * D + at, width, m.states);
    for (int64_t r = 0; r + 1 < c; ++r) {   // the forward again; its last state is nobody's predecessor here
      const int64_t token = b * s.tokens + t0 + r;
      const T keep = T(goes_on(g, b, t0 + r));
      for (int64_t j = 0; j < heads; ++j) {
        const T* __restrict v = g.v.at + token * g.v.token_stride + at + j * V;
        const T* __restrict hr = m.states + r * width + j * V;
        T* __restrict next = m.states + (r + 1) * width + j * V;
        const T* __restrict ar = m.a + j * n;
        const T* __restrict ai = m.less_one + j * n;
        for (int64_t i = 0; i < n; ++i) {
          next[i] = keep * (ar[i] * hr[i] - ai[i] * hr[n + i]) + v[i];
          next[n + i] = keep * (ai[i] * hr[i] + ar[i] * hr[n + i]) + v[n + i];
        }
      }
    }
    for (int64_t r = c - 1; r >= 0; --r) {
      const int64_t token = b * s.tokens + t0 + r;
      const T keep = T(goes_on(g, b, t0 + r));
      for (int64_t j = 0; j < heads; ++j) {
        const T* __restrict dy = g.dy.at + token * g.dy.token_stride + at + j * V;
        const T* __restrict h = m.states + r * width + j * V;
        T* __restrict d = m.adjoint + j * V;
        T* __restrict dr = d_real + j * n;
        T* __restrict di = d_imaginary + j * n;
        const T* __restrict ar = m.a + j * n;
        const T* __restrict ai = m.less_one + j * n;
        for (int64_t i = 0; i < V; ++i) d[i] += dy[i];                                                // y = h
        if (g.dv.at) std::copy_n(d, V, g.dv.at + token * g.dv.token_stride + at + j * V);             // h = a h + v
        for (int64_t i = 0; i < n; ++i) {
          const T re = d[i], im = d[n + i];
          dr[i] += keep * (re * h[i] + im * h[n + i]);                                                // h = a h + v, for Re a
          di[i] += keep * (im * h[i] - re * h[n + i]);                                                // h = a h + v, for Im a
          d[i] = keep * (ar[i] * re + ai[i] * im);                                                    // h = a h + v, for h
          d[n + i] = keep * (ar[i] * im - ai[i] * re);                                                // h = a h + v, for h
        }
      }
    }
  }
  const int64_t half = (b * s.heads + first) * n;
  for (int64_t i = 0; i < heads * n; ++i) {
    if (g.d_gate) g.d_gate[half + i] = d_real[i] * m.a[i] + d_imaginary[i] * m.less_one[i];           // a = exp(g + i phase)
    if (g.d_rate) g.d_rate[half + i] = d_imaginary[i] * m.a[i] - d_real[i] * m.less_one[i];           // a = exp(g + i phase)
  }
  if (g.d_memory_in) std::copy_n(m.adjoint, width, g.d_memory_in + b * D + at);
}

// -- with keys: tiles --------------------------------------------------------------------------------------------------------------------------
template <class T> TTR_SIMD_INLINE const T* row(const Rows<const T>& x, const ScanSizes& n, int64_t b, int64_t t, int64_t head, int64_t dim) {
  return x.at + (b * n.tokens + t) * x.token_stride + head * dim;
}
template <class T> TTR_SIMD_INLINE T* row(const Rows<T>& x, const ScanSizes& n, int64_t b, int64_t t, int64_t head, int64_t dim) {
  return x.at + (b * n.tokens + t) * x.token_stride + head * dim;
}

// One head inside one chunk. Sizes are rounded up to tiles and padded with zeros, which change nothing and are never written back.
struct Cut {
  int64_t K, V, keys, values;   // of the head; rounded up
  template <class T> static Cut of(const ScanSizes& n) {
    return {n.key_dim, n.value_dim, up_to(n.key_dim, kTile), up_to(n.value_dim, kLanes<T>)};
  }
};

template <class T> struct HeadSlab {
  T *k, *q, *square;            // [C, keys], [C, keys], [C]: |k|^2
  T *rate, *memory;             // [keys, values] each, by tiles of lanes: entry (v, j) at (v / L * keys + j) * L + v % L
  T *value, *step, *x;          // [values / L, C, L] each: v; delta or s; what is written
  T *decay, *y;                 // [C, kTile, L], [values / L, C, L]: in the backward 1 / (1 + delta |k|^2)
  T *dk, *dq, *d_square;        // [C, keys] each, [C]
  T *d_rate, *states;           // [keys, values], [C + 1, kTile, L]
  T *g, *dx, *d_step;           // [values / L, C, L] each: scale dy, adjoints
  T *dk_lanes, *dq_lanes;       // [C, kTile, L] each: before the sum over lanes
  size_t count;
  HeadSlab(T* at, const ScanSizes& n, bool backward) {
    const Cut c = Cut::of<T>(n);
    constexpr int64_t L = kLanes<T>;
    Pieces<T> p{at};
    k = p.take(C * c.keys), q = p.take(C * c.keys), square = p.take(C);
    rate = p.take(c.keys * c.values), memory = p.take(c.keys * c.values);
    value = p.take(C * c.values), step = p.take(C * c.values), x = p.take(C * c.values);
    decay = p.take(C * kTile * L), y = p.take(C * c.values);
    const int64_t one = backward ? 1 : 0;
    dk = p.take(one * C * c.keys), dq = p.take(one * C * c.keys), d_square = p.take(one * C);
    d_rate = p.take(one * c.keys * c.values), states = p.take(one * (C + 1) * kTile * L);
    g = p.take(one * C * c.values), dx = p.take(one * C * c.values), d_step = p.take(one * C * c.values);
    dk_lanes = p.take(one * C * kTile * L), dq_lanes = p.take(one * C * kTile * L);
    count = p.used;
  }
};

// [V, K] into tiles of lanes, and back.
template <class T> TTR_SIMD_INLINE void into_tiles(const T* from, T* __restrict to, const Cut& c) {
  constexpr int64_t L = kLanes<T>;
  std::fill_n(to, c.keys * c.values, T(0));
  if (!from) return;
  for (int64_t v = 0; v < c.V; ++v)
    for (int64_t j = 0; j < c.K; ++j) to[(v / L * c.keys + j) * L + v % L] = from[v * c.K + j];
}
template <class T> TTR_SIMD_INLINE void out_of_tiles(const T* __restrict from, T* __restrict to, const Cut& c) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t v = 0; v < c.V; ++v)
    for (int64_t j = 0; j < c.K; ++j) to[v * c.K + j] = from[(v / L * c.keys + j) * L + v % L];
}
// Rows [c, n] a stride apart into [c, width], the rest zero.
template <class T> TTR_SIMD_INLINE void into_rows(const T* from, int64_t stride, T* to, int64_t rows, int64_t n, int64_t width, T by) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) to[r * width + i] = by * from[r * stride + i];
    for (int64_t i = n; i < width; ++i) to[r * width + i] = 0;
  }
}
// Rows [rows, V] a stride apart into [values / L, C, L].
template <class T> TTR_SIMD_INLINE void into_lanes(const T* from, int64_t stride, T* to, int64_t rows, const Cut& c, T by) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t first = 0; first < c.values; first += L) into_rows<T>(from + first, stride, to + first * C, rows, std::min(L, c.V - first), L, by);
}
template <class T> TTR_SIMD_INLINE void out_of_lanes(const T* from, T* to, int64_t stride, int64_t rows, const Cut& c, bool add) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t first = 0; first < c.values; first += L)
    for (int64_t r = 0; r < rows; ++r) {
      const T* __restrict x = from + first * C + r * L;
      T* __restrict y = to + r * stride + first;
      const int64_t n = std::min(L, c.V - first);
      if (add) for (int64_t i = 0; i < n; ++i) y[i] += x[i];
      else for (int64_t i = 0; i < n; ++i) y[i] = x[i];
    }
}

// Everything of a head that does not depend on the tile: keys, queries, values, steps, writes of tokens [t0, t0 + rows).
template <class A, class T>
TTR_SIMD_INLINE void load_chunk(const A& f, const HeadSlab<T>& m, const Cut& c, int64_t b, int64_t h, int64_t t0, int64_t rows, T query_scale) {
  const ScanSizes& n = f.size;
  constexpr int64_t L = kLanes<T>;
  into_rows<T>(row(f.k, n, b, t0, h / (n.heads / n.key_heads), c.K), f.k.token_stride, m.k, rows, c.K, c.keys, T(1));
  into_rows<T>(row(f.q, n, b, t0, h, c.K), f.q.token_stride, m.q, rows, c.K, c.keys, query_scale);
  into_lanes<T>(row(f.v, n, b, t0, h / (n.heads / n.value_heads), c.V), f.v.token_stride, m.value, rows, c, T(1));
  if (f.kind == ScanKind::entry) {
    std::copy_n(m.value, C * c.values, m.x);
    return;
  }
  into_lanes<T>(f.gate + ((b * n.tokens + t0) * n.heads + h) * c.V, n.heads * c.V, m.step, rows, c, T(1));
  if (f.kind == ScanKind::proximal)
    for (int64_t r = 0; r < rows; ++r) {
      T sum = 0;
      for (int64_t j = 0; j < c.K; ++j) sum += m.k[r * c.keys + j] * m.k[r * c.keys + j];
      m.square[r] = sum;
      for (int64_t first = 0; first < c.values; first += L) {
        T* __restrict step = m.step + first * C + r * L;
        T* __restrict shrink = m.y + first * C + r * L;
        for (int64_t l = 0; l < L; ++l) {
          shrink[l] = T(1) / (T(1) + step[l] * sum);
          step[l] *= shrink[l];
        }
      }
    }
  const bool plain = f.kind == ScanKind::product && !f.written;
  for (int64_t first = 0; first < c.values; first += L) {
    const T* __restrict value = m.value + first * C;
    const T* __restrict step = m.step + first * C;
    T* __restrict x = m.x + first * C;
    for (int64_t i = 0; i < rows * L; ++i) x[i] = plain ? value[i] : step[i] * value[i];
  }
}

// m.decay <- a_t of the tile (values from first, keys from j0), for every token of the chunk.
template <ScanKind kKind, class A, class T>
TTR_SIMD_INLINE void decays(const A& f, const HeadSlab<T>& m, const Cut& c, int64_t b, int64_t h, int64_t t0, int64_t rows, int64_t first, int64_t j0) {
  constexpr int64_t L = kLanes<T>;
  const ScanSizes& n = f.size;
  if constexpr (kKind == ScanKind::entry) {
    const int64_t lanes = std::min(L, c.V - first), keys = std::min(kTile, c.K - j0);
    for (int64_t r = 0; r < rows; ++r) {
      T* __restrict a = m.decay + r * kTile * L;
      const T* __restrict gate = f.gate + (((b * n.tokens + t0 + r) * n.heads + h) * c.V + first) * c.K + j0;
      if (lanes < L || keys < kTile) std::fill_n(a, kTile * L, T(0));
      for (int64_t l = 0; l < lanes; ++l)
        for (int64_t j = 0; j < keys; ++j) a[j * L + l] = gate[l * c.K + j];
      for (int64_t i = 0; i < kTile * L; ++i) a[i] = fast_exp(a[i]);
    }
  }
  if constexpr (kKind == ScanKind::product) {
    const T* __restrict rate = m.rate + (first / L * c.keys + j0) * L;
    for (int64_t r = 0; r < rows; ++r) {
      const T* __restrict step = m.step + first * C + r * L;
      T* __restrict a = m.decay + r * kTile * L;
      for (int64_t j = 0; j < kTile; ++j)
        for (int64_t l = 0; l < L; ++l) a[j * L + l] = fast_exp(-step[l] * rate[j * L + l]);
    }
  }
  if constexpr (kKind == ScanKind::proximal) {
    for (int64_t r = 0; r < rows; ++r) {
      const T* __restrict step = m.step + first * C + r * L;
      T* __restrict a = m.decay + r * kTile * L;
      for (int64_t j = 0; j < kTile; ++j) {
        const T key = m.k[r * c.keys + j0 + j], square = key * key;
        for (int64_t l = 0; l < L; ++l) a[j * L + l] = T(1) - step[l] * square;
      }
    }
  }
  if (f.segments)
    for (int64_t r = 0; r < rows; ++r)
      if (!goes_on(f, b, t0 + r)) std::fill_n(m.decay + r * kTile * L, kTile * L, T(0));
}

// A chunk passes a tile: memory [kTile, L] <- a memory + x k, y += memory q. k and q are `keys` a token apart.
template <class T>
TTR_SIMD_INLINE void pass_tile(T* memory, const T* __restrict a, const T* __restrict x, const T* __restrict k, const T* __restrict q, int64_t keys,
                               int64_t rows, T* __restrict y) {
  constexpr int64_t L = kLanes<T>;
  T M[kTile][L];
  for (int64_t j = 0; j < kTile; ++j)
    for (int64_t l = 0; l < L; ++l) M[j][l] = memory[j * L + l];
  for (int64_t r = 0; r < rows; ++r) {
    T sum[L];
    for (int64_t l = 0; l < L; ++l) sum[l] = y[r * L + l];
#pragma GCC unroll 8
    for (int64_t j = 0; j < kTile; ++j) {
      const T kj = k[r * keys + j], qj = q[r * keys + j];
      for (int64_t l = 0; l < L; ++l) {
        M[j][l] = a[(r * kTile + j) * L + l] * M[j][l] + x[r * L + l] * kj;
        sum[l] += M[j][l] * qj;
      }
    }
    for (int64_t l = 0; l < L; ++l) y[r * L + l] = sum[l];
  }
  for (int64_t j = 0; j < kTile; ++j)
    for (int64_t l = 0; l < L; ++l) memory[j * L + l] = M[j][l];
}

// The same without reading, keeping the memory after every token: states [rows + 1, kTile, L], the first given.
template <class T>
TTR_SIMD_INLINE void recompute_tile(T* __restrict states, const T* __restrict a, const T* __restrict x, const T* __restrict k, int64_t keys, int64_t rows) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t r = 0; r < rows; ++r) {
    const T* __restrict last = states + r * kTile * L;
    T* __restrict next = states + (r + 1) * kTile * L;
#pragma GCC unroll 8
    for (int64_t j = 0; j < kTile; ++j) {
      const T kj = k[r * keys + j];
      for (int64_t l = 0; l < L; ++l) next[j * L + l] = a[(r * kTile + j) * L + l] * last[j * L + l] + x[r * L + l] * kj;
    }
  }
}

// From the last token: d [kTile, L] is the adjoint of the memory; a becomes the adjoint of a (kLog: of log a). dx, dk, dq are added to.
template <bool kLog, class T>
TTR_SIMD_INLINE void return_tile(T* adjoint, const T* __restrict states, T* __restrict a, const T* __restrict x, const T* __restrict g,
                                 const T* __restrict k, const T* __restrict q, int64_t keys, int64_t rows, T* __restrict dx, T* __restrict dk,
                                 T* __restrict dq) {
  constexpr int64_t L = kLanes<T>;
  T d[kTile][L];
  for (int64_t j = 0; j < kTile; ++j)
    for (int64_t l = 0; l < L; ++l) d[j][l] = adjoint[j * L + l];
  for (int64_t r = rows - 1; r >= 0; --r) {
    const T* __restrict M = states + r * kTile * L;
    T write[L] = {};
#pragma GCC unroll 8
    for (int64_t j = 0; j < kTile; ++j) {
      const T kj = k[r * keys + j], qj = q[r * keys + j];
      const int64_t at = (r * kTile + j) * L;
      for (int64_t l = 0; l < L; ++l) {
        const T now = d[j][l] + g[r * L + l] * qj;                                                    // y = scale M q, for M
        dq[at + l] += g[r * L + l] * M[(kTile + j) * L + l];                                          // y = scale M q, for q
        dk[at + l] += now * x[r * L + l];                                                             // M = a M + x k, for k
        write[l] += now * kj;                                                                         // M = a M + x k, for x
        const T through = a[at + l] * now;                                                            // M = a M + x k, for M
        a[at + l] = (kLog ? through : now) * M[j * L + l];                                            // M = a M + x k, for a or log a
        d[j][l] = through;
      }
    }
    for (int64_t l = 0; l < L; ++l) dx[r * L + l] += write[l];
  }
  for (int64_t j = 0; j < kTile; ++j)
    for (int64_t l = 0; l < L; ++l) adjoint[j * L + l] = d[j][l];
}

template <ScanKind kKind, class T> TTR_SIMD_INLINE void forward_head(const ScanForward<T>& f, T* slab, int64_t b, int64_t h) {
  constexpr int64_t L = kLanes<T>;
  const ScanSizes& n = f.size;
  const Cut c = Cut::of<T>(n);
  const HeadSlab<T> m(slab, n, false);
  const int64_t size = c.V * c.K, head = b * n.heads + h;
  into_tiles<T>(f.memory_in ? f.memory_in + head * size : nullptr, m.memory, c);
  if (kKind == ScanKind::product) into_tiles<T>(f.rate + h * size, m.rate, c);
  for (int64_t chunk = 0; chunk < n.chunks(); ++chunk) {
    const int64_t t0 = chunk * C, rows = std::min(C, n.tokens - t0);
    if (f.saved) out_of_tiles<T>(m.memory, f.saved + ((b * n.chunks() + chunk) * n.heads + h) * size, c);
    load_chunk<ScanForward<T>, T>(f, m, c, b, h, t0, rows, f.scale);
    std::fill_n(m.y, C * c.values, T(0));
    for (int64_t first = 0; first < c.values; first += L)
      for (int64_t j0 = 0; j0 < c.keys; j0 += kTile) {
        decays<kKind, ScanForward<T>, T>(f, m, c, b, h, t0, rows, first, j0);
        pass_tile<T>(m.memory + (first / L * c.keys + j0) * L, m.decay, m.x + first * C, m.k + j0, m.q + j0, c.keys, rows, m.y + first * C);
      }
    out_of_lanes<T>(m.y, row(f.y, n, b, t0, h, c.V), f.y.token_stride, rows, c, false);
  }
  if (f.memory_out) out_of_tiles<T>(m.memory, f.memory_out + head * size, c);
}

// m.decay holds dM M_{t-1} of the tile: for exp kinds already times a. Adds to what a was made of, or writes it.
template <ScanKind kKind, class T>
TTR_SIMD_INLINE void chain(const ScanBackward<T>& f, const HeadSlab<T>& m, const Cut& c, int64_t b, int64_t h, int64_t t0, int64_t rows, int64_t first,
                           int64_t j0) {
  constexpr int64_t L = kLanes<T>;
  const ScanSizes& n = f.size;
  if constexpr (kKind == ScanKind::entry) {
    if (!f.d_gate) return;
    const int64_t lanes = std::min(L, c.V - first), keys = std::min(kTile, c.K - j0);
    for (int64_t r = 0; r < rows; ++r) {
      T* __restrict d = f.d_gate + (((b * n.tokens + t0 + r) * n.heads + h) * c.V + first) * c.K + j0;
      const T* __restrict da = m.decay + r * kTile * L;
      for (int64_t l = 0; l < lanes; ++l)
        for (int64_t j = 0; j < keys; ++j) d[l * c.K + j] = da[j * L + l];                            // a = exp g
    }
  }
  if constexpr (kKind == ScanKind::product) {
    const T* __restrict rate = m.rate + (first / L * c.keys + j0) * L;
    T* __restrict d_rate = m.d_rate + (first / L * c.keys + j0) * L;
    for (int64_t r = 0; r < rows; ++r) {
      const T* __restrict da = m.decay + r * kTile * L;
      const T* __restrict step = m.step + first * C + r * L;
      T* __restrict d_step = m.d_step + first * C + r * L;
      for (int64_t j = 0; j < kTile; ++j)
        for (int64_t l = 0; l < L; ++l) {
          d_step[l] -= da[j * L + l] * rate[j * L + l];                                               // a = exp(-delta rate)
          d_rate[j * L + l] -= da[j * L + l] * step[l];                                               // a = exp(-delta rate)
        }
    }
  }
  if constexpr (kKind == ScanKind::proximal) {
    for (int64_t r = 0; r < rows; ++r) {
      if (!goes_on(f, b, t0 + r)) continue;   // a = 0, whatever the key
      const T* __restrict da = m.decay + r * kTile * L;
      const T* __restrict step = m.step + first * C + r * L;
      T* __restrict d_step = m.d_step + first * C + r * L;
      T* __restrict dk = m.dk_lanes + r * kTile * L;
      for (int64_t j = 0; j < kTile; ++j) {
        const T key = m.k[r * c.keys + j0 + j], square = key * key;
        for (int64_t l = 0; l < L; ++l) {
          d_step[l] -= da[j * L + l] * square;                                                        // a = 1 - s k^2
          dk[j * L + l] -= T(2) * key * step[l] * da[j * L + l];                                      // a = 1 - s k^2
        }
      }
    }
  }
}

// first_key, first_value: no head before this one wrote into the shared rows of dk, dv.
template <ScanKind kKind, class T>
TTR_SIMD_INLINE void backward_head(const ScanBackward<T>& f, T* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  constexpr int64_t L = kLanes<T>;
  const ScanSizes& n = f.size;
  const Cut c = Cut::of<T>(n);
  const HeadSlab<T> m(slab, n, true);
  const int64_t size = c.V * c.K, head = b * n.heads + h;
  into_tiles<T>(f.d_memory_out ? f.d_memory_out + head * size : nullptr, m.memory, c);   // here the memory's adjoint
  if (kKind == ScanKind::product) into_tiles<T>(f.rate + h * size, m.rate, c);
  std::fill_n(m.d_rate, c.keys * c.values, T(0));
  for (int64_t chunk = n.chunks() - 1; chunk >= 0; --chunk) {
    const int64_t t0 = chunk * C, rows = std::min(C, n.tokens - t0);
    const T* const saved = f.saved + ((b * n.chunks() + chunk) * n.heads + h) * size;
    load_chunk<ScanBackward<T>, T>(f, m, c, b, h, t0, rows, T(1));
    into_lanes<T>(row(f.dy, n, b, t0, h, c.V), f.dy.token_stride, m.g, rows, c, f.scale);
    std::fill_n(m.dx, C * c.values, T(0));
    std::fill_n(m.d_step, C * c.values, T(0));
    for (int64_t j0 = 0; j0 < c.keys; j0 += kTile) {
      std::fill_n(m.dk_lanes, C * kTile * L, T(0));
      std::fill_n(m.dq_lanes, C * kTile * L, T(0));
      for (int64_t first = 0; first < c.values; first += L) {
        decays<kKind, ScanBackward<T>, T>(f, m, c, b, h, t0, rows, first, j0);
        {
          T* __restrict enters = m.states;
          for (int64_t j = 0; j < kTile; ++j)
            for (int64_t l = 0; l < L; ++l) enters[j * L + l] = j0 + j < c.K && first + l < c.V ? saved[(first + l) * c.K + j0 + j] : T(0);
        }
        recompute_tile<T>(m.states, m.decay, m.x + first * C, m.k + j0, c.keys, rows);
        return_tile<kKind != ScanKind::proximal, T>(m.memory + (first / L * c.keys + j0) * L, m.states, m.decay, m.x + first * C, m.g + first * C, m.k + j0,
                                                    m.q + j0, c.keys, rows, m.dx + first * C, m.dk_lanes, m.dq_lanes);
        chain<kKind, T>(f, m, c, b, h, t0, rows, first, j0);
      }
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < kTile; ++j) {
          T dk = 0, dq = 0;
          for (int64_t l = 0; l < L; ++l) dk += m.dk_lanes[(r * kTile + j) * L + l], dq += m.dq_lanes[(r * kTile + j) * L + l];
          m.dk[r * c.keys + j0 + j] = dk;
          m.dq[r * c.keys + j0 + j] = dq;
        }
    }

    // What was written: x = v, delta v or s v.
    std::fill_n(m.d_square, C, T(0));
    for (int64_t first = 0; first < c.values; first += L)
      for (int64_t r = 0; r < rows; ++r) {
        T* __restrict dx = m.dx + first * C + r * L;
        T* __restrict d_step = m.d_step + first * C + r * L;
        const T* __restrict value = m.value + first * C + r * L;
        const T* __restrict step = m.step + first * C + r * L;
        if (kKind == ScanKind::entry || (kKind == ScanKind::product && !f.written)) continue;
        for (int64_t l = 0; l < L; ++l) {
          d_step[l] += dx[l] * value[l];                                                              // x = delta v;  x = s v
          dx[l] *= step[l];                                                                           // x = delta v;  x = s v
        }
        if (kKind == ScanKind::proximal) {
          T sum = 0;
          const T* __restrict shrink = m.y + first * C + r * L;
          for (int64_t l = 0; l < L; ++l) {
            sum -= d_step[l] * step[l] * step[l];                                                     // s = delta / (1 + delta |k|^2), for |k|^2
            d_step[l] *= shrink[l] * shrink[l];                                                       // s = delta / (1 + delta |k|^2), for delta
          }
          m.d_square[r] += sum;
        }
      }
    if (kKind == ScanKind::proximal)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < c.keys; ++j) m.dk[r * c.keys + j] += T(2) * m.d_square[r] * m.k[r * c.keys + j];   // |k|^2
    if (f.dv.at) out_of_lanes<T>(m.dx, row(f.dv, n, b, t0, h / (n.heads / n.value_heads), c.V), f.dv.token_stride, rows, c, !first_value);
    if (f.d_gate && kKind != ScanKind::entry)
      out_of_lanes<T>(m.d_step, f.d_gate + ((b * n.tokens + t0) * n.heads + h) * c.V, n.heads * c.V, rows, c, false);
    for (int64_t r = 0; r < rows; ++r) {
      if (f.dq.at) std::copy_n(m.dq + r * c.keys, c.K, row(f.dq, n, b, t0 + r, h, c.K));
      if (!f.dk.at) continue;
      T* __restrict to = row(f.dk, n, b, t0 + r, h / (n.heads / n.key_heads), c.K);
      const T* __restrict from = m.dk + r * c.keys;
      if (first_key) for (int64_t j = 0; j < c.K; ++j) to[j] = from[j];
      else for (int64_t j = 0; j < c.K; ++j) to[j] += from[j];
    }
  }
  if (f.d_rate && kKind == ScanKind::product) out_of_tiles<T>(m.d_rate, f.d_rate + head * size, c);
  if (f.d_memory_in) out_of_tiles<T>(m.memory, f.d_memory_in + head * size, c);
}

// -- who does what -----------------------------------------------------------------------------------------------------------------------------
bool keyed(ScanKind kind) { return kind != ScanKind::value && kind != ScanKind::rotation; }

// One task: channels [at, at + count) of a sequence (rotation: heads), or a head.
template <class T> TTR_SIMD_INLINE void forward_part(const ScanForward<T>& f, T* slab, int64_t b, int64_t at, int64_t count) {
  switch (f.kind) {
    case ScanKind::value: return f.written ? value_forward<true>(f, slab, b, at, count) : value_forward<false>(f, slab, b, at, count);
    case ScanKind::rotation: return rotation_forward(f, slab, b, at, count);
    case ScanKind::entry: return forward_head<ScanKind::entry>(f, slab, b, at);
    case ScanKind::product: return forward_head<ScanKind::product>(f, slab, b, at);
    case ScanKind::proximal: return forward_head<ScanKind::proximal>(f, slab, b, at);
  }
}
template <class T>
TTR_SIMD_INLINE void backward_part(const ScanBackward<T>& f, T* slab, int64_t b, int64_t at, int64_t count, bool first_key, bool first_value) {
  switch (f.kind) {
    case ScanKind::value: return f.written ? value_backward<true>(f, slab, b, at, count) : value_backward<false>(f, slab, b, at, count);
    case ScanKind::rotation: return rotation_backward(f, slab, b, at, count);
    case ScanKind::entry: return backward_head<ScanKind::entry>(f, slab, b, at, first_key, first_value);
    case ScanKind::product: return backward_head<ScanKind::product>(f, slab, b, at, first_key, first_value);
    case ScanKind::proximal: return backward_head<ScanKind::proximal>(f, slab, b, at, first_key, first_value);
  }
}
TTR_SIMD_CLONES void forward_f32(const ScanForward<float>& f, float* slab, int64_t b, int64_t at, int64_t count) { forward_part(f, slab, b, at, count); }
void forward_f64(const ScanForward<double>& f, double* slab, int64_t b, int64_t at, int64_t count) { forward_part(f, slab, b, at, count); }
TTR_SIMD_CLONES void backward_f32(const ScanBackward<float>& f, float* slab, int64_t b, int64_t at, int64_t count, bool first_key, bool first_value) {
  backward_part(f, slab, b, at, count, first_key, first_value);
}
void backward_f64(const ScanBackward<double>& f, double* slab, int64_t b, int64_t at, int64_t count, bool first_key, bool first_value) {
  backward_part(f, slab, b, at, count, first_key, first_value);
}

// Without keys a sequence is cut into parts of `unit` channels (rotation: heads). They stay whole cache lines, so the cut changes no bit.
struct Parts {
  int64_t of_all, unit, each;   // what is cut, how much a part takes, channels of one
  Parts(const ScanSizes& n, ScanKind kind) {
    const bool turns = kind == ScanKind::rotation;
    each = turns ? n.value_dim : 1;
    of_all = turns ? n.heads : n.heads * n.value_dim;
    unit = std::clamp<int64_t>(kWidth / each, 1, std::max<int64_t>(of_all, 1));
    while (n.batch * count() < 2 * thread_count() && unit * each > 64 && unit % 2 == 0) unit /= 2;
  }
  int64_t count() const { return (of_all + unit - 1) / unit; }
  int64_t width() const { return unit * each; }
};

constexpr size_t kAlign = 64;

template <class A> int64_t tasks_of(const A& f, bool backward) {
  if (!keyed(f.kind)) return f.size.batch * Parts(f.size, f.kind).count();
  return f.size.batch * (backward ? std::gcd(f.size.key_heads, f.size.value_heads) : f.size.heads);
}
template <class T, class A> size_t slab_of(const A& f, bool backward) {
  return keyed(f.kind) ? HeadSlab<T>(nullptr, f.size, backward).count : ChannelSlab<T>(nullptr, Parts(f.size, f.kind).width(), backward).count;
}
template <class T, class A> size_t workspace_of(const A& f, bool backward) {
  return size_t(std::min<int64_t>(thread_count(), std::max<int64_t>(tasks_of(f, backward), 1))) * slab_of<T>(f, backward) * sizeof(T) + kAlign;
}

// Calls task(index, slab) for every index: as many workers as slabs fit, each with a slab of its own, taking the next task when free.
template <class T, class F> Status share(int64_t tasks, size_t slab, Workspace work, F&& task) {
  if (tasks == 0) return Status::ok;
  const size_t skip = (kAlign - reinterpret_cast<uintptr_t>(work.at) % kAlign) % kAlign;
  if (!work.at || work.bytes < skip + slab * sizeof(T)) return Status::small_workspace;
  T* const at = reinterpret_cast<T*>(static_cast<char*>(work.at) + skip);
  const int64_t workers = std::min<int64_t>({int64_t(thread_count()), tasks, int64_t((work.bytes - skip) / (slab * sizeof(T)))});
  std::atomic<int64_t> next{0};
  parallel_for(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(index, at + size_t(worker) * slab);
  });
  return Status::ok;
}

}  // namespace

namespace cpu {

template <class T> size_t scan_workspace(const ScanForward<T>& f) { return workspace_of<T>(f, false); }
template <class T> size_t scan_workspace(const ScanBackward<T>& f) { return workspace_of<T>(f, true); }

template <class T> Status scan_forward(const ScanForward<T>& f, Workspace work) {
  const ScanSizes& n = f.size;
  if (!sizes_hold(n, f.kind)) return Status::bad_size;
  const auto part = [&](T* slab, int64_t b, int64_t at, int64_t count) {
    if constexpr (sizeof(T) == 4) forward_f32(f, slab, b, at, count);
    else forward_f64(f, slab, b, at, count);
  };
  const int64_t tasks = tasks_of(f, false);
  if (keyed(f.kind))
    return share<T>(tasks, slab_of<T>(f, false), work, [&](int64_t task, T* slab) { part(slab, task / n.heads, task % n.heads, 1); });
  const Parts parts(n, f.kind);
  return share<T>(tasks, slab_of<T>(f, false), work, [&](int64_t task, T* slab) {
    const int64_t at = task % parts.count() * parts.unit;
    part(slab, task / parts.count(), at, std::min(parts.unit, parts.of_all - at));
  });
}

template <class T> Status scan_backward(const ScanBackward<T>& f, Workspace work) {
  const ScanSizes& n = f.size;
  if (!sizes_hold(n, f.kind)) return Status::bad_size;
  const auto part = [&](T* slab, int64_t b, int64_t at, int64_t count, bool first_key, bool first_value) {
    if constexpr (sizeof(T) == 4) backward_f32(f, slab, b, at, count, first_key, first_value);
    else backward_f64(f, slab, b, at, count, first_key, first_value);
  };
  const int64_t tasks = tasks_of(f, true);
  if (keyed(f.kind)) {   // heads that share a row of keys or of values are one task, so that dk and dv are sums in a fixed order
    const int64_t groups = std::gcd(n.key_heads, n.value_heads), together = n.heads / groups;
    return share<T>(tasks, slab_of<T>(f, true), work, [&](int64_t task, T* slab) {
      for (int64_t h = task % groups * together; h < (task % groups + 1) * together; ++h)
        part(slab, task / groups, h, 1, h % (n.heads / n.key_heads) == 0, h % (n.heads / n.value_heads) == 0);
    });
  }
  const Parts parts(n, f.kind);
  return share<T>(tasks, slab_of<T>(f, true), work, [&](int64_t task, T* slab) {
    const int64_t at = task % parts.count() * parts.unit;
    part(slab, task / parts.count(), at, std::min(parts.unit, parts.of_all - at), true, true);
  });
}

template size_t scan_workspace<float>(const ScanForward<float>&);
template size_t scan_workspace<double>(const ScanForward<double>&);
template size_t scan_workspace<float>(const ScanBackward<float>&);
template size_t scan_workspace<double>(const ScanBackward<double>&);
template Status scan_forward<float>(const ScanForward<float>&, Workspace);
template Status scan_forward<double>(const ScanForward<double>&, Workspace);
template Status scan_backward<float>(const ScanBackward<float>&, Workspace);
template Status scan_backward<double>(const ScanBackward<double>&, Workspace);

}  // namespace cpu
}  // namespace ttr
