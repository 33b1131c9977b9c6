// A tile of the short causal convolution, columns of it in registers. Equations: sequence_kernel.hpp. Included by what simd_sets.hpp compiles, once a
// set, hence without a guard. The tile lies in rows of kChannels with the tokens around it that its taps reach, zeros where there are none: it has no edges.
#include <ttr/core/simd_exp.hpp>

namespace ttr::TTR_SIMD_SET {
namespace {

// One column: y_t = from_t + sum_j w_j x_{t + j step}, j ascending, then finish(y_t, t) in its register. `from` may be y; with from_row 0 it is one row.
template <int taps, class T, class F>
TTR_SIMD_INLINE void add_taps(int64_t tokens, const T* w, const T* x, int64_t step, const T* from, int64_t from_row, T* y, int64_t y_row, F finish) {
  Vec<T> weight[taps];
  for (int j = 0; j < taps; ++j) weight[j] = vec(w + j * kChannels);
  for (int64_t t = 0; t < tokens; ++t) {
    Vec<T> sum = vec(from + t * from_row);
    for (int j = 0; j < taps; ++j) sum += weight[j] * vec(x + (t + j * step) * kChannels);
    finish(sum, t);
    vec(y + t * y_row) = sum;
  }
}

// y [tokens, kChannels] = start + sum_j w_j x_{t + j step}, then finish(y, t, d); start [kChannels], w [W, kChannels], x at the row of y's first;
// rows of y apart
template <class T, class F>
TTR_SIMD_INLINE void convolve(int64_t tokens, int64_t width, const T* w, const T* x, int64_t step, const T* start, T* y, int64_t y_row, F finish) {
  const auto nothing = [](Vec<T>&, int64_t) __attribute__((always_inline)) {};
  for (int64_t d = 0; d < kChannels; d += Register<T>::lanes) {
    const auto last = [&](Vec<T>& sum, int64_t t) __attribute__((always_inline)) { finish(sum, t, d); };
    const T* from = start + d;
    int64_t from_row = 0, j = 0;
    for (; j + kTaps < width; j += kTaps, from = y + d, from_row = y_row)
      add_taps<kTaps>(tokens, w + j * kChannels + d, x + j * step * kChannels + d, step, from, from_row, y + d, y_row, nothing);
    if (j + kTaps == width) {
      add_taps<kTaps>(tokens, w + j * kChannels + d, x + j * step * kChannels + d, step, from, from_row, y + d, y_row, last);
      continue;
    }
    for (; j + 1 < width; ++j, from = y + d, from_row = y_row)
      add_taps<1>(tokens, w + j * kChannels + d, x + j * step * kChannels + d, step, from, from_row, y + d, y_row, nothing);
    add_taps<1>(tokens, w + j * kChannels + d, x + j * step * kChannels + d, step, from, from_row, y + d, y_row, last);
  }
}

// One column: sums_j = sum_t dz_t x_{t-j}
template <int taps, class T> TTR_SIMD_INLINE void dot_taps(int64_t tokens, const T* dz, const T* x, T* sums) {
  Vec<T> sum[taps] = {};
  for (int64_t t = 0; t < tokens; ++t)
    for (int j = 0; j < taps; ++j) sum[j] += vec(dz + t * kChannels) * vec(x + (t - j) * kChannels);
  for (int j = 0; j < taps; ++j) vec(sums + j * kChannels) = sum[j];
}

template <class T> TTR_SIMD_INLINE void tile_forward(const ConvTile<T>& c) {
  const auto silu = [](Vec<T>& z, int64_t, int64_t) __attribute__((always_inline)) { z *= sigmoid_lanes<T>(z).at_x; };
  const auto same = [](Vec<T>&, int64_t, int64_t) __attribute__((always_inline)) {};
  if (c.active) convolve(c.tokens, c.width, c.w, c.x, -1, c.bias, c.to, c.to_row, silu);
  else convolve(c.tokens, c.width, c.w, c.x, -1, c.bias, c.to, c.to_row, same);
}

// dz of the tile's tokens and of those behind it that take part in its dx
template <class T> TTR_SIMD_INLINE void tile_slope(const ConvTile<T>& c) {
  const auto slope = [&](Vec<T>& z, int64_t t, int64_t d) __attribute__((always_inline)) {
    const Sigmoid<T> s = sigmoid_lanes<T>(z);
    z = vec(c.dy + t * c.dy_row + d) * (s.at_x * (T(1) + z * s.at_minus_x));   // y = z s(z)
  };
  if (c.active) return convolve(c.tokens + c.after, c.width, c.w, c.x, -1, c.bias, c.dz, kChannels, slope);
  for (int64_t t = 0; t < c.tokens + c.after; ++t)
    for (int64_t d = 0; d < kChannels; d += Register<T>::lanes) vec(c.dz + t * kChannels + d) = vec(c.dy + t * c.dy_row + d);   // y = z
}

// sums [W + 1, kChannels]: of the weights' taps, then of the bias
template <class T> TTR_SIMD_INLINE void tile_sums(int64_t tokens, int64_t width, const T* dz, const T* x, T* sums) {
  for (int64_t d = 0; d < kChannels; d += Register<T>::lanes) {
    int64_t j = 0;
    for (; j + kTaps <= width; j += kTaps) dot_taps<kTaps>(tokens, dz + d, x - j * kChannels + d, sums + j * kChannels + d);   // z_t = sum_j w_j x_{t-j} + b
    for (; j < width; ++j) dot_taps<1>(tokens, dz + d, x - j * kChannels + d, sums + j * kChannels + d);                      // z_t = sum_j w_j x_{t-j} + b
    Vec<T> sum = {};
    for (int64_t t = 0; t < tokens; ++t) sum += vec(dz + t * kChannels + d);                                                  // z_t = sum_j w_j x_{t-j} + b
    vec(sums + width * kChannels + d) = sum;
  }
}

template <class T> TTR_SIMD_INLINE void tile_backward(const ConvTile<T>& c) {
  tile_slope(c);
  tile_sums(c.tokens, c.width, c.dz, c.x, c.sums);
  const auto same = [](Vec<T>&, int64_t, int64_t) __attribute__((always_inline)) {};
  convolve(c.before + c.tokens, c.width, c.w, c.dz - c.before * kChannels, 1, c.zero, c.to, c.to_row, same);   // z_t = sum_j w_j x_{t-j}
}

void forward_f32(const ConvTile<float>& c) { tile_forward(c); }
void forward_f64(const ConvTile<double>& c) { tile_forward(c); }
void backward_f32(const ConvTile<float>& c) { tile_backward(c); }
void backward_f64(const ConvTile<double>& c) { tile_backward(c); }

}  // namespace
}  // namespace ttr::TTR_SIMD_SET
