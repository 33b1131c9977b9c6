// What the attention kernels share: tiles of rows in shared memory, who sees what, a pair's logit, and launches by tile.
//
// A block is kTile x kTile threads. Thread (r, c) owns the score of row r against column c of a pair of tiles, and of each sum over rows
// the entries (r, c), (r, c + kTile), (r, c + 2 kTile), ... The kTile threads of a row lie in one warp. Rows in shared memory are one
// element longer than they need to be, so that threads side by side, which read down a column, find their numbers in different banks.
#pragma once
#include <ttr/cuda/launch.hpp>
#include <ttr/cuda/shared.hpp>
#include <ttr/layers/softmax_attention_kernel.hpp>

namespace ttr::cuda {

template <class W> __device__ W infinity() { return W(INFINITY); }

// Dynamic shared memory, aligned for the widest type; one name for every kernel and type.
extern __shared__ double tile_memory[];

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

__device__ inline int rows_left(int64_t total, int64_t first, int tile) { return total - first < tile ? int(total - first) : tile; }

// Rows t0 .. t0 + rows of head (b, h): what a block that owns a tile of queries owns.
template <int kTile> struct QueryTile {
  int64_t t0, h, b, key_head, value_head;
  int rows;

  __device__ explicit QueryTile(const AttentionSizes& s) {
    const int64_t tiles = (s.tokens + kTile - 1) / kTile;
    t0 = blockIdx.x % tiles * kTile, h = blockIdx.x / tiles % s.heads, b = blockIdx.x / tiles / s.heads;
    key_head = h / (s.heads / s.key_heads), value_head = h / (s.heads / s.value_heads);
    rows = rows_left(s.tokens, t0, kTile);
  }
};

template <class A> __device__ auto head_scale(const A& a, int64_t h) { return a.head_scale == nullptr ? a.scale : a.scale * a.head_scale[h]; }

// What is added to the product of query t, which sees key i, against the newest key before t.
template <class A> __device__ auto bias_of(const A& a, int64_t b, int64_t h, int64_t t, int64_t i) {
  using W = decltype(a.scale + 0);
  if (a.key_bias == nullptr) return W(0);
  const double* const first = a.key_bias + b * a.size.keys * a.size.heads + h;
  return W(first[i * a.size.heads] - first[(visible_end(a, t) - 1) * a.size.heads]);
}

// ---- host ----

inline bool sizes_fit(const AttentionSizes& s, bool strict) {
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

}  // namespace ttr::cuda
