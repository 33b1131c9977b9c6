// Softmax attention on the GPU, level 1: the streaming softmax written plainly, tile against tile, in shared memory (arXiv 2205.14135).
//
//   S = scale Q K^T,  P = exp(S + bias - lse),  Y = P V         dP = dY V^T,  dS = P o (dP - delta),  delta_t = dy_t . y_t
//
// CPU twin: layers/softmax_attention_cpu.cpp; attention_tiles.hpp says what a block and a thread own. Four kernels: the forward; delta, a
// number a query; dq, a block per tile of queries; dk and dv, a block per tile of keys. The scores are computed anew wherever they are
// needed, so no kernel adds to what another block wrote: no atomics, the same bits every run.
#include <ttr/cuda/attention_tiles.hpp>

namespace ttr::cuda {
namespace {

constexpr int kRowThreads = 32;   // of the kernel of delta: one warp a query
constexpr int kRowsABlock = 8;

// A block owns (b, h, tile of queries); row r of its threads is query t0 + r, column c is key k0 + c.
// Shared: q, y [kTile, K + 1], [kTile, V + 1] for the whole life of the block; k, v [kTile, K + 1], [kTile, V + 1] and p [kTile, kTile + 1]
// of the keys at hand. Registers: the running maximum and sum of the row, the same in its kTile threads.
template <class T, int kTile> __global__ void attention_forward(AttentionForward<T> a) {
  using W = Wide<T>;
  const int K = int(a.size.key_dim), V = int(a.size.value_dim), r = threadIdx.y, c = threadIdx.x;
  const auto [t0, h, b, key_head, value_head, rows] = QueryTile<kTile>(a.size);
  const int64_t t = t0 + r;
  const W scale = head_scale(a, h);

  W* const q = reinterpret_cast<W*>(tile_memory);
  W* const k = q + kTile * (K + 1);
  W* const v = k + kTile * (K + 1);
  W* const y = v + kTile * (V + 1);
  W* const p = y + kTile * (V + 1);

  load_tile<kTile>(q, a.q, b * a.size.tokens + t0, rows, h, K);
  for (int d = c; d < V; d += kTile) y[r * (V + 1) + d] = 0;   // read and written by this thread alone
  W top = -infinity<W>(), sum = 0;

  const int64_t end = visible_end(a, t0 + rows - 1);
  for (int64_t k0 = 0; k0 < end; k0 += kTile) {
    __syncthreads();   // every thread is done with the keys and values before
    load_tile<kTile>(k, a.k, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), key_head, K);
    load_tile<kTile>(v, a.v, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), value_head, V);
    __syncthreads();   // k and v (and, the first time, q) are whole

    const W s = sees(a, b, t, k0 + c) ? scale * dot(q + r * (K + 1), k + c * (K + 1), K) + bias_of(a, b, h, t, k0 + c) : -infinity<W>();
    const W highest = row_max<kTile>(s);
    const W new_top = highest > top ? highest : top;
    const W shift = new_top == -infinity<W>() ? W(0) : new_top;   // nothing seen yet: exp(-inf - 0), not exp(-inf + inf)
    const W weight = exp(s - shift), factor = exp(top - shift);
    sum = sum * factor + row_sum<kTile>(weight);
    top = new_top;
    p[r * (kTile + 1) + c] = weight;
    __syncwarp();      // row r of p is whole; its writers and readers are this row's threads, in one warp

    for (int d = c; d < V; d += kTile) {
      W answer = y[r * (V + 1) + d] * factor;
      for (int j = 0; j < kTile; ++j) answer += p[r * (kTile + 1) + j] * v[j * (V + 1) + d];
      y[r * (V + 1) + d] = answer;
    }
    __syncwarp();      // row r of p has been read before the next keys overwrite it
  }

  if (r >= rows) return;
  const W inverse = sum == 0 ? W(0) : 1 / sum;
  for (int d = c; d < V; d += kTile) store(row(a.y, b * a.size.tokens + t, h, V) + d, y[r * (V + 1) + d] * inverse);
  if (a.lse != nullptr && c == 0) a.lse[(b * a.size.heads + h) * a.size.tokens + t] = sum == 0 ? -infinity<W>() : top + log(sum);
}

// delta [B, H, T] = dy . y. A block owns kRowsABlock queries of all heads in turn, a warp one of them. No shared memory, no barrier.
template <class T> __global__ void attention_delta(AttentionBackward<T> a, Wide<T>* delta) {
  const int V = int(a.size.value_dim);
  const int64_t index = int64_t(blockIdx.x) * kRowsABlock + threadIdx.y;   // (b * H + h) * T + t
  if (index >= a.size.batch * a.size.heads * a.size.tokens) return;        // the whole warp
  const int64_t t = index % a.size.tokens, h = index / a.size.tokens % a.size.heads, b = index / a.size.tokens / a.size.heads;
  const T* const dy = row(a.dy, b * a.size.tokens + t, h, V);
  const T* const y = row(a.y, b * a.size.tokens + t, h, V);
  Wide<T> sum = 0;
  for (int d = threadIdx.x; d < V; d += kRowThreads) sum += load(dy + d) * load(y + d);
  sum = row_sum<kRowThreads>(sum);
  if (threadIdx.x == 0) delta[index] = sum;
}

// A block owns (b, h, tile of queries), as in the forward; row r is query t0 + r, column c is key k0 + c.
// Shared: q, dy, dq of its queries for the whole life of the block; k, v and ds [kTile, kTile + 1] of the keys at hand.
// row_sums [B, H, T]: of a query's d_score, 0 but for the rounding of y in delta.
template <class T, int kTile> __global__ void attention_backward_queries(AttentionBackward<T> a, const Wide<T>* delta, Wide<T>* row_sums) {
  using W = Wide<T>;
  const int K = int(a.size.key_dim), V = int(a.size.value_dim), r = threadIdx.y, c = threadIdx.x;
  const auto [t0, h, b, key_head, value_head, rows] = QueryTile<kTile>(a.size);
  const int64_t t = t0 + r;
  const W scale = head_scale(a, h);

  W* const q = reinterpret_cast<W*>(tile_memory);
  W* const k = q + kTile * (K + 1);
  W* const dq = k + kTile * (K + 1);
  W* const dy = dq + kTile * (K + 1);
  W* const v = dy + kTile * (V + 1);
  W* const ds = v + kTile * (V + 1);

  load_tile<kTile>(q, a.q, b * a.size.tokens + t0, rows, h, K);
  load_tile<kTile>(dy, a.dy, b * a.size.tokens + t0, rows, h, V);
  for (int d = c; d < K; d += kTile) dq[r * (K + 1) + d] = 0;   // read and written by this thread alone
  const int64_t number = (b * a.size.heads + h) * a.size.tokens + t;
  const W lse = r < rows ? a.lse[number] : W(0), row_delta = r < rows ? delta[number] : W(0);
  W total = 0;

  const int64_t end = visible_end(a, t0 + rows - 1);
  for (int64_t k0 = 0; k0 < end; k0 += kTile) {
    __syncthreads();   // every thread is done with the keys and values before
    load_tile<kTile>(k, a.k, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), key_head, K);
    load_tile<kTile>(v, a.v, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), value_head, V);
    __syncthreads();   // k and v (and, the first time, q and dy) are whole

    W d_score = 0;
    if (sees(a, b, t, k0 + c)) {
      const W weight = exp(scale * dot(q + r * (K + 1), k + c * (K + 1), K) + bias_of(a, b, h, t, k0 + c) - lse);
      const W d_weight = dot(dy + r * (V + 1), v + c * (V + 1), V);     // Y = P V
      d_score = weight * (d_weight - row_delta);                        // P = exp(S + bias - lse)
    }
    total += d_score;
    ds[r * (kTile + 1) + c] = d_score;
    __syncwarp();      // row r of ds is whole; its writers and readers are this row's threads, in one warp

    for (int d = c; d < K; d += kTile) {
      W gradient = dq[r * (K + 1) + d];
      for (int j = 0; j < kTile; ++j) gradient += ds[r * (kTile + 1) + j] * k[j * (K + 1) + d];   // S / scale = Q K^T
      dq[r * (K + 1) + d] = gradient;
    }
    __syncwarp();      // row r of ds has been read before the next keys overwrite it
  }

  __syncthreads();     // q is whole, also where no key was seen and the loop was not entered
  W d_scale = 0;
  for (int d = c; d < K; d += kTile) d_scale += q[r * (K + 1) + d] * dq[r * (K + 1) + d];
  d_scale = row_sum<kTile>(d_scale), total = row_sum<kTile>(total);
  if (r >= rows) return;
  if (c == 0) row_sums[number] = total;
  if (a.d_head_scale != nullptr && c == 0) a.d_head_scale[number] = a.scale * d_scale;            // scale = a.scale head_scale
  if (a.dq.at != nullptr)
    for (int d = c; d < K; d += kTile) store(row(a.dq, b * a.size.tokens + t, h, K) + d, scale * dq[r * (K + 1) + d]);   // S = scale Q K^T
}

// A block owns (b, row head, tile of keys) and visits every query head that reads this row head, one after the other; row r of its threads
// is key k0 + r, column c is query t0 + c. `row_heads` is Hk when dk is wanted, Hv when dv is; both at once when they are equal.
// Shared: dk, dv of its keys for the whole life of the block; k, v of the head at hand; q, dy and p, ds [kTile, kTile + 1] of the queries
// at hand.
template <class T, int kTile>
__global__ void attention_backward_keys(AttentionBackward<T> a, int64_t row_heads, const Wide<T>* delta, const Wide<T>* row_sums) {
  using W = Wide<T>;
  const int K = int(a.size.key_dim), V = int(a.size.value_dim), r = threadIdx.y, c = threadIdx.x;
  const int64_t tiles = (a.size.keys + kTile - 1) / kTile, group = a.size.heads / row_heads;
  const int64_t k0 = blockIdx.x % tiles * kTile, row_head = blockIdx.x / tiles % row_heads, b = blockIdx.x / tiles / row_heads;
  const int rows = rows_left(a.size.keys, k0, kTile);
  const int64_t i = k0 + r;

  W* const k = reinterpret_cast<W*>(tile_memory);
  W* const q = k + kTile * (K + 1);
  W* const dk = q + kTile * (K + 1);
  W* const v = dk + kTile * (K + 1);
  W* const dy = v + kTile * (V + 1);
  W* const dv = dy + kTile * (V + 1);
  W* const p = dv + kTile * (V + 1);
  W* const ds = p + kTile * (kTile + 1);

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
      __syncthreads();   // every thread is done with the queries before
      load_tile<kTile>(q, a.q, b * a.size.tokens + t0, rows_left(a.size.tokens, t0, kTile), h, K);
      load_tile<kTile>(dy, a.dy, b * a.size.tokens + t0, rows_left(a.size.tokens, t0, kTile), h, V);
      __syncthreads();   // q and dy (and, the first time, k and v) are whole

      const int64_t t = t0 + c;
      W weight = 0, d_score = 0;
      if (sees(a, b, t, i)) {
        const int64_t number = (b * a.size.heads + h) * a.size.tokens + t;
        weight = exp(scale * dot(k + r * (K + 1), q + c * (K + 1), K) + bias_of(a, b, h, t, i) - a.lse[number]);
        if (a.dk.at != nullptr || a.d_key_bias != nullptr) {
          const W d_weight = dot(v + r * (V + 1), dy + c * (V + 1), V);     // Y = P V
          d_score = weight * (d_weight - delta[number]);                    // P = exp(S + bias - lse)
        }
      }
      d_bias += d_score;                                                    // S + bias
      p[r * (kTile + 1) + c] = weight;
      ds[r * (kTile + 1) + c] = scale * d_score;                            // S = scale Q K^T
      __syncwarp();      // row r of p and ds is whole; its writers and readers are this row's threads, in one warp

      if (a.dv.at != nullptr)
        for (int d = c; d < V; d += kTile) {
          W gradient = dv[r * (V + 1) + d];
          for (int j = 0; j < kTile; ++j) gradient += p[r * (kTile + 1) + j] * dy[j * (V + 1) + d];    // Y = P V
          dv[r * (V + 1) + d] = gradient;
        }
      if (a.dk.at != nullptr)
        for (int d = c; d < K; d += kTile) {
          W gradient = dk[r * (K + 1) + d];
          for (int j = 0; j < kTile; ++j) gradient += ds[r * (kTile + 1) + j] * q[j * (K + 1) + d];    // S = scale Q K^T
          dk[r * (K + 1) + d] = gradient;
        }
      __syncwarp();      // row r of p and ds has been read before the next queries overwrite it
    }
    d_bias = row_sum<kTile>(d_bias);
    if (a.d_key_bias != nullptr && r < rows && c == 0) {
      const int64_t t = i - lead_of(a);   // the query whose newest key this is, against whose bias it counts
      if (t >= 0 && t < a.size.tokens) d_bias -= row_sums[(b * a.size.heads + h) * a.size.tokens + t];
      a.d_key_bias[(b * a.size.keys + i) * a.size.heads + h] = d_bias;                            // bias_i - bias_newest
    }
  }

  if (r >= rows) return;
  if (a.dk.at != nullptr)
    for (int d = c; d < K; d += kTile) store(row(a.dk, b * a.size.keys + i, row_head, K) + d, dk[r * (K + 1) + d]);
  if (a.dv.at != nullptr)
    for (int d = c; d < V; d += kTile) store(row(a.dv, b * a.size.keys + i, row_head, V) + d, dv[r * (V + 1) + d]);
}

}  // namespace

template <class T> size_t softmax_attention_workspace(const AttentionForward<T>&) { return 0; }

template <class T> Status softmax_attention_forward(const AttentionForward<T>& a, Workspace, Stream stream) {
  const AttentionSizes& s = a.size;
  if (!sizes_fit(s, a.strict)) return Status::bad_size;
  const int64_t heads = s.batch * s.heads;
  const size_t wide = tile_bytes<Wide<T>>(s, kWideTile, 2, 2, 1), narrow = tile_bytes<Wide<T>>(s, kNarrowTile, 2, 2, 1);
  if (wide <= kSharedLimit)
    return launch_tiles(attention_forward<T, kWideTile>, heads * divide_up(s.tokens, kWideTile), kWideTile, wide, stream, a);
  return launch_tiles(attention_forward<T, kNarrowTile>, heads * divide_up(s.tokens, kNarrowTile), kNarrowTile, narrow, stream, a);
}

template <class T> size_t softmax_attention_workspace(const AttentionBackward<T>& a) {   // delta, row sums [B, H, T]
  return 2 * size_t(a.size.batch * a.size.heads * a.size.tokens) * sizeof(Wide<T>);
}

template <class T> Status softmax_attention_backward(const AttentionBackward<T>& a, Workspace workspace, Stream stream) {
  const AttentionSizes& s = a.size;
  if (!sizes_fit(s, a.strict)) return Status::bad_size;
  if (workspace.bytes < softmax_attention_workspace(a)) return Status::small_workspace;
  using W = Wide<T>;
  const int64_t rows = s.batch * s.heads * s.tokens;
  W* const delta = static_cast<W*>(workspace.at);
  W* const row_sums = delta + rows;
  if (rows > 0) {
    if (divide_up(rows, kRowsABlock) > INT32_MAX) return Status::bad_size;
    const Status status =
        launch(attention_delta<T>, dim3(unsigned(divide_up(rows, kRowsABlock))), dim3(kRowThreads, kRowsABlock), 0, stream, a, delta);
    if (status != Status::ok) return status;
  }
  if (a.dq.at != nullptr || a.d_head_scale != nullptr || a.d_key_bias != nullptr) {
    const size_t wide = tile_bytes<W>(s, kWideTile, 3, 2, 1), narrow = tile_bytes<W>(s, kNarrowTile, 3, 2, 1);
    const Status status = wide <= kSharedLimit
                              ? launch_tiles(attention_backward_queries<T, kWideTile>, s.batch * s.heads * divide_up(s.tokens, kWideTile),
                                             kWideTile, wide, stream, a, delta, row_sums)
                              : launch_tiles(attention_backward_queries<T, kNarrowTile>,
                                             s.batch * s.heads * divide_up(s.tokens, kNarrowTile), kNarrowTile, narrow, stream, a, delta, row_sums);
    if (status != Status::ok) return status;
  }
  auto backward_keys = [&](const AttentionBackward<T>& part, int64_t row_heads) {
    if (part.dk.at == nullptr && part.dv.at == nullptr && part.d_key_bias == nullptr) return Status::ok;
    const size_t wide = tile_bytes<W>(s, kWideTile, 3, 3, 2), narrow = tile_bytes<W>(s, kNarrowTile, 3, 3, 2);
    if (wide <= kSharedLimit)
      return launch_tiles(attention_backward_keys<T, kWideTile>, s.batch * row_heads * divide_up(s.keys, kWideTile), kWideTile, wide,
                          stream, part, row_heads, delta, row_sums);
    return launch_tiles(attention_backward_keys<T, kNarrowTile>, s.batch * row_heads * divide_up(s.keys, kNarrowTile), kNarrowTile, narrow,
                        stream, part, row_heads, delta, row_sums);
  };
  if (s.key_heads == s.value_heads) return backward_keys(a, s.key_heads);
  AttentionBackward<T> keys = a, values = a;
  keys.dv.at = nullptr;
  values.dk.at = nullptr;
  values.d_key_bias = nullptr;
  const Status status = backward_keys(keys, s.key_heads);
  return status != Status::ok ? status : backward_keys(values, s.value_heads);
}

template size_t softmax_attention_workspace(const AttentionForward<float>&);
template size_t softmax_attention_workspace(const AttentionForward<bf16>&);
template size_t softmax_attention_workspace(const AttentionForward<double>&);
template size_t softmax_attention_workspace(const AttentionBackward<float>&);
template size_t softmax_attention_workspace(const AttentionBackward<bf16>&);
template size_t softmax_attention_workspace(const AttentionBackward<double>&);
template Status softmax_attention_forward(const AttentionForward<float>&, Workspace, Stream);
template Status softmax_attention_forward(const AttentionForward<bf16>&, Workspace, Stream);
template Status softmax_attention_forward(const AttentionForward<double>&, Workspace, Stream);
template Status softmax_attention_backward(const AttentionBackward<float>&, Workspace, Stream);
template Status softmax_attention_backward(const AttentionBackward<bf16>&, Workspace, Stream);
template Status softmax_attention_backward(const AttentionBackward<double>&, Workspace, Stream);

}  // namespace ttr::cuda
