// Softmax attention on the GPU, level 1: the streaming softmax written plainly, tile against tile, in shared memory (arXiv 2205.14135).
//
//   S = scale Q K^T,  P = exp(S - lse),  Y = P V         dP = dY V^T,  dS = scale P o (dP - delta),  delta_t = dy_t . y_t
//
// CPU twin: layers/softmax_attention_cpu.cpp. Four kernels: the forward; delta, a number a query; dq, a block per tile of queries; dk and
// dv, a block per tile of keys. The scores are computed anew wherever they are needed, so no kernel adds to what another block wrote: no
// atomics, the same bits every run.
//
// A block is kTile x kTile threads. Thread (r, c) owns the score of row r against column c of a pair of tiles, and of each sum over rows
// the entries (r, c), (r, c + kTile), (r, c + 2 kTile), ... The kTile threads of a row lie in one warp. Rows in shared memory are one
// element longer than they need to be, so that threads side by side, which read down a column, find their numbers in different banks.
#include <ttr/cuda/launch.hpp>
#include <ttr/cuda/shared.hpp>
#include <ttr/layers/softmax_attention_kernel.hpp>

namespace ttr::cuda {
namespace {

constexpr int kRowThreads = 32;   // of the kernel of delta: one warp a query
constexpr int kRowsABlock = 8;

template <class W> __device__ W infinity() { return W(INFINITY); }

// Dynamic shared memory, aligned for the widest type; one name for every kernel and type.
extern __shared__ double shared_memory[];

template <class T>
__device__ T* row(const Rows<T>& x, int64_t token, int64_t head, int64_t dim) {
  return x.at + token * x.token_stride + head * dim;
}

// tile [kTile, dim + 1] = `rows` rows of one head, and zeros below them
template <int kTile, class T>
__device__ void load_tile(Wide<T>* tile, const Rows<const T>& x, int64_t first_token, int rows, int64_t head, int dim) {
  for (int i = threadIdx.y * kTile + threadIdx.x; i < kTile * dim; i += kTile * kTile) {
    const int r = i / dim, d = i % dim;
    tile[r * (dim + 1) + d] = r < rows ? load(row(x, first_token + r, head, dim) + d) : Wide<T>(0);
  }
}

template <class W> __device__ W dot(const W* a, const W* b, int dim) {
  W sum = 0;
  for (int d = 0; d < dim; ++d) sum += a[d] * b[d];
  return sum;
}

// The largest and the sum over the kThreads neighbours of one row; each of them gets it.
template <int kThreads, class W> __device__ W row_max(W x) {
  for (int step = kThreads / 2; step > 0; step /= 2) {
    const W other = __shfl_xor_sync(0xffffffffu, x, step);
    x = other > x ? other : x;
  }
  return x;
}
template <int kThreads, class W> __device__ W row_sum(W x) {
  for (int step = kThreads / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// Query t sees the keys before t + 1 + lead.
template <class A> __host__ __device__ int64_t lead_of(const A& a) { return a.size.keys - a.size.tokens - (a.strict ? 1 : 0); }

template <class A> __device__ int64_t visible_end(const A& a, int64_t t) {
  const int64_t end = t + 1 + lead_of(a);
  return end < 0 ? 0 : end < a.size.keys ? end : a.size.keys;
}

template <class A> __device__ bool sees(const A& a, int64_t b, int64_t t, int64_t i) {
  if (t >= a.size.tokens || i >= visible_end(a, t)) return false;
  return a.query_segments == nullptr || a.query_segments[b * a.size.tokens + t] == a.key_segments[b * a.size.keys + i];
}

__device__ int rows_left(int64_t total, int64_t first, int tile) { return total - first < tile ? int(total - first) : tile; }

// A block owns (b, h, tile of queries); row r of its threads is query t0 + r, column c is key k0 + c.
// Shared: q, y [kTile, K + 1], [kTile, V + 1] for the whole life of the block; k, v [kTile, K + 1], [kTile, V + 1] and p [kTile, kTile + 1]
// of the keys at hand. Registers: the running maximum and sum of the row, the same in its kTile threads.
template <class T, int kTile> __global__ void attention_forward(AttentionForward<T> a) {
  using W = Wide<T>;
  const int K = int(a.size.key_dim), V = int(a.size.value_dim), r = threadIdx.y, c = threadIdx.x;
  const int64_t tiles = (a.size.tokens + kTile - 1) / kTile;
  const int64_t t0 = blockIdx.x % tiles * kTile, h = blockIdx.x / tiles % a.size.heads, b = blockIdx.x / tiles / a.size.heads;
  const int64_t key_head = h / (a.size.heads / a.size.key_heads), value_head = h / (a.size.heads / a.size.value_heads);
  const int rows = rows_left(a.size.tokens, t0, kTile);
  const int64_t t = t0 + r;

  W* const q = reinterpret_cast<W*>(shared_memory);
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

    const W s = sees(a, b, t, k0 + c) ? a.scale * dot(q + r * (K + 1), k + c * (K + 1), K) : -infinity<W>();
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
template <class T, int kTile> __global__ void attention_backward_queries(AttentionBackward<T> a, const Wide<T>* delta) {
  using W = Wide<T>;
  const int K = int(a.size.key_dim), V = int(a.size.value_dim), r = threadIdx.y, c = threadIdx.x;
  const int64_t tiles = (a.size.tokens + kTile - 1) / kTile;
  const int64_t t0 = blockIdx.x % tiles * kTile, h = blockIdx.x / tiles % a.size.heads, b = blockIdx.x / tiles / a.size.heads;
  const int64_t key_head = h / (a.size.heads / a.size.key_heads), value_head = h / (a.size.heads / a.size.value_heads);
  const int rows = rows_left(a.size.tokens, t0, kTile);
  const int64_t t = t0 + r;

  W* const q = reinterpret_cast<W*>(shared_memory);
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

  const int64_t end = visible_end(a, t0 + rows - 1);
  for (int64_t k0 = 0; k0 < end; k0 += kTile) {
    __syncthreads();   // every thread is done with the keys and values before
    load_tile<kTile>(k, a.k, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), key_head, K);
    load_tile<kTile>(v, a.v, b * a.size.keys + k0, rows_left(a.size.keys, k0, kTile), value_head, V);
    __syncthreads();   // k and v (and, the first time, q and dy) are whole

    W d_score = 0;
    if (sees(a, b, t, k0 + c)) {
      const W weight = exp(a.scale * dot(q + r * (K + 1), k + c * (K + 1), K) - lse);
      const W d_weight = dot(dy + r * (V + 1), v + c * (V + 1), V);     // Y = P V
      d_score = a.scale * weight * (d_weight - row_delta);              // P = exp(S - lse), S = scale Q K^T
    }
    ds[r * (kTile + 1) + c] = d_score;
    __syncwarp();      // row r of ds is whole; its writers and readers are this row's threads, in one warp

    for (int d = c; d < K; d += kTile) {
      W gradient = dq[r * (K + 1) + d];
      for (int j = 0; j < kTile; ++j) gradient += ds[r * (kTile + 1) + j] * k[j * (K + 1) + d];   // S = scale Q K^T
      dq[r * (K + 1) + d] = gradient;
    }
    __syncwarp();      // row r of ds has been read before the next keys overwrite it
  }

  if (r >= rows) return;
  for (int d = c; d < K; d += kTile) store(row(a.dq, b * a.size.tokens + t, h, K) + d, dq[r * (K + 1) + d]);
}

// A block owns (b, row head, tile of keys) and visits every query head that reads this row head, one after the other; row r of its threads
// is key k0 + r, column c is query t0 + c. `row_heads` is Hk when dk is wanted, Hv when dv is; both at once when they are equal.
// Shared: dk, dv of its keys for the whole life of the block; k, v of the head at hand; q, dy and p, ds [kTile, kTile + 1] of the queries
// at hand.
template <class T, int kTile> __global__ void attention_backward_keys(AttentionBackward<T> a, int64_t row_heads, const Wide<T>* delta) {
  using W = Wide<T>;
  const int K = int(a.size.key_dim), V = int(a.size.value_dim), r = threadIdx.y, c = threadIdx.x;
  const int64_t tiles = (a.size.keys + kTile - 1) / kTile, group = a.size.heads / row_heads;
  const int64_t k0 = blockIdx.x % tiles * kTile, row_head = blockIdx.x / tiles % row_heads, b = blockIdx.x / tiles / row_heads;
  const int rows = rows_left(a.size.keys, k0, kTile);
  const int64_t i = k0 + r;

  W* const k = reinterpret_cast<W*>(shared_memory);
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
    for (int64_t t0 = first_tile; t0 < a.size.tokens; t0 += kTile) {
      __syncthreads();   // every thread is done with the queries before
      load_tile<kTile>(q, a.q, b * a.size.tokens + t0, rows_left(a.size.tokens, t0, kTile), h, K);
      load_tile<kTile>(dy, a.dy, b * a.size.tokens + t0, rows_left(a.size.tokens, t0, kTile), h, V);
      __syncthreads();   // q and dy (and, the first time, k and v) are whole

      const int64_t t = t0 + c;
      W weight = 0, d_score = 0;
      if (sees(a, b, t, i)) {
        const int64_t number = (b * a.size.heads + h) * a.size.tokens + t;
        weight = exp(a.scale * dot(k + r * (K + 1), q + c * (K + 1), K) - a.lse[number]);
        if (a.dk.at != nullptr) {
          const W d_weight = dot(v + r * (V + 1), dy + c * (V + 1), V);     // Y = P V
          d_score = a.scale * weight * (d_weight - delta[number]);          // P = exp(S - lse), S = scale Q K^T
        }
      }
      p[r * (kTile + 1) + c] = weight;
      ds[r * (kTile + 1) + c] = d_score;
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
  }

  if (r >= rows) return;
  if (a.dk.at != nullptr)
    for (int d = c; d < K; d += kTile) store(row(a.dk, b * a.size.keys + i, row_head, K) + d, dk[r * (K + 1) + d]);
  if (a.dv.at != nullptr)
    for (int d = c; d < V; d += kTile) store(row(a.dv, b * a.size.keys + i, row_head, V) + d, dv[r * (V + 1) + d]);
}

// ---- host ----

bool sizes_fit(const AttentionSizes& s, bool strict) {
  return s.batch >= 0 && s.tokens >= 0 && s.keys >= 0 && (strict || s.keys >= s.tokens) && s.heads > 0 && s.key_heads > 0 &&
         s.value_heads > 0 && s.key_dim > 0 && s.value_dim > 0 && s.heads % s.key_heads == 0 && s.heads % s.value_heads == 0;
}

template <class W> size_t tile_bytes(const AttentionSizes& s, int tile, int key_tiles, int value_tiles, int score_tiles) {
  return sizeof(W) * size_t(tile) *
         (size_t(key_tiles) * size_t(s.key_dim + 1) + size_t(value_tiles) * size_t(s.value_dim + 1) +
          size_t(score_tiles) * size_t(tile + 1));
}

template <class... P>
Status launch_tiles(void (*kernel)(P...), int64_t blocks, int tile, size_t bytes, Stream stream, std::type_identity_t<P>... arguments) {
  if (blocks == 0) return Status::ok;
  if (blocks > INT32_MAX) return Status::bad_size;
  const Status granted = allow_shared(kernel, bytes);
  if (granted != Status::ok) return granted;
  return launch(kernel, dim3(unsigned(blocks)), dim3(unsigned(tile), unsigned(tile)), bytes, stream, arguments...);
}

constexpr int kWideTile = 16, kNarrowTile = 8;   // narrow: wide rows of f64, whose tiles of 16 do not fit

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

template <class T> size_t softmax_attention_workspace(const AttentionBackward<T>& a) {   // delta [B, H, T]
  return size_t(a.size.batch * a.size.heads * a.size.tokens) * sizeof(Wide<T>);
}

template <class T> Status softmax_attention_backward(const AttentionBackward<T>& a, Workspace workspace, Stream stream) {
  const AttentionSizes& s = a.size;
  if (!sizes_fit(s, a.strict)) return Status::bad_size;
  if (workspace.bytes < softmax_attention_workspace(a)) return Status::small_workspace;
  using W = Wide<T>;
  W* const delta = static_cast<W*>(workspace.at);
  const int64_t rows = s.batch * s.heads * s.tokens;
  if (rows > 0) {
    if (divide_up(rows, kRowsABlock) > INT32_MAX) return Status::bad_size;
    const Status status =
        launch(attention_delta<T>, dim3(unsigned(divide_up(rows, kRowsABlock))), dim3(kRowThreads, kRowsABlock), 0, stream, a, delta);
    if (status != Status::ok) return status;
  }
  if (a.dq.at != nullptr) {
    const size_t wide = tile_bytes<W>(s, kWideTile, 3, 2, 1), narrow = tile_bytes<W>(s, kNarrowTile, 3, 2, 1);
    const Status status = wide <= kSharedLimit
                              ? launch_tiles(attention_backward_queries<T, kWideTile>, s.batch * s.heads * divide_up(s.tokens, kWideTile),
                                             kWideTile, wide, stream, a, delta)
                              : launch_tiles(attention_backward_queries<T, kNarrowTile>,
                                             s.batch * s.heads * divide_up(s.tokens, kNarrowTile), kNarrowTile, narrow, stream, a, delta);
    if (status != Status::ok) return status;
  }
  auto backward_keys = [&](const AttentionBackward<T>& part, int64_t row_heads) {
    if (part.dk.at == nullptr && part.dv.at == nullptr) return Status::ok;
    const size_t wide = tile_bytes<W>(s, kWideTile, 3, 3, 2), narrow = tile_bytes<W>(s, kNarrowTile, 3, 3, 2);
    if (wide <= kSharedLimit)
      return launch_tiles(attention_backward_keys<T, kWideTile>, s.batch * row_heads * divide_up(s.keys, kWideTile), kWideTile, wide,
                          stream, part, row_heads, delta);
    return launch_tiles(attention_backward_keys<T, kNarrowTile>, s.batch * row_heads * divide_up(s.keys, kNarrowTile), kNarrowTile, narrow,
                        stream, part, row_heads, delta);
  };
  if (s.key_heads == s.value_heads) return backward_keys(a, s.key_heads);
  AttentionBackward<T> keys = a, values = a;
  keys.dv.at = nullptr;
  values.dk.at = nullptr;
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
