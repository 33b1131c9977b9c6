// CPU short causal convolution and rotary embedding. Equations: sequence_kernel.hpp.
// The convolution walks tiles of channels and tokens, each copied with what its taps reach (conv_tile.hpp), so that x, dy and their like pass once.
// A tile's backward computes the few dz behind it again; d_weight and d_bias are summed tile by tile and the tiles in their order: the same bits for any
// number of threads.
#include <algorithm>
#include <cmath>
#include <utility>
#include <ttr/core/ops/sequence_kernel.hpp>
#include <ttr/core/simd.hpp>
#include <ttr/core/task_slabs.hpp>

namespace ttr {
namespace {

constexpr int64_t kChannels = 128, kTokens = 32;   // a tile
constexpr int kTaps = 4;                          // that pass together

// A tile and its surroundings, every row [kChannels] and right behind the one before it but for those of `to` and dy
template <class T> struct ConvTile {
  bool active = false;
  int64_t tokens = 0, width = 0;
  int64_t before = 0, after = 0;   // tokens before its first, where d_past is wanted; behind its last, those that take part in its dx
  const T *w = nullptr, *bias = nullptr, *zero = nullptr;   // [W, kChannels], [kChannels] and as many zeros
  T* x = nullptr;                  // at the tile's first token, W-1 rows before it
  T* to = nullptr;                 // y; in the backward dx from the first row of `before` on
  const T* dy = nullptr;           // at the tile's first token
  T* dz = nullptr;                 // at the tile's first token, W-1 rows before it; zeros where there is no token
  T* sums = nullptr;               // [W + 1, kChannels]: d_weight and d_bias of the tile
  int64_t to_row = kChannels, dy_row = kChannels;
};

}  // namespace
}  // namespace ttr
#define TTR_SIMD_EACH <ttr/core/ops/conv_tile.hpp>
#include <ttr/core/simd_sets.hpp>

namespace ttr::cpu {
namespace {

void run_forward(const ConvTile<float>& c) {
  static auto* const run = TTR_SIMD_BEST(forward_f32);
  run(c);
}
void run_forward(const ConvTile<double>& c) {
  static auto* const run = TTR_SIMD_BEST(forward_f64);
  run(c);
}
void run_backward(const ConvTile<float>& c) {
  static auto* const run = TTR_SIMD_BEST(backward_f32);
  run(c);
}
void run_backward(const ConvTile<double>& c) {
  static auto* const run = TTR_SIMD_BEST(backward_f64);
  run(c);
}

int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

// Where a tile lies, of batch x along x across of them; at least one along, for d_past.
struct Place {
  int64_t b, t0, d0, tokens, channels;
  template <class T> Place(const ConvInputs<T>& p, int64_t tile) {
    const int64_t across = tiles(p.dim, kChannels), along = tiles_along(p);
    b = tile / (across * along), t0 = tile / across % along * kTokens, d0 = tile % across * kChannels;
    tokens = std::min(kTokens, p.tokens - t0), channels = std::min(kChannels, p.dim - d0);
  }
  template <class T> static int64_t tiles_along(const ConvInputs<T>& p) { return std::max<int64_t>(1, tiles(p.tokens, kTokens)); }
  template <class T> static int64_t count(const ConvInputs<T>& p) { return p.batch * tiles_along(p) * tiles(p.dim, kChannels); }
};

// Row of token t at a place's channels: x [B, T, D] or, before the first token, past [B, W-1, D]; null where there is nothing.
template <class T, class U> U* row_of(const ConvInputs<T>& p, const Place& at, U* x, Rows<U> past, int64_t t) {
  if (t >= 0) return x && t < p.tokens ? x + (at.b * p.tokens + t) * p.dim + at.d0 : nullptr;
  return past.at ? past.at + (at.b * (p.width - 1) + p.width - 1 + t) * past.token_stride + at.d0 : nullptr;
}
template <class T> void load_rows(const ConvInputs<T>& p, const Place& at, const T* x, Rows<const T> past, int64_t t0, int64_t t1, T* rows) {
  for (int64_t t = t0; t < t1; ++t, rows += kChannels) {
    const T* from = row_of(p, at, x, past, t);
    const int64_t channels = from ? at.channels : 0;
    if (channels > 0) std::copy(from, from + channels, rows);
    std::fill(rows + channels, rows + kChannels, T(0));
  }
}
template <class T> void store_rows(const ConvInputs<T>& p, const Place& at, const T* rows, int64_t t0, int64_t t1, T* x, Rows<T> past) {
  for (int64_t t = t0; t < t1; ++t, rows += kChannels)
    if (T* to = row_of(p, at, x, past, t)) std::copy(rows, rows + at.channels, to);
}

// What all tiles read: every channel's weights in the order of taps, its bias, zeros. [tiles across, W + 2, kChannels]
template <class T> int64_t weights_of(const ConvInputs<T>& p) { return tiles(p.dim, kChannels) * (p.width + 2) * kChannels; }
template <class T> void load_weights(const ConvInputs<T>& p, T* to) {
  std::fill(to, to + weights_of(p), T(0));
  for (int64_t d = 0; d < p.dim; ++d) {
    T* const at = to + d / kChannels * (p.width + 2) * kChannels + d % kChannels;
    for (int64_t j = 0; j < p.width; ++j) at[j * kChannels] = p.weight[d * p.width + j];
    if (p.bias) at[p.width * kChannels] = p.bias[d];
  }
}

// A worker's tile in its slab. Forward: x, to. Backward: also dy, dz, sums.
template <class T> size_t lay_out(const ConvInputs<T>& p, bool backward, T* slab, ConvTile<T>& c) {
  Pieces<T> pieces{slab};
  const int64_t reach = (p.width - 1) * kChannels, all = kTokens * kChannels + 2 * reach;
  c.active = p.active, c.width = p.width;
  c.x = pieces.take(all), c.to = pieces.take(all);
  if (backward) c.dy = pieces.take(all), c.dz = pieces.take(all), c.sums = pieces.take((p.width + 1) * kChannels);
  if (slab) c.x += reach;
  if (slab && backward) c.dz += reach;
  return pieces.used;
}
template <class T> void find_weights(const ConvInputs<T>& p, const Place& at, const T* weights, ConvTile<T>& c) {
  c.w = weights + at.d0 / kChannels * (p.width + 2) * kChannels;
  c.bias = c.w + p.width * kChannels, c.zero = c.bias + kChannels;
}

template <class T> bool valid(const ConvInputs<T>& p) { return p.batch >= 0 && p.tokens >= 0 && p.dim >= 0 && p.width >= 1; }
template <class T> size_t slab_of(const ConvInputs<T>& p, bool backward) {
  ConvTile<T> c;
  return lay_out(p, backward, static_cast<T*>(nullptr), c);
}
template <class T> int64_t sums_of(const ConvBackward<T>& p) {   // [tiles of batch and tokens, W + 1, D]
  return p.d_weight || p.d_bias ? p.batch * Place::tiles_along(p) * (p.width + 1) * p.dim : 0;
}
template <class T> Workspace behind(Workspace work, int64_t count) {   // the first `count` elements
  const size_t bytes = size_t(count) * sizeof(T);
  return bytes > work.bytes ? Workspace{} : Workspace{static_cast<char*>(work.at) + bytes, work.bytes - bytes};
}

// The pairs of every head that stands at one position are rotated by the same angles: c, s [pairs]. x, y start at the first head's first pair;
// sequences lie batch_stride apart, heads 2 half apart, the second halves of the pairs half behind the first.
template <class T>
TTR_SIMD_INLINE void rotate_position(int64_t batch, int64_t batch_stride, int64_t heads, int64_t half, int64_t pairs, const T* __restrict c,
                                     const T* __restrict s, const T* x, T* y) {
  for (int64_t b = 0; b < batch; ++b, x += batch_stride, y += batch_stride)
    for (int64_t h = 0; h < heads; ++h) {
      const T *first = x + h * 2 * half, *second = first + half;
      T *y_first = y + h * 2 * half, *y_second = y_first + half;
#pragma GCC ivdep
      for (int64_t i = 0; i < pairs; ++i) {
        const T u = first[i], v = second[i];
        y_first[i] = u * c[i] - v * s[i];
        y_second[i] = u * s[i] + v * c[i];
      }
    }
}
TTR_SIMD_CLONES void rotate(int64_t batch, int64_t batch_stride, int64_t heads, int64_t half, int64_t pairs, const float* c, const float* s,
                            const float* x, float* y) {
  rotate_position(batch, batch_stride, heads, half, pairs, c, s, x, y);
}
void rotate(int64_t batch, int64_t batch_stride, int64_t heads, int64_t half, int64_t pairs, const double* c, const double* s,
                            const double* x, double* y) {
  rotate_position(batch, batch_stride, heads, half, pairs, c, s, x, y);
}

}  // namespace

template <class T> size_t conv_workspace(const ConvForward<T>& p) {
  return size_t(weights_of(p)) * sizeof(T) + slabs_bytes<T>(Place::count(p), slab_of(p, false));
}
template <class T> size_t conv_workspace(const ConvBackward<T>& p) {
  return size_t(weights_of(p) + sums_of(p)) * sizeof(T) + slabs_bytes<T>(Place::count(p), slab_of(p, true));
}

template <class T> Status conv_forward(const ConvForward<T>& p, Workspace work) {
  if (!valid(p)) return Status::bad_size;
  if (work.bytes < conv_workspace(p)) return Status::small_workspace;
  T* const weights = static_cast<T*>(work.at);
  load_weights(p, weights);
  return share_tasks<T>(Place::count(p), slab_of(p, false), behind<T>(work, weights_of(p)), [&](int64_t tile, T* slab) {
    const Place at(p, tile);
    const int64_t end = at.t0 + at.tokens, reach = p.width - 1;
    const bool whole = at.channels == kChannels;   // such rows are written where they belong
    ConvTile<T> c;
    lay_out(p, false, slab, c);
    find_weights(p, at, weights, c);
    c.tokens = at.tokens;
    load_rows(p, at, p.x, p.past, at.t0 - reach, end, c.x - reach * kChannels);
    if (whole) c.to = row_of(p, at, p.y, {}, at.t0), c.to_row = p.dim;
    run_forward(c);
    if (!whole) store_rows(p, at, c.to, at.t0, end, p.y, {});
  });
}

template <class T> Status conv_backward(const ConvBackward<T>& p, Workspace work) {
  if (!valid(p)) return Status::bad_size;
  if (work.bytes < conv_workspace(p)) return Status::small_workspace;
  const int64_t reach = p.width - 1, W = p.width, D = p.dim, across = tiles(D, kChannels);
  T *const weights = static_cast<T*>(work.at), *const sums = weights + weights_of(p);
  const bool sums_wanted = p.d_weight || p.d_bias;
  load_weights(p, weights);
  const Status status = share_tasks<T>(Place::count(p), slab_of(p, true), behind<T>(work, weights_of(p) + sums_of(p)), [&](int64_t tile, T* slab) {
    const Place at(p, tile);
    const int64_t end = at.t0 + at.tokens;
    const bool whole = at.channels == kChannels;   // such rows are read and written where they belong
    ConvTile<T> c;
    lay_out(p, true, slab, c);
    find_weights(p, at, weights, c);
    c.tokens = at.tokens;
    c.before = at.t0 == 0 && p.d_past.at ? reach : 0;
    c.after = std::min(reach, p.tokens - end);
    load_rows(p, at, p.x, p.past, at.t0 - reach, end + c.after, c.x - reach * kChannels);
    if (whole) c.dy = row_of(p, at, p.dy, {}, at.t0), c.dy_row = D;
    else load_rows(p, at, p.dy, {}, at.t0, end + c.after, const_cast<T*>(c.dy));   // of the slab
    std::fill(c.dz - c.before * kChannels, c.dz, T(0));
    std::fill(c.dz + (c.tokens + c.after) * kChannels, c.dz + (c.tokens + reach) * kChannels, T(0));
    const bool direct = whole && p.dx && c.before == 0;
    T* const dx = c.to;
    if (direct) c.to = row_of(p, at, p.dx, {}, at.t0), c.to_row = D;
    run_backward(c);
    if (!direct) store_rows(p, at, dx, at.t0 - c.before, end, p.dx, p.d_past);
    if (sums_wanted)
      for (int64_t j = 0; j <= W; ++j)
        std::copy(c.sums + j * kChannels, c.sums + j * kChannels + at.channels, sums + (tile / across * (W + 1) + j) * D + at.d0);
  });
  if (status != Status::ok || !sums_wanted) return status;
  const int64_t count = p.batch * Place::tiles_along(p);
  parallel_for(D, std::max<int64_t>(1, 65536 / ((W + 1) * std::max<int64_t>(count, 1))), [&](int64_t begin, int64_t end) {
    for (int64_t j = 0; j <= W; ++j) {
      T* const first = sums + j * D;   // the tiles' sums are added up in the place of the first
      for (int64_t i = 1; i < count; ++i)
        for (int64_t d = begin; d < end; ++d) first[d] += sums[(i * (W + 1) + j) * D + d];
      for (int64_t d = begin; d < end; ++d) {
        const T sum = count > 0 ? first[d] : T(0);
        if (j < W && p.d_weight) p.d_weight[d * W + j] = sum;
        if (j == W && p.d_bias) p.d_bias[d] = sum;
      }
    }
  });
  return Status::ok;
}

template <class T> Status rotary(const RotarySizes& p, const T* x, T* y) {   // x, y [B, T, H, D]
  if (p.batch < 0 || p.tokens < 0 || p.heads < 0 || p.dim < 0 || p.dim % 2 != 0) return Status::bad_size;
  constexpr int64_t kPairs = 256;
  const int64_t half = p.dim / 2;
  const double fall = half ? -std::log(p.base) / double(half) : 0;           // angles in double: a late token times a fast pair loses bits in f32
  parallel_for(p.tokens, std::max<int64_t>(1, 4096 / std::max<int64_t>(1, p.batch * p.heads * half)), [&](int64_t begin, int64_t end) {
    T c[kPairs], s[kPairs];
    for (int64_t t = begin; t < end; ++t)
      for (int64_t i0 = 0; i0 < half; i0 += kPairs) {
        const int64_t pairs = std::min(kPairs, half - i0);
        for (int64_t i = 0; i < pairs; ++i) {
          const double angle = double(p.sign) * double(p.first + t) * std::exp(fall * double(i0 + i));
          c[i] = T(std::cos(angle));
          s[i] = T(std::sin(angle));
        }
        const int64_t at = t * p.heads * p.dim + i0;
        rotate(p.batch, p.tokens * p.heads * p.dim, p.heads, half, pairs, c, s, x + at, y + at);
      }
  });
  return Status::ok;
}

template size_t conv_workspace<float>(const ConvForward<float>&);
template size_t conv_workspace<double>(const ConvForward<double>&);
template size_t conv_workspace<float>(const ConvBackward<float>&);
template size_t conv_workspace<double>(const ConvBackward<double>&);
template Status conv_forward<float>(const ConvForward<float>&, Workspace);
template Status conv_forward<double>(const ConvForward<double>&, Workspace);
template Status conv_backward<float>(const ConvBackward<float>&, Workspace);
template Status conv_backward<double>(const ConvBackward<double>&, Workspace);
template Status rotary<float>(const RotarySizes&, const float*, float*);
template Status rotary<double>(const RotarySizes&, const double*, double*);

}  // namespace ttr::cpu
