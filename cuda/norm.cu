// RMS norm (arXiv 1910.07467) and layer norm (arXiv 1607.06450) over rows of n, CUDA. CPU twin: core/ops/norm_cpu.cpp.
//   y = (x - mean) r w + b,   r = 1 / sqrt(mean (x - mean)^2 + eps);   rms: mean = 0, b = 0
//   h = (x - mean) r:   dx = r (w dy - mean(w dy) - h mean(w dy h)),   d_w = sum_rows dy h,   d_b = sum_rows dy;   rms: without mean(w dy)
// Rows: a block owns one row; a row that fits is read once and waits in shared memory, each thread reading there only what it wrote.
// d_weight and d_bias: a block owns 32 columns of one part of the rows; a second launch adds the parts in order.
#include <ttr/core/ops/norm_kernel.hpp>
#include <ttr/cuda/block.hpp>
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {
namespace {

constexpr int kLanes = 8;          // threads that share a column
constexpr int64_t kRowsOfPart = 64;
constexpr int64_t kMostParts = 128;

int64_t parts_of(int64_t rows) {
  const int64_t parts = divide_up(rows, kRowsOfPart);
  return parts < 1 ? 1 : parts > kMostParts ? kMostParts : parts;
}

template <class T, bool kCentred> __global__ void norm_forward_kernel(const NormForward<T> a, bool fits) {
  using A = Wide<T>;
  A* row = shared_memory<A>();   // [n] where it fits
  for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    const T* x = a.x + r * a.n;                                  // [n]
    const T* normed = a.added ? a.sum + r * a.n : x;             // [n]; a thread reads back only what it wrote
    A sum = 0, square = 0, mean = 0;
    for (int64_t j = threadIdx.x; j < a.n; j += blockDim.x) {
      A v = load(x + j);
      if (a.added) {
        const T sum = T(v + load(a.added + r * a.n + j));   // rounded before it is normed: the backward reads it back
        a.sum[r * a.n + j] = sum;
        v = A(sum);
      }
      if (fits) row[j] = v;
      if (kCentred) sum += v;
      else square += v * v;
    }
    if (kCentred) {
      mean = block_sum(sum) / A(a.n);
      for (int64_t j = threadIdx.x; j < a.n; j += blockDim.x) {
        const A v = (fits ? row[j] : load(normed + j)) - mean;
        square += v * v;
      }
    }
    const A rstd = 1 / sqrt(block_sum(square) / (a.whole ? A(1) : A(a.n)) + a.eps);
    for (int64_t j = threadIdx.x; j < a.n; j += blockDim.x) {
      A v = ((fits ? row[j] : load(normed + j)) - mean) * rstd;
      if (a.weight) v *= load(a.weight + j);
      if (a.bias) v += load(a.bias + j);
      store(a.y + r * a.n + j, v);
    }
    if (threadIdx.x == 0) {
      if (kCentred && a.mean) a.mean[r] = mean;
      if (a.rstd) a.rstd[r] = rstd;
    }
  }
}

template <class T, bool kCentred> __global__ void norm_dx_kernel(const NormBackward<T> a, bool fits) {
  using A = Wide<T>;
  A* row = shared_memory<A>();   // h, then w dy: [2, n] where they fit
  for (int64_t r = blockIdx.x; r < a.rows; r += gridDim.x) {
    const T *x = a.x + r * a.n, *dy = a.dy + r * a.n;   // [n]
    const A mean = kCentred ? a.mean[r] : A(0), rstd = a.rstd[r];
    A d_mean = 0, d_rstd = 0;
    for (int64_t j = threadIdx.x; j < a.n; j += blockDim.x) {
      const A h = (load(x + j) - mean) * rstd, d_h = load(dy + j) * (a.weight ? load(a.weight + j) : A(1));   // y = h w + b
      if (fits) row[j] = h, row[a.n + j] = d_h;
      if (kCentred) d_mean += d_h;   // h = (x - mean) r
      d_rstd += d_h * h;             // h = (x - mean) r
    }
    d_mean = kCentred ? block_sum(d_mean) / A(a.n) : A(0);
    d_rstd = block_sum(d_rstd) / (a.whole ? A(1) : A(a.n));
    for (int64_t j = threadIdx.x; j < a.n; j += blockDim.x) {
      const A h = fits ? row[j] : (load(x + j) - mean) * rstd;
      const A d_h = fits ? row[a.n + j] : load(dy + j) * (a.weight ? load(a.weight + j) : A(1));
      const A d_sum = a.d_sum ? load(a.d_sum + r * a.n + j) : A(0);                          // sum = x
      store(a.dx + r * a.n + j, rstd * (d_h - d_mean - h * d_rstd) + d_sum);                 // h = (x - mean) r, with mean and r functions of x
    }
  }
}

// Block (32, kLanes) and part blockIdx.y: d_weight and d_bias of 32 columns over the part's rows, to parts [2, gridDim.y, n].
template <class T> __global__ void norm_columns_kernel(const NormBackward<T> a, int64_t rows_of_part, Wide<T>* parts) {
  using A = Wide<T>;
  __shared__ A lanes[2][kLanes][32];
  const int64_t begin = blockIdx.y * rows_of_part, end = begin + rows_of_part < a.rows ? begin + rows_of_part : a.rows;
  for (int64_t tile = int64_t(blockIdx.x) * 32; tile < a.n; tile += int64_t(gridDim.x) * 32) {
    const int64_t j = tile + threadIdx.x;
    A d_weight = 0, d_bias = 0;
    if (j < a.n)
      for (int64_t r = begin + threadIdx.y; r < end; r += kLanes) {
        const A d = load(a.dy + r * a.n + j);
        d_weight += d * (load(a.x + r * a.n + j) - (a.mean ? a.mean[r] : A(0))) * a.rstd[r];   // y = h w + b
        d_bias += d;                                                                          // y = h w + b
      }
    lanes[0][threadIdx.y][threadIdx.x] = d_weight;
    lanes[1][threadIdx.y][threadIdx.x] = d_bias;
    __syncthreads();   // all lanes of the tile are there
    if (threadIdx.y < 2 && j < a.n) {
      A sum = 0;
      for (int i = 0; i < kLanes; ++i) sum += lanes[threadIdx.y][i][threadIdx.x];
      parts[(threadIdx.y * gridDim.y + blockIdx.y) * a.n + j] = sum;
    }
    __syncthreads();   // read before the next tile writes
  }
}

// A thread owns one column of d_weight and of d_bias.
template <class T> __global__ void norm_add_parts_kernel(int64_t n, int64_t count, const Wide<T>* parts, T* d_weight, T* d_bias) {
  for (int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < n; j += int64_t(gridDim.x) * blockDim.x) {
    Wide<T> weight = 0, bias = 0;
    for (int64_t p = 0; p < count; ++p) {
      weight += parts[p * n + j];
      bias += parts[(count + p) * n + j];
    }
    if (d_weight) store(d_weight + j, weight);
    if (d_bias) store(d_bias + j, bias);
  }
}

template <class T, bool kCentred> Status forward(const NormForward<T>& a, Stream stream) {
  if (a.rows < 0 || a.n < 0) return Status::bad_size;
  if (a.rows == 0 || a.n == 0) return Status::ok;
  const bool fits = a.n <= int64_t(kSharedBytes / 2 / sizeof(Wide<T>));
  return launch(norm_forward_kernel<T, kCentred>, grid_for(a.rows, 1), threads_for_row(a.n), fits ? size_t(a.n) * sizeof(Wide<T>) : 0, stream, a, fits);
}

template <class T, bool kCentred> Status backward(NormBackward<T> a, Workspace workspace, Stream stream) {
  if (a.rows < 0 || a.n < 0) return Status::bad_size;
  if (a.n == 0) return Status::ok;
  if (!kCentred) a.mean = nullptr;
  if (a.dx && a.rows > 0) {
    const bool fits = 2 * a.n <= int64_t(kSharedBytes / 2 / sizeof(Wide<T>));
    const size_t shared_bytes = fits ? size_t(2 * a.n) * sizeof(Wide<T>) : 0;
    const Status s = launch(norm_dx_kernel<T, kCentred>, grid_for(a.rows, 1), threads_for_row(a.n), shared_bytes, stream, a, fits);
    if (s != Status::ok) return s;
  }
  if (!a.d_weight && !a.d_bias) return Status::ok;
  if (workspace.bytes < norm_workspace(a)) return Status::small_workspace;
  const int64_t parts = parts_of(a.rows);
  auto* sums = static_cast<Wide<T>*>(workspace.at);   // [2, parts, n]
  const dim3 grid(grid_for(a.n, 32), unsigned(parts));
  if (const Status s = launch(norm_columns_kernel<T>, grid, dim3(32, kLanes), 0, stream, a, divide_up(a.rows, parts), sums); s != Status::ok) return s;
  return launch(norm_add_parts_kernel<T>, grid_for(a.n, 64), 64, 0, stream, a.n, parts, sums, a.d_weight, a.d_bias);
}

}  // namespace

template <class T> size_t norm_workspace(const NormBackward<T>& a) {
  return a.d_weight || a.d_bias ? size_t(2 * parts_of(a.rows) * a.n) * sizeof(Wide<T>) : 0;
}
template <class T> Status rms_norm_forward(const NormForward<T>& a, Stream stream) { return forward<T, false>(a, stream); }
template <class T> Status rms_norm_backward(const NormBackward<T>& a, Workspace w, Stream stream) { return backward<T, false>(a, w, stream); }
template <class T> Status layer_norm_forward(const NormForward<T>& a, Stream stream) { return forward<T, true>(a, stream); }
template <class T> Status layer_norm_backward(const NormBackward<T>& a, Workspace w, Stream stream) { return backward<T, true>(a, w, stream); }

template size_t norm_workspace<float>(const NormBackward<float>&);
template size_t norm_workspace<double>(const NormBackward<double>&);
template size_t norm_workspace<bf16>(const NormBackward<bf16>&);
template Status rms_norm_forward<float>(const NormForward<float>&, Stream);
template Status rms_norm_forward<double>(const NormForward<double>&, Stream);
template Status rms_norm_forward<bf16>(const NormForward<bf16>&, Stream);
template Status rms_norm_backward<float>(const NormBackward<float>&, Workspace, Stream);
template Status rms_norm_backward<double>(const NormBackward<double>&, Workspace, Stream);
template Status rms_norm_backward<bf16>(const NormBackward<bf16>&, Workspace, Stream);
template Status layer_norm_forward<float>(const NormForward<float>&, Stream);
template Status layer_norm_forward<double>(const NormForward<double>&, Stream);
template Status layer_norm_forward<bf16>(const NormForward<bf16>&, Stream);
template Status layer_norm_backward<float>(const NormBackward<float>&, Workspace, Stream);
template Status layer_norm_backward<double>(const NormBackward<double>&, Workspace, Stream);
template Status layer_norm_backward<bf16>(const NormBackward<bf16>&, Workspace, Stream);

}  // namespace ttr::cuda
