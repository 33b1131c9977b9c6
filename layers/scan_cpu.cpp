// CPU kernels of the stem `scan` (border: scan_kernel.hpp, derivation: docs/layers/scan.md). f32 and f64.
//
//   M_t = a_t * M_{t-1} + x_t k_t^T,   y_t = scale M_t q_t          M, a [V, K] entry by entry
//
// Without keys (value, rotation) a worker walks the tokens with up to 256 neighbouring channels in the nearest cache: bound by main memory.
// With keys a worker owns the heads that share rows; the code is scan_tiles.hpp. Every lane is a value, so keys and queries are broadcast and y
// needs no sum over lanes; a decay is made where it is used, once in each direction.
//   forward    all keys of kGroup values stay in the nearest cache while the kScanChunk tokens of a chunk pass: M = a M + x k, y += M q
//   backward   two keys of up to 4 kGroup values: the same from the saved memory, keeping M_{t-1} and a_t of every token, and dq += M g;
//              then from the last token   dM += g q;  dk += dM x, dx += dM k;  d log a = a dM M_{t-1};  dM = a dM
//              dk and dq are sums over values: of registers first, over lanes once for all tokens of a tile
// Tested against the token recurrence in tests/scan_kernel.cpp; the same algebra on a GPU is in cuda/scan.cu.
#include <ttr/layers/scan_kernel.hpp>

#include <algorithm>
#include <cmath>
#include <utility>

#include <ttr/core/simd.hpp>
#include <ttr/core/task_slabs.hpp>

namespace ttr {
namespace {

constexpr int64_t C = kScanChunk;
constexpr int64_t kWidth = 256;   // channels a worker without keys takes at once

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

// -- with keys ---------------------------------------------------------------------------------------------------------------------------------
template <class T> constexpr int64_t kGroup = 64 / int64_t(sizeof(T));   // values of a group: one register of the widest, two of AVX2
constexpr int64_t keys_together(ScanKind kind) { return kind == ScanKind::entry ? 8 : 4; }   // entry: its gates come by keys

constexpr int64_t up_to(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// One head. Sizes are rounded up and padded with zeros, which change nothing and are never written back.
struct Cut {
  int64_t K, V, keys, values, block;   // of the head; rounded up; values that lie together: entry (v, j) is at v / block * block keys + j width + v % block
  template <class T> static Cut of(const ScanSizes& n, ScanKind kind, bool backward) {
    const int64_t groups = backward && kind != ScanKind::entry ? 4 : 1;
    return {n.key_dim, n.value_dim, up_to(n.key_dim, keys_together(kind)), up_to(n.value_dim, kGroup<T>), groups * kGroup<T>};
  }
  int64_t width(int64_t first) const { return std::min(block, values - first); }
};

template <class T> struct Strided {   // rows [C, width] where they lie
  const T* at = nullptr;
  int64_t stride = 0;
};

template <class T> struct HeadSlab {
  T *k, *q, *value, *step;      // [C, keys] twice, [C, values] twice: copies of rows that need padding
  T *rate, *memory, *decay;     // [keys, values] twice, in blocks: -rate log2 e; forward: [keys, kGroup], backward: [C, J, block] with J keys together
  T *entering, *d_rate;         // [keys, values] each, in blocks
  T *states, *key_lanes;        // [C + 1, J, block], [C, J, lanes]: dq, then dk, before the sum over lanes
  T *dy, *x, *s, *shrink;       // [C, values] each: a copy of dy; what is written; delta or s; 1 / (1 + delta |k|^2)
  T *dx, *ds, *dk, *dq;         // [C, values] twice, [C, keys] twice
  size_t count;
  HeadSlab(T* at, const ScanSizes& n, ScanKind kind, bool backward) {
    const Cut c = Cut::of<T>(n, kind, backward);
    const int64_t together = keys_together(kind);
    Pieces<T> p{at};
    k = p.take(C * c.keys), q = p.take(C * c.keys), value = p.take(C * c.values), step = p.take(C * c.values);
    rate = p.take(c.keys * c.values), memory = p.take(c.keys * c.values);
    decay = p.take(backward ? C * together * c.block : c.keys * kGroup<T>);
    const int64_t one = backward ? 1 : 0;
    entering = p.take(one * c.keys * c.values), d_rate = p.take(one * c.keys * c.values);
    states = p.take(one * (C + 1) * together * c.block), key_lanes = p.take(one * C * together * kGroup<T>);
    dy = p.take(one * C * c.values), x = p.take(one * C * c.values), s = p.take(one * C * c.values), shrink = p.take(one * C * c.values);
    dx = p.take(one * C * c.values), ds = p.take(one * C * c.values), dk = p.take(one * C * c.keys), dq = p.take(one * C * c.keys);
    count = p.used;
  }
};

}  // namespace
}  // namespace ttr

#define TTR_SIMD_EACH <ttr/layers/scan_tiles.hpp>
#include <ttr/core/simd_sets.hpp>

namespace ttr {
namespace {

void forward_head(const ScanForward<float>& f, float* slab, int64_t b, int64_t h) {
  static auto* const run = TTR_SIMD_BEST(forward_f32);
  run(f, slab, b, h);
}
void forward_head(const ScanForward<double>& f, double* slab, int64_t b, int64_t h) {
  static auto* const run = TTR_SIMD_BEST(forward_f64);
  run(f, slab, b, h);
}
void backward_head(const ScanBackward<float>& f, float* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  static auto* const run = TTR_SIMD_BEST(backward_f32);
  run(f, slab, b, h, first_key, first_value);
}
void backward_head(const ScanBackward<double>& f, double* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  static auto* const run = TTR_SIMD_BEST(backward_f64);
  run(f, slab, b, h, first_key, first_value);
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
  return keyed(f.kind) ? HeadSlab<T>(nullptr, f.size, f.kind, backward).count : ChannelSlab<T>(nullptr, Parts(f.size, f.kind).width(), backward).count;
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
