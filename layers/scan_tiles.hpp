// Tiles of scan_cpu.cpp, which tells the algebra; compiled once for each instruction set (core/simd_sets.hpp).
#include <ttr/core/simd_exp.hpp>

namespace ttr::TTR_SIMD_SET {
namespace {

template <class T> constexpr int64_t kRegisters = kGroup<T> / Register<T>::lanes;   // of a group of values

template <class T> TTR_SIMD_INLINE T* row(const Rows<T>& x, const ScanSizes& n, int64_t b, int64_t t, int64_t head, int64_t dim) {
  return x.at + (b * n.tokens + t) * x.token_stride + head * dim;
}

// to [keys, values], rows `to_row` apart <- the transpose of from [V, K]; zeros beyond. from null: all zeros. values a multiple of the lanes.
template <class T>
TTR_SIMD_INLINE void turn_in(const T* from, int64_t from_row, int64_t V, int64_t K, T* to, int64_t to_row, int64_t values, int64_t keys) {
  constexpr int64_t L = Register<T>::lanes;
  for (int64_t v = 0; v < values; v += L) {
    int64_t j = 0;
    if (from && v + L <= V)
      for (; j + L <= K; j += L) transpose_square<L>(from + v * from_row + j, from_row, to + j * to_row + v, to_row);
    for (; j < keys; ++j)
      for (int64_t l = v; l < v + L; ++l) to[j * to_row + l] = from && l < V && j < K ? from[l * from_row + j] : T(0);
  }
}
// to [V, K] <- the transpose of from [keys, values]
template <class T> TTR_SIMD_INLINE void turn_out(const T* from, int64_t from_row, T* to, int64_t to_row, int64_t V, int64_t K) {
  constexpr int64_t L = Register<T>::lanes;
  for (int64_t v = 0; v < V; v += L) {
    int64_t j = 0;
    if (v + L <= V)
      for (; j + L <= K; j += L) transpose_square<L>(from + j * from_row + v, from_row, to + v * to_row + j, to_row);
    for (; j < K; ++j)
      for (int64_t l = v; l < std::min(v + L, V); ++l) to[l * to_row + j] = from[j * from_row + l];
  }
}
// A head's [V, K] into blocks of values, and back.
template <class T> TTR_SIMD_INLINE void into_blocks(const T* from, T* to, const Cut& c) {
  for (int64_t first = 0; first < c.values; first += c.block) {
    const int64_t width = c.width(first);
    turn_in(from ? from + first * c.K : nullptr, c.K, std::min(width, c.V - first), c.K, to + first * c.keys, width, width, c.keys);
  }
}
template <class T> TTR_SIMD_INLINE void out_of_blocks(const T* from, T* to, const Cut& c) {
  for (int64_t first = 0; first < c.values; first += c.block) {
    const int64_t width = c.width(first);
    turn_out(from + first * c.keys, width, to + first * c.K, c.K, std::min(width, c.V - first), c.K);
  }
}

template <class T> TTR_SIMD_INLINE void write_row(T* to, const T* from, int64_t n, bool first, T by = 1) {   // to <- by from (+ to)
  constexpr int64_t L = Register<T>::lanes;
  int64_t j = 0;
  for (; j + L <= n; j += L) vec(to + j) = first ? by * vec(from + j) : vec(to + j) + by * vec(from + j);
  for (; j < n; ++j) to[j] = first ? by * from[j] : to[j] + by * from[j];
}
template <class T> TTR_SIMD_INLINE void fill_row(T* to, int64_t count, T value) {
  for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// Rows of a chunk as [C, width]: in place where that is what they are, else a copy with zeros behind.
template <class T>
TTR_SIMD_INLINE Strided<T> rows_of(T* copy, const Rows<const T>& x, const ScanSizes& n, int64_t b, int64_t t0, int64_t rows, int64_t head, int64_t dim,
                                   int64_t width) {
  if (dim == width) return {row(x, n, b, t0, head, dim), x.token_stride};
  for (int64_t r = 0; r < rows; ++r) {
    write_row(copy + r * width, row(x, n, b, t0 + r, head, dim), dim, true);
    fill_row(copy + r * width + dim, width - dim, T(0));
  }
  return {copy, width};
}

template <class T> TTR_SIMD_INLINE T square_of(const T* x, int64_t n) {
  constexpr int64_t L = Register<T>::lanes;
  Vec<T> sums{};
  int64_t i = 0;
  for (; i + L <= n; i += L) sums += vec(x + i) * vec(x + i);
  T sum = 0;
  for (; i < n; ++i) sum += x[i] * x[i];
  for (int l = 0; l < int(L); ++l) sum += sums[l];
  return sum;
}

// What a head reads in a chunk, whatever the tile.
template <class T> struct Chunk {
  Strided<T> k, q, value, step;
  int64_t t0, rows;
  bool starts[C];   // a document: nothing enters this token
  T square[C];      // proximal: |k|^2
  template <class A> TTR_SIMD_INLINE void take(const A& f, const HeadSlab<T>& m, const Cut& c, int64_t b, int64_t h, int64_t chunk) {
    const ScanSizes& n = f.size;
    t0 = chunk * C, rows = std::min(C, n.tokens - t0);
    k = rows_of(m.k, f.k, n, b, t0, rows, h / (n.heads / n.key_heads), c.K, c.keys);
    q = rows_of(m.q, f.q, n, b, t0, rows, h, c.K, c.keys);
    value = rows_of(m.value, f.v, n, b, t0, rows, h / (n.heads / n.value_heads), c.V, c.values);
    if (f.kind != ScanKind::entry) step = rows_of(m.step, Rows<const T>{f.gate, n.heads * c.V}, n, b, t0, rows, h, c.V, c.values);
    for (int64_t r = 0; r < rows; ++r) {
      starts[r] = !goes_on(f, b, t0 + r);
      if (f.kind == ScanKind::proximal) square[r] = square_of(k.at + r * k.stride, c.K);
    }
  }
};

// The decay of a register of values: product from delta and -rate log2 e, proximal from s and k^2, entry from its logarithm.
template <ScanKind kind, class T> TTR_SIMD_INLINE Vec<T> decay_of(Vec<T> step, const T* table, Vec<T> square) {
  if constexpr (kind == ScanKind::product) return exp2_lanes(step * vec(table));
  else if constexpr (kind == ScanKind::proximal) return T(1) - step * square;
  else return exp_lanes(vec(table));
}

// A chunk passes a group of values: M <- a M + x k, y <- scale M q.
template <ScanKind kind, class T>
TTR_SIMD_INLINE void pass_group(const ScanForward<T>& f, const HeadSlab<T>& m, const Cut& c, const Chunk<T>& x, int64_t b, int64_t h, int64_t first) {
  constexpr int64_t L = Register<T>::lanes, G = kGroup<T>, N = kRegisters<T>;
  const ScanSizes& n = f.size;
  const int64_t K = c.K, values = std::min(G, c.V - first);
  const T scale = f.scale;
  T* const memory = m.memory + first * c.keys;
  const T* const rate = m.rate + first * c.keys;
  const bool written = kind == ScanKind::proximal || (kind == ScanKind::product && f.written);
  for (int64_t r = 0; r < x.rows; ++r) {
    if (x.starts[r]) fill_row(memory, K * G, T(0));
    if constexpr (kind == ScanKind::entry)
      turn_in(f.gate + (((b * n.tokens + x.t0 + r) * n.heads + h) * c.V + first) * K, K, values, K, m.decay, G, G, K);
    const T* const keys = x.k.at + r * x.k.stride;
    const T* const queries = x.q.at + r * x.q.stride;
    Vec<T> step[N], v[N], y[N];
    for (int i = 0; i < N; ++i) {
      v[i] = vec(x.value.at + r * x.value.stride + first + i * L), y[i] = step[i] = Vec<T>{};
      if constexpr (kind != ScanKind::entry) step[i] = vec(x.step.at + r * x.step.stride + first + i * L);
      if constexpr (kind == ScanKind::proximal) step[i] /= T(1) + step[i] * x.square[r];
      if (written) v[i] *= step[i];
    }
    for (int64_t j = 0; j < K; ++j) {
      const T k = keys[j], q = queries[j];
      for (int i = 0; i < N; ++i) {
        const Vec<T> a = decay_of<kind, T>(step[i], (kind == ScanKind::entry ? m.decay : rate) + j * G + i * L, Vec<T>{} + k * k);
        const Vec<T> now = a * vec(memory + j * G + i * L) + v[i] * k;
        vec(memory + j * G + i * L) = now;
        y[i] += now * q;
      }
    }
    T* const to = row(f.y, n, b, x.t0 + r, h, c.V) + first;
    if (values == G) {
      for (int i = 0; i < N; ++i) vec(to + i * L) = scale * y[i];
    } else {
      T last[G];
      for (int i = 0; i < N; ++i) vec(last + i * L) = scale * y[i];
      for (int64_t l = 0; l < values; ++l) to[l] = last[l];
    }
  }
}

template <class T> TTR_SIMD_INLINE void load_rates(const T* rate, T* to, const Cut& c) {   // -rate log2 e
  constexpr int64_t L = Register<T>::lanes;
  into_blocks(rate, to, c);
  for (int64_t i = 0; i < c.keys * c.values; i += L) vec(to + i) *= T(-1.4426950408889634074);
}

template <ScanKind kind, class T> TTR_SIMD_INLINE void forward_head(const ScanForward<T>& f, T* slab, int64_t b, int64_t h) {
  const ScanSizes& n = f.size;
  const Cut c = Cut::of<T>(n, kind, false);
  const HeadSlab<T> m(slab, n, kind, false);
  const int64_t size = c.V * c.K, head = b * n.heads + h;
  Chunk<T> x;
  into_blocks(f.memory_in ? f.memory_in + head * size : nullptr, m.memory, c);
  if constexpr (kind == ScanKind::product) load_rates(f.rate + h * size, m.rate, c);
  for (int64_t chunk = 0; chunk < n.chunks(); ++chunk) {
    if (f.saved) out_of_blocks(m.memory, f.saved + ((b * n.chunks() + chunk) * n.heads + h) * size, c);
    x.take(f, m, c, b, h, chunk);
    for (int64_t first = 0; first < c.values; first += kGroup<T>) pass_group<kind>(f, m, c, x, b, h, first);
  }
  if (f.memory_out) out_of_blocks(m.memory, f.memory_out + head * size, c);
}

// to [rows, J], `to_row` apart <- += the sums over lanes of from [rows, J, L]
template <int J, class T> TTR_SIMD_INLINE void add_sums(const T* from, T* to, int64_t to_row, int64_t rows) {
  constexpr int64_t L = Register<T>::lanes;
  T sums[C * J];
  for (int64_t i = 0; i < rows * J; i += L) {
    Vec<T> x[L];
    for (int64_t l = 0; l < L; ++l) x[l] = vec(from + (i + l) * L);
    sum_lanes<L, T>(x, sums + i);
  }
  typedef T Keys __attribute__((vector_size(J * sizeof(T)), aligned(sizeof(T)), may_alias));
  for (int64_t r = 0; r < rows; ++r) reinterpret_cast<Keys&>(to[r * to_row]) += reinterpret_cast<const Keys&>(sums[r * J]);
}

// The forward again for J keys of a block: m.states <- the memory as it enters each token, m.decay <- a. dq += M dy.
template <ScanKind kind, int J, class T>
TTR_SIMD_INLINE void recompute(const HeadSlab<T>& m, const Cut& c, const Chunk<T>& x, const Strided<T>& dy, int64_t first, int64_t j0) {
  constexpr int64_t L = Register<T>::lanes;
  const int64_t width = c.width(first), tile = J * width;
  const T* const rate = m.rate + first * c.keys + j0 * width;
  for (int64_t r = 0; r < x.rows; ++r) {
    T* const enters = m.states + r * tile;
    T* const leaves = enters + tile;
    T* const decay = m.decay + r * tile;
    const T* const v = m.x + r * c.values + first;
    const T* const step = m.s + r * c.values + first;
    const T* const g = dy.at + r * dy.stride + first;
    if (x.starts[r]) fill_row(enters, tile, T(0));
    Vec<T> k[J], square[J], dq[J];
    for (int j = 0; j < J; ++j) k[j] = Vec<T>{} + x.k.at[r * x.k.stride + j0 + j], square[j] = k[j] * k[j], dq[j] = Vec<T>{};
    for (int64_t i = 0; i < width; i += L) {
      const Vec<T> s = kind == ScanKind::entry ? Vec<T>{} : vec(step + i), written = vec(v + i), d = vec(g + i);
      for (int j = 0; j < J; ++j) {
        const int64_t at = j * width + i;
        const Vec<T> a = decay_of<kind, T>(s, (kind == ScanKind::entry ? decay : rate) + at, square[j]);
        const Vec<T> now = a * vec(enters + at) + written * k[j];
        if constexpr (kind != ScanKind::proximal) vec(decay + at) = a;
        vec(leaves + at) = now;
        dq[j] += now * d;                                                                             // y = scale M q, for q
      }
    }
    for (int j = 0; j < J; ++j) vec(m.key_lanes + (r * J + j) * L) = dq[j];
  }
}

// From the last token: m.memory holds the adjoint of the memory. Adds to dx, ds and d_rate; m.decay <- the adjoint of log a (entry).
// queries: scale q. dk over lanes to key_lanes, and what k^2 is owed to square_lanes (proximal).
template <ScanKind kind, int J, class T>
TTR_SIMD_INLINE void walk_back(const HeadSlab<T>& m, const Cut& c, const Chunk<T>& x, const Strided<T>& dy, T scale, int64_t first, int64_t j0) {
  constexpr int64_t L = Register<T>::lanes;
  const int64_t width = c.width(first), tile = J * width, block = first * c.keys + j0 * width;
  const T* const rate = m.rate + block;
  T* const adjoint = m.memory + block;
  T* const d_rate = m.d_rate + block;
  for (int64_t r = x.rows - 1; r >= 0; --r) {
    const T* const memory = m.states + r * tile;
    T* const decay = m.decay + r * tile;
    const T* const v = m.x + r * c.values + first;
    const T* const step = m.s + r * c.values + first;
    const T* const g = dy.at + r * dy.stride + first;
    T* const dx = m.dx + r * c.values + first;
    T* const ds = m.ds + r * c.values + first;
    Vec<T> k[J], q[J], square[J], dk[J], d_square[J];
    for (int j = 0; j < J; ++j) {
      k[j] = Vec<T>{} + x.k.at[r * x.k.stride + j0 + j], q[j] = Vec<T>{} + scale * x.q.at[r * x.q.stride + j0 + j];
      square[j] = k[j] * k[j], dk[j] = d_square[j] = Vec<T>{};
    }
    for (int64_t i = 0; i < width; i += L) {
      const Vec<T> s = kind == ScanKind::entry ? Vec<T>{} : vec(step + i), written = vec(v + i), d = vec(g + i);
      Vec<T> through_x = vec(dx + i), through_s = kind == ScanKind::entry ? Vec<T>{} : vec(ds + i);
      for (int j = 0; j < J; ++j) {
        const int64_t at = j * width + i;
        const Vec<T> now = vec(adjoint + at) + d * q[j];                                              // y = scale M q, for M
        dk[j] += now * written;                                                                       // M = a M + x k, for k
        through_x += now * k[j];                                                                      // M = a M + x k, for x
        const Vec<T> a = kind == ScanKind::proximal ? decay_of<kind, T>(s, nullptr, square[j]) : vec(decay + at);
        const Vec<T> back = a * now;                                                                  // M = a M + x k, for M
        const Vec<T> da = (kind == ScanKind::proximal ? now : back) * vec(memory + at);               // M = a M + x k, for a (else: for log a)
        vec(adjoint + at) = back;
        if constexpr (kind == ScanKind::entry) vec(decay + at) = da;                                  // a = exp g
        if constexpr (kind == ScanKind::product) {
          through_s += da * vec(rate + at);                                                           // a = exp(-delta rate), for delta / ln 2
          vec(d_rate + at) -= da * s;                                                                 // a = exp(-delta rate), for rate
        }
        if constexpr (kind == ScanKind::proximal) {
          through_s -= da * square[j];                                                                // a = 1 - s k^2, for s
          d_square[j] += da * s;                                                                      // a = 1 - s k^2, for -k^2
        }
      }
      vec(dx + i) = through_x;
      if constexpr (kind != ScanKind::entry) vec(ds + i) = through_s;
    }
    for (int j = 0; j < J; ++j) {
      if constexpr (kind == ScanKind::proximal) dk[j] -= T(2) * k[j] * d_square[j];                   // a = 1 - s k^2, for k
      vec(m.key_lanes + (r * J + j) * L) = dk[j];
    }
    if (x.starts[r]) fill_row(adjoint, tile, T(0));
  }
}

// first_key, first_value: no head before this one wrote into the shared rows of dk, dv.
template <ScanKind kind, class T>
TTR_SIMD_INLINE void backward_head(const ScanBackward<T>& f, T* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  constexpr int64_t L = Register<T>::lanes;
  constexpr int J = int(keys_together(kind));
  const ScanSizes& n = f.size;
  const Cut c = Cut::of<T>(n, kind, true);
  const HeadSlab<T> m(slab, n, kind, true);
  const int64_t size = c.V * c.K, head = b * n.heads + h, key_head = h / (n.heads / n.key_heads), value_head = h / (n.heads / n.value_heads);
  const bool written = kind == ScanKind::product && f.written;
  Chunk<T> x;
  into_blocks(f.d_memory_out ? f.d_memory_out + head * size : nullptr, m.memory, c);   // here the memory's adjoint
  if constexpr (kind == ScanKind::product) load_rates(f.rate + h * size, m.rate, c);
  fill_row(m.d_rate, c.keys * c.values, T(0));
  for (int64_t chunk = n.chunks() - 1; chunk >= 0; --chunk) {
    into_blocks(f.saved + ((b * n.chunks() + chunk) * n.heads + h) * size, m.entering, c);
    x.take(f, m, c, b, h, chunk);
    const int64_t t0 = x.t0, rows = x.rows;
    const Strided<T> dy = rows_of(m.dy, f.dy, n, b, t0, rows, h, c.V, c.values);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < c.values; i += L) {
        const int64_t at = r * c.values + i;
        const Vec<T> v = vec(x.value.at + r * x.value.stride + i);
        Vec<T> s = kind == ScanKind::entry ? Vec<T>{} : vec(x.step.at + r * x.step.stride + i);
        if constexpr (kind == ScanKind::proximal) {
          const Vec<T> shrink = T(1) / (T(1) + s * x.square[r]);
          vec(m.shrink + at) = shrink;
          s *= shrink;
        }
        vec(m.s + at) = s;
        vec(m.x + at) = written || kind == ScanKind::proximal ? s * v : v;
      }
    fill_row(m.dx, rows * c.values, T(0));
    fill_row(m.ds, rows * c.values, T(0));
    fill_row(m.dk, rows * c.keys, T(0));
    fill_row(m.dq, rows * c.keys, T(0));
    for (int64_t first = 0; first < c.values; first += c.block)
      for (int64_t j0 = 0; j0 < c.keys; j0 += J) {
        const int64_t width = c.width(first), values = std::min(width, c.V - first), keys = std::min<int64_t>(J, c.K - j0);
        write_row(m.states, m.entering + first * c.keys + j0 * width, J * width, true);
        const int64_t gate = (((b * n.tokens + t0) * n.heads + h) * c.V + first) * c.K + j0, gates = n.heads * size;
        if constexpr (kind == ScanKind::entry)
          for (int64_t r = 0; r < rows; ++r) turn_in(f.gate + gate + r * gates, c.K, values, keys, m.decay + r * J * width, width, width, J);
        recompute<kind, J>(m, c, x, dy, first, j0);
        add_sums<J>(m.key_lanes, m.dq + j0, c.keys, rows);
        walk_back<kind, J>(m, c, x, dy, f.scale, first, j0);
        add_sums<J>(m.key_lanes, m.dk + j0, c.keys, rows);
        if constexpr (kind == ScanKind::entry)
          for (int64_t r = 0; r < rows && f.d_gate; ++r) turn_out(m.decay + r * J * width, width, f.d_gate + gate + r * gates, c.K, values, keys);
      }

    // What was written: x = v, delta v or s v.
    for (int64_t r = 0; r < rows; ++r) {
      T* const dx = m.dx + r * c.values;
      T* const ds = m.ds + r * c.values;
      Vec<T> d_square{};
      for (int64_t i = 0; i < c.values && kind != ScanKind::entry; i += L) {
        const Vec<T> s = vec(m.s + r * c.values + i), v = vec(x.value.at + r * x.value.stride + i);
        Vec<T> d = vec(ds + i);
        if constexpr (kind == ScanKind::product) d *= T(0.69314718055994530942);                      // a = exp(-delta rate)
        if (written || kind == ScanKind::proximal) {
          d += vec(dx + i) * v;                                                                       // x = delta v;  x = s v
          vec(dx + i) *= s;                                                                           // x = delta v;  x = s v
        }
        if constexpr (kind == ScanKind::proximal) {
          const Vec<T> shrink = vec(m.shrink + r * c.values + i);
          d_square -= d * s * s;                                                                      // s = delta / (1 + delta |k|^2), for |k|^2
          d *= shrink * shrink;                                                                       // s = delta / (1 + delta |k|^2), for delta
        }
        vec(ds + i) = d;
      }
      if constexpr (kind == ScanKind::proximal) {
        T sum = 0;
        for (int l = 0; l < int(L); ++l) sum += d_square[l];
        for (int64_t j = 0; j < c.K; ++j) m.dk[r * c.keys + j] += T(2) * sum * x.k.at[r * x.k.stride + j];   // |k|^2
      }
      if (f.dv.at) write_row(row(f.dv, n, b, t0 + r, value_head, c.V), dx, c.V, first_value);
      if (f.d_gate && kind != ScanKind::entry) write_row(f.d_gate + ((b * n.tokens + t0 + r) * n.heads + h) * c.V, ds, c.V, true);
      if (f.dk.at) write_row(row(f.dk, n, b, t0 + r, key_head, c.K), m.dk + r * c.keys, c.K, first_key);
      if (f.dq.at) write_row(row(f.dq, n, b, t0 + r, h, c.K), m.dq + r * c.keys, c.K, true, f.scale);   // y = scale M q
    }
  }
  if (f.d_rate && kind == ScanKind::product) out_of_blocks(m.d_rate, f.d_rate + head * size, c);
  if (f.d_memory_in) out_of_blocks(m.memory, f.d_memory_in + head * size, c);
}

template <class T> TTR_SIMD_INLINE void forward_any(const ScanForward<T>& f, T* slab, int64_t b, int64_t h) {
  if (f.kind == ScanKind::product) forward_head<ScanKind::product>(f, slab, b, h);
  else if (f.kind == ScanKind::proximal) forward_head<ScanKind::proximal>(f, slab, b, h);
  else forward_head<ScanKind::entry>(f, slab, b, h);
}
template <class T> TTR_SIMD_INLINE void backward_any(const ScanBackward<T>& f, T* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  if (f.kind == ScanKind::product) backward_head<ScanKind::product>(f, slab, b, h, first_key, first_value);
  else if (f.kind == ScanKind::proximal) backward_head<ScanKind::proximal>(f, slab, b, h, first_key, first_value);
  else backward_head<ScanKind::entry>(f, slab, b, h, first_key, first_value);
}

void forward_f32(const ScanForward<float>& f, float* slab, int64_t b, int64_t h) { forward_any(f, slab, b, h); }
void forward_f64(const ScanForward<double>& f, double* slab, int64_t b, int64_t h) { forward_any(f, slab, b, h); }
void backward_f32(const ScanBackward<float>& f, float* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  backward_any(f, slab, b, h, first_key, first_value);
}
void backward_f64(const ScanBackward<double>& f, double* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  backward_any(f, slab, b, h, first_key, first_value);
}

}  // namespace
}  // namespace ttr::TTR_SIMD_SET
