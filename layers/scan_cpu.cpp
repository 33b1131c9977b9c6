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
#include <cmath>

#include <ttr/core/simd.hpp>
#include <ttr/core/task_slabs.hpp>

namespace ttr {
namespace {

constexpr int64_t C = kScanChunk;
constexpr int64_t kTile = 8;                                       // keys of a tile
constexpr int64_t kWidth = 256;                                    // channels a worker without keys takes at once
template <class T> constexpr int64_t kLanes = 64 / int64_t(sizeof(T));   // values of a tile: one wide register

constexpr int64_t up_to(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// -- without keys ------------------------------------------------------------------------------------------------------------------------------
// Channels are counted through all heads: channel c of sequence b, D = H V of them. Loops over channels are functions of their own, so that
// each is compiled once an instruction set, and their pointers are known to be apart.

// One token: h <- a h + x, y <- h.
template <bool kWritten, class T>
TTR_SIMD_INLINE void value_token(const T* __restrict gate, const T* __restrict v, T keep, T* __restrict h, T* __restrict y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const ExpPair<T> e = fast_exp_pair(gate[i]);
    const T now = keep * e.whole * h[i] + (kWritten ? -e.less_one * v[i] : v[i]);
    h[i] = now;
    y[i] = now;
  }
}
// The same into `next`, keeping a and a - 1.
template <bool kWritten, class T>
TTR_SIMD_INLINE void value_again(const T* __restrict gate, const T* __restrict v, T keep, const T* __restrict h, T* __restrict next, T* __restrict a,
                                 T* __restrict less_one, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const ExpPair<T> e = fast_exp_pair(gate[i]);
    a[i] = e.whole;
    less_one[i] = e.less_one;
    next[i] = keep * e.whole * h[i] + (kWritten ? -e.less_one * v[i] : v[i]);
  }
}
template <bool kWritten, class T>
TTR_SIMD_INLINE void value_return(const T* __restrict v, const T* __restrict dy, T keep, const T* __restrict h, const T* __restrict a,
                                  const T* __restrict less_one, T* __restrict adjoint, T* __restrict dv, T* __restrict d_gate, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T d = adjoint[i] + dy[i], through = d * a[i];                         // y = h
    dv[i] = kWritten ? -less_one[i] * d : d;                                    // h = a h + (1 - a) v
    d_gate[i] = through * (keep * h[i] - (kWritten ? v[i] : T(0)));             // a = exp g
    adjoint[i] = keep * through;                                                // h = a h + (1 - a) v
  }
}
// rotation: n complex numbers, the imaginary parts of h, v, y n further on.
template <class T>
TTR_SIMD_INLINE void rotation_token(const T* __restrict ar, const T* __restrict ai, T keep, const T* __restrict h, const T* __restrict v,
                                    T* __restrict next, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    next[i] = keep * (ar[i] * h[i] - ai[i] * h[n + i]) + v[i];
    next[n + i] = keep * (ai[i] * h[i] + ar[i] * h[n + i]) + v[n + i];
  }
}
template <class T>
TTR_SIMD_INLINE void rotation_return(const T* __restrict ar, const T* __restrict ai, T keep, const T* __restrict h, const T* __restrict dy,
                                     T* __restrict d, T* __restrict d_ar, T* __restrict d_ai, T* __restrict dv, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const T re = d[i] + dy[i], im = d[n + i] + dy[n + i];                       // y = h
    dv[i] = re;                                                                 // h = a h + v
    dv[n + i] = im;                                                             // h = a h + v
    d_ar[i] += keep * (re * h[i] + im * h[n + i]);                              // h = a h + v, for Re a
    d_ai[i] += keep * (im * h[i] - re * h[n + i]);                              // h = a h + v, for Im a
    d[i] = keep * (ar[i] * re + ai[i] * im);                                    // h = a h + v, for h
    d[n + i] = keep * (ar[i] * im - ai[i] * re);                                // h = a h + v, for h
  }
}

// f32 in clones, f64 plainly.
TTR_SIMD_CLONES void value_token(bool written, const float* gate, const float* v, float keep, float* h, float* y, int64_t n) {
  written ? value_token<true>(gate, v, keep, h, y, n) : value_token<false>(gate, v, keep, h, y, n);
}
void value_token(bool written, const double* gate, const double* v, double keep, double* h, double* y, int64_t n) {
  written ? value_token<true>(gate, v, keep, h, y, n) : value_token<false>(gate, v, keep, h, y, n);
}
TTR_SIMD_CLONES void value_again(bool written, const float* gate, const float* v, float keep, const float* h, float* next, float* a, float* less_one,
                                 int64_t n) {
  written ? value_again<true>(gate, v, keep, h, next, a, less_one, n) : value_again<false>(gate, v, keep, h, next, a, less_one, n);
}
void value_again(bool written, const double* gate, const double* v, double keep, const double* h, double* next, double* a, double* less_one, int64_t n) {
  written ? value_again<true>(gate, v, keep, h, next, a, less_one, n) : value_again<false>(gate, v, keep, h, next, a, less_one, n);
}
TTR_SIMD_CLONES void value_return(bool written, const float* v, const float* dy, float keep, const float* h, const float* a, const float* less_one,
                                  float* adjoint, float* dv, float* d_gate, int64_t n) {
  written ? value_return<true>(v, dy, keep, h, a, less_one, adjoint, dv, d_gate, n) : value_return<false>(v, dy, keep, h, a, less_one, adjoint, dv, d_gate, n);
}
void value_return(bool written, const double* v, const double* dy, double keep, const double* h, const double* a, const double* less_one, double* adjoint,
                  double* dv, double* d_gate, int64_t n) {
  written ? value_return<true>(v, dy, keep, h, a, less_one, adjoint, dv, d_gate, n) : value_return<false>(v, dy, keep, h, a, less_one, adjoint, dv, d_gate, n);
}
TTR_SIMD_CLONES void rotate(const float* ar, const float* ai, float keep, const float* h, const float* v, float* next, int64_t n) {
  rotation_token(ar, ai, keep, h, v, next, n);
}
void rotate(const double* ar, const double* ai, double keep, const double* h, const double* v, double* next, int64_t n) {
  rotation_token(ar, ai, keep, h, v, next, n);
}
TTR_SIMD_CLONES void rotate_back(const float* ar, const float* ai, float keep, const float* h, const float* dy, float* d, float* d_ar, float* d_ai,
                                 float* dv, int64_t n) {
  rotation_return(ar, ai, keep, h, dy, d, d_ar, d_ai, dv, n);
}
void rotate_back(const double* ar, const double* ai, double keep, const double* h, const double* dy, double* d, double* d_ar, double* d_ai, double* dv,
                 int64_t n) {
  rotation_return(ar, ai, keep, h, dy, d, d_ar, d_ai, dv, n);
}

template <class T> struct ChannelSlab {   // of `width` channels; the backward keeps a chunk
  T *state, *adjoint, *a, *less_one, *states, *nobody;
  size_t count;
  ChannelSlab(T* at, int64_t width, bool backward) {
    Pieces<T> p{at};
    state = p.take(2 * width);
    adjoint = p.take(width);
    a = p.take((backward ? C : 2) * width);
    less_one = p.take((backward ? C : 2) * width);
    states = p.take(backward ? (C + 1) * width : 0);
    nobody = p.take(2 * width);   // gradients that nobody asked for
    count = p.used;
  }
};

template <class T> void value_forward(const ScanForward<T>& f, T* slab, int64_t b, int64_t first, int64_t n) {
  const ScanSizes& s = f.size;
  const int64_t D = s.heads * s.value_dim;
  T* const h = ChannelSlab<T>(slab, n, false).state;
  if (f.memory_in) std::copy_n(f.memory_in + b * D + first, n, h);
  else std::fill_n(h, n, T(0));
  for (int64_t t = 0; t < s.tokens; ++t) {
    const int64_t token = b * s.tokens + t;
    if (f.saved && t % C == 0) std::copy_n(h, n, f.saved + (b * s.chunks() + t / C) * D + first);
    value_token(f.written, f.gate + token * D + first, f.v.at + token * f.v.token_stride + first, T(goes_on(f, b, t)), h,
                f.y.at + token * f.y.token_stride + first, n);
  }
  if (f.memory_out) std::copy_n(h, n, f.memory_out + b * D + first);
}

template <class T> void value_backward(const ScanBackward<T>& g, T* slab, int64_t b, int64_t first, int64_t n) {
  const ScanSizes& s = g.size;
  const int64_t D = s.heads * s.value_dim;
  const ChannelSlab<T> m(slab, n, true);
  if (g.d_memory_out) std::copy_n(g.d_memory_out + b * D + first, n, m.adjoint);
  else std::fill_n(m.adjoint, n, T(0));
  for (int64_t chunk = s.chunks() - 1; chunk >= 0; --chunk) {
    const int64_t t0 = chunk * C, c = std::min(C, s.tokens - t0);
    std::copy_n(g.saved + (b * s.chunks() + chunk) * D + first, n, m.states);
    for (int64_t r = 0; r < c; ++r) {   // the forward again, keeping what it made
      const int64_t token = b * s.tokens + t0 + r;
      value_again(g.written, g.gate + token * D + first, g.v.at + token * g.v.token_stride + first, T(goes_on(g, b, t0 + r)), m.states + r * n,
                  m.states + (r + 1) * n, m.a + r * n, m.less_one + r * n, n);
    }
    for (int64_t r = c - 1; r >= 0; --r) {
      const int64_t token = b * s.tokens + t0 + r;
      value_return(g.written, g.v.at + token * g.v.token_stride + first, g.dy.at + token * g.dy.token_stride + first, T(goes_on(g, b, t0 + r)),
                   m.states + r * n, m.a + r * n, m.less_one + r * n, m.adjoint, g.dv.at ? g.dv.at + token * g.dv.token_stride + first : m.nobody,
                   g.d_gate ? g.d_gate + token * D + first : m.nobody + n, n);
    }
  }
  if (g.d_memory_in) std::copy_n(m.adjoint, n, g.d_memory_in + b * D + first);
}

// rotation: `heads` heads from the first, V / 2 numbers each, laid out (real, imaginary) as in the memory, so that rows are copied whole.
template <class A, class T> void turns(const A& f, int64_t first, int64_t heads, T* real, T* imaginary) {
  const int64_t n = f.size.value_dim / 2;
  for (int64_t i = 0; i < heads * n; ++i) {
    const T size = std::exp(f.gate[first * n + i]), phase = f.rate[first * n + i];
    real[i] = size * std::cos(phase);
    imaginary[i] = size * std::sin(phase);
  }
}

template <class T> void rotation_forward(const ScanForward<T>& f, T* slab, int64_t b, int64_t first, int64_t heads) {
  const ScanSizes& s = f.size;
  const int64_t V = s.value_dim, n = V / 2, D = s.heads * V, at = first * V, width = heads * V;
  const ChannelSlab<T> m(slab, width, false);
  turns(f, first, heads, m.a, m.less_one);
  T *h = m.state, *next = m.state + width;
  if (f.memory_in) std::copy_n(f.memory_in + b * D + at, width, h);
  else std::fill_n(h, width, T(0));
  for (int64_t t = 0; t < s.tokens; ++t) {
    const int64_t token = b * s.tokens + t;
    if (f.saved && t % C == 0) std::copy_n(h, width, f.saved + (b * s.chunks() + t / C) * D + at);
    const T keep = T(goes_on(f, b, t));
    for (int64_t j = 0; j < heads; ++j)
      rotate(m.a + j * n, m.less_one + j * n, keep, h + j * V, f.v.at + token * f.v.token_stride + at + j * V, next + j * V, n);
    std::copy_n(next, width, f.y.at + token * f.y.token_stride + at);
    std::swap(h, next);
  }
  if (f.memory_out) std::copy_n(h, width, f.memory_out + b * D + at);
}

template <class T> void rotation_backward(const ScanBackward<T>& g, T* slab, int64_t b, int64_t first, int64_t heads) {
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
      for (int64_t j = 0; j < heads; ++j)
        rotate(m.a + j * n, m.less_one + j * n, T(goes_on(g, b, t0 + r)), m.states + r * width + j * V,
               g.v.at + token * g.v.token_stride + at + j * V, m.states + (r + 1) * width + j * V, n);
    }
    for (int64_t r = c - 1; r >= 0; --r) {
      const int64_t token = b * s.tokens + t0 + r;
      for (int64_t j = 0; j < heads; ++j)
        rotate_back(m.a + j * n, m.less_one + j * n, T(goes_on(g, b, t0 + r)), m.states + r * width + j * V,
                    g.dy.at + token * g.dy.token_stride + at + j * V, m.adjoint + j * V, d_real + j * n, d_imaginary + j * n,
                    g.dv.at ? g.dv.at + token * g.dv.token_stride + at + j * V : m.nobody, n);
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
template <class T> const T* row(const Rows<const T>& x, const ScanSizes& n, int64_t b, int64_t t, int64_t head, int64_t dim) {
  return x.at + (b * n.tokens + t) * x.token_stride + head * dim;
}
template <class T> T* row(const Rows<T>& x, const ScanSizes& n, int64_t b, int64_t t, int64_t head, int64_t dim) {
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
template <class T> void into_tiles(const T* from, T* __restrict to, const Cut& c) {
  constexpr int64_t L = kLanes<T>;
  std::fill_n(to, c.keys * c.values, T(0));
  if (!from) return;
  for (int64_t v = 0; v < c.V; ++v)
    for (int64_t j = 0; j < c.K; ++j) to[(v / L * c.keys + j) * L + v % L] = from[v * c.K + j];
}
template <class T> void out_of_tiles(const T* __restrict from, T* __restrict to, const Cut& c) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t v = 0; v < c.V; ++v)
    for (int64_t j = 0; j < c.K; ++j) to[v * c.K + j] = from[(v / L * c.keys + j) * L + v % L];
}
// Rows [c, n] a stride apart into [c, width], the rest zero.
template <class T> void into_rows(const T* from, int64_t stride, T* to, int64_t rows, int64_t n, int64_t width, T by) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) to[r * width + i] = by * from[r * stride + i];
    for (int64_t i = n; i < width; ++i) to[r * width + i] = 0;
  }
}
// Rows [rows, V] a stride apart into [values / L, C, L].
template <class T> void into_lanes(const T* from, int64_t stride, T* to, int64_t rows, const Cut& c, T by) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t first = 0; first < c.values; first += L) into_rows<T>(from + first, stride, to + first * C, rows, std::min(L, c.V - first), L, by);
}
template <class T> void out_of_lanes(const T* from, T* to, int64_t stride, int64_t rows, const Cut& c, bool add) {
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
void load_chunk(const A& f, const HeadSlab<T>& m, const Cut& c, int64_t b, int64_t h, int64_t t0, int64_t rows, T query_scale) {
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

// a [rows, kTile, L] in place: exp. Or from the steps [rows, L] of the lanes: exp(-step rate), 1 - step k^2.
template <class T> TTR_SIMD_INLINE void exponentials(T* __restrict a, int64_t count) {
  for (int64_t i = 0; i < count; ++i) a[i] = fast_exp(a[i]);
}
template <class T> TTR_SIMD_INLINE void product_decays(T* __restrict a, const T* __restrict step, const T* __restrict rate, int64_t rows) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < kTile; ++j)
      for (int64_t l = 0; l < L; ++l) a[(r * kTile + j) * L + l] = fast_exp(-step[r * L + l] * rate[j * L + l]);
}
template <class T> TTR_SIMD_INLINE void proximal_decays(T* __restrict a, const T* __restrict step, const T* __restrict k, int64_t keys, int64_t rows) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < kTile; ++j) {
      const T square = k[r * keys + j] * k[r * keys + j];
      for (int64_t l = 0; l < L; ++l) a[(r * kTile + j) * L + l] = T(1) - step[r * L + l] * square;
    }
}
// From da [rows, kTile, L] (product: of log a) to what a was made of.
template <class T>
TTR_SIMD_INLINE void product_chain(const T* __restrict da, const T* __restrict step, const T* __restrict rate, T* __restrict d_step, T* __restrict d_rate,
                                   int64_t rows) {
  constexpr int64_t L = kLanes<T>;
  T sum[kTile][L] = {};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < kTile; ++j)
      for (int64_t l = 0; l < L; ++l) {
        const T d = da[(r * kTile + j) * L + l];
        d_step[r * L + l] -= d * rate[j * L + l];                                                     // a = exp(-delta rate)
        sum[j][l] += d * step[r * L + l];                                                             // a = exp(-delta rate)
      }
  for (int64_t j = 0; j < kTile; ++j)
    for (int64_t l = 0; l < L; ++l) d_rate[j * L + l] -= sum[j][l];
}
template <class T>
TTR_SIMD_INLINE void proximal_chain(const T* __restrict da, const T* __restrict step, const T* __restrict k, int64_t keys, T* __restrict d_step,
                                    T* __restrict dk, int64_t rows) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < kTile; ++j) {
      const T key = k[r * keys + j], square = key * key;
      for (int64_t l = 0; l < L; ++l) {
        const T d = da[(r * kTile + j) * L + l];
        d_step[r * L + l] -= d * square;                                                              // a = 1 - s k^2
        dk[(r * kTile + j) * L + l] -= T(2) * key * step[r * L + l] * d;                              // a = 1 - s k^2
      }
    }
}
// to [rows] a stride apart, kTile of each <- from [rows, kTile, L] summed over lanes. Leaves from changed.
template <class T> TTR_SIMD_INLINE void sum_lanes(T* __restrict from, T* __restrict to, int64_t keys, int64_t rows) {
  constexpr int64_t L = kLanes<T>;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < kTile; ++j) {
      T* const x = from + (r * kTile + j) * L;
      for (int64_t width = L / 2; width > 0; width /= 2)
        for (int64_t l = 0; l < width; ++l) x[l] += x[l + width];
      to[r * keys + j] = x[0];
    }
}

// All of them for one element type: f32 in clones, f64 plainly.
TTR_SIMD_CLONES void pass(float* memory, const float* a, const float* x, const float* k, const float* q, int64_t keys, int64_t rows, float* y) {
  pass_tile(memory, a, x, k, q, keys, rows, y);
}
void pass(double* memory, const double* a, const double* x, const double* k, const double* q, int64_t keys, int64_t rows, double* y) {
  pass_tile(memory, a, x, k, q, keys, rows, y);
}
TTR_SIMD_CLONES void recompute(float* states, const float* a, const float* x, const float* k, int64_t keys, int64_t rows) {
  recompute_tile(states, a, x, k, keys, rows);
}
void recompute(double* states, const double* a, const double* x, const double* k, int64_t keys, int64_t rows) {
  recompute_tile(states, a, x, k, keys, rows);
}
TTR_SIMD_CLONES void walk_back(bool log, float* adjoint, const float* states, float* a, const float* x, const float* g, const float* k, const float* q,
                               int64_t keys, int64_t rows, float* dx, float* dk, float* dq) {
  log ? return_tile<true>(adjoint, states, a, x, g, k, q, keys, rows, dx, dk, dq) : return_tile<false>(adjoint, states, a, x, g, k, q, keys, rows, dx, dk, dq);
}
void walk_back(bool log, double* adjoint, const double* states, double* a, const double* x, const double* g, const double* k, const double* q,
               int64_t keys, int64_t rows, double* dx, double* dk, double* dq) {
  log ? return_tile<true>(adjoint, states, a, x, g, k, q, keys, rows, dx, dk, dq) : return_tile<false>(adjoint, states, a, x, g, k, q, keys, rows, dx, dk, dq);
}
TTR_SIMD_CLONES void exponentiate(float* a, int64_t count) { exponentials(a, count); }
void exponentiate(double* a, int64_t count) { exponentials(a, count); }
TTR_SIMD_CLONES void fill_product(float* a, const float* step, const float* rate, int64_t rows) { product_decays(a, step, rate, rows); }
void fill_product(double* a, const double* step, const double* rate, int64_t rows) { product_decays(a, step, rate, rows); }
TTR_SIMD_CLONES void fill_proximal(float* a, const float* step, const float* k, int64_t keys, int64_t rows) { proximal_decays(a, step, k, keys, rows); }
void fill_proximal(double* a, const double* step, const double* k, int64_t keys, int64_t rows) { proximal_decays(a, step, k, keys, rows); }
TTR_SIMD_CLONES void chain_product(const float* da, const float* step, const float* rate, float* d_step, float* d_rate, int64_t rows) {
  product_chain(da, step, rate, d_step, d_rate, rows);
}
void chain_product(const double* da, const double* step, const double* rate, double* d_step, double* d_rate, int64_t rows) {
  product_chain(da, step, rate, d_step, d_rate, rows);
}
TTR_SIMD_CLONES void chain_proximal(const float* da, const float* step, const float* k, int64_t keys, float* d_step, float* dk, int64_t rows) {
  proximal_chain(da, step, k, keys, d_step, dk, rows);
}
void chain_proximal(const double* da, const double* step, const double* k, int64_t keys, double* d_step, double* dk, int64_t rows) {
  proximal_chain(da, step, k, keys, d_step, dk, rows);
}
TTR_SIMD_CLONES void over_lanes(float* from, float* to, int64_t keys, int64_t rows) { sum_lanes(from, to, keys, rows); }
void over_lanes(double* from, double* to, int64_t keys, int64_t rows) { sum_lanes(from, to, keys, rows); }

// m.decay <- a_t of the tile (values from first, keys from j0), for every token of the chunk.
template <class A, class T>
void decays(const A& f, const HeadSlab<T>& m, const Cut& c, int64_t b, int64_t h, int64_t t0, int64_t rows, int64_t first, int64_t j0) {
  constexpr int64_t L = kLanes<T>;
  const ScanSizes& n = f.size;
  if (f.kind == ScanKind::product) fill_product(m.decay, m.step + first * C, m.rate + (first / L * c.keys + j0) * L, rows);
  if (f.kind == ScanKind::proximal) fill_proximal(m.decay, m.step + first * C, m.k + j0, c.keys, rows);
  if (f.kind == ScanKind::entry) {
    const int64_t lanes = std::min(L, c.V - first), keys = std::min(kTile, c.K - j0);
    if (lanes < L || keys < kTile) std::fill_n(m.decay, rows * kTile * L, T(0));
    for (int64_t r = 0; r < rows; ++r) {
      T* __restrict a = m.decay + r * kTile * L;
      const T* __restrict gate = f.gate + (((b * n.tokens + t0 + r) * n.heads + h) * c.V + first) * c.K + j0;
      for (int64_t l = 0; l < lanes; ++l)
        for (int64_t j = 0; j < keys; ++j) a[j * L + l] = gate[l * c.K + j];
    }
    exponentiate(m.decay, rows * kTile * L);
  }
  if (f.segments)
    for (int64_t r = 0; r < rows; ++r)
      if (!goes_on(f, b, t0 + r)) std::fill_n(m.decay + r * kTile * L, kTile * L, T(0));
}

template <class T> void forward_head(const ScanForward<T>& f, T* slab, int64_t b, int64_t h) {
  constexpr int64_t L = kLanes<T>;
  const ScanSizes& n = f.size;
  const Cut c = Cut::of<T>(n);
  const HeadSlab<T> m(slab, n, false);
  const int64_t size = c.V * c.K, head = b * n.heads + h;
  into_tiles<T>(f.memory_in ? f.memory_in + head * size : nullptr, m.memory, c);
  if (f.kind == ScanKind::product) into_tiles<T>(f.rate + h * size, m.rate, c);
  for (int64_t chunk = 0; chunk < n.chunks(); ++chunk) {
    const int64_t t0 = chunk * C, rows = std::min(C, n.tokens - t0);
    if (f.saved) out_of_tiles<T>(m.memory, f.saved + ((b * n.chunks() + chunk) * n.heads + h) * size, c);
    load_chunk<ScanForward<T>, T>(f, m, c, b, h, t0, rows, f.scale);
    std::fill_n(m.y, C * c.values, T(0));
    for (int64_t first = 0; first < c.values; first += L)
      for (int64_t j0 = 0; j0 < c.keys; j0 += kTile) {
        decays(f, m, c, b, h, t0, rows, first, j0);
        pass(m.memory + (first / L * c.keys + j0) * L, m.decay, m.x + first * C, m.k + j0, m.q + j0, c.keys, rows, m.y + first * C);
      }
    out_of_lanes<T>(m.y, row(f.y, n, b, t0, h, c.V), f.y.token_stride, rows, c, false);
  }
  if (f.memory_out) out_of_tiles<T>(m.memory, f.memory_out + head * size, c);
}

// m.decay holds the adjoint of a of the tile (product, entry: of log a). Adds to what a was made of, or writes it.
template <class T>
void chain(const ScanBackward<T>& f, const HeadSlab<T>& m, const Cut& c, int64_t b, int64_t h, int64_t t0, int64_t rows, int64_t first, int64_t j0) {
  constexpr int64_t L = kLanes<T>;
  const ScanSizes& n = f.size;
  const int64_t tile = (first / L * c.keys + j0) * L;
  if (f.kind == ScanKind::product) chain_product(m.decay, m.step + first * C, m.rate + tile, m.d_step + first * C, m.d_rate + tile, rows);
  if (f.kind == ScanKind::proximal) {
    for (int64_t r = 0; f.segments && r < rows; ++r)   // a = 0, whatever the key
      if (!goes_on(f, b, t0 + r)) std::fill_n(m.decay + r * kTile * L, kTile * L, T(0));
    chain_proximal(m.decay, m.step + first * C, m.k + j0, c.keys, m.d_step + first * C, m.dk_lanes, rows);
  }
  if (f.kind == ScanKind::entry && f.d_gate) {
    const int64_t lanes = std::min(L, c.V - first), keys = std::min(kTile, c.K - j0);
    for (int64_t r = 0; r < rows; ++r) {
      T* __restrict d = f.d_gate + (((b * n.tokens + t0 + r) * n.heads + h) * c.V + first) * c.K + j0;
      const T* __restrict da = m.decay + r * kTile * L;
      for (int64_t l = 0; l < lanes; ++l)
        for (int64_t j = 0; j < keys; ++j) d[l * c.K + j] = da[j * L + l];                            // a = exp g
    }
  }
}

// first_key, first_value: no head before this one wrote into the shared rows of dk, dv.
template <class T>
void backward_head(const ScanBackward<T>& f, T* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  constexpr int64_t L = kLanes<T>;
  const ScanSizes& n = f.size;
  const Cut c = Cut::of<T>(n);
  const HeadSlab<T> m(slab, n, true);
  const int64_t size = c.V * c.K, head = b * n.heads + h;
  into_tiles<T>(f.d_memory_out ? f.d_memory_out + head * size : nullptr, m.memory, c);   // here the memory's adjoint
  if (f.kind == ScanKind::product) into_tiles<T>(f.rate + h * size, m.rate, c);
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
        decays(f, m, c, b, h, t0, rows, first, j0);
        {
          T* __restrict enters = m.states;
          for (int64_t j = 0; j < kTile; ++j)
            for (int64_t l = 0; l < L; ++l) enters[j * L + l] = j0 + j < c.K && first + l < c.V ? saved[(first + l) * c.K + j0 + j] : T(0);
        }
        recompute(m.states, m.decay, m.x + first * C, m.k + j0, c.keys, rows);
        walk_back(f.kind != ScanKind::proximal, m.memory + (first / L * c.keys + j0) * L, m.states, m.decay, m.x + first * C, m.g + first * C, m.k + j0,
                  m.q + j0, c.keys, rows, m.dx + first * C, m.dk_lanes, m.dq_lanes);
        chain(f, m, c, b, h, t0, rows, first, j0);
      }
      over_lanes(m.dk_lanes, m.dk + j0, c.keys, rows);
      over_lanes(m.dq_lanes, m.dq + j0, c.keys, rows);
    }

    // What was written: x = v, delta v or s v.
    std::fill_n(m.d_square, C, T(0));
    for (int64_t first = 0; first < c.values; first += L)
      for (int64_t r = 0; r < rows; ++r) {
        T* __restrict dx = m.dx + first * C + r * L;
        T* __restrict d_step = m.d_step + first * C + r * L;
        const T* __restrict value = m.value + first * C + r * L;
        const T* __restrict step = m.step + first * C + r * L;
        if (f.kind == ScanKind::entry || (f.kind == ScanKind::product && !f.written)) continue;
        for (int64_t l = 0; l < L; ++l) {
          d_step[l] += dx[l] * value[l];                                                              // x = delta v;  x = s v
          dx[l] *= step[l];                                                                           // x = delta v;  x = s v
        }
        if (f.kind == ScanKind::proximal) {
          T sum = 0;
          const T* __restrict shrink = m.y + first * C + r * L;
          for (int64_t l = 0; l < L; ++l) {
            sum -= d_step[l] * step[l] * step[l];                                                     // s = delta / (1 + delta |k|^2), for |k|^2
            d_step[l] *= shrink[l] * shrink[l];                                                       // s = delta / (1 + delta |k|^2), for delta
          }
          m.d_square[r] += sum;
        }
      }
    if (f.kind == ScanKind::proximal)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < c.keys; ++j) m.dk[r * c.keys + j] += T(2) * m.d_square[r] * m.k[r * c.keys + j];   // |k|^2
    if (f.dv.at) out_of_lanes<T>(m.dx, row(f.dv, n, b, t0, h / (n.heads / n.value_heads), c.V), f.dv.token_stride, rows, c, !first_value);
    if (f.d_gate && f.kind != ScanKind::entry)
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
  if (f.d_rate && f.kind == ScanKind::product) out_of_tiles<T>(m.d_rate, f.d_rate + head * size, c);
  if (f.d_memory_in) out_of_tiles<T>(m.memory, f.d_memory_in + head * size, c);
}

// -- who does what -----------------------------------------------------------------------------------------------------------------------------
bool keyed(ScanKind kind) { return kind != ScanKind::value && kind != ScanKind::rotation; }

// One task: channels [at, at + count) of a sequence (rotation: heads), or a head.
template <class T> void forward_part(const ScanForward<T>& f, T* slab, int64_t b, int64_t at, int64_t count) {
  if (f.kind == ScanKind::value) value_forward(f, slab, b, at, count);
  else if (f.kind == ScanKind::rotation) rotation_forward(f, slab, b, at, count);
  else forward_head(f, slab, b, at);
}
template <class T> void backward_part(const ScanBackward<T>& f, T* slab, int64_t b, int64_t at, int64_t count, bool first_key, bool first_value) {
  if (f.kind == ScanKind::value) value_backward(f, slab, b, at, count);
  else if (f.kind == ScanKind::rotation) rotation_backward(f, slab, b, at, count);
  else backward_head(f, slab, b, at, first_key, first_value);
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

template <class A> int64_t tasks_of(const A& f, bool backward) {
  if (!keyed(f.kind)) return f.size.batch * Parts(f.size, f.kind).count();
  return f.size.batch * (backward ? head_groups(f.size) : f.size.heads);
}
template <class T, class A> size_t slab_of(const A& f, bool backward) {
  return keyed(f.kind) ? HeadSlab<T>(nullptr, f.size, backward).count : ChannelSlab<T>(nullptr, Parts(f.size, f.kind).width(), backward).count;
}
template <class T, class A> size_t workspace_of(const A& f, bool backward) {
  return slabs_bytes<T>(tasks_of(f, backward), slab_of<T>(f, backward));
}

}  // namespace

namespace cpu {

template <class T> size_t scan_workspace(const ScanForward<T>& f) { return workspace_of<T>(f, false); }
template <class T> size_t scan_workspace(const ScanBackward<T>& f) { return workspace_of<T>(f, true); }

template <class T> Status scan_forward(const ScanForward<T>& f, Workspace work) {
  const ScanSizes& n = f.size;
  if (!sizes_hold(n, f.kind)) return Status::bad_size;
  const int64_t tasks = tasks_of(f, false);
  if (keyed(f.kind))
    return share_tasks<T>(tasks, slab_of<T>(f, false), work, [&](int64_t task, T* slab) { forward_part(f, slab, task / n.heads, task % n.heads, 1); });
  const Parts parts(n, f.kind);
  return share_tasks<T>(tasks, slab_of<T>(f, false), work, [&](int64_t task, T* slab) {
    const int64_t at = task % parts.count() * parts.unit;
    forward_part(f, slab, task / parts.count(), at, std::min(parts.unit, parts.of_all - at));
  });
}

template <class T> Status scan_backward(const ScanBackward<T>& f, Workspace work) {
  const ScanSizes& n = f.size;
  if (!sizes_hold(n, f.kind)) return Status::bad_size;
  const int64_t tasks = tasks_of(f, true);
  if (keyed(f.kind)) {   // heads that share a row of keys or of values are one task, so that dk and dv are sums in a fixed order
    const int64_t groups = head_groups(n), together = n.heads / groups;
    return share_tasks<T>(tasks, slab_of<T>(f, true), work, [&](int64_t task, T* slab) {
      for (int64_t h = task % groups * together; h < (task % groups + 1) * together; ++h)
        backward_part(f, slab, task / groups, h, 1, h % (n.heads / n.key_heads) == 0, h % (n.heads / n.value_heads) == 0);
    });
  }
  const Parts parts(n, f.kind);
  return share_tasks<T>(tasks, slab_of<T>(f, true), work, [&](int64_t task, T* slab) {
    const int64_t at = task % parts.count() * parts.unit;
    backward_part(f, slab, task / parts.count(), at, std::min(parts.unit, parts.of_all - at), true, true);
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
