// CPU kernels of the stem `normal_equations`, f32 and f64: what the three ways to solve have in common (docs/layers/normal_equations.md).
//
// A worker walks the tokens of one head in spans: at most 64 tokens, inside one document and one refresh of the ridge. The moments H over F are
// carried from span to span; the solvers (normal_equations_chunk_cpu.cpp, _token_, _iteration_) answer a span from them. With x_r = A_r^{-1} q_r,
// s_r = A_r^{-1} F_r^T dy_r, D and since as in normal_equations_span.hpp, and B = (2 AH over AF) the adjoint of the moments that leave:
//   Y = since (X F0^T) + (pairs o X K^T) V                     pairs_rs = D_rs w_s; not needed by chunk
//   AF_t = sum_{r >= t} D_rt dy_r x_r^T + ...,   AH_t = -1/2 sum_{r >= t} D_rt (s_r x_r^T + x_r s_r^T) + ...
//   u_s = AF_s k_s,  z_s = AF_s^T v_s + 2 AH_s k_s:   dv = w u,  dk = w z,  dw = (k.z + v.u) / 2
//   d log_decay_t: every product of a pair before t and an adjoint from t on (moments), and what rho owes to it. Not the telescoping sum of
//   docs/layers/normal_equations.md, whose terms cancel
// Tasks are (sequence, group of heads that share key and value rows). CUDA twin: cuda/normal_equations.cu.
#include <ttr/layers/normal_equations_span.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ttr/core/blas.hpp>

namespace ttr {
namespace least_squares {
namespace {

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
template <class T> TTR_SIMD_INLINE T sum(const T* a, int64_t n) {
  T part[kLanes] = {}, all = 0;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) part[l] += a[i + l];
  for (; i < n; ++i) part[i % kLanes] += a[i];
  for (int64_t l = 0; l < kLanes; ++l) all += part[l];
  return all;
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

constexpr double kLeastSince = 0.25;

// What happens before a token.
enum Event : unsigned char { nothing = 0, document = 1, refresh = 2 };   // a document begins; the ridge is set anew

int64_t solver_slab(const NormalSizes& n, NormalMethod method, bool wide) {
  if (method == NormalMethod::chunk) return by_chunk_slab(n.key_dim, n.value_dim);
  return method == NormalMethod::token ? by_token_slab(n.key_dim, wide) : by_iteration_slab(n.key_dim);
}

template <class T> struct Slab {
  T *moments, *kv, *scaled, *between, *rho, *decay, *write, *x, *rows, *gram, *adjoint, *outer, *zu, *met, *solver;
  unsigned char* events;
  size_t count;
  Slab(T* at, const NormalSizes& n, NormalMethod method, bool backward) {
    const int64_t K = n.key_dim, W = n.key_dim + n.value_dim;
    Pieces<T> p{at};
    moments = p.take(W * K);       // H over F                                        [K + V, K]
    kv = p.take(C * W);            // key beside value                                [C, K + V]
    scaled = p.take(C * W);        // the same, weighed as they leave                 [C, K + V]
    between = p.take((C + 1) * C); // D                                               [C, C] behind a row of zeros
    rho = p.take(n.tokens);        // [T]
    decay = p.take(n.tokens);      // a [T]
    write = p.take(n.tokens);      // w [T]
    events = reinterpret_cast<unsigned char*>(p.take((n.tokens + int64_t(sizeof(T)) - 1) / int64_t(sizeof(T))));
    x = p.take((backward ? 2 : 1) * C * K);   // X over S                             [2C, K]
    gram = p.take((backward ? 2 : 1) * C * C);   // X K^T over dY V^T - S K^T         [2C, C]
    solver = p.take(solver_slab(n, method, sizeof(T) == 8));
    rows = adjoint = outer = zu = met = nullptr;
    if (backward) {
      rows = p.take(C * W);        // -S beside dY                                    [C, K + V]
      adjoint = p.take(W * K);     // 2 AH over AF                                    [K + V, K]
      outer = p.take(W * K);       // what a span adds to it                          [K + V, K]
      zu = p.take(C * W);          // z beside u                                      [C, K + V]
      met = p.take(C * C);         // what adjoint r says to pair s                   [C, C]
    }
    count = p.used;
  }
};

template <class T> TTR_SIMD_INLINE const T* row(const Rows<const T>& x, int64_t token, int64_t head, int64_t dim) {
  return x.at + token * x.token_stride + head * dim;
}
template <class T> TTR_SIMD_INLINE T* row(const Rows<T>& x, int64_t token, int64_t head, int64_t dim) {
  return x.at + token * x.token_stride + head * dim;
}

// One head on its way through the tokens.
template <class T> struct Head {
  const NormalProblem<T>& a;
  const Slab<T>& m;
  int64_t b, h, K, V, W, T_;
  int64_t begin = 0, count = 0;      // the span
  T since[C], rest[C];               // a_r ... a_0 and a_{c-1} ... a_{s+1} of the span
  Span<T> span;

  TTR_SIMD_INLINE Head(const NormalProblem<T>& arguments, const Slab<T>& slab, int64_t sequence, int64_t head)
      : a(arguments), m(slab), b(sequence), h(head), K(a.size.key_dim), V(a.size.value_dim), W(K + V), T_(a.size.tokens) {
    const NormalSizes& n = a.size;
    const int64_t first = b * n.tokens;
    T rho = 0;
    for (int64_t t = 0, place = a.first; t < T_; ++t, ++place) {
      unsigned char event = t == 0 ? document : nothing;
      if (t > 0 && a.documents && a.documents[first + t] != a.documents[first + t - 1]) event = document, place = 0;
      if (a.policy == RidgePolicy::refreshed && place % a.refresh == 0) event |= refresh;
      const int64_t gate = (first + t) * n.heads + h;
      const T decay = a.log_decay ? fast_exp(a.log_decay[gate]) : T(1), write = a.write ? a.write[gate] : T(1);
      m.decay[t] = decay, m.write[t] = write, m.events[t] = event;
      if (a.policy == RidgePolicy::relative) rho = (event & document ? T(0) : decay * rho) + write;
      else rho = (a.policy == RidgePolicy::constant ? T(1) : decay) * (event ? T(1) : rho);
      m.rho[t] = rho;
    }
  }

  // The tokens from t on that belong together, not beyond the 64 that share a saved state. The chunk form errs 1 / since times what rounding
  // errs, so there a span ends before since falls below kLeastSince: a matter of the tokens up to there, so what comes later changes nothing.
  TTR_SIMD_INLINE int64_t span_end(int64_t t) const {
    int64_t end = t + 1;
    T product = m.decay[t];
    while (end < T_ && end % C != 0 && !m.events[end]) {
      if (a.method == NormalMethod::chunk && (product *= m.decay[end]) < T(kLeastSince)) break;
      ++end;
    }
    return end;
  }

  TTR_SIMD_INLINE void load(int64_t from, int64_t to) {
    const NormalSizes& n = a.size;
    const int64_t key_head = h / (n.heads / n.key_heads), value_head = h / (n.heads / n.value_heads);
    begin = from, count = to - from;
    for (int64_t r = 0; r < count; ++r) {
      std::copy_n(row(a.k, b * T_ + begin + r, key_head, K), K, m.kv + r * W);
      std::copy_n(row(a.v, b * T_ + begin + r, value_head, V), V, m.kv + r * W + K);
    }
    T product = 1;
    T* __restrict last = m.between;
    std::fill_n(last, C, T(0));
    for (int64_t r = 0; r < count; ++r) {
      const T decay = m.decay[begin + r];
      product *= decay;
      since[r] = product;
      T* __restrict now = last + C;
      for (int64_t s = 0; s < C; ++s) now[s] = decay * last[s];
      now[r] = 1;
      last = now;
    }
    std::copy_n(last, C, rest);
    if (m.events[begin] & document) std::fill_n(m.moments, W * K, T(0));
    const bool reset = m.events[begin];
    span = {.count = count, .K = K, .V = V, .skip = std::clamp<int64_t>(n.past - begin, 0, count), .kv = m.kv, .moments = m.moments,
            .ridge = a.ridge + h * K, .rho = m.rho + begin,
            .rho_before = a.policy == RidgePolicy::constant || reset ? T(1) : m.rho[begin - 1], .write = m.write + begin, .since = since,
            .between = m.between + C};
  }

  TTR_SIMD_INLINE void absorb() {   // the span's pairs go into the moments
    const T* pairs = m.kv;
    if (a.log_decay || a.write) {
      for (int64_t r = 0; r < count; ++r) scaled_copy(m.scaled + r * W, m.kv + r * W, rest[r] * m.write[begin + r], W);
      pairs = m.scaled;
    }
    gemm<T>(true, false, W, K, count, T(1), pairs, W, m.kv, W, since[count - 1], m.moments, K);
  }

  TTR_SIMD_INLINE void pair_weights(T* __restrict gram, bool weighed) const {   // gram [c, C] o D, and o w; zero above the diagonal
    for (int64_t r = 0; r < count; ++r) {
      T* __restrict to = gram + r * C;
      const T* __restrict between = span.between + r * C;
      for (int64_t s = 0; s < count; ++s) to[s] = s <= r ? to[s] * between[s] : T(0);
      if (weighed)
        for (int64_t s = 0; s <= r; ++s) to[s] *= span.write[s];
    }
  }

  TTR_SIMD_INLINE void solve(T* x, int64_t sets) const {
    if (a.method == NormalMethod::token) solve_by_token(span, x, sets, m.solver);
    else solve_by_iteration(span, x, sets, a.steps, a.tolerance, m.solver);
  }

  TTR_SIMD_INLINE int64_t asked(int64_t r) const { return b * a.size.asked() + begin + r - a.size.past; }   // row of q, y, dq of token r of the span
};

template <class T> TTR_SIMD_INLINE void forward_head(const NormalForward<T>& a, T* at, int64_t b, int64_t h) {
  const NormalSizes& n = a.size;
  const Slab<T> m(at, n, a.method, false);
  Head<T> head(a, m, b, h);
  const int64_t K = head.K, V = head.V, W = head.W;
  std::fill_n(m.moments, W * K, T(0));
  for (int64_t begin = 0; begin < n.tokens;) {
    if (a.saved && begin % C == 0) std::copy_n(m.moments, W * K, a.saved + ((b * n.heads + h) * n.chunks() + begin / C) * W * K);
    head.load(begin, head.span_end(begin));
    const Span<T>& span = head.span;
    const int64_t c = span.count, skip = span.skip;
    if (skip < c) {
      const T* const q = row(a.q, head.asked(skip), h, K);
      T* const y = row(a.y, head.asked(skip), h, V);
      if (a.method == NormalMethod::chunk) {
        answer_by_chunk(span, q, a.q.token_stride, a.scale, y, a.y.token_stride, m.solver);
      } else {
        std::fill_n(m.x, skip * K, T(0));
        for (int64_t r = skip; r < c; ++r) scaled_copy(m.x + r * K, row(a.q, head.asked(r), h, K), a.scale, K);
        head.solve(m.x, 1);
        gemm<T>(false, true, c, c, K, T(1), m.x, K, m.kv, W, T(0), m.gram, C);
        head.pair_weights(m.gram, true);
        for (int64_t r = skip; r < c; ++r) scale_row(m.x + r * K, head.since[r], K);
        gemm<T>(false, true, c - skip, V, K, T(1), m.x + skip * K, K, m.moments + K * K, K, T(0), y, a.y.token_stride);
        gemm<T>(false, false, c - skip, V, c, T(1), m.gram + skip * C, C, m.kv + K, W, T(1), y, a.y.token_stride);
      }
    }
    begin += c;
    if (begin < n.tokens) head.absorb();
  }
}

// first_key, first_value: no head before this one wrote into the shared rows of dk, dv.
template <class T>
TTR_SIMD_INLINE void backward_head(const NormalBackward<T>& a, T* at, int64_t b, int64_t h, bool first_key, bool first_value) {
  const NormalSizes& n = a.size;
  const Slab<T> m(at, n, a.method, true);
  Head<T> head(a, m, b, h);
  const int64_t K = head.K, V = head.V, W = head.W, H = n.heads;
  const int64_t key_head = h / (H / n.key_heads), value_head = h / (H / n.value_heads);
  T* const d_ridge = a.d_ridge ? a.d_ridge + (b * H + h) * K : nullptr;
  const T* const ridge = a.ridge + h * K;
  T rho_flow = 0;                    // d rho through the rho's after it
  bool flows = false;                // the adjoint of the moments is not zero
  if (d_ridge) std::fill_n(d_ridge, K, T(0));

  for (int64_t end = n.tokens; end > 0;) {
    const int64_t chunk = (end - 1) / C;
    int64_t begin = chunk * C;
    std::copy_n(a.saved + ((b * H + h) * n.chunks() + chunk) * W * K, W * K, m.moments);
    for (int64_t next; (next = head.span_end(begin)) < end; begin = next) {   // the spans before the last one of this chunk
      head.load(begin, next);
      head.absorb();
    }
    head.load(begin, end);
    const Span<T>& span = head.span;
    const int64_t c = span.count, skip = span.skip;
    T* const X = m.x;
    T* const S = m.x + c * K;
    T* const dy = m.rows + K;   // rows W apart

    // x and s of every token, -s beside dy.
    std::fill_n(m.rows, skip * W, T(0));
    for (int64_t r = skip; r < c; ++r) std::copy_n(row(a.dy, head.asked(r), h, V), V, dy + r * W);
    if (skip == c) {
      std::fill_n(m.x, 2 * c * K, T(0));
    } else if (a.method == NormalMethod::chunk) {
      adjoint_by_chunk(span, row(a.q, head.asked(skip), h, K), a.q.token_stride, a.scale, dy, W, m.x, m.solver);
    } else {
      gemm<T>(false, true, c, c, V, T(1), dy, W, m.kv + K, W, T(0), m.gram, C);
      head.pair_weights(m.gram, true);
      gemm<T>(false, false, c, K, V, T(1), dy, W, m.moments + K * K, K, T(0), S, K);
      for (int64_t r = 0; r < c; ++r) scale_row(S + r * K, head.since[r], K);
      gemm<T>(false, false, c, K, c, T(1), m.gram, C, m.kv, W, T(1), S, K);                             // F_r^T dy_r
      std::fill_n(X, skip * K, T(0));
      for (int64_t r = skip; r < c; ++r) scaled_copy(X + r * K, row(a.q, head.asked(r), h, K), a.scale, K);
      head.solve(m.x, 2);
    }
    for (int64_t r = 0; r < c; ++r) scaled_copy(m.rows + r * W, S + r * K, T(-1), K);
    if (a.dq.at)
      for (int64_t r = skip; r < c; ++r) scaled_copy(row(a.dq, head.asked(r), h, K), S + r * K, a.scale, K);   // x = A^{-1} (scale q)

    // u and z: from the tokens of the span, and from those after it.
    T* const across = m.gram;              // D o X K^T
    T* const inside = m.gram + c * C;      // D o (dY V^T - S K^T)
    gemm<T>(false, true, c, c, K, T(1), X, K, m.kv, W, T(0), across, C);
    gemm<T>(false, true, c, c, W, T(1), m.rows, W, m.kv, W, T(0), inside, C);
    head.pair_weights(across, false);
    if (a.d_log_decay)
      for (int64_t r = 0; r < c; ++r)
        for (int64_t s = 0; s < c; ++s) m.met[r * C + s] = across[r * C + s] * inside[r * C + s] * span.write[s];
    head.pair_weights(inside, false);
    T left[C] = {}, came[C + 1] = {}, cross = 0;   // what pair s gives to adjoints after the span, adjoint r to moments before it, those to these
    if (a.d_log_decay) {
      gemm<T>(false, true, c, W, K, T(1), X, K, m.moments, K, T(0), m.zu, W);
      for (int64_t r = 0; r < c; ++r) came[r] = head.since[r] * dot(m.rows + r * W, m.zu + r * W, W);
      if (flows) cross = head.since[c - 1] * (T(0.5) * dot(m.moments, m.adjoint, K * K) + dot(m.moments + K * K, m.adjoint + K * K, V * K));
    }
    if (flows) {
      gemm<T>(false, false, c, K, W, T(1), m.kv, W, m.adjoint, K, T(0), m.zu, W);                       // F_C, H_C = ... + rest w (v, k) k^T, for v and k
      gemm<T>(false, true, c, V, K, T(1), m.kv, W, m.adjoint + K * K, K, T(0), m.zu + K, W);            // F_C = ... + rest w v k^T
      for (int64_t s = 0; s < c; ++s) {
        if (a.log_decay) scale_row(m.zu + s * W, head.rest[s], W);
        if (a.d_log_decay) left[s] = span.write[s] * T(0.5) * dot(m.kv + s * W, m.zu + s * W, W);
      }
    }
    gemm<T>(true, false, c, W, c, T(1), across, C, m.rows, W, flows ? T(1) : T(0), m.zu, W);            // y_r = F_r x_r;  H_r x_r
    gemm<T>(true, false, c, K, c, T(1), inside, C, X, K, T(1), m.zu, W);                                // y_r = F_r x_r;  s_r.H_r
    for (int64_t s = 0; s < c; ++s) {
      const int64_t token = b * n.tokens + begin + s;
      const T w = span.write[s];
      if (a.dk.at) {
        T* const to = row(a.dk, token, key_head, K);
        if (first_key) scaled_copy(to, m.zu + s * W, w, K);                                             // w v k^T and w k k^T, for k
        else add_scaled(to, m.zu + s * W, w, K);                                                        // the same, the next head of the group
      }
      if (a.dv.at) {
        T* const to = row(a.dv, token, value_head, V);
        if (first_value) scaled_copy(to, m.zu + s * W + K, w, V);                                       // w v k^T, for v
        else add_scaled(to, m.zu + s * W + K, w, V);                                                    // the same, the next head of the group
      }
    }

    T later = 0, columns[C] = {}, before = std::accumulate(left, left + c, T(0));   // sums of came from r on, of met's columns, of left before r
    for (int64_t r = c - 1; r >= 0; --r) {   // gates and ridge, from the last token
      const int64_t t = begin + r, gate = (b * n.tokens + t) * H + h;
      const T* __restrict x = X + r * K;
      const T* __restrict minus_s = m.rows + r * W;
      for (int64_t j = 0; j < K; ++j) m.outer[j] = minus_s[j] * x[j];
      const T d_rho = dot(ridge, m.outer, K);                                                           // A = H + rho diag(ridge), for rho
      if (d_ridge)
        add_scaled(d_ridge, m.outer, m.rho[t], K);                                                      // A = H + rho diag(ridge), for ridge
      if (!a.d_write && !a.d_log_decay) continue;
      T d_write = T(0.5) * dot(m.kv + r * W, m.zu + r * W, W);                                          // w v k^T and w k k^T, for w
      T d_log = 0, through_rho = 0;
      if (a.d_log_decay) {
        later += came[r], before -= left[r];
        for (int64_t s = 0; s < c; ++s) columns[s] += m.met[r * C + s];
        d_log += sum(columns, r);
        d_log += later + before + cross;                                                                // F_t = a F_{t-1} + ..., H_t likewise
      }
      rho_flow += d_rho;
      if (a.policy == RidgePolicy::relative) {
        d_write += rho_flow;                                                                            // rho_t = a rho_{t-1} + w
        through_rho = (m.rho[t] - span.write[r]) * rho_flow;                                            // rho_t = a rho_{t-1} + w, for log a
        rho_flow *= m.decay[t];
      } else if (a.policy != RidgePolicy::constant) {
        through_rho = m.rho[t] * rho_flow;                                                              // rho_t = a rho_{t-1}, for log a
        rho_flow *= m.decay[t];
      }
      if (m.events[t]) rho_flow = 0;
      if (a.d_write) a.d_write[gate] = d_write;
      if (a.d_log_decay) a.d_log_decay[gate] = d_log + through_rho;
    }

    // The adjoint of the moments that entered.
    if (m.events[begin] & document) {
      flows = false;
    } else {
      for (int64_t r = 0; r < c && a.log_decay; ++r) scale_row(m.rows + r * W, head.since[r], W);
      gemm<T>(true, false, W, K, c, T(1), m.rows, W, X, K, T(0), m.outer, K);                           // y = F x;  s.(H x)
      const T through = head.since[c - 1];
      for (int64_t i = 0; i < K; ++i)
        for (int64_t j = 0; j < K; ++j) {
          const T both = m.outer[i * K + j] + m.outer[j * K + i];
          m.adjoint[i * K + j] = flows ? through * m.adjoint[i * K + j] + both : both;                  // H_C = since H_0 + ...
        }
      for (int64_t i = K * K; i < W * K; ++i) m.adjoint[i] = flows ? through * m.adjoint[i] + m.outer[i] : m.outer[i];   // F_C = since F_0 + ...
      flows = true;
    }
    end = begin;
  }
}

TTR_SIMD_CLONES void forward_head_f32(const NormalForward<float>& a, float* slab, int64_t b, int64_t h) { forward_head(a, slab, b, h); }
void forward_head_f64(const NormalForward<double>& a, double* slab, int64_t b, int64_t h) { forward_head(a, slab, b, h); }
TTR_SIMD_CLONES void backward_head_f32(const NormalBackward<float>& a, float* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  backward_head(a, slab, b, h, first_key, first_value);
}
void backward_head_f64(const NormalBackward<double>& a, double* slab, int64_t b, int64_t h, bool first_key, bool first_value) {
  backward_head(a, slab, b, h, first_key, first_value);
}

template <class T> bool problem_holds(const NormalProblem<T>& a) {
  const NormalSizes& n = a.size;
  return heads_hold(n) && n.past >= 0 && n.past <= n.tokens && (a.policy != RidgePolicy::refreshed || a.refresh > 0) &&
         (a.method != NormalMethod::chunk || follows_by_rank_one(a.policy, a.log_decay));
}

template <class T> size_t slab_of(const NormalProblem<T>& a, bool backward) { return Slab<T>(nullptr, a.size, a.method, backward).count; }

}  // namespace
}  // namespace least_squares

namespace cpu {

using namespace least_squares;

template <class T> size_t normal_equations_workspace(const NormalForward<T>& a) { return slabs_bytes<T>(a.size.batch * a.size.heads, slab_of(a, false)); }
template <class T> size_t normal_equations_workspace(const NormalBackward<T>& a) {
  return slabs_bytes<T>(a.size.batch * head_groups(a.size), slab_of(a, true));
}

template <class T> Status normal_equations_forward(const NormalForward<T>& a, Workspace work) {
  const NormalSizes& n = a.size;
  if (!problem_holds(a)) return Status::bad_size;
  return share_tasks<T>(n.batch * n.heads, slab_of(a, false), work, [&](int64_t task, T* slab) {
    if constexpr (sizeof(T) == 4) forward_head_f32(a, slab, task / n.heads, task % n.heads);
    else forward_head_f64(a, slab, task / n.heads, task % n.heads);
  });
}

template <class T> Status normal_equations_backward(const NormalBackward<T>& a, Workspace work) {
  const NormalSizes& n = a.size;
  if (!problem_holds(a)) return Status::bad_size;
  const int64_t count = head_groups(n), together = n.heads / count, per_key = n.heads / n.key_heads, per_value = n.heads / n.value_heads;
  return share_tasks<T>(n.batch * count, slab_of(a, true), work, [&](int64_t task, T* slab) {
    for (int64_t h = task % count * together; h < (task % count + 1) * together; ++h) {
      if constexpr (sizeof(T) == 4) backward_head_f32(a, slab, task / count, h, h % per_key == 0, h % per_value == 0);
      else backward_head_f64(a, slab, task / count, h, h % per_key == 0, h % per_value == 0);
    }
  });
}

template size_t normal_equations_workspace<float>(const NormalForward<float>&);
template size_t normal_equations_workspace<double>(const NormalForward<double>&);
template size_t normal_equations_workspace<float>(const NormalBackward<float>&);
template size_t normal_equations_workspace<double>(const NormalBackward<double>&);
template Status normal_equations_forward<float>(const NormalForward<float>&, Workspace);
template Status normal_equations_forward<double>(const NormalForward<double>&, Workspace);
template Status normal_equations_backward<float>(const NormalBackward<float>&, Workspace);
template Status normal_equations_backward<double>(const NormalBackward<double>&, Workspace);

}  // namespace cpu
}  // namespace ttr
