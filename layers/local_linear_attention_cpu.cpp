// Local linear attention on the CPU: the blocks of softmax attention, with a solve a query between the weights and the answer.
//
//   P = exp(S + bias - lse),  M = P^T K,  u_t = C_t^{-1} (q_t - mu_t),  Y = (P o (1 + c.u)) V         C_t = sum_i p_i c_i c_i^T + lambda I
//
// A block's weights against all keys are kept, [keys, width], since the solve reads them again and again. Every number of a query lies in a
// column, so 16 solves advance together, lane by lane. Two ways to solve, chosen by what they cost (docs/layers/local_linear_attention.md):
//   K <= kDirect   the products k_a k_b of a key, a <= b, in a row [K (K + 1) / 2]: all C_t of the block are one product with P; then Cholesky
//   otherwise      conjugate gradients: C_t x = sum_i p_i (c_i.x) c_i + lambda x is two products with the keys, [n, K] and its transpose
// The gradient solves once more with the same C_t (implicit differentiation) and never through the iterations.
#include <ttr/layers/local_linear_attention_kernel.hpp>

#include <cmath>

#include <ttr/core/blas.hpp>
#include <ttr/layers/attention_blocks.hpp>

namespace ttr::cpu {
namespace {

using namespace attention;

constexpr int64_t kDirect = kLocalLinearDirect;
// Conjugate gradients stop when the residual is this much smaller than the right-hand side.
template <class T> constexpr T kResidual = sizeof(T) == 4 ? T(3e-7) : T(1e-14);
int64_t most_steps(int64_t key_dim) { return 2 * key_dim + 16; }   // rounding makes some more than K

int64_t pairs_of(int64_t key_dim) { return key_dim * (key_dim + 1) / 2; }
TTR_SIMD_INLINE int64_t pair_at(int64_t i, int64_t j) { return i * (i + 1) / 2 + j; }   // j <= i

// ---- loops over columns, one clone per instruction set; everything [.., width], a query in each column ----

template <class T> TTR_SIMD_INLINE void multiply_columns_of(T* x, int64_t n, int64_t width, const T* factor) {
  for (int64_t r = 0; r < n; ++r, x += width)
    for (int64_t c = 0; c < width; ++c) x[c] *= factor[c];
}

template <class T> TTR_SIMD_INLINE void multiply_by_of(T* x, const T* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= y[i];
}

template <class T>   // out [width] = the sum over rows of a o b
TTR_SIMD_INLINE void dot_columns_of(const T* a, const T* b, int64_t rows, int64_t width, T* out) {
  for (int64_t c = 0; c < width; c += kSimdLanes) {
    T sum[kSimdLanes] = {};
    for (int64_t d = 0; d < rows; ++d)
      for (int64_t l = 0; l < kSimdLanes; ++l) sum[l] += a[d * width + c + l] * b[d * width + c + l];
    for (int64_t l = 0; l < kSimdLanes; ++l) out[c + l] = sum[l];
  }
}

template <class T>   // x [n, width], keys against a direction, becomes p o (x - centre)
TTR_SIMD_INLINE void weigh_centred_of(T* __restrict__ x, const T* __restrict__ p, int64_t n, int64_t width, const T* __restrict__ centre) {
  for (int64_t r = 0; r < n; ++r, x += width, p += width)
    for (int64_t c = 0; c < width; ++c) x[c] = p[c] * (x[c] - centre[c]);
}

template <class T>   // x [n, width], keys against the slope, becomes the smoother's weights p o (1 + x - centre)
TTR_SIMD_INLINE void smooth_of(T* __restrict__ x, const T* __restrict__ p, int64_t n, int64_t width, const T* __restrict__ centre) {
  for (int64_t r = 0; r < n; ++r, x += width, p += width)
    for (int64_t c = 0; c < width; ++c) x[c] = p[c] * (1 + x[c] - centre[c]);
}

// One step of conjugate gradients in every column whose squared residual rr is above its goal: image is C direction without the ridge.
// All [K, width], scalars [width]. Returns whether a column goes on.
template <class T>
TTR_SIMD_INLINE bool step_of(T* __restrict__ x, T* __restrict__ residual, T* __restrict__ direction, T* __restrict__ image, int64_t K,
                             int64_t width, const T* __restrict__ ridge, const T* __restrict__ goal, T* __restrict__ rr) {
  bool on = false;
  for (int64_t c = 0; c < width; c += kSimdLanes) {
    T curve[kSimdLanes] = {}, alpha[kSimdLanes], beta[kSimdLanes], next[kSimdLanes] = {};
    for (int64_t d = 0; d < K; ++d)
      for (int64_t l = 0; l < kSimdLanes; ++l) {
        const int64_t at = d * width + c + l;
        image[at] += ridge[c + l] * direction[at];
        curve[l] += direction[at] * image[at];
      }
    for (int64_t l = 0; l < kSimdLanes; ++l) {
      const bool going = rr[c + l] > goal[c + l] && curve[l] > 0;
      alpha[l] = going ? rr[c + l] / curve[l] : T(0);
    }
    for (int64_t d = 0; d < K; ++d)
      for (int64_t l = 0; l < kSimdLanes; ++l) {
        const int64_t at = d * width + c + l;
        x[at] += alpha[l] * direction[at];
        residual[at] -= alpha[l] * image[at];
        next[l] += residual[at] * residual[at];
      }
    for (int64_t l = 0; l < kSimdLanes; ++l) {
      beta[l] = rr[c + l] > 0 ? next[l] / rr[c + l] : T(0);
      rr[c + l] = alpha[l] > 0 ? next[l] : T(0);
      on |= rr[c + l] > goal[c + l];
    }
    for (int64_t d = 0; d < K; ++d)
      for (int64_t l = 0; l < kSimdLanes; ++l) direction[d * width + c + l] = residual[d * width + c + l] + beta[l] * direction[d * width + c + l];
  }
  return on;
}

template <class T>   // k [n, K] -> pairs [n, K (K + 1) / 2]
TTR_SIMD_INLINE void multiply_pairs_of(const T* k, int64_t k_step, int64_t n, int64_t K, T* pairs) {
  for (int64_t r = 0; r < n; ++r, k += k_step)
    for (int64_t i = 0; i < K; ++i)
      for (int64_t j = 0; j <= i; ++j) *pairs++ = k[i] * k[j];
}

// moments [K (K + 1) / 2, width] = sum p k k^T becomes the Cholesky factor of C, its diagonal inverted; x [K, width] the solution.
template <class T>
TTR_SIMD_INLINE void solve_columns_of(T* __restrict__ moments, const T* __restrict__ mean, const T* __restrict__ ridge, int64_t K, int64_t width,
                                      T* __restrict__ x) {
  for (int64_t c = 0; c < width; c += kSimdLanes) {
    T sum[kSimdLanes];
    const auto at = [&](int64_t i, int64_t j) { return moments + pair_at(i, j) * width + c; };
    for (int64_t i = 0; i < K; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        T* const l_ij = at(i, j);
        for (int64_t l = 0; l < kSimdLanes; ++l)
          sum[l] = l_ij[l] - mean[i * width + c + l] * mean[j * width + c + l] + (i == j ? ridge[c + l] : T(0));
        for (int64_t m = 0; m < j; ++m)
          for (int64_t l = 0; l < kSimdLanes; ++l) sum[l] -= at(i, m)[l] * at(j, m)[l];
        for (int64_t l = 0; l < kSimdLanes; ++l) l_ij[l] = i == j ? 1 / std::sqrt(sum[l]) : sum[l] * at(j, j)[l];
      }
    for (int64_t i = 0; i < K; ++i) {            // L z = b
      for (int64_t l = 0; l < kSimdLanes; ++l) sum[l] = x[i * width + c + l];
      for (int64_t m = 0; m < i; ++m)
        for (int64_t l = 0; l < kSimdLanes; ++l) sum[l] -= at(i, m)[l] * x[m * width + c + l];
      for (int64_t l = 0; l < kSimdLanes; ++l) x[i * width + c + l] = sum[l] * at(i, i)[l];
    }
    for (int64_t i = K - 1; i >= 0; --i) {       // L^T x = z
      for (int64_t l = 0; l < kSimdLanes; ++l) sum[l] = x[i * width + c + l];
      for (int64_t m = i + 1; m < K; ++m)
        for (int64_t l = 0; l < kSimdLanes; ++l) sum[l] -= at(m, i)[l] * x[m * width + c + l];
      for (int64_t l = 0; l < kSimdLanes; ++l) x[i * width + c + l] = sum[l] * at(i, i)[l];
    }
  }
}

// What every pair's gradients are made of: [width] each, a number a query.
template <class T> struct Centres { const T *slope, *answer, *gradient, *shrink; };   // mu.u, sum p G, mu.x, lambda x.u (0: an absolute ridge)

// p, g = dy.v: [n, width]; lines [n, 2 width]: k.u and k.x. Out [n, 3 width]: a = dl, w = p (g - mean g - c.x), s = p (1 + c.u).
template <class T>
TTR_SIMD_INLINE void differentiate_of(const T* __restrict__ p, const T* __restrict__ g, const T* __restrict__ lines, int64_t n, int64_t width,
                                      const Centres<T>& of, T* __restrict__ out) {
  for (int64_t r = 0; r < n; ++r, p += width, g += width, lines += 2 * width, out += 3 * width)
    for (int64_t c = 0; c < width; ++c) {
      const T line = 1 + lines[c] - of.slope[c];
      const T w = p[c] * (g[c] - of.answer[c] - (lines[width + c] - of.gradient[c]));
      out[c] = w * line - p[c] * of.shrink[c];
      out[width + c] = w;
      out[2 * width + c] = p[c] * line;
    }
}

TTR_SIMD_CLONES void multiply_by(float* x, const float* y, int64_t n) {
  multiply_by_of(x, y, n);
}
void multiply_by(double* x, const double* y, int64_t n) {
  multiply_by_of(x, y, n);
}
TTR_SIMD_CLONES void multiply_columns(float* x, int64_t n, int64_t width, const float* factor) {
  multiply_columns_of(x, n, width, factor);
}
void multiply_columns(double* x, int64_t n, int64_t width, const double* factor) {
  multiply_columns_of(x, n, width, factor);
}
TTR_SIMD_CLONES void dot_columns(const float* a, const float* b, int64_t rows, int64_t width, float* out) {
  dot_columns_of(a, b, rows, width, out);
}
void dot_columns(const double* a, const double* b, int64_t rows, int64_t width, double* out) {
  dot_columns_of(a, b, rows, width, out);
}
TTR_SIMD_CLONES void weigh_centred(float* x, const float* p, int64_t n, int64_t width, const float* centre) {
  weigh_centred_of(x, p, n, width, centre);
}
void weigh_centred(double* x, const double* p, int64_t n, int64_t width, const double* centre) {
  weigh_centred_of(x, p, n, width, centre);
}
TTR_SIMD_CLONES void smooth(float* x, const float* p, int64_t n, int64_t width, const float* centre) {
  smooth_of(x, p, n, width, centre);
}
void smooth(double* x, const double* p, int64_t n, int64_t width, const double* centre) {
  smooth_of(x, p, n, width, centre);
}
TTR_SIMD_CLONES bool step(float* x, float* residual, float* direction, float* image, int64_t K, int64_t width, const float* ridge, const float* goal,
                          float* rr) {
  return step_of(x, residual, direction, image, K, width, ridge, goal, rr);
}
bool step(double* x, double* residual, double* direction, double* image, int64_t K, int64_t width, const double* ridge, const double* goal,
                          double* rr) {
  return step_of(x, residual, direction, image, K, width, ridge, goal, rr);
}
TTR_SIMD_CLONES void multiply_pairs(const float* k, int64_t k_step, int64_t n, int64_t K, float* pairs) {
  multiply_pairs_of(k, k_step, n, K, pairs);
}
void multiply_pairs(const double* k, int64_t k_step, int64_t n, int64_t K, double* pairs) {
  multiply_pairs_of(k, k_step, n, K, pairs);
}
TTR_SIMD_CLONES void solve_columns(float* moments, const float* mean, const float* ridge, int64_t K, int64_t width, float* x) {
  solve_columns_of(moments, mean, ridge, K, width, x);
}
void solve_columns(double* moments, const double* mean, const double* ridge, int64_t K, int64_t width, double* x) {
  solve_columns_of(moments, mean, ridge, K, width, x);
}
TTR_SIMD_CLONES void differentiate_pairs(const float* p, const float* g, const float* lines, int64_t n, int64_t width, const Centres<float>& of,
                                         float* out) {
  differentiate_of(p, g, lines, n, width, of, out);
}
void differentiate_pairs(const double* p, const double* g, const double* lines, int64_t n, int64_t width, const Centres<double>& of,
                                         double* out) {
  differentiate_of(p, g, lines, n, width, of, out);
}

// ---- scratch ----

template <class T> struct BlockScratch {   // of both passes: the block's weights, and the solve
  T* weights;                        // [keys, kQueries]: P
  T* products;                       // [kKeys, kQueries]
  T *queries, *mean, *x;             // [K, kQueries]: q, mu, the solution
  T *residual, *direction, *image;   // [K, kQueries], or
  T *moments, *pairs;                // [K (K + 1) / 2, kQueries], [kKeys, K (K + 1) / 2]: of the direct solve
  T *top, *sum, *ridge, *centre, *rr, *goal;   // [kQueries]
  T* biases;                         // [kKeys]
  int32_t* segments;                 // [kQueries]
  int64_t* starts;                   // [keys / kKeys, rounded up]: where the visited blocks of keys begin

  BlockScratch(Pieces& from, const AttentionSizes& size) {
    const int64_t K = size.key_dim, step = K <= kDirect ? 0 : K * kQueries, pairs_a_key = K <= kDirect ? pairs_of(K) : 0;
    weights = from.take<T>(size.keys * kQueries);
    products = from.take<T>(kKeys * kQueries);
    for (T** columns : {&queries, &mean, &x}) *columns = from.take<T>(K * kQueries);
    for (T** columns : {&residual, &direction, &image}) *columns = from.take<T>(step);
    moments = from.take<T>(pairs_a_key * kQueries), pairs = from.take<T>(kKeys * pairs_a_key);
    for (T** number : {&top, &sum, &ridge, &centre, &rr, &goal}) *number = from.take<T>(kQueries);
    biases = from.take<T>(kKeys);
    segments = from.take<int32_t>(kQueries);
    starts = from.take<int64_t>((size.keys + kKeys - 1) / kKeys);
  }
};

template <class T> struct ForwardScratch : BlockScratch<T> {
  T* answers;   // [kQueries, V]

  ForwardScratch(Pieces& from, const AttentionSizes& size) : BlockScratch<T>(from, size), answers(from.take<T>(kQueries * size.value_dim)) {}
};

template <class T> struct BackwardScratch : BlockScratch<T> {
  T* gains;             // [keys, kQueries]: G = dy.v
  T* lines;             // [kKeys, 2 kQueries]: k.u, k.x
  T* parts;             // [kKeys, 3 kQueries]: a, w, s
  T* slopes;            // [K, 2 kQueries]: u, x
  T* d_answers;         // [V, kQueries]
  T* stack;             // [3 kQueries, K]: scale q, u, -x
  T *dy, *dq, *sum_k;   // [kQueries, V], [kQueries, K], [kQueries, K]: dy, x in rows, sum_i a_i k_i
  T *answer, *gradient, *shrink;   // [kQueries]

  BackwardScratch(Pieces& from, const AttentionSizes& size) : BlockScratch<T>(from, size) {
    const int64_t K = size.key_dim, V = size.value_dim;
    gains = from.take<T>(size.keys * kQueries);
    lines = from.take<T>(kKeys * 2 * kQueries), parts = from.take<T>(kKeys * 3 * kQueries);
    slopes = from.take<T>(K * 2 * kQueries), d_answers = from.take<T>(V * kQueries), stack = from.take<T>(3 * kQueries * K);
    dy = from.take<T>(kQueries * V), dq = from.take<T>(kQueries * K), sum_k = from.take<T>(kQueries * K);
    for (T** number : {&answer, &gradient, &shrink}) *number = from.take<T>(kQueries);
  }
};

// ---- the solve ----

// The keys that a block of queries sees, as runs of at most kKeys.
template <class T> struct Seen {
  const KeyRows<T>& keys;
  const int64_t* starts;
  int64_t runs, end;

  template <class F> void each(F&& f) const {   // f(k0, n, k [n, K], fresh)
    for (int64_t i = 0; i < runs; ++i) f(starts[i], std::min(kKeys, end - starts[i]), keys.k + starts[i] * keys.k_step, i == 0);
  }
};

// out [dim, width] = the sum over seen keys of x_i weights_i, x [.., dim] at stride x_step
template <class T>
void sum_over_keys(int64_t dim, int64_t width, int64_t n, const T* x, int64_t x_step, const T* weights, bool fresh, T* out) {
  gemm<T>(true, false, dim, width, n, 1, x, x_step, weights, width, fresh ? 0 : 1, out, width);
}

// w.x [K, width] holds b and becomes C^{-1} b.
template <class T> void solve(const Seen<T>& seen, int64_t K, int64_t width, const BlockScratch<T>& w) {
  if (seen.runs == 0) return void(std::fill_n(w.x, K * width, T(0)));
  if (K <= kDirect) {
    const int64_t pairs = pairs_of(K);
    seen.each([&](int64_t k0, int64_t n, const T* k, bool fresh) {
      multiply_pairs(k, seen.keys.k_step, n, K, w.pairs);
      sum_over_keys(pairs, width, n, w.pairs, pairs, w.weights + k0 * width, fresh, w.moments);
    });
    return solve_columns(w.moments, w.mean, w.ridge, K, width, w.x);
  }
  std::copy_n(w.x, K * width, w.residual);
  std::copy_n(w.x, K * width, w.direction);
  std::fill_n(w.x, K * width, T(0));
  dot_columns(w.residual, w.residual, K, width, w.rr);
  bool on = false;
  for (int64_t c = 0; c < width; ++c) {
    w.goal[c] = kResidual<T> * kResidual<T> * w.rr[c];
    on |= w.rr[c] > 0;
  }
  for (int64_t steps = most_steps(K); on && steps > 0; --steps) {
    dot_columns(w.mean, w.direction, K, width, w.centre);
    seen.each([&](int64_t k0, int64_t n, const T* k, bool fresh) {
      gemm<T>(false, false, n, width, K, 1, k, seen.keys.k_step, w.direction, width, 0, w.products, width);
      weigh_centred(w.products, w.weights + k0 * width, n, width, w.centre);
      sum_over_keys(K, width, n, k, seen.keys.k_step, w.products, fresh, w.image);
    });
    on = step(w.x, w.residual, w.direction, w.image, K, width, w.ridge, w.goal, w.rr);
  }
}

// ---- one block of queries ----

// The logits of all keys seen, masked, in w.weights, and their largest in w.top. q's rows stand in w.queries.
template <class T, class A> Seen<T> score(const QueryBlock<A>& q, const KeyRows<T>& keys, const BlockScratch<T>& w) {
  const A& a = q.a;
  const T scale = head_scale(a, q.h);
  int64_t runs = 0;
  std::fill_n(w.top, q.width, -std::numeric_limits<T>::infinity());
  visit_keys<T>(q, keys, nullptr, w.segments, w.biases, [&](int64_t k0, const Mask& mask, const T* bias) {
    T* const s = w.weights + k0 * q.width;
    gemm<T>(false, false, mask.n, q.width, a.size.key_dim, scale, keys.k + k0 * keys.k_step, keys.k_step, w.queries, q.width, 0, s, q.width);
    mask_and_raise(s, mask, bias, w.top);
    w.starts[runs++] = k0;
  });
  return {keys, w.starts, runs, q.end};
}
// The logits become exp(logit - against), and w.sum their sums.
template <class T, class A> void weigh(const QueryBlock<A>& q, const KeyRows<T>& keys, const T* against, const BlockScratch<T>& w) {
  std::fill_n(w.sum, q.width, T(0));
  visit_keys<T>(q, keys, nullptr, w.segments, w.biases, [&](int64_t k0, const Mask& mask, const T* bias) {
    exponentiate(w.weights + k0 * q.width, mask, bias, against, w.sum);
  });
}

// lambda of a query, from its log-sum-exp; one that sees nothing has no weights to be relative to.
template <class T, class A> T ridge_of(const A& a, int64_t h, T lse) {
  if (!a.absolute) return a.ridge[h];
  return lse == -std::numeric_limits<T>::infinity() ? T(1) : a.ridge[h] * std::exp(-lse);
}

template <class T> void answer_block(const QueryBlock<LocalLinearForward<T>>& q, const KeyRows<T>& keys, const ForwardScratch<T>& w) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const LocalLinearForward<T>& a = q.a;
  const int64_t K = a.size.key_dim, V = a.size.value_dim, rows = q.rows, width = q.width;

  transpose(row(a.q, q.query, q.h, K), a.q.token_stride, rows, width, K, w.queries);
  const Seen<T> seen = score<T>(q, keys, w);
  for (int64_t c = 0; c < width; ++c) w.top[c] = w.top[c] == -kInfinity ? T(0) : w.top[c];   // exp(-inf - 0), not exp(-inf + inf)
  weigh<T>(q, keys, w.top, w);
  for (int64_t c = 0; c < width; ++c) {
    const T lse = w.sum[c] == 0 ? -kInfinity : w.top[c] + std::log(w.sum[c]);
    w.ridge[c] = ridge_of<T>(a, q.h, lse);
    w.centre[c] = w.sum[c] == 0 ? T(0) : 1 / w.sum[c];
    if (a.lse && c < rows) a.lse[q.number + c] = lse + T(q.shift(c));
  }
  if (seen.runs == 0) std::fill_n(w.mean, K * width, T(0));
  seen.each([&](int64_t k0, int64_t n, const T* k, bool fresh) {
    T* const p = w.weights + k0 * width;
    multiply_columns(p, n, width, w.centre);
    sum_over_keys(K, width, n, k, keys.k_step, p, fresh, w.mean);
  });

  for (int64_t i = 0; i < K * width; ++i) w.x[i] = w.queries[i] - w.mean[i];
  solve<T>(seen, K, width, w);                                                          // u
  if (a.mean) {
    transpose(w.mean, width, K, K, rows, a.mean + q.number * K);
    transpose(w.x, width, K, K, rows, a.slope + q.number * K);
  }

  dot_columns(w.mean, w.x, K, width, w.centre);
  if (seen.runs == 0) std::fill_n(w.answers, rows * V, T(0));
  seen.each([&](int64_t k0, int64_t n, const T* k, bool fresh) {
    gemm<T>(false, false, n, width, K, 1, k, keys.k_step, w.x, width, 0, w.products, width);
    smooth(w.products, w.weights + k0 * width, n, width, w.centre);
    gemm<T>(true, false, rows, V, n, 1, w.products, width, keys.v + k0 * keys.v_step, keys.v_step, fresh ? 0 : 1, w.answers, V);
  });
  T* const y = row(a.y, q.query, q.h, V);                                               // [rows, V]
  for (int64_t t = 0; t < rows; ++t) std::copy_n(w.answers + t * V, V, y + t * a.y.token_stride);
}

// ---- one head backward ----

template <class T>
void differentiate_head(const LocalLinearBackward<T>& a, int64_t b, int64_t h, const KeyRows<T>& keys, const KeyGradients<T>& to,
                        const BackwardScratch<T>& w) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const AttentionSizes& size = a.size;
  const int64_t K = size.key_dim, V = size.value_dim;
  const T scale = head_scale(a, h);
  double* const d_bias = a.d_key_bias ? a.d_key_bias + b * size.keys * size.heads + h : nullptr;   // [keys], size.heads apart

  // The last block of queries comes first: it sees every key that any sees and starts dk and dv, unless a document hides a block from it.
  const int64_t last = (blocks_of(size) - 1) * block_of(size);
  for (int64_t i = a.query_segments ? 0 : Sight(size, a.strict).end(size.tokens - 1); i < size.keys; ++i) {
    if (to.dk) std::fill_n(to.dk + i * to.dk_step, K, T(0));
    if (to.dv) std::fill_n(to.dv + i * to.dv_step, V, T(0));
  }
  if (d_bias)
    for (int64_t i = 0; i < size.keys; ++i) d_bias[i * size.heads] = 0;

  for (int64_t t0 = last; t0 >= 0; t0 -= block_of(size)) {
    const T started = t0 == last && !a.query_segments ? T(0) : T(1);
    const QueryBlock<LocalLinearBackward<T>> block{a, b, h, t0};
    const int64_t rows = block.rows, width = block.width;
    const T* const q = row(a.q, block.query, h, K);                                     // [rows, K]
    const T* const dy = row(a.dy, block.query, h, V);                                   // [rows, V]
    const T* const mean = a.mean + block.number * K;                                    // [rows, K]
    const T* const slope = a.slope + block.number * K;                                  // [rows, K]
    transpose(q, a.q.token_stride, rows, width, K, w.queries);
    transpose(dy, a.dy.token_stride, rows, width, V, w.d_answers);
    transpose(mean, K, rows, width, K, w.mean);
    for (int64_t t = 0; t < rows; ++t) std::copy_n(dy + t * a.dy.token_stride, V, w.dy + t * V);

    const Seen<T> seen = score<T>(block, keys, w);                                      // S = scale Q K^T, computed anew
    for (int64_t c = 0; c < width; ++c) {
      const T lse = c < rows ? a.lse[block.number + c] : -kInfinity;
      w.top[c] = lse == -kInfinity ? kInfinity : lse - T(block.shift(c));               // a query that saw nothing: P = exp(-inf) = 0
      w.ridge[c] = ridge_of<T>(a, h, lse);
    }
    weigh<T>(block, keys, w.top, w);                                                          // P = exp(S + bias - lse)

    // h = sum p G c with G = dy.v, and x = C^{-1} h
    if (seen.runs == 0) std::fill_n(w.x, K * width, T(0));
    std::fill_n(w.answer, width, T(0));
    seen.each([&](int64_t k0, int64_t n, const T* k, bool fresh) {
      T* const g = w.gains + k0 * width;
      gemm<T>(false, false, n, width, V, 1, keys.v + k0 * keys.v_step, keys.v_step, w.d_answers, width, 0, g, width);   // y = sum p (1 + c.u) v
      dot_columns(w.weights + k0 * width, g, n, width, w.centre);
      for (int64_t c = 0; c < width; ++c) w.answer[c] += w.centre[c];
      std::copy_n(g, n * width, w.products);
      multiply_by(w.products, w.weights + k0 * width, n * width);
      sum_over_keys(K, width, n, k, keys.k_step, w.products, fresh, w.x);
    });
    for (int64_t d = 0; d < K; ++d)
      for (int64_t c = 0; c < width; ++c) w.x[d * width + c] -= w.mean[d * width + c] * w.answer[c];
    solve<T>(seen, K, width, w);                                                        // u = C^{-1} (q - mu)

    for (int64_t i = 0; i < 3 * width * K; ++i) w.stack[i] = 0;
    transpose(w.x, width, K, K, rows, w.dq);                                            // u = C^{-1} (q - mu)
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t d = 0; d < K; ++d) {
        w.stack[t * K + d] = scale * q[t * a.q.token_stride + d];
        w.stack[(width + t) * K + d] = slope[t * K + d];
        w.stack[(2 * width + t) * K + d] = -w.dq[t * K + d];
      }
    transpose(slope, K, rows, width, K, w.queries);   // q is not read again
    for (int64_t d = 0; d < K; ++d) {
      std::copy_n(w.queries + d * width, width, w.slopes + 2 * d * width);
      std::copy_n(w.x + d * width, width, w.slopes + (2 * d + 1) * width);
    }
    dot_columns(w.mean, w.queries, K, width, w.centre);
    dot_columns(w.mean, w.x, K, width, w.gradient);
    dot_columns(w.x, w.queries, K, width, w.shrink);
    if (a.d_ridge)
      for (int64_t t = 0; t < rows; ++t) {   // C = .. + lambda I, lambda = ridge or ridge exp(-lse)
        const T lse = a.lse[block.number + t];
        a.d_ridge[block.number + t] = lse == -kInfinity ? T(0) : -w.shrink[t] * (a.absolute ? std::exp(-lse) : T(1));
      }
    for (int64_t c = 0; c < width; ++c) w.shrink[c] = a.absolute ? T(0) : w.shrink[c] * w.ridge[c];

    if (seen.runs == 0) std::fill_n(w.sum_k, rows * K, T(0));
    seen.each([&](int64_t k0, int64_t n, const T* k, bool fresh) {
      gemm<T>(false, false, n, 2 * width, K, 1, k, keys.k_step, w.slopes, 2 * width, 0, w.lines, 2 * width);
      differentiate_pairs(w.weights + k0 * width, w.gains + k0 * width, w.lines, n, width, {w.centre, w.answer, w.gradient, w.shrink}, w.parts);
      const T* const d_score = w.parts;                  // a
      const T* const smoother = w.parts + 2 * width;     // s
      if (to.dv) gemm<T>(false, false, n, V, rows, 1, smoother, 3 * width, w.dy, V, started, to.dv + k0 * to.dv_step, to.dv_step);   // y = sum s v
      if (to.dk)   // S = scale Q K^T, the line's c = k - mu at u, and that of the solve at x
        gemm<T>(false, false, n, K, 3 * width, 1, w.parts, 3 * width, w.stack, K, started, to.dk + k0 * to.dk_step, to.dk_step);
      gemm<T>(true, false, rows, K, n, 1, d_score, 3 * width, k, keys.k_step, fresh ? 0 : 1, w.sum_k, K);       // S = scale Q K^T
      if (d_bias)
        for (int64_t r = 0; r < n; ++r) add_row_sums(d_score + r * 3 * width, 1, width, d_bias + (k0 + r) * size.heads, size.heads);   // S + bias
    });
    if (a.d_head_scale)
      for (int64_t t = 0; t < rows; ++t) {
        T sum = 0;
        for (int64_t d = 0; d < K; ++d) sum += q[t * a.q.token_stride + d] * w.sum_k[t * K + d];
        a.d_head_scale[block.number + t] = a.scale * sum;                               // scale = a.scale head_scale
      }
    if (a.dq.at)
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t d = 0; d < K; ++d)
          row(a.dq, block.query + t, h, K)[d] = w.dq[t * K + d] + scale * w.sum_k[t * K + d];   // u = C^{-1} (q - mu); S = scale Q K^T
  }
}

}  // namespace

template <class T> size_t local_linear_attention_workspace(const LocalLinearForward<T>& a) { return forward_workspace<ForwardScratch<T>, T>(a); }
template <class T> Status local_linear_attention_forward(const LocalLinearForward<T>& a, Workspace workspace) {
  if (a.absolute && a.key_bias) return Status::bad_size;
  return each_block<ForwardScratch<T>, T>(a, workspace, answer_block<T>);
}

template <class T> size_t local_linear_attention_workspace(const LocalLinearBackward<T>& a) {
  return backward_workspace<BackwardScratch<T>, T>(a);
}
template <class T> Status local_linear_attention_backward(const LocalLinearBackward<T>& a, Workspace workspace) {
  if (a.absolute && a.key_bias) return Status::bad_size;
  return each_head<BackwardScratch<T>, T>(a, workspace, [&](int64_t b, int64_t h, const auto&... rest) { differentiate_head(a, b, h, rest...); });
}

template size_t local_linear_attention_workspace(const LocalLinearForward<float>&);
template size_t local_linear_attention_workspace(const LocalLinearBackward<float>&);
template size_t local_linear_attention_workspace(const LocalLinearForward<double>&);
template size_t local_linear_attention_workspace(const LocalLinearBackward<double>&);
template Status local_linear_attention_forward(const LocalLinearForward<float>&, Workspace);
template Status local_linear_attention_backward(const LocalLinearBackward<float>&, Workspace);
template Status local_linear_attention_forward(const LocalLinearForward<double>&, Workspace);
template Status local_linear_attention_backward(const LocalLinearBackward<double>&, Workspace);

}  // namespace ttr::cpu
