// Blocks of 16 tokens of diagonal_decay_cpu.cpp, which tells the algebra; compiled once for each instruction set (core/simd_sets.hpp).
#include <ttr/core/simd_exp.hpp>
#include <ttr/core/simd_product.hpp>

namespace ttr::TTR_SIMD_SET {
namespace {

// -- transposes ------------------------------------------------------------------------------------------------------------------------------
template <class T> TTR_SIMD_INLINE void to_columns(Strided<T> from, int64_t width, T* to) {   // [16, width] -> [width, 16]
  for (int64_t j = 0; j < width; j += C) transpose_square<C>(from.at + j, from.stride, to + j * C, C);
}
template <class T> TTR_SIMD_INLINE void to_rows(const T* from, int64_t width, T* to, int64_t to_row) {   // [width, 16] -> [16, width]
  for (int64_t j = 0; j < width; j += C) transpose_square<C>(from + j * C, C, to + j, to_row);
}

// sums[r] <- a_r . b_r of 16 rows [16, width]
template <class T> TTR_SIMD_INLINE void dots(Strided<T> a, const T* b, int64_t width, T* sums) {
  constexpr int64_t L = Register<T>::lanes;
  Vec<T> x[C];
  for (int64_t r = 0; r < C; ++r) {
    x[r] = Vec<T>{};
    for (int64_t j = 0; j < width; j += L) x[r] += vec(a.at + r * a.stride + j) * vec(b + r * width + j);
  }
  sum_lanes<C, T>(x, sums);
}

// f.operator()<N>(j) of N registers from j on, over a width of whole registers: four at a time, whose sums need not wait for each other
template <class T, class F> TTR_SIMD_INLINE void four_registers(int64_t width, const F& f) {
  constexpr int64_t L = Register<T>::lanes;
  int64_t j = 0;
  for (; j + 4 * L <= width; j += 4 * L) f.template operator()<4>(j);
  for (; j < width; j += L) f.template operator()<1>(j);
}

template <class T> TTR_SIMD_INLINE T* row(const Rows<T>& x, const DecaySizes& n, int64_t b, int64_t t, int64_t head, int64_t dim) {
  return x.at + (b * n.tokens + t) * x.token_stride + head * dim;
}

template <class T> TTR_SIMD_INLINE void pad_row(T* to, int64_t from, int64_t width) {
  for (int64_t i = from; i < width; ++i) to[i] = 0;
}
template <class T> TTR_SIMD_INLINE void write_row(T* __restrict to, const T* __restrict from, int64_t n, bool first) {
  constexpr int64_t L = Register<T>::lanes;
  int64_t j = 0;
  for (; j + L <= n; j += L) vec(to + j) = first ? vec(from + j) : vec(to + j) + vec(from + j);
  for (; j < n; ++j) to[j] = first ? from[j] : to[j] + from[j];
}
// to [n] <- by from (+ to)
template <class T> TTR_SIMD_INLINE void write_times(T* __restrict to, const T* __restrict from, T by, int64_t n, bool first) {
  constexpr int64_t L = Register<T>::lanes;
  int64_t j = 0;
  for (; j + L <= n; j += L) vec(to + j) = first ? by * vec(from + j) : vec(to + j) + by * vec(from + j);
  for (; j < n; ++j) to[j] = first ? by * from[j] : to[j] + by * from[j];
}

// Rows of c tokens as [16, width]: in place where that is what they are, else a copy with zeros around them.
template <class T>
TTR_SIMD_INLINE Strided<T> rows_of(T* copy, const Rows<const T>& x, const DecaySizes& n, int64_t b, int64_t t0, int64_t c, int64_t head, int64_t dim,
                                   int64_t width) {
  if (c == C && dim == width) return {row(x, n, b, t0, head, dim), x.token_stride};
  for (int64_t r = 0; r < c; ++r) {
    write_row(copy + r * width, row(x, n, b, t0 + r, head, dim), dim, true);
    pad_row(copy + r * width, dim, width);
  }
  pad_row(copy, c * width, C * width);
  return {copy, width};
}

// The first `count` lanes from `from` on, zeros beyond them.
template <class T> TTR_SIMD_INLINE Vec<T> some_lanes(const T* from, int64_t count) {
  constexpr int64_t L = Register<T>::lanes;
  if (count >= L) return vec(from);
  Vec<T> x{};
  for (int64_t l = 0; l < count; ++l) x[l] = from[l];
  return x;
}

// a and k = 1 - a of c rows of log decays; no keys beyond them. [16, Kp] each
template <class T> TTR_SIMD_INLINE Strided<T> tied_keys(Block<T>& x, const T* log_decay, int64_t stride, int64_t c, int64_t K, int64_t Kp) {
  constexpr int64_t L = Register<T>::lanes;
  for (int64_t r = 0; r < c; ++r)
    for (int64_t j = 0; j < Kp; j += L) {
      const PairLanes<T> e = exp_pair_lanes(some_lanes(log_decay + r * stride + j, K - j));   // 1 and 0 beyond K
      vec(x.a + r * Kp + j) = e.whole, vec(x.copy_k + r * Kp + j) = -e.less_one;
    }
  pad_row(x.copy_k, c * Kp, C * Kp);
  return {x.copy_k, Kp};
}

template <class T, class Arguments>
TTR_SIMD_INLINE void load_block(Block<T>& x, const Arguments& p, int64_t b, int64_t h, int64_t t0, int64_t c, int64_t value_width) {
  constexpr int64_t L = Register<T>::lanes;
  const DecaySizes& n = p.size;
  const DecayGates<T>& g = p.gates;
  const int64_t K = n.key_dim, V = n.value_dim, H = n.heads, Kp = padded(K);
  const Strided<T> raw_q = rows_of(x.copy_q, p.q, n, b, t0, c, h, K, Kp);
  x.raw_k = g.tied ? tied_keys(x, g.log_decay + ((b * n.tokens + t0) * H + h) * K, H * K, c, K, Kp)
                   : rows_of(x.copy_k, p.k, n, b, t0, c, h / (H / n.key_heads), K, Kp);
  x.v = rows_of(x.copy_v, p.v, n, b, t0, c, h / (H / n.value_heads), V, value_width);
  T scale[C];
  bool starts[C];
  for (int64_t r = 0; r < C; ++r) {
    const int64_t token = b * n.tokens + t0 + r, gate = token * H + h;
    const bool inside = r < c;
    starts[r] = inside && g.segments && t0 + r > 0 && g.segments[token] != g.segments[token - 1];
    x.hidden[r] = starts[r] && g.strict;
    x.w[r] = inside && g.write ? g.write[gate] : T(1);
    scale[r] = x.hidden[r] ? T(0) : g.scale;
    if (!g.per_channel) x.decay[r] = inside && g.log_decay ? g.log_decay[gate] : T(0);
  }
  const auto write_key = [&](int64_t r, int64_t j) { vec(x.k + r * Kp + j) = x.w[r] * vec(x.raw_k.at + r * x.raw_k.stride + j); };
  if (g.per_channel) {
    const T* const log_decay = g.log_decay ? g.log_decay + ((b * n.tokens + t0) * H + h) * K : nullptr;
    for (int64_t j = 0; j < Kp; j += L) {
      Vec<T> since = Vec<T>{} + T(1);
      vec(x.since + j) = since;
      for (int64_t r = 0; r < C; ++r) {
        const int64_t at = r * Kp + j;
        Vec<T> a = Vec<T>{} + (starts[r] ? T(0) : T(1));
        if (r < c && log_decay && !starts[r]) a = g.tied ? vec(x.a + at) : exp_lanes(some_lanes(log_decay + r * H * K + j, K - j));
        const Vec<T> before = since, q = scale[r] * vec(raw_q.at + r * raw_q.stride + j);
        since *= a;
        vec(x.a + at) = a;
        vec(x.since + at + Kp) = since;
        vec(x.q + at) = q;
        vec(x.query + at) = q * (g.strict ? before : since);
        write_key(r, j);
      }
    }
    return;
  }
  for (int64_t r = 0; r < C && g.log_decay; r += L) vec(x.decay + r) = exp_lanes(vec(x.decay + r));
  for (int64_t r = 0; r < C; ++r) x.decay[r] = starts[r] ? T(0) : g.log_decay ? x.decay[r] : T(1);
  x.total[0] = 1;
  for (int64_t r = 0; r < C; ++r) {
    x.total[r + 1] = x.decay[r] * x.total[r];
    const T seen = x.seen[r] = x.total[g.strict ? r : r + 1];
    for (int64_t j = 0; j < Kp; j += L) {
      const Vec<T> q = scale[r] * vec(raw_q.at + r * raw_q.stride + j);
      vec(x.q + r * Kp + j) = q;
      vec(x.query + r * Kp + j) = q * seen;
      write_key(r, j);
    }
  }
  for (int64_t j = 0; j < Kp; j += L) vec(x.since + c * Kp + j) = Vec<T>{} + x.total[c];
}

// The next block's rows, fetched a few tokens at a time between this block's products: a head's rows lie apart, which no hardware guesses, and all of them
// at once would wait for each other in the core's dozen buffers.
template <class T> class Ahead {
 public:
  Ahead() = default;   // nothing comes next
  template <class Arguments> TTR_SIMD_INLINE Ahead(const Arguments& p, int64_t b, int64_t h, int64_t t0) {
    const DecaySizes& n = p.size;
    const int64_t key_head = h / (n.heads / n.key_heads), value_head = h / (n.heads / n.value_heads), gates = n.heads * n.key_dim;
    tokens_ = std::min(C, n.tokens - t0);
    add(row(p.q, n, b, t0, h, n.key_dim), p.q.token_stride, n.key_dim);
    if (p.k.at) add(row(p.k, n, b, t0, key_head, n.key_dim), p.k.token_stride, n.key_dim);
    add(row(p.v, n, b, t0, value_head, n.value_dim), p.v.token_stride, n.value_dim);
    if (p.gates.log_decay && p.gates.per_channel) add(p.gates.log_decay + (b * n.tokens + t0) * gates + h * n.key_dim, gates, n.key_dim);
    if constexpr (requires { p.dy; }) {
      add(row(p.dy, n, b, t0, h, n.value_dim), p.dy.token_stride, n.value_dim);
      if (n.normaliser) add(row(p.y, n, b, t0, h, n.value_dim), p.y.token_stride, n.value_dim);
      if (p.dq.at) add(row(p.dq, n, b, t0, h, n.key_dim), p.dq.token_stride, n.key_dim);
      if (p.dk.at) add(row(p.dk, n, b, t0, key_head, n.key_dim), p.dk.token_stride, n.key_dim);
      if (p.dv.at) add(row(p.dv, n, b, t0, value_head, n.value_dim), p.dv.token_stride, n.value_dim);
    } else {
      add(row(p.y, n, b, t0, h, n.value_dim), p.y.token_stride, n.value_dim);
    }
  }
  TTR_SIMD_INLINE void operator()(int64_t tokens) {   // the next of them
    for (const int64_t end = std::min(next_ + tokens, tokens_); next_ < end; ++next_)
      for (int64_t i = 0; i < count_; ++i)
        for (int64_t j = 0; j < rows_[i].width; j += 64 / int64_t(sizeof(T))) __builtin_prefetch(rows_[i].at + next_ * rows_[i].stride + j, 0, 3);
  }

 private:
  struct Row {
    const T* at;
    int64_t stride, width;
  };
  TTR_SIMD_INLINE void add(const T* at, int64_t stride, int64_t width) { rows_[count_++] = {at, stride, width}; }
  Row rows_[9];
  int64_t count_ = 0, next_ = 0, tokens_ = 0;
};

// Kend_s = k'_s a_{s+1} ... a_{c-1}
template <class T> TTR_SIMD_INLINE void fade_keys(Block<T>& x, int64_t Kp, int64_t c, bool per_channel) {
  constexpr int64_t L = Register<T>::lanes;
  if (per_channel) {
    for (int64_t j = 0; j < Kp; j += L) {
      Vec<T> left = Vec<T>{} + T(1);
      for (int64_t s = c - 1; s >= 0; --s) {
        vec(x.end + s * Kp + j) = vec(x.k + s * Kp + j) * left;
        left *= vec(x.a + s * Kp + j);
      }
    }
  } else {
    T left = 1;
    for (int64_t s = c - 1; s >= 0; --s) {
      for (int64_t j = 0; j < Kp; j += L) vec(x.end + s * Kp + j) = vec(x.k + s * Kp + j) * left;
      left *= x.decay[s];
    }
  }
  pad_row(x.end, c * Kp, C * Kp);
}

// One decay a head: the table F.
template <class T> TTR_SIMD_INLINE void fill_table(Block<T>& x) {
  for (int64_t s = 0; s < C; ++s) x.table[s] = 0;
  for (int64_t r = 0; r < C; ++r) {
    const T* __restrict last = x.table + r * C;
    T* __restrict next = x.table + (r + 1) * C;
    for (int64_t s = 0; s < C; ++s) next[s] = x.decay[r] * last[s];
    next[r] = 1;
  }
}

// One decay a channel, N registers of channels at a time: token s is carried along r. sums[r] += q_r k_s F_rs before its lanes are added.
template <int N, class T>
TTR_SIMD_INLINE void carry_key(Block<T>& x, int64_t j, int64_t s, int64_t Kp, int64_t c, bool strict, Vec<T>* sums) {
  constexpr int64_t L = Register<T>::lanes;
  Vec<T> k[N];
  for (int i = 0; i < N; ++i) k[i] = vec(x.k + s * Kp + j + i * L);
  const auto read = [&](int64_t r) {
    for (int i = 0; i < N; ++i) sums[r] += vec(x.q + r * Kp + j + i * L) * k[i];
  };
  if (!strict) read(s);
  for (int64_t r = s + 1; r < c; ++r) {
    if (strict) read(r);
    for (int i = 0; i < N; ++i) k[i] *= vec(x.a + r * Kp + j + i * L);
    if (!strict) read(r);
  }
  for (int i = 0; i < N; ++i) vec(x.end + s * Kp + j + i * L) = k[i];
}

// A_rr += scale (u * k_r) . q_r
template <class T, class Arguments> TTR_SIMD_INLINE void add_bonus(Block<T>& x, const Arguments& p, int64_t b, int64_t h, int64_t t0, int64_t c) {
  constexpr int64_t L = Register<T>::lanes;
  const int64_t K = p.size.key_dim;
  const T* const u = p.gates.bonus + h * K;
  Vec<T> parts[C] = {};
  T sums[C];
  for (int64_t r = 0; r < c; ++r) {
    const T* const q = row(p.q, p.size, b, t0 + r, h, K);
    const T* const k = x.raw_k.at + r * x.raw_k.stride;
    int64_t j = 0;
    for (; j + L <= K; j += L) parts[r] += vec(q + j) * vec(u + j) * vec(k + j);
    for (; j < K; ++j) parts[r][0] += q[j] * u[j] * k[j];
  }
  sum_lanes<C, T>(parts, sums);
  for (int64_t r = 0; r < c; ++r) x.pair[r * C + r] += p.gates.scale * sums[r];
}

// A transposed into x.pair, Kend into x.end; found: Kend is there, and what keep_pairs keeps.
template <class T, class Arguments>
TTR_SIMD_INLINE void make_pairs(Block<T>& x, const Arguments& p, int64_t b, int64_t h, int64_t t0, int64_t c, bool found, Ahead<T>& ahead) {
  const DecayGates<T>& g = p.gates;
  const int64_t Kp = padded(p.size.key_dim);
  if (g.per_channel && found) return;
  if (g.per_channel) {
    for (int64_t s = 0; s < c; ++s) {
      if (s % 4 == 0) ahead(1);
      Vec<T> sums[C] = {};
      four_registers<T>(Kp, [&]<int N>(int64_t j) __attribute__((always_inline)) { carry_key<N>(x, j, s, Kp, c, g.strict, sums); });
      sum_lanes<C, T>(sums, x.pair + s * C);
    }
    pad_row(x.end, c * Kp, C * Kp);
    pad_row(x.pair, c * C, C * C);
  } else {
    fill_table(x);
    if (!found) {
      to_columns(Strided<T>{x.q, Kp}, Kp, x.columns);
      ahead(1);
      set_product(C, C, Kp, Operand<T>{x.k, Kp, 1}, x.columns, C, x.gram, C);
    }
    ahead(1);
    transpose_square<C>(x.table + (g.strict ? 0 : C), C, x.pair, C);
    for (int64_t i = 0; i < C * C; ++i) x.pair[i] *= x.gram[i];
    if (!found) fade_keys(x, Kp, c, false);
    ahead(1);
  }
  if (g.bonus) add_bonus(x, p, b, h, t0, c);
}

template <class T> TTR_SIMD_INLINE void load_matrix(T* to, int64_t to_row, const T* from, int64_t from_row, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) {
    if (from) write_row(to + i * to_row, from + i * from_row, width, true);
    pad_row(to + i * to_row, from ? width : 0, to_row);
  }
}
template <class T> TTR_SIMD_INLINE void store_matrix(T* to, int64_t to_row, const T* from, int64_t from_row, int64_t rows, int64_t width) {
  for (int64_t i = 0; i < rows; ++i) write_row(to + i * to_row, from + i * from_row, width, true);
}

// -- the normaliser, row V of M ------------------------------------------------------------------------------------------------------------------
// n_r = query_r . m0 + sum_s A_rs, of which yt [V + 1, 16] has the first part in its last row; then Y / z(n).
template <class T> TTR_SIMD_INLINE void divide_block(const DecayForward<T>& p, const T* pair, T* yt, int64_t b, int64_t h, int64_t t0, int64_t c) {
  constexpr int64_t L = Register<T>::lanes;
  T* const n = yt + p.size.value_dim * C;
  T z[C];
  for (int64_t s = 0; s < c; ++s)
    for (int64_t r = 0; r < C; r += L) vec(n + r) += vec(pair + s * C + r);
  for (int64_t r = 0; r < C; ++r) {
    const int64_t gate = (b * p.size.tokens + t0 + r) * p.size.heads + h;
    z[r] = r < c ? p.divisor.of(p.normaliser[gate] = n[r], gate) : T(1);
  }
  for (int64_t i = 0; i < p.size.value_dim; ++i)
    for (int64_t r = 0; r < C; r += L) vec(yt + i * C + r) /= vec(z + r);   // to the last digit: the backward takes Y from values that it may equal
}
// to <- m0 since_c + sum_s Kend_s
template <class T> TTR_SIMD_INLINE void write_ones(const Block<T>& x, const T* m0, T* to, int64_t Kp, int64_t c) {
  constexpr int64_t L = Register<T>::lanes;
  four_registers<T>(Kp, [&]<int N>(int64_t j) __attribute__((always_inline)) {
    Vec<T> sum[N];
    for (int i = 0; i < N; ++i) sum[i] = vec(m0 + j + i * L) * vec(x.since + c * Kp + j + i * L);
    for (int64_t s = 0; s < c; ++s)
      for (int i = 0; i < N; ++i) sum[i] += vec(x.end + s * Kp + j + i * L);
    for (int i = 0; i < N; ++i) vec(to + j + i * L) = sum[i];
  });
}
// (dY / z, dn) of c tokens as [16, V + 1], zeros beyond them: z = z(n), Y divided, so dz = -(dY / z) . Y
template <class T>
TTR_SIMD_INLINE Strided<T> divide_back(const DecayBackward<T>& p, T* to, int64_t b, int64_t h, int64_t t0, int64_t c) {
  constexpr int64_t L = Register<T>::lanes;
  const DecaySizes& n = p.size;
  const int64_t V = n.value_dim, width = padded(V) + C;
  Vec<T> parts[C] = {};
  T against[C];   // (dY / z) . Y
  for (int64_t r = 0; r < c; ++r) {
    const int64_t gate = (b * n.tokens + t0 + r) * n.heads + h;
    const T* const dy = row(p.dy, n, b, t0 + r, h, V);
    const T* const y = row(p.y, n, b, t0 + r, h, V);
    const T inverse = 1 / p.divisor.of(p.normaliser[gate], gate);
    for (int64_t i = 0; i < V; i += L) {
      const Vec<T> d = inverse * some_lanes(dy + i, V - i);
      vec(to + r * width + i) = d;
      parts[r] += d * some_lanes(y + i, V - i);
    }
  }
  sum_lanes<C, T>(parts, against);
  for (int64_t r = 0; r < C; ++r) {
    const int64_t gate = (b * n.tokens + t0 + r) * n.heads + h;
    if (r >= c) {
      pad_row(to + r * width, 0, V + 1);
      continue;
    }
    const T at = p.normaliser[gate];
    to[r * width + V] = -against[r] * p.divisor.slope(at, gate);
    if (p.d_floor) p.d_floor[gate] = -against[r] * p.divisor.floor_slope(at, gate);
  }
  return {to, width};
}

// Heads [first, first + count) of sequence b, block by block: neighbours in a token's row are read while it is near.
template <class T> TTR_SIMD_INLINE void forward_heads(const DecayForward<T>& p, T* slab, int64_t b, int64_t first, int64_t count) {
  const DecaySizes& n = p.size;
  const int64_t K = n.key_dim, V = n.value_dim, R = n.rows(), Kp = padded(K), Vp = padded(V), head = b * n.heads + first;
  ForwardSlab<T> m(slab, n, count);
  Block<T>& x = m.x;

  for (int64_t i = 0; i < count; ++i) load_matrix(m.memory + i * R * Kp, Kp, p.memory_in ? p.memory_in + (head + i) * R * K : nullptr, K, R, K);
  for (int64_t t0 = 0; t0 < n.tokens; t0 += C)
    for (int64_t i = 0; i < count; ++i) {
      const int64_t c = std::min(C, n.tokens - t0), h = first + i;
      T* const memory = m.memory + i * R * Kp;
      if (p.saved && t0 % kDecayChunk == 0) store_matrix(p.saved + ((head + i) * n.chunks() + t0 / kDecayChunk) * R * K, K, memory, Kp, R, K);
      load_block(x, p, b, h, t0, c, V);   // values are read one at a time and need no padding
      const bool last = i + 1 == count;
      Ahead<T> ahead = last && t0 + C >= n.tokens ? Ahead<T>() : Ahead<T>(p, b, last ? first : h + 1, last ? t0 + C : t0);
      x.keep_pairs(p.pairs, (head + i) * n.blocks() + t0 / C, p.gates.per_channel);
      make_pairs(x, p, b, h, t0, c, false, ahead);
      to_columns(Strided<T>{x.query, Kp}, Kp, x.columns);
      ahead(3);
      set_product(R, C, Kp, Operand<T>{memory, Kp, 1}, x.columns, C, m.yt, C);   // Y^T = M0 (Q since)^T
      add_product(V, C, c, Operand<T>{x.v.at, 1, x.v.stride}, x.pair, C, m.yt, C);          //     + V^T A^T
      ahead(3);
      if (n.normaliser) divide_block(p, x.pair, m.yt, b, h, t0, c);
      T* const y = row(p.y, n, b, t0, h, V);
      if (c == C && V == Vp) {
        to_rows(m.yt, Vp, y, p.y.token_stride);
      } else {
        to_rows(m.yt, Vp, m.y, Vp);
        store_matrix(y, p.y.token_stride, m.y, Vp, c, V);
      }
      ahead(C);
      if (t0 + c == n.tokens && !p.memory_out) continue;
      if (n.normaliser) write_ones(x, memory + V * Kp, memory + V * Kp, Kp, c);
      add_product(V, Kp, c, Operand<T>{x.v.at, 1, x.v.stride}, x.end, Kp, memory, Kp, x.since + c * Kp);   // M_C = M0 diag(since) + V^T Kend
    }
  for (int64_t i = 0; i < count && p.memory_out; ++i) store_matrix(p.memory_out + (head + i) * R * K, K, m.memory + i * R * Kp, Kp, R, K);
}

// One decay a channel, a register of channels: the recurrences k'_s <- a_r k'_s and since <- a_r since, differentiated from the last token.
// dq [16, Kp] holds the adjoint of query and becomes that of q; dk holds that of Kend and becomes that of k'. Four keys at a time are carried again, into
// the nearest cache: all of them would be 64 KB.
template <class T> TTR_SIMD_INLINE void sweep_channels(const Block<T>& x, const BackwardSlab<T>& m, int64_t j, int64_t Kp, int64_t c, bool strict) {
  constexpr int kKeys = 4;
  Vec<T> dq[C] = {}, da[C] = {}, entering[C][kKeys];   // of A;  k' as it enters token r
  for (int64_t first = 0; first < c; first += kKeys) {
    Vec<T> k[kKeys], dk[kKeys];
    for (int i = 0; i < kKeys; ++i) k[i] = vec(x.k + (first + i) * Kp + j), dk[i] = vec(m.dk + (first + i) * Kp + j);
    for (int64_t r = first + 1; r < c; ++r) {
      const Vec<T> a = vec(x.a + r * Kp + j);
      for (int i = 0; i < kKeys; ++i) {
        entering[r][i] = k[i];
        if (first + i < r) k[i] *= a;
      }
    }
    const auto back = [&]<int keys>(int64_t r) __attribute__((always_inline)) {   // those before r
      const T* const pairs = m.d_pair + r * C + first;
      const Vec<T> q = vec(x.q + r * Kp + j), a = vec(x.a + r * Kp + j);
      Vec<T> to_q = dq[r], to_a = da[r];
      for (int i = 0; i < keys; ++i) {
        const T d = pairs[i];
        const Vec<T> read = dk[i] + d * q;                         // A_rs = sum_j q_rj k'_sj F_rsj
        to_q += d * entering[r][i];                                // A_rs = sum_j q_rj k'_sj F_rsj
        to_a += (strict ? dk[i] : read) * entering[r][i];          // k'_s <- a_r k'_s
        dk[i] = strict ? dk[i] * a + d * q : read * a;             // k'_s <- a_r k'_s
      }
      dq[r] = to_q, da[r] = to_a;
    };
    int64_t r = c - 1;
    for (; r >= first + kKeys; --r) back.template operator()<kKeys>(r);
    if (r == first + 3) back.template operator()<3>(r--);
    if (r == first + 2) back.template operator()<2>(r--);
    if (r == first + 1) back.template operator()<1>(r--);
    for (int i = 0; i < kKeys; ++i) vec(m.dk + (first + i) * Kp + j) = dk[i];
  }
  Vec<T> ds = vec(m.d_since + j);
  for (int64_t r = c - 1; r >= 0; --r) {
    const T own = m.d_pair[r * C + r];
    const int64_t at = r * Kp + j;
    const Vec<T> q = vec(x.q + at), a = vec(x.a + at), d_query = vec(m.dq + at), last = vec(x.since + at), now = vec(x.since + at + Kp);
    if (strict) {
      da[r] += ds * last;                                          // since_r = a_r before_r
      ds = ds * a + q * d_query;                                   // since_r = a_r before_r;  query_r = q_r before_r
      dq[r] += last * d_query;                                     // query_r = q_r before_r
    } else {
      dq[r] = a * dq[r] + own * vec(x.k + at) + now * d_query;     // A_rs;  A_rr = q_r.k'_r;  query_r = q_r since_r
      vec(m.dk + at) += own * q;                                   // A_rr = q_r.k'_r
      ds += q * d_query;                                           // query_r = q_r since_r
      da[r] += ds * last;                                          // since_r = a_r before_r
      ds *= a;                                                     // since_r = a_r before_r
    }
    vec(m.dq + at) = dq[r];
    vec(m.dg + at) = a * da[r];                                    // a = exp(g)
  }
}

// One decay a head: the same with the table F. dg [16] at m.dg.
template <class T> TTR_SIMD_INLINE void sweep_heads(const Block<T>& x, const BackwardSlab<T>& m, int64_t Kp, int64_t c, bool strict, bool gates) {
  constexpr int64_t L = Register<T>::lanes;
  T ds = 0, acc[C] = {}, read[C] = {};   // adjoints of since_r, of F_rs;  q_r . d query_r
  const T* const rest = x.table + c * C;   // F_{c-1,s}
  if (gates) {
    for (int64_t j = 0; j < Kp; ++j) ds += m.d_since[j];                                          // M_C = M0 since + V^T Kend
    dots(Strided<T>{x.k, Kp}, m.dk, Kp, acc);                                                     // Kend_s = k'_s F_{c-1,s}
    dots(Strided<T>{x.q, Kp}, m.dq, Kp, read);                                                    // query_r = q_r since_r
    for (int64_t r = c - 1; r >= 0; --r) {
      const T* __restrict d = m.d_pair + r * C;
      const T* __restrict last = x.table + r * C;
      const auto see = [&] {
        ds += read[r];                                                                            // query_r = q_r since_r
        for (int64_t s = 0; s < C; ++s) acc[s] += d[s] * x.gram[s * C + r];                       // A_rs = F_rs q_r.k'_s
      };
      if (!strict) see();
      T da = ds * x.total[r];                                                                     // since_r = a_r before_r
      for (int64_t s = 0; s < C; ++s) da += acc[s] * last[s];                                     // F_r = a_r F_{r-1}
      for (int64_t s = 0; s < C; ++s) acc[s] *= x.decay[r];                                       // F_r = a_r F_{r-1}
      ds *= x.decay[r];                                                                           // since_r = a_r before_r
      if (strict) see();
      m.dg[r] = x.decay[r] * da;                                                                  // a = exp(g)
    }
  }
  const T* const table = x.table + (strict ? 0 : C);
  for (int64_t i = 0; i < C * C; ++i) m.d_pair[i] *= table[i];                                    // A_rs = F_rs q_r.k'_s, for q_r.k'_s
  for (int64_t r = 0; r < c; ++r) {
    const T seen = x.seen[r], left = rest[r];
    for (int64_t j = 0; j < Kp; j += L) vec(m.dq + r * Kp + j) *= seen;                           // query_r = q_r since_r
    for (int64_t j = 0; j < Kp; j += L) vec(m.dk + r * Kp + j) *= left;                           // Kend_s = k'_s F_{c-1,s}
  }
  add_product(c, Kp, c, Operand<T>{m.d_pair, C, 1}, x.k, Kp, m.dq, Kp);                           // q_r.k'_s, for q
  add_product(c, Kp, c, Operand<T>{m.d_pair, 1, C}, x.q, Kp, m.dk, Kp);                           // q_r.k'_s, for k'
}

// The block's part of dq, dk, dw, du and dg, from dq, dk' of the sweep and the diagonal of dA.
template <class T>
TTR_SIMD_INLINE void write_block(const DecayBackward<T>& p, const Block<T>& x, const BackwardSlab<T>& m, const T* diagonal, int64_t b, int64_t h,
                                 int64_t t0, int64_t c, bool first_key) {
  constexpr int64_t L = Register<T>::lanes;
  const DecaySizes& n = p.size;
  const DecayGates<T>& g = p.gates;
  const int64_t K = n.key_dim, H = n.heads, Kp = padded(K), key_head = h / (H / n.key_heads);
  const T* const u = g.bonus ? g.bonus + h * K : nullptr;
  T d_write[C];
  if (p.d_write) dots(x.raw_k, m.dk, Kp, d_write);                                                // k' = w k
  for (int64_t r = 0; r < c; ++r) {
    const int64_t gate = (b * n.tokens + t0 + r) * H + h;
    T* const dq = m.dq + r * Kp;
    T* const dk = m.dk + r * Kp;
    T scale = x.hidden[r] ? T(0) : g.scale, w = x.w[r];
    if (u) {
      const T own = g.scale * diagonal[r];
      const T* const q = row(p.q, n, b, t0 + r, h, K);
      const T* const k = x.raw_k.at + r * x.raw_k.stride;
      int64_t j = 0;
      for (; j + L <= K; j += L) {
        const Vec<T> seen = own * vec(q + j), asked = own * vec(k + j);
        vec(dq + j) = scale * vec(dq + j) + asked * vec(u + j);                                   // Y = scale (...);  A_rr += scale (u * k_r) . q_r
        vec(dk + j) = w * vec(dk + j) + seen * vec(u + j);                                        // k' = w k;  A_rr
        vec(m.d_bonus + j) += seen * vec(k + j);                                                  // A_rr
      }
      for (; j < K; ++j) {
        dq[j] = scale * dq[j] + own * u[j] * k[j];
        dk[j] = w * dk[j] + own * u[j] * q[j];
        m.d_bonus[j] += own * q[j] * k[j];
      }
      scale = w = 1;
    }
    if (g.tied)
      for (int64_t j = 0; j < Kp; j += L) vec(m.dg + r * Kp + j) += w * vec(dk + j) * (vec(x.raw_k.at + r * Kp + j) - 1);   // k = 1 - exp(g)
    if (p.d_write) p.d_write[gate] = d_write[r];
    if (p.dq.at) write_times(row(p.dq, n, b, t0 + r, h, K), dq, scale, K, true);                  // Y = scale (...)
    if (p.dk.at) write_times(row(p.dk, n, b, t0 + r, key_head, K), dk, w, K, first_key);          // k' = w k
    if (p.d_log_decay && g.per_channel) write_row(p.d_log_decay + gate * K, m.dg + r * Kp, K, true);
    if (p.d_log_decay && !g.per_channel) p.d_log_decay[gate] = m.dg[r];
  }
}

// One chunk of one head; m.adjoint and m.d_bonus are that head's. next_chunk < 0: nothing comes after it.
template <class T>
TTR_SIMD_INLINE void backward_chunk(const DecayBackward<T>& p, BackwardSlab<T>& m, int64_t b, int64_t h, int64_t chunk, int64_t next_h, int64_t next_chunk) {
  constexpr int64_t L = Register<T>::lanes;
  const DecaySizes& n = p.size;
  const DecayGates<T>& g = p.gates;
  const int64_t K = n.key_dim, V = n.value_dim, R = n.rows(), Kp = padded(K), Vp = padded(V), head = b * n.heads + h;
  const int64_t per_key = n.heads / n.key_heads, per_value = n.heads / n.value_heads, value_head = h / per_value;
  const bool first_key = h % per_key == 0, first_value = h % per_value == 0;   // no head before this one wrote into the shared rows of dk, dv
  T diagonal[C];

  const int64_t first = chunk * kDecayChunk, blocks = (std::min(kDecayChunk, n.tokens - first) + C - 1) / C;
  load_matrix(m.states, Kp, p.saved + (head * n.chunks() + chunk) * R * K, K, R, K);
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t t0 = first + i * C, c = std::min(C, n.tokens - t0);
    load_block(m.x[i], p, b, h, t0, c, Vp);
    fade_keys(m.x[i], Kp, c, g.per_channel);
    if (i + 1 == blocks) break;
    T* const next = m.states + (i + 1) * R * Kp;
    product(V, Kp, c, Operand<T>{m.x[i].v.at, 1, m.x[i].v.stride}, m.x[i].end, Kp, next, Kp, next - R * Kp, m.x[i].since + c * Kp);
    if (n.normaliser) write_ones(m.x[i], next - Kp, next + V * Kp, Kp, c);
  }
  for (int64_t i = blocks - 1; i >= 0; --i) {
    const int64_t t0 = first + i * C, c = std::min(C, n.tokens - t0);
    Block<T>& x = m.x[i];
    const T* const memory = m.states + i * R * Kp;
    const int64_t next = next_chunk * kDecayChunk + i * C;
    Ahead<T> ahead = next_chunk < 0 || next >= n.tokens ? Ahead<T>() : Ahead<T>(p, b, next_h, next);
    x.keep_pairs(const_cast<T*>(p.pairs), head * n.blocks() + t0 / C, g.per_channel);   // read alone from here on
    make_pairs(x, p, b, h, t0, c, p.pairs != nullptr, ahead);
    m.dy = n.normaliser ? divide_back(p, m.copy_dy, b, h, t0, c) : rows_of(m.copy_dy, p.dy, n, b, t0, c, h, V, V);

    to_columns(x.v, Vp, m.columns_v);
    if (n.normaliser) {   // a value of 1: in V, and in what Kend is told
      for (int64_t r = 0; r < C; ++r) m.columns_v[V * C + r] = 1;
      for (int64_t r = 0; r < C; ++r) write_row(m.dk + r * Kp, m.adjoint + V * Kp, Kp, true);
    }
    ahead(1);
    set_product(C, C, R, Operand<T>{m.dy.at, m.dy.stride, 1}, m.columns_v, C, m.d_pair, C);                 // Y = query M0^T + A V, for A
    ahead(1);
    set_product(C, Kp, R, Operand<T>{m.dy.at, m.dy.stride, 1}, memory, Kp, m.dq, Kp);                       // Y, for query
    ahead(2);
    const T* const told = n.normaliser ? m.dk : nullptr;
    product<T>(C, Kp, V, {x.v.at, x.v.stride, 1}, m.adjoint, Kp, m.dk, Kp, told, nullptr);                      // M_C = M0 since + V^T Kend, for Kend
    ahead(2);
    if (p.dv.at) {
      to_columns(Strided<T>{x.end, Kp}, Kp, x.columns);
      set_product(V, C, Kp, Operand<T>{m.adjoint, Kp, 1}, x.columns, C, m.dvt, C);              // M_C, for V
      ahead(2);
      transpose_square<C>(x.pair, C, m.pair_rows, C);
      add_product(V, C, c, Operand<T>{m.dy.at, 1, m.dy.stride}, m.pair_rows, C, m.dvt, C);                  // Y, for V
      T* const dv = row(p.dv, n, b, t0, value_head, V);
      if (c == C && V == Vp && first_value) {
        to_rows(m.dvt, Vp, dv, p.dv.token_stride);
      } else {
        to_rows(m.dvt, Vp, m.dv, Vp);
        for (int64_t s = 0; s < c; ++s) write_row(dv + s * p.dv.token_stride, m.dv + s * Vp, V, first_value);
      }
    }
    ahead(2);
    for (int64_t r = 0; r < C; ++r) {
      diagonal[r] = m.d_pair[r * C + r];
      const int64_t seen = g.strict ? r : r + 1;
      T* const d = m.d_pair + r * C;
      for (int64_t s = 0; s < C; ++s) d[s] = s < seen ? d[s] : T(0);
    }
    if (p.d_log_decay)
      four_registers<T>(Kp, [&]<int N>(int64_t j) __attribute__((always_inline)) {
        Vec<T> sum[N] = {};
        for (int64_t r = 0; r < R; ++r)
          for (int i = 0; i < N; ++i) sum[i] += vec(memory + r * Kp + j + i * L) * vec(m.adjoint + r * Kp + j + i * L);
        for (int i = 0; i < N; ++i) vec(m.d_since + j + i * L) = sum[i];                        // M_C = M0 since + V^T Kend, for since
      });
    else pad_row(m.d_since, 0, Kp);
    if (g.per_channel) {
      for (int64_t j = 0; j < Kp; j += L) {
        sweep_channels(x, m, j, Kp, c, g.strict);
        ahead(1);
      }
    } else {
      ahead(1);
      sweep_heads(x, m, Kp, c, g.strict, p.d_log_decay != nullptr);
    }
    ahead(2);
    write_block(p, x, m, diagonal, b, h, t0, c, first_key);
    ahead(C);
    if (t0 == 0 && !p.d_memory_in) break;
    add_product(R, Kp, c, Operand<T>{m.dy.at, 1, m.dy.stride}, x.query, Kp, m.adjoint, Kp, x.since + c * Kp);   // M_C;  Y, for M0
  }
}

// Heads [first, first + count) of sequence b, chunk by chunk from the last.
template <class T> TTR_SIMD_INLINE void backward_heads(const DecayBackward<T>& p, T* slab, int64_t b, int64_t first, int64_t count) {
  const DecaySizes& n = p.size;
  const int64_t K = n.key_dim, R = n.rows(), Kp = padded(K), head = b * n.heads + first;
  const BackwardSlab<T> all(slab, n, count);
  for (int64_t i = 0; i < count; ++i)
    load_matrix(all.adjoint + i * R * Kp, Kp, p.d_memory_out ? p.d_memory_out + (head + i) * R * K : nullptr, K, R, K);
  pad_row(all.d_bonus, 0, count * Kp);
  for (int64_t chunk = n.chunks() - 1; chunk >= 0; --chunk)
    for (int64_t i = 0; i < count; ++i) {
      BackwardSlab<T> m = all;
      m.adjoint += i * R * Kp, m.d_bonus += i * Kp;
      const bool last = i + 1 == count;
      backward_chunk(p, m, b, first + i, chunk, last ? first : first + i + 1, last ? chunk - 1 : chunk);
    }
  for (int64_t i = 0; i < count; ++i) {
    if (p.d_memory_in) store_matrix(p.d_memory_in + (head + i) * R * K, K, all.adjoint + i * R * Kp, Kp, R, K);
    if (p.d_bonus) write_row(p.d_bonus + (head + i) * K, all.d_bonus + i * Kp, K, true);
  }
}

void forward_f32(const DecayForward<float>& p, float* slab, int64_t b, int64_t first, int64_t count) { forward_heads(p, slab, b, first, count); }
void forward_f64(const DecayForward<double>& p, double* slab, int64_t b, int64_t first, int64_t count) { forward_heads(p, slab, b, first, count); }
void backward_f32(const DecayBackward<float>& p, float* slab, int64_t b, int64_t first, int64_t count) { backward_heads(p, slab, b, first, count); }
void backward_f64(const DecayBackward<double>& p, double* slab, int64_t b, int64_t first, int64_t count) { backward_heads(p, slab, b, first, count); }

}  // namespace
}  // namespace ttr::TTR_SIMD_SET
