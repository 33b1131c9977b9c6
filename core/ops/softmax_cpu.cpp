// CPU softmax over rows of n, rows shared out over the threads. Equations: softmax_kernel.hpp.
#include <algorithm>
#include <cmath>
#include <ttr/core/ops/lanes.hpp>
#include <ttr/core/ops/softmax_kernel.hpp>
#include <ttr/core/parallel.hpp>

namespace ttr::cpu {
namespace {

template <class T> TTR_SIMD_INLINE void forward_rows(int64_t rows, int64_t n, const T* x, T* y) {   // x, y [rows, n]
  for (int64_t r = 0; r < rows; ++r, x += n, y += n) {
    const T most = row_max(n, x);
    if (most == -std::numeric_limits<T>::infinity() && n > 0) {   // all -inf, or NaN among -inf, which must stay visible
      for (int64_t i = 0; i < n; ++i) y[i] = x[i] == x[i] ? T(0) : x[i];
      continue;
    }
    for (int64_t i = 0; i < n; ++i) y[i] = fast_exp(x[i] - most);
    const T scale = 1 / row_sum(n, y);
    for (int64_t i = 0; i < n; ++i) y[i] *= scale;
  }
}

template <class T> TTR_SIMD_INLINE void backward_rows(int64_t rows, int64_t n, const T* y, const T* dy, T* dx) {   // y, dy, dx [rows, n]
  for (int64_t r = 0; r < rows; ++r, y += n, dy += n, dx += n) {
    const T inner = row_dot(n, y, dy);                                    // y_i = e^{x_i - max} / sum: the share of the sum
    for (int64_t i = 0; i < n; ++i) dx[i] = y[i] * (dy[i] - inner);       // y_i = e^{x_i - max} / sum
  }
}

TTR_SIMD_CLONES void forward(int64_t rows, int64_t n, const float* x, float* y) { forward_rows(rows, n, x, y); }
void forward(int64_t rows, int64_t n, const double* x, double* y) { forward_rows(rows, n, x, y); }
TTR_SIMD_CLONES void backward(int64_t rows, int64_t n, const float* y, const float* dy, float* dx) { backward_rows(rows, n, y, dy, dx); }
void backward(int64_t rows, int64_t n, const double* y, const double* dy, double* dx) { backward_rows(rows, n, y, dy, dx); }

int64_t grain(int64_t n) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(n, 1)); }   // rows worth waking a thread for

}  // namespace

template <class T> Status softmax_forward(int64_t rows, int64_t n, const T* x, T* y) {
  if (rows < 0 || n < 0) return Status::bad_size;
  parallel_for(rows, grain(n), [&](int64_t begin, int64_t end) { forward(end - begin, n, x + begin * n, y + begin * n); });
  return Status::ok;
}

template <class T> Status softmax_backward(int64_t rows, int64_t n, const T* y, const T* dy, T* dx) {
  if (rows < 0 || n < 0) return Status::bad_size;
  parallel_for(rows, grain(n), [&](int64_t begin, int64_t end) { backward(end - begin, n, y + begin * n, dy + begin * n, dx + begin * n); });
  return Status::ok;
}

template Status softmax_forward<float>(int64_t, int64_t, const float*, float*);
template Status softmax_forward<double>(int64_t, int64_t, const double*, double*);
template Status softmax_backward<float>(int64_t, int64_t, const float*, const float*, float*);
template Status softmax_backward<double>(int64_t, int64_t, const double*, const double*, double*);

}  // namespace ttr::cpu
