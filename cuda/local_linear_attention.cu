// Local linear attention on the GPU, level 1: tile against tile in shared memory, conjugate gradients a query (arXiv 2510.01450).
//
//   P = exp(S + bias - lse),  mu = P K,  u = C^{-1} (q - mu),  Y = (P o (1 + c.u)) V         C = sum_i p_i c_i c_i^T + lambda I
//
// CPU twin: layers/local_linear_attention_cpu.cpp; attention_tiles.hpp says what a block and a thread own. Three kernels: the forward; dq,
// which solves x = C^{-1} h and leaves it with four numbers a query for the last; dk and dv, a block per tile of keys. The weights are
// computed anew in every pass, each step of the solve included, and no kernel adds to what another block wrote: the same bits every run.
#include <ttr/cuda/attention_tiles.hpp>
#include <ttr/layers/local_linear_attention_kernel.hpp>

namespace ttr::cuda {
namespace {

template <class W> __device__ W residual_goal();   // how much smaller than the right-hand side a residual must be
template <> __device__ float residual_goal<float>() { return 3e-7f; }
template <> __device__ double residual_goal<double>() { return 1e-14; }

// Weight of key i for query t, which sees it: rows q_row, k_row [K].
template <class A, class W>
__device__ W weight_of(const A& a, int64_t b, int64_t h, int64_t t, int64_t i, W scale, const W* q_row, const W* k_row, W lse) {
  return exp(scale * dot(q_row, k_row, int(a.size.key_dim)) + bias_of(a, b, h, t, i) - lse);
}

// lambda of a query; one that sees nothing has no weights to be relative to.
template <class A, class W> __device__ W ridge_of(const A& a, int64_t h, W lse) {
  if (!a.absolute) return a.ridge[h];
  return lse == -infinity<W>() ? W(1) : a.ridge[h] * exp(-lse);
}

// What a block of queries holds in shared memory, [kTile, K + 1] or [kTile, V + 1] each; row r belongs to the threads (r, .).
template <class W> struct Columns {
  W *q, *k, *mean, *x, *residual, *direction, *image;   // K
  W *v, *dy;                                            // V; the forward's answers lie in dy
  W* p;                                                 // [kTile, kTile + 1]

  __device__ Columns(W* at, int tile, int K, int V)
      : q(at), k(q + tile * (K + 1)), mean(k + tile * (K + 1)), x(mean + tile * (K + 1)), residual(x + tile * (K + 1)),
        direction(residual + tile * (K + 1)), image(direction + tile * (K + 1)), v(image + tile * (K + 1)), dy(v + tile * (V + 1)),
        p(dy + tile * (V + 1)) {}
};

// x = C^{-1} b by conjugate gradients, b in `residual`. Every thread of the block calls it; a row whose residual is small enough waits.
template <int kTile, class A, class W>
__device__ void solve(const A& a, const QueryTile<kTile>& tile, int64_t end, W scale, W lse, W ridge, const Columns<W>& s) {
  const int K = int(a.size.key_dim), r = threadIdx.y, c = threadIdx.x, mine = r * (K + 1);
  const int64_t t = tile.t0 + r;
  W rr = 0;
  for (int d = c; d < K; d += kTile) {   // read and written by this thread alone, except direction
    s.x[mine + d] = 0;
    s.direction[mine + d] = s.residual[mine + d];
    rr += s.residual[mine + d] * s.residual[mine + d];
  }
  rr = row_sum<kTile>(rr);
  const W goal = residual_goal<W>() * residual_goal<W>() * rr;
  for (int steps = 2 * K + 16; steps > 0; --steps) {
    const bool going = rr > goal;
    if (__syncthreads_or(going) == 0) break;   // and: every direction is whole
    W centre = 0;
    for (int d = c; d < K; d += kTile) {
      centre += s.mean[mine + d] * s.direction[mine + d];
      s.image[mine + d] = 0;
    }
    centre = row_sum<kTile>(centre);
    for (int64_t k0 = 0; k0 < end; k0 += kTile) {
      __syncthreads();   // every thread is done with the keys before
      load_tile<kTile>(s.k, a.k, tile.b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), tile.key_head, K);
      __syncthreads();   // k is whole
      W line = 0;
      if (sees(a, tile.b, t, k0 + c))
        line = weight_of(a, tile.b, tile.h, t, k0 + c, scale, s.q + mine, s.k + c * (K + 1), lse) *
               (dot(s.direction + mine, s.k + c * (K + 1), K) - centre);
      s.p[r * (kTile + 1) + c] = line;
      __syncwarp();      // row r of p is whole; its writers and readers are this row's threads, in one warp
      for (int d = c; d < K; d += kTile) {
        W image = s.image[mine + d];
        for (int j = 0; j < kTile; ++j) image += s.p[r * (kTile + 1) + j] * s.k[j * (K + 1) + d];
        s.image[mine + d] = image;
      }
      __syncwarp();      // row r of p has been read before the next keys overwrite it
    }
    W curve = 0;
    for (int d = c; d < K; d += kTile) {
      s.image[mine + d] += ridge * s.direction[mine + d];
      curve += s.direction[mine + d] * s.image[mine + d];
    }
    curve = row_sum<kTile>(curve);
    const W alpha = going && curve > 0 ? rr / curve : W(0);
    W next = 0;
    for (int d = c; d < K; d += kTile) {
      s.x[mine + d] += alpha * s.direction[mine + d];
      s.residual[mine + d] -= alpha * s.image[mine + d];
      next += s.residual[mine + d] * s.residual[mine + d];
    }
    next = row_sum<kTile>(next);
    const W beta = rr > 0 ? next / rr : W(0);
    rr = alpha > 0 ? next : W(0);
    for (int d = c; d < K; d += kTile) s.direction[mine + d] = s.residual[mine + d] + beta * s.direction[mine + d];
  }
  __syncthreads();       // x and direction are whole, and free to be read or overwritten by the caller
}

// A block owns (b, h, tile of queries); row r of its threads is query t0 + r, column c is key k0 + c. Shared: Columns.
template <class T, int kTile> __global__ void local_linear_forward(LocalLinearForward<T> a) {
  using W = Wide<T>;
  const int K = int(a.size.key_dim), V = int(a.size.value_dim), r = threadIdx.y, c = threadIdx.x, mine = r * (K + 1);
  const QueryTile<kTile> tile(a.size);
  const auto [t0, h, b, key_head, value_head, rows] = tile;
  const int64_t t = t0 + r;
  const W scale = head_scale(a, h);
  const Columns<W> s(reinterpret_cast<W*>(tile_memory), kTile, K, V);

  load_tile<kTile>(s.q, a.q, b * a.size.tokens + t0, rows, h, K);
  for (int d = c; d < K; d += kTile) s.mean[mine + d] = 0;   // read and written by this thread alone
  W top = -infinity<W>(), sum = 0;
  const int64_t end = visible_end(a, t0 + rows - 1);
  for (int64_t k0 = 0; k0 < end; k0 += kTile) {   // the streaming softmax, with the keys as values
    __syncthreads();   // every thread is done with the keys before
    load_tile<kTile>(s.k, a.k, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), key_head, K);
    __syncthreads();   // k (and, the first time, q) is whole
    const W score = sees(a, b, t, k0 + c) ? scale * dot(s.q + mine, s.k + c * (K + 1), K) + bias_of(a, b, h, t, k0 + c) : -infinity<W>();
    const W highest = row_max<kTile>(score);
    const W new_top = highest > top ? highest : top;
    const W shift = new_top == -infinity<W>() ? W(0) : new_top;   // nothing seen yet: exp(-inf - 0), not exp(-inf + inf)
    const W weight = exp(score - shift), factor = exp(top - shift);
    sum = sum * factor + row_sum<kTile>(weight);
    top = new_top;
    s.p[r * (kTile + 1) + c] = weight;
    __syncwarp();      // row r of p is whole; its writers and readers are this row's threads, in one warp
    for (int d = c; d < K; d += kTile) {
      W mean = s.mean[mine + d] * factor;
      for (int j = 0; j < kTile; ++j) mean += s.p[r * (kTile + 1) + j] * s.k[j * (K + 1) + d];
      s.mean[mine + d] = mean;
    }
    __syncwarp();      // row r of p has been read before the next keys overwrite it
  }
  const W inverse = sum == 0 ? W(0) : 1 / sum, lse = sum == 0 ? -infinity<W>() : top + log(sum);
  __syncthreads();     // q is whole where there was no key to wait for
  for (int d = c; d < K; d += kTile) {
    s.mean[mine + d] *= inverse;
    s.residual[mine + d] = s.q[mine + d] - s.mean[mine + d];
  }

  solve(a, tile, end, scale, lse, ridge_of(a, h, lse), s);      // u

  W centre = 0;
  for (int d = c; d < K; d += kTile) centre += s.mean[mine + d] * s.x[mine + d];
  centre = row_sum<kTile>(centre);
  W* const y = s.dy;
  for (int d = c; d < V; d += kTile) y[r * (V + 1) + d] = 0;    // read and written by this thread alone
  for (int64_t k0 = 0; k0 < end; k0 += kTile) {
    __syncthreads();   // every thread is done with the keys and values before
    load_tile<kTile>(s.k, a.k, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), key_head, K);
    load_tile<kTile>(s.v, a.v, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), value_head, V);
    __syncthreads();   // k and v are whole
    W smoother = 0;
    if (sees(a, b, t, k0 + c))
      smoother = weight_of(a, b, h, t, k0 + c, scale, s.q + mine, s.k + c * (K + 1), lse) * (1 + dot(s.x + mine, s.k + c * (K + 1), K) - centre);
    s.p[r * (kTile + 1) + c] = smoother;
    __syncwarp();      // row r of p is whole
    for (int d = c; d < V; d += kTile) {
      W answer = y[r * (V + 1) + d];
      for (int j = 0; j < kTile; ++j) answer += s.p[r * (kTile + 1) + j] * s.v[j * (V + 1) + d];
      y[r * (V + 1) + d] = answer;
    }
    __syncwarp();      // row r of p has been read before the next keys overwrite it
  }

  if (r >= rows) return;
  for (int d = c; d < V; d += kTile) store(row(a.y, b * a.size.tokens + t, h, V) + d, y[r * (V + 1) + d]);
  if (a.lse == nullptr) return;
  const int64_t number = (b * a.size.heads + h) * a.size.tokens + t;
  if (c == 0) a.lse[number] = lse;
  for (int d = c; d < K; d += kTile) {
    a.mean[number * K + d] = s.mean[mine + d];
    a.slope[number * K + d] = s.x[mine + d];
  }
}

// What the kernel of dq leaves for that of dk and dv.
template <class W> struct Solved {
  W* x;                                     // [B, H, T, K]: C^{-1} h
  W *answer, *slope, *gradient, *shrink;    // [B, H, T]: sum p G, mu.u, mu.x, lambda x.u (0: an absolute ridge)

  TTR_BOTH static size_t bytes(const AttentionSizes& s) { return sizeof(W) * size_t(s.batch * s.heads * s.tokens * (s.key_dim + 4)); }
  Solved(void* at, const AttentionSizes& s) {
    const int64_t n = s.batch * s.heads * s.tokens;
    x = static_cast<W*>(at), answer = x + n * s.key_dim, slope = answer + n, gradient = slope + n, shrink = gradient + n;
  }
};

// Rows of a head in [B, H, T, K], as load_tile takes them.
template <class W> __device__ Rows<const W> head_rows(const W* at, const AttentionSizes& s, int64_t b, int64_t h) {
  return {at + (b * s.heads + h) * s.tokens * s.key_dim, s.key_dim};
}

// A pair's part of every gradient.
template <class W> struct Pair {
  W score, weighed, smoother;   // a = dl, w = p (G - sum p G - c.x), s = p (1 + c.u)

  __device__ Pair(W p, W gain, W line, W gradient_line, W answer, W shrink) {
    weighed = p * (gain - answer - gradient_line);
    score = weighed * (1 + line) - p * shrink;
    smoother = p * (1 + line);
  }
};

// A block owns (b, h, tile of queries), as in the forward. Shared: Columns; once the solve is done, u lies in direction and sum_i a_i k_i in
// image.
template <class T, int kTile> __global__ void local_linear_backward_queries(LocalLinearBackward<T> a, Solved<Wide<T>> to) {
  using W = Wide<T>;
  const int K = int(a.size.key_dim), V = int(a.size.value_dim), r = threadIdx.y, c = threadIdx.x, mine = r * (K + 1);
  const QueryTile<kTile> tile(a.size);
  const auto [t0, h, b, key_head, value_head, rows] = tile;
  const int64_t t = t0 + r, number = (b * a.size.heads + h) * a.size.tokens + t;
  const W scale = head_scale(a, h), lse = r < rows ? a.lse[number] : -infinity<W>(), ridge = ridge_of(a, h, lse);
  const Columns<W> s(reinterpret_cast<W*>(tile_memory), kTile, K, V);

  load_tile<kTile>(s.q, a.q, b * a.size.tokens + t0, rows, h, K);
  load_tile<kTile>(s.dy, a.dy, b * a.size.tokens + t0, rows, h, V);
  load_tile<kTile>(s.mean, head_rows(a.mean, a.size, b, h), t0, rows, 0, K);
  for (int d = c; d < K; d += kTile) s.residual[mine + d] = 0;   // read and written by this thread alone

  W answer = 0;
  const int64_t end = visible_end(a, t0 + rows - 1);
  for (int64_t k0 = 0; k0 < end; k0 += kTile) {                  // h = sum p G c
    __syncthreads();   // every thread is done with the keys and values before
    load_tile<kTile>(s.k, a.k, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), key_head, K);
    load_tile<kTile>(s.v, a.v, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), value_head, V);
    __syncthreads();   // k and v (and, the first time, q, dy and mean) are whole
    W gain = 0;
    if (sees(a, b, t, k0 + c))
      gain = weight_of(a, b, h, t, k0 + c, scale, s.q + mine, s.k + c * (K + 1), lse) * dot(s.dy + r * (V + 1), s.v + c * (V + 1), V);
    answer += row_sum<kTile>(gain);
    s.p[r * (kTile + 1) + c] = gain;
    __syncwarp();      // row r of p is whole; its writers and readers are this row's threads, in one warp
    for (int d = c; d < K; d += kTile) {
      W sum = s.residual[mine + d];
      for (int j = 0; j < kTile; ++j) sum += s.p[r * (kTile + 1) + j] * s.k[j * (K + 1) + d];
      s.residual[mine + d] = sum;
    }
    __syncwarp();      // row r of p has been read before the next keys overwrite it
  }
  __syncthreads();     // q, dy and mean are whole where there was no key to wait for
  for (int d = c; d < K; d += kTile) s.residual[mine + d] -= s.mean[mine + d] * answer;

  solve(a, tile, end, scale, lse, ridge, s);                     // x: u = C^{-1} (q - mu)

  load_tile<kTile>(s.direction, head_rows(a.slope, a.size, b, h), t0, rows, 0, K);
  __syncthreads();     // u is whole
  W slope = 0, gradient = 0, crossed = 0;
  for (int d = c; d < K; d += kTile) {
    slope += s.mean[mine + d] * s.direction[mine + d];
    gradient += s.mean[mine + d] * s.x[mine + d];
    crossed += s.x[mine + d] * s.direction[mine + d];
    s.image[mine + d] = 0;                                       // read and written by this thread alone
  }
  slope = row_sum<kTile>(slope), gradient = row_sum<kTile>(gradient), crossed = row_sum<kTile>(crossed);
  const W shrink = a.absolute ? W(0) : crossed * ridge;

  for (int64_t k0 = 0; k0 < end; k0 += kTile) {
    __syncthreads();   // every thread is done with the keys and values before
    load_tile<kTile>(s.k, a.k, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), key_head, K);
    load_tile<kTile>(s.v, a.v, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), value_head, V);
    __syncthreads();   // k and v are whole
    W d_score = 0;
    if (sees(a, b, t, k0 + c)) {
      const W* const k_row = s.k + c * (K + 1);
      const W weight = weight_of(a, b, h, t, k0 + c, scale, s.q + mine, k_row, lse);
      d_score = Pair<W>(weight, dot(s.dy + r * (V + 1), s.v + c * (V + 1), V), dot(s.direction + mine, k_row, K) - slope,
                        dot(s.x + mine, k_row, K) - gradient, answer, shrink).score;
    }
    s.p[r * (kTile + 1) + c] = d_score;
    __syncwarp();      // row r of p is whole
    for (int d = c; d < K; d += kTile) {
      W sum = s.image[mine + d];
      for (int j = 0; j < kTile; ++j) sum += s.p[r * (kTile + 1) + j] * s.k[j * (K + 1) + d];    // S / scale = Q K^T
      s.image[mine + d] = sum;
    }
    __syncwarp();      // row r of p has been read before the next keys overwrite it
  }

  W d_scale = 0;
  for (int d = c; d < K; d += kTile) d_scale += s.q[mine + d] * s.image[mine + d];
  d_scale = row_sum<kTile>(d_scale);
  if (r >= rows) return;
  for (int d = c; d < K; d += kTile) {
    to.x[number * K + d] = s.x[mine + d];
    if (a.dq.at != nullptr)   // u = C^{-1} (q - mu); S = scale Q K^T
      store(row(a.dq, b * a.size.tokens + t, h, K) + d, s.x[mine + d] + scale * s.image[mine + d]);
  }
  if (c != 0) return;
  to.answer[number] = answer, to.slope[number] = slope, to.gradient[number] = gradient, to.shrink[number] = shrink;
  if (a.d_head_scale != nullptr) a.d_head_scale[number] = a.scale * d_scale;                     // scale = a.scale head_scale
  if (a.d_ridge != nullptr)                                                                      // C = .. + lambda I
    a.d_ridge[number] = lse == -infinity<W>() ? W(0) : a.absolute ? -crossed * exp(-lse) : -crossed;
}

// A block owns (b, row head, tile of keys) and visits every query head that reads this row head, one after the other; row r of its threads
// is key k0 + r, column c is query t0 + c. `row_heads` is Hk when dk is wanted, Hv when dv is; both at once when they are equal.
// Shared: dk, dv of its keys for the whole life of the block; k, v of the head at hand; q, u, x, dy and three tiles [kTile, kTile + 1] of the
// queries at hand.
template <class T, int kTile> __global__ void local_linear_backward_keys(LocalLinearBackward<T> a, int64_t row_heads, Solved<Wide<T>> of) {
  using W = Wide<T>;
  const int K = int(a.size.key_dim), V = int(a.size.value_dim), r = threadIdx.y, c = threadIdx.x;
  const int64_t tiles = (a.size.keys + kTile - 1) / kTile, group = a.size.heads / row_heads;
  const int64_t k0 = blockIdx.x % tiles * kTile, row_head = blockIdx.x / tiles % row_heads, b = blockIdx.x / tiles / row_heads;
  const int rows = rows_left(a.size.keys, k0, kTile);
  const int64_t i = k0 + r;

  W* const k = reinterpret_cast<W*>(tile_memory);
  W* const q = k + kTile * (K + 1);
  W* const u = q + kTile * (K + 1);
  W* const x = u + kTile * (K + 1);
  W* const dk = x + kTile * (K + 1);
  W* const v = dk + kTile * (K + 1);
  W* const dy = v + kTile * (V + 1);
  W* const dv = dy + kTile * (V + 1);
  W* const score = dv + kTile * (V + 1);
  W* const weighed = score + kTile * (kTile + 1);
  W* const smoother = weighed + kTile * (kTile + 1);

  for (int d = c; d < K; d += kTile) dk[r * (K + 1) + d] = 0;   // read and written by this thread alone
  for (int d = c; d < V; d += kTile) dv[r * (V + 1) + d] = 0;

  const int64_t first = k0 - lead_of(a);                        // the first query that sees key k0
  const int64_t first_tile = first > 0 ? first / kTile * kTile : 0;
  for (int64_t h = row_head * group; h < (row_head + 1) * group; ++h) {
    __syncthreads();   // every thread is done with the head before
    load_tile<kTile>(k, a.k, b * a.size.keys + k0, rows, h / (a.size.heads / a.size.key_heads), K);
    load_tile<kTile>(v, a.v, b * a.size.keys + k0, rows, h / (a.size.heads / a.size.value_heads), V);
    const W scale = head_scale(a, h);
    W d_bias = 0;
    for (int64_t t0 = first_tile; t0 < a.size.tokens; t0 += kTile) {
      const int queries = rows_left(a.size.tokens, t0, kTile);
      __syncthreads();   // every thread is done with the queries before
      load_tile<kTile>(q, a.q, b * a.size.tokens + t0, queries, h, K);
      load_tile<kTile>(dy, a.dy, b * a.size.tokens + t0, queries, h, V);
      load_tile<kTile>(u, head_rows(a.slope, a.size, b, h), t0, queries, 0, K);
      load_tile<kTile>(x, head_rows<W>(of.x, a.size, b, h), t0, queries, 0, K);
      __syncthreads();   // all four (and, the first time, k and v) are whole

      const int64_t t = t0 + c;
      Pair<W> pair(0, 0, 0, 0, 0, 0);
      if (sees(a, b, t, i)) {
        const int64_t number = (b * a.size.heads + h) * a.size.tokens + t;
        const W* const k_row = k + r * (K + 1);
        const W weight = weight_of(a, b, h, t, i, scale, q + c * (K + 1), k_row, a.lse[number]);
        pair = Pair<W>(weight, dot(dy + c * (V + 1), v + r * (V + 1), V), dot(u + c * (K + 1), k_row, K) - of.slope[number],
                       dot(x + c * (K + 1), k_row, K) - of.gradient[number], of.answer[number], of.shrink[number]);
      }
      d_bias += pair.score;                                                                       // S + bias
      score[r * (kTile + 1) + c] = scale * pair.score;                                            // S = scale Q K^T
      weighed[r * (kTile + 1) + c] = pair.weighed;
      smoother[r * (kTile + 1) + c] = pair.smoother;
      __syncwarp();      // row r of all three is whole; its writers and readers are this row's threads, in one warp

      if (a.dv.at != nullptr)
        for (int d = c; d < V; d += kTile) {
          W gradient = dv[r * (V + 1) + d];
          for (int j = 0; j < kTile; ++j) gradient += smoother[r * (kTile + 1) + j] * dy[j * (V + 1) + d];   // y = sum s v
          dv[r * (V + 1) + d] = gradient;
        }
      if (a.dk.at != nullptr)
        for (int d = c; d < K; d += kTile) {
          W gradient = dk[r * (K + 1) + d];
          for (int j = 0; j < kTile; ++j) {
            const int at = r * (kTile + 1) + j, of_query = j * (K + 1) + d;
            gradient += score[at] * q[of_query] + weighed[at] * u[of_query] - smoother[at] * x[of_query];    // S; c at u; c at x
          }
          dk[r * (K + 1) + d] = gradient;
        }
      __syncwarp();      // row r of all three has been read before the next queries overwrite it
    }
    d_bias = row_sum<kTile>(d_bias);
    if (a.d_key_bias != nullptr && r < rows && c == 0) a.d_key_bias[(b * a.size.keys + i) * a.size.heads + h] = d_bias;
  }

  if (r >= rows) return;
  if (a.dk.at != nullptr)
    for (int d = c; d < K; d += kTile) store(row(a.dk, b * a.size.keys + i, row_head, K) + d, dk[r * (K + 1) + d]);
  if (a.dv.at != nullptr)
    for (int d = c; d < V; d += kTile) store(row(a.dv, b * a.size.keys + i, row_head, V) + d, dv[r * (V + 1) + d]);
}

// ---- host ----

template <class A> bool fits(const A& a) {
  return sizes_fit(a.size, a.strict) && a.ridge != nullptr && !(a.absolute && a.key_bias != nullptr) &&
         local_linear_row(a.size.key_dim, a.size.value_dim) <= kLocalLinearRow;
}

}  // namespace

template <class T> size_t local_linear_attention_workspace(const LocalLinearForward<T>&) { return 0; }

template <class T> Status local_linear_attention_forward(const LocalLinearForward<T>& a, Workspace, Stream stream) {
  const AttentionSizes& s = a.size;
  if (!fits(a)) return Status::bad_size;
  const int64_t heads = s.batch * s.heads;
  const size_t wide = tile_bytes<Wide<T>>(s, kWideTile, 7, 2, 1), narrow = tile_bytes<Wide<T>>(s, kNarrowTile, 7, 2, 1);
  if (wide <= kSharedLimit)
    return launch_tiles(local_linear_forward<T, kWideTile>, heads * divide_up(s.tokens, kWideTile), kWideTile, wide, stream, a);
  return launch_tiles(local_linear_forward<T, kNarrowTile>, heads * divide_up(s.tokens, kNarrowTile), kNarrowTile, narrow, stream, a);
}

template <class T> size_t local_linear_attention_workspace(const LocalLinearBackward<T>& a) { return Solved<Wide<T>>::bytes(a.size); }

template <class T> Status local_linear_attention_backward(const LocalLinearBackward<T>& a, Workspace workspace, Stream stream) {
  using W = Wide<T>;
  const AttentionSizes& s = a.size;
  if (!fits(a)) return Status::bad_size;
  if (workspace.bytes < local_linear_attention_workspace(a)) return Status::small_workspace;
  const Solved<W> solved(workspace.at, s);
  const int64_t heads = s.batch * s.heads;
  {
    const size_t wide = tile_bytes<W>(s, kWideTile, 7, 2, 1), narrow = tile_bytes<W>(s, kNarrowTile, 7, 2, 1);
    const Status status = wide <= kSharedLimit ? launch_tiles(local_linear_backward_queries<T, kWideTile>, heads * divide_up(s.tokens, kWideTile),
                                                              kWideTile, wide, stream, a, solved)
                                               : launch_tiles(local_linear_backward_queries<T, kNarrowTile>,
                                                              heads * divide_up(s.tokens, kNarrowTile), kNarrowTile, narrow, stream, a, solved);
    if (status != Status::ok) return status;
  }
  auto backward_keys = [&](const LocalLinearBackward<T>& part, int64_t row_heads) {
    if (part.dk.at == nullptr && part.dv.at == nullptr && part.d_key_bias == nullptr) return Status::ok;
    const size_t wide = tile_bytes<W>(s, kWideTile, 5, 3, 3), narrow = tile_bytes<W>(s, kNarrowTile, 5, 3, 3);
    if (wide <= kSharedLimit)
      return launch_tiles(local_linear_backward_keys<T, kWideTile>, s.batch * row_heads * divide_up(s.keys, kWideTile), kWideTile, wide, stream,
                          part, row_heads, solved);
    return launch_tiles(local_linear_backward_keys<T, kNarrowTile>, s.batch * row_heads * divide_up(s.keys, kNarrowTile), kNarrowTile, narrow,
                        stream, part, row_heads, solved);
  };
  if (s.key_heads == s.value_heads) return backward_keys(a, s.key_heads);
  LocalLinearBackward<T> keys = a, values = a;
  keys.dv.at = nullptr;
  values.dk.at = nullptr;
  values.d_key_bias = nullptr;
  const Status status = backward_keys(keys, s.key_heads);
  return status != Status::ok ? status : backward_keys(values, s.value_heads);
}

template size_t local_linear_attention_workspace(const LocalLinearForward<float>&);
template size_t local_linear_attention_workspace(const LocalLinearForward<bf16>&);
template size_t local_linear_attention_workspace(const LocalLinearForward<double>&);
template size_t local_linear_attention_workspace(const LocalLinearBackward<float>&);
template size_t local_linear_attention_workspace(const LocalLinearBackward<bf16>&);
template size_t local_linear_attention_workspace(const LocalLinearBackward<double>&);
template Status local_linear_attention_forward(const LocalLinearForward<float>&, Workspace, Stream);
template Status local_linear_attention_forward(const LocalLinearForward<bf16>&, Workspace, Stream);
template Status local_linear_attention_forward(const LocalLinearForward<double>&, Workspace, Stream);
template Status local_linear_attention_backward(const LocalLinearBackward<float>&, Workspace, Stream);
template Status local_linear_attention_backward(const LocalLinearBackward<bf16>&, Workspace, Stream);
template Status local_linear_attention_backward(const LocalLinearBackward<double>&, Workspace, Stream);

}  // namespace ttr::cuda
