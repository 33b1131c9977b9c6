// CPU short causal convolution and rotary embedding. Equations: sequence_kernel.hpp.
// The convolution walks tiles of channels and tokens, so that a tile stays in the first-level cache while the taps pass over it. d_weight is summed
// by one thread a tile of channels in the order of tokens: the same bits for any number of threads.
#include <algorithm>
#include <cmath>
#include <utility>
#include <ttr/core/ops/sequence_kernel.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>

namespace ttr::cpu {
namespace {

constexpr int64_t kChannels = 256, kTokens = 64;   // a tile
constexpr int64_t kNarrow = 64;                    // channels of a tile of d_weight, the one loop that has no batch to share out
constexpr int kTaps = 4;                            // summed in registers where all of them lie inside the tokens

// `taps` of them over one tile: y[t, d] += sum_j w[j, d] x[t + j step, d], j ascending; rows `stride` apart, w rows kChannels apart
template <int taps, class T>
TTR_SIMD_INLINE void add_rows(int64_t tokens, int64_t channels, int64_t stride, int64_t step, const T* __restrict w, const T* __restrict x,
                              T* __restrict y) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t d = 0; d < channels; ++d) {
      T sum = y[t * stride + d];
      for (int j = 0; j < taps; ++j) sum += w[j * kChannels + d] * x[(t + j * step) * stride + d];
      y[t * stride + d] = sum;
    }
}
template <class T> TTR_SIMD_INLINE void add_any(int taps, int64_t tokens, int64_t channels, int64_t stride, int64_t step, const T* w, const T* x, T* y) {
  if (taps == kTaps) add_rows<kTaps>(tokens, channels, stride, step, w, x, y);
  else for (int j = 0; j < taps; ++j) add_rows<1>(tokens, channels, stride, step, w + j * kChannels, x + j * step * stride, y);
}
TTR_SIMD_CLONES void add_taps(int taps, int64_t tokens, int64_t channels, int64_t stride, int64_t step, const float* w, const float* x, float* y) {
  add_any(taps, tokens, channels, stride, step, w, x, y);
}
void add_taps(int taps, int64_t tokens, int64_t channels, int64_t stride, int64_t step, const double* w, const double* x, double* y) {
  add_any(taps, tokens, channels, stride, step, w, x, y);
}

// sums[d] = sum_t dy[t, d] x[t, d]
template <class T>
TTR_SIMD_INLINE void dot_rows(int64_t tokens, int64_t channels, int64_t stride, const T* __restrict dy, const T* __restrict x,
                              T* __restrict sums) {
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t d = 0; d < channels; ++d) sums[d] += dy[t * stride + d] * x[t * stride + d];
}
TTR_SIMD_CLONES void dot_tap(int64_t tokens, int64_t channels, int64_t stride, const float* dy, const float* x, float* sums) {
  dot_rows(tokens, channels, stride, dy, x, sums);
}
void dot_tap(int64_t tokens, int64_t channels, int64_t stride, const double* dy, const double* x, double* sums) {
  dot_rows(tokens, channels, stride, dy, x, sums);
}

template <class T> void tap_of(const T* weight, int64_t width, int64_t j, int64_t channels, T* w) {   // weight [channels, W] -> w [channels]
  for (int64_t d = 0; d < channels; ++d) w[d] = weight[d * width + j];
}

int64_t tiles(int64_t size, int64_t tile) { return (size + tile - 1) / tile; }

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

template <class T> Status conv_forward(const ConvForward<T>& p) {
  if (p.batch < 0 || p.tokens < 0 || p.dim < 0 || p.width < 1) return Status::bad_size;
  const int64_t across = tiles(p.dim, kChannels), along = tiles(p.tokens, kTokens), W = p.width, D = p.dim;
  parallel_for(p.batch * across * along, 4, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t b = tile / (across * along), t0 = tile / across % along * kTokens, d0 = tile % across * kChannels;
      const int64_t t1 = std::min(t0 + kTokens, p.tokens), channels = std::min(kChannels, D - d0);
      const T* x = p.x + b * p.tokens * D + d0;                                // [T, D]
      const T* past = p.past ? p.past + b * (W - 1) * D + d0 : nullptr;        // [W-1, D]
      T* y = p.y + b * p.tokens * D + d0;                                      // [T, D]
      for (int64_t t = t0; t < t1; ++t)
        for (int64_t d = 0; d < channels; ++d) y[t * D + d] = p.bias ? p.bias[d0 + d] : T(0);
      T w[kTaps * kChannels];
      for (int64_t j = 0; j < W; j += kTaps) {
        const int taps = int(std::min<int64_t>(kTaps, W - j));
        for (int i = 0; i < taps; ++i) tap_of(p.weight + d0 * W, W, j + i, channels, w + i * kChannels);
        const int64_t edge = std::clamp(j + taps - 1, t0, t1);                 // tokens before it read the past with some tap
        for (int i = 0; i < taps; ++i) {
          const int64_t inside = std::clamp(j + i, t0, edge);                  // tokens before it read the past with this tap
          if (past && inside > t0) add_taps(1, inside - t0, channels, D, 0, w + i * kChannels, past + (W - 1 + t0 - j - i) * D, y + t0 * D);
          if (inside < edge) add_taps(1, edge - inside, channels, D, 0, w + i * kChannels, x + (inside - j - i) * D, y + inside * D);
        }
        if (edge < t1) add_taps(taps, t1 - edge, channels, D, -1, w, x + (edge - j) * D, y + edge * D);
      }
    }
  });
  return Status::ok;
}

template <class T> Status conv_backward(const ConvBackward<T>& p) {
  if (p.batch < 0 || p.tokens < 0 || p.dim < 0 || p.width < 1) return Status::bad_size;
  const int64_t across = tiles(p.dim, kChannels), W = p.width, D = p.dim, T1 = p.tokens;
  // dx, d_past: position s in [s0, s1) of [-(W-1), T) receives w[:, j] dy[s + j]
  const auto gather = [&](int64_t b, int64_t d0, int64_t s0, int64_t s1, T* to) {   // to: row of position s0
    const int64_t channels = std::min(kChannels, D - d0);
    const T* dy = p.dy + b * T1 * D + d0;                                            // [T, D]
    for (int64_t s = 0; s < s1 - s0; ++s) std::fill(to + s * D, to + s * D + channels, T(0));
    T w[kTaps * kChannels];
    for (int64_t j = 0; j < W; j += kTaps) {
      const int taps = int(std::min<int64_t>(kTaps, W - j));
      for (int i = 0; i < taps; ++i) tap_of(p.weight + d0 * W, W, j + i, channels, w + i * kChannels);
      const int64_t begin = std::clamp(-j, s0, s1), end = std::clamp(T1 - j - taps + 1, begin, s1);   // between them every tap meets a token
      for (int i = 0; i < taps; ++i)
        for (const auto& [from, until] : {std::pair{s0, begin}, {end, s1}}) {
          const int64_t first = std::max(from, -j - i), last = std::min(until, T1 - j - i);
          if (first < last)
            add_taps(1, last - first, channels, D, 0, w + i * kChannels, dy + (first + j + i) * D,
                     to + (first - s0) * D);   // y_t = sum_j w[:, j] x_{t-j}
        }
      if (begin < end)
        add_taps(taps, end - begin, channels, D, 1, w, dy + (begin + j) * D, to + (begin - s0) * D);   // y_t = sum_j w[:, j] x_{t-j}
    }
  };
  if (p.dx) {
    const int64_t along = tiles(T1, kTokens);
    parallel_for(p.batch * across * along, 4, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t b = tile / (across * along), t0 = tile / across % along * kTokens, d0 = tile % across * kChannels;
        gather(b, d0, t0, std::min(t0 + kTokens, T1), p.dx + (b * T1 + t0) * D + d0);
      }
    });
  }
  if (p.d_past && W > 1)
    parallel_for(p.batch * across, 4, [&](int64_t begin, int64_t end) {
      for (int64_t tile = begin; tile < end; ++tile) {
        const int64_t b = tile / across, d0 = tile % across * kChannels;
        gather(b, d0, -(W - 1), 0, p.d_past + b * (W - 1) * D + d0);
      }
    });
  if (!p.d_weight && !p.d_bias) return Status::ok;
  T unit[kNarrow];
  std::fill(unit, unit + kNarrow, T(1));
  parallel_for(tiles(D, kNarrow), 1, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t d0 = tile * kNarrow, channels = std::min(kNarrow, D - d0);
      if (p.d_weight)
        for (int64_t d = 0; d < channels * W; ++d) p.d_weight[d0 * W + d] = T(0);
      if (p.d_bias) std::fill(p.d_bias + d0, p.d_bias + d0 + channels, T(0));
      for (int64_t b = 0; b < p.batch; ++b)
        for (int64_t t0 = 0; t0 < T1; t0 += kTokens) {                               // block sums first: they keep long f32 sums short
          const int64_t t1 = std::min(t0 + kTokens, T1);
          const T* dy = p.dy + b * T1 * D + d0;                                      // [T, D]
          T sums[kNarrow];
          if (p.d_weight) {
            const T* x = p.x + b * T1 * D + d0;                                      // [T, D]
            const T* past = p.past ? p.past + b * (W - 1) * D + d0 : nullptr;        // [W-1, D]
            for (int64_t j = 0; j < W; ++j) {
              std::fill(sums, sums + kNarrow, T(0));
              const int64_t inside = std::clamp(j, t0, t1);
              if (past && inside > t0)
                dot_tap(inside - t0, channels, D, dy + t0 * D, past + (W - 1 + t0 - j) * D, sums);   // y_t = ... w[:, j] past[:, W-1+t-j]
              if (inside < t1) dot_tap(t1 - inside, channels, D, dy + inside * D, x + (inside - j) * D, sums);              // y_t = ... w[:, j] x_{t-j}
              for (int64_t d = 0; d < channels; ++d) p.d_weight[(d0 + d) * W + j] += sums[d];
            }
          }
          if (p.d_bias) {
            std::fill(sums, sums + kNarrow, T(0));
            for (int64_t t = t0; t < t1; ++t) add_taps(1, 1, channels, D, 0, unit, dy + t * D, sums);                              // y_t = ... + b
            for (int64_t d = 0; d < channels; ++d) p.d_bias[d0 + d] += sums[d];
          }
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

template Status conv_forward<float>(const ConvForward<float>&);
template Status conv_forward<double>(const ConvForward<double>&);
template Status conv_backward<float>(const ConvBackward<float>&);
template Status conv_backward<double>(const ConvBackward<double>&);
template Status rotary<float>(const RotarySizes&, const float*, float*);
template Status rotary<double>(const RotarySizes&, const double*, double*);

}  // namespace ttr::cpu
