// The short causal convolution and rotary embedding (arXiv 2104.09864), CUDA. CPU twin: core/ops/sequence_cpu.cpp.
//   z_t = sum_j w[:, j] x_{t-j} + b;   dx_t = sum_j w[:, j] dz_{t+j};   d_w[:, j] = sum_{b,t} dz_t x_{t-j};   d_b = sum_{b,t} dz_t
//   dz is dy or, with the activation, a pass of its own into the workspace, in the wide type
#include <ttr/core/ops/elementwise_kernel.hpp>
#include <ttr/core/ops/sequence_kernel.hpp>
#include <ttr/cuda/block.hpp>
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {
namespace {

// A block of 256 threads as (neighbouring channels, rows).
dim3 channel_block(int64_t dim) {
  unsigned channels = 1;
  while (channels < 256 && channels < dim) channels *= 2;
  return dim3(channels, 256 / channels);
}

// Blocks of (channels, rows) stride over `rows`; each thread over its channels.
template <class F> __device__ void each_row_and_channel(int64_t rows, int64_t dim, F f) {
  for (int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y; row < rows; row += int64_t(gridDim.x) * blockDim.y)
    for (int64_t d = threadIdx.x; d < dim; d += blockDim.x) f(row, d);
}

// x_{b, t, d} for t >= -(W-1): from past where t < 0. x [B, T, D], past [B, W-1, D] or null.
template <class T> __device__ Wide<T> read(const ConvInputs<T>& a, int64_t b, int64_t t, int64_t d) {
  if (t >= 0) return load(a.x + (b * a.tokens + t) * a.dim + d);
  return a.past.at ? load(a.past.at + (b * (a.width - 1) + a.width - 1 + t) * a.past.token_stride + d) : Wide<T>(0);
}

template <class T> __device__ Wide<T> convolved(const ConvInputs<T>& a, int64_t b, int64_t t, int64_t d) {   // z_{b, t, d}
  Wide<T> z = 0;
  for (int64_t j = 0; j < a.width; ++j) z += load(a.weight + d * a.width + j) * read(a, b, t - j, d);
  return a.bias ? z + load(a.bias + d) : z;
}

template <class T> __global__ void conv_forward_kernel(const ConvForward<T> a) {
  each_row_and_channel(a.batch * a.tokens, a.dim, [&](int64_t row, int64_t d) {
    const Wide<T> z = convolved(a, row / a.tokens, row % a.tokens, d);
    store(a.y + row * a.dim + d, a.active ? element::apply(Unary::silu, z) : z);
  });
}

template <class T> __global__ void conv_slope_kernel(const ConvBackward<T> a, Wide<T>* dz) {   // dz [B, T, D]
  each_row_and_channel(a.batch * a.tokens, a.dim, [&](int64_t row, int64_t d) {
    const Wide<T> z = convolved(a, row / a.tokens, row % a.tokens, d);
    dz[row * a.dim + d] = load(a.dy + row * a.dim + d) * element::silu_slope(z);   // y = silu(z)
  });
}

// The adjoint of x_{b, t, d}, t >= -(W-1): every z_{t+j} read it with weight j. dz [B, T, D], of G: T or Wide<T>.
template <class T, class G> __device__ Wide<T> conv_adjoint(const ConvBackward<T>& a, const G* dz, int64_t b, int64_t t, int64_t d) {
  Wide<T> dx = 0;
  for (int64_t j = t < 0 ? -t : 0; j < a.width && t + j < a.tokens; ++j)
    dx += load(a.weight + d * a.width + j) * load(dz + (b * a.tokens + t + j) * a.dim + d);   // z_{t+j} = sum_j w_j x_t
  return dx;
}

template <class T, class G> __global__ void conv_dx_kernel(const ConvBackward<T> a, const G* dz) {
  each_row_and_channel(a.batch * a.tokens, a.dim, [&](int64_t row, int64_t d) {
    store(a.dx + row * a.dim + d, conv_adjoint(a, dz, row / a.tokens, row % a.tokens, d));
  });
}

template <class T, class G> __global__ void conv_d_past_kernel(const ConvBackward<T> a, const G* dz) {
  const int64_t before = a.width - 1;
  each_row_and_channel(a.batch * before, a.dim, [&](int64_t row, int64_t d) {
    store(a.d_past.at + row * a.d_past.token_stride + d, conv_adjoint(a, dz, row / before, row % before - before, d));
  });
}

// Block (32, kLanes) owns tap blockIdx.y of 32 channels (tap W: the bias); thread (i, l) adds every kLanes-th token of channel i from token l,
// then the lanes are added in order.
constexpr int kLanes = 32;
template <class T, class G>
__global__ void __launch_bounds__(32 * kLanes) conv_d_weight_kernel(const ConvBackward<T> a, const G* dz, int64_t first_tap, int64_t end_tap) {
  using A = Wide<T>;
  __shared__ A lanes[kLanes][32];
  for (int64_t j = first_tap + blockIdx.y; j < end_tap; j += gridDim.y)
    for (int64_t tile = int64_t(blockIdx.x) * 32; tile < a.dim; tile += int64_t(gridDim.x) * 32) {
      const int64_t d = tile + threadIdx.x;
      A sum = 0;
      if (d < a.dim)
        for (int64_t b = 0; b < a.batch; ++b)
          for (int64_t t = threadIdx.y; t < a.tokens; t += kLanes) {
            const A of_z = load(dz + (b * a.tokens + t) * a.dim + d);
            sum += j < a.width ? of_z * read(a, b, t - j, d) : of_z;   // z_t = sum_j w_j x_{t-j} + b
          }
      lanes[threadIdx.y][threadIdx.x] = sum;
      __syncthreads();   // all lanes are there
      if (threadIdx.y == 0 && d < a.dim) {
        for (int i = 1; i < kLanes; ++i) sum += lanes[i][threadIdx.x];
        if (j < a.width) store(a.d_weight + d * a.width + j, sum);
        else store(a.d_bias + d, sum);
      }
      __syncthreads();   // read before the next round writes
    }
}

// A thread owns one pair (i, i + D/2) at a time. Angles in double: first + t may be large.
template <class T> __global__ void rotary_kernel(const RotarySizes s, const T* x, T* y) {
  using A = Wide<T>;
  const int64_t half = s.dim / 2, pairs = s.batch * s.tokens * s.heads * half;
  const double rate = -2.0 / double(s.dim) * log2(s.base);
  for (int64_t p = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; p < pairs; p += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = p / half, i = p % half, t = row / s.heads % s.tokens;
    double sine, cosine;
    sincos(double(s.first + t) * exp2(rate * double(i)) * s.sign, &sine, &cosine);
    const int64_t at = row * s.dim + i;
    const A u = load(x + at), v = load(x + at + half);
    store(y + at, u * A(cosine) - v * A(sine));
    store(y + at + half, u * A(sine) + v * A(cosine));
  }
}

template <class T> bool valid(const ConvInputs<T>& a) { return a.batch >= 0 && a.tokens >= 0 && a.dim >= 0 && a.width >= 1; }

template <class T, class G> Status backward_of(const ConvBackward<T>& a, const G* dz, Stream stream) {
  const dim3 block = channel_block(a.dim);
  if (a.dx && a.batch * a.tokens > 0)
    if (const Status s = launch(conv_dx_kernel<T, G>, grid_for(a.batch * a.tokens, block.y), block, 0, stream, a, dz); s != Status::ok) return s;
  if (a.d_past.at && a.batch * (a.width - 1) > 0)
    if (const Status s = launch(conv_d_past_kernel<T, G>, grid_for(a.batch * (a.width - 1), block.y), block, 0, stream, a, dz); s != Status::ok) return s;
  const int64_t first_tap = a.d_weight ? 0 : a.width, end_tap = a.d_bias ? a.width + 1 : a.width;
  if (first_tap == end_tap) return Status::ok;
  const dim3 grid(grid_for(a.dim, 32), grid_for(end_tap - first_tap, 1, 65535));
  return launch(conv_d_weight_kernel<T, G>, grid, dim3(32, kLanes), 0, stream, a, dz, first_tap, end_tap);
}

}  // namespace

template <class T> Status conv_forward(const ConvForward<T>& a, Stream stream) {
  if (!valid(a)) return Status::bad_size;
  if (a.batch == 0 || a.tokens == 0 || a.dim == 0) return Status::ok;
  const dim3 block = channel_block(a.dim);
  return launch(conv_forward_kernel<T>, grid_for(a.batch * a.tokens, block.y), block, 0, stream, a);
}

template <class T> size_t conv_workspace(const ConvBackward<T>& a) { return a.active ? size_t(a.batch * a.tokens * a.dim) * sizeof(Wide<T>) : 0; }

template <class T> Status conv_backward(const ConvBackward<T>& a, Workspace work, Stream stream) {
  if (!valid(a)) return Status::bad_size;
  if (work.bytes < conv_workspace(a)) return Status::small_workspace;
  if (a.dim == 0) return Status::ok;
  if (!a.active) return backward_of(a, a.dy, stream);
  auto* const dz = static_cast<Wide<T>*>(work.at);   // [B, T, D]
  const dim3 block = channel_block(a.dim);
  if (a.batch * a.tokens > 0)
    if (const Status s = launch(conv_slope_kernel<T>, grid_for(a.batch * a.tokens, block.y), block, 0, stream, a, dz); s != Status::ok) return s;
  return backward_of(a, static_cast<const Wide<T>*>(dz), stream);
}

template <class T> Status rotary(const RotarySizes& s, const T* x, T* y, Stream stream) {
  if (s.batch < 0 || s.tokens < 0 || s.heads < 0 || s.dim < 0 || s.dim % 2 != 0 || !(s.base > 0)) return Status::bad_size;
  const int64_t pairs = s.batch * s.tokens * s.heads * (s.dim / 2);
  if (pairs == 0) return Status::ok;
  return launch(rotary_kernel<T>, grid_for(pairs, 256), 256, 0, stream, s, x, y);
}

template Status conv_forward<float>(const ConvForward<float>&, Stream);
template Status conv_forward<double>(const ConvForward<double>&, Stream);
template Status conv_forward<bf16>(const ConvForward<bf16>&, Stream);
template size_t conv_workspace<float>(const ConvBackward<float>&);
template size_t conv_workspace<double>(const ConvBackward<double>&);
template size_t conv_workspace<bf16>(const ConvBackward<bf16>&);
template Status conv_backward<float>(const ConvBackward<float>&, Workspace, Stream);
template Status conv_backward<double>(const ConvBackward<double>&, Workspace, Stream);
template Status conv_backward<bf16>(const ConvBackward<bf16>&, Workspace, Stream);
template Status rotary<float>(const RotarySizes&, const float*, float*, Stream);
template Status rotary<double>(const RotarySizes&, const double*, double*, Stream);
template Status rotary<bf16>(const RotarySizes&, const bf16*, bf16*, Stream);

}  // namespace ttr::cuda
