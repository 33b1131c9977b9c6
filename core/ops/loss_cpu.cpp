// CPU cross-entropy over rows of n classes, rows shared out over the threads. Equations: loss_kernel.hpp.
#include <algorithm>
#include <cmath>
#include <ttr/core/ops/lanes.hpp>
#include <ttr/core/ops/loss_kernel.hpp>
#include <ttr/core/parallel.hpp>

namespace ttr::cpu {
namespace {

template <class T> TTR_SIMD_INLINE T log_sum_exp(int64_t n, const T* x) {   // x [n]
  const T most = row_max(n, x);
  return most == -std::numeric_limits<T>::infinity() ? most : most + std::log(row_sum_exp(n, x, most));
}

TTR_SIMD_CLONES float row_lse(int64_t n, const float* x) { return log_sum_exp(n, x); }
double row_lse(int64_t n, const double* x) { return log_sum_exp(n, x); }

template <class T> TTR_SIMD_INLINE void scaled_softmax(int64_t n, const T* x, T lse, T scale, T* dx) {   // x, dx [n]
  for (int64_t i = 0; i < n; ++i) dx[i] = scale * fast_exp(x[i] - lse);
}
TTR_SIMD_CLONES void row_softmax(int64_t n, const float* x, float lse, float scale, float* dx) { scaled_softmax(n, x, lse, scale, dx); }
void row_softmax(int64_t n, const double* x, double lse, double scale, double* dx) { scaled_softmax(n, x, lse, scale, dx); }

int64_t grain(int64_t n) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(n, 1)); }   // rows worth waking a thread for

}  // namespace

template <class T>
Status cross_entropy_forward(int64_t rows, int64_t n, const T* x, const int32_t* labels, Wide<T>* loss, Wide<T>* lse) {   // x [rows, n], the others [rows]
  if (rows < 0 || n < 0) return Status::bad_size;
  parallel_for(rows, grain(n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int32_t label = labels[r];
      lse[r] = label < 0 ? T(0) : row_lse(n, x + r * n);
      loss[r] = label < 0 ? T(0) : lse[r] - x[r * n + label];
    }
  });
  return Status::ok;
}

template <class T>
Status cross_entropy_backward(int64_t rows, int64_t n, const T* x, const int32_t* labels, const Wide<T>* lse, const Wide<T>* d_loss, T* dx) {   // dx [rows, n]
  if (rows < 0 || n < 0) return Status::bad_size;
  const T g = *d_loss;
  parallel_for(rows, grain(n), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (labels[r] < 0) {
        std::fill(dx + r * n, dx + (r + 1) * n, T(0));     // loss_r = 0
        continue;
      }
      row_softmax(n, x + r * n, lse[r], g, dx + r * n);    // loss_r = lse_r - x_r,label: the part of lse_r
      dx[r * n + labels[r]] -= g;                          // loss_r = lse_r - x_r,label
    }
  });
  return Status::ok;
}

template Status cross_entropy_forward<float>(int64_t, int64_t, const float*, const int32_t*, float*, float*);
template Status cross_entropy_forward<double>(int64_t, int64_t, const double*, const int32_t*, double*, double*);
template Status cross_entropy_backward<float>(int64_t, int64_t, const float*, const int32_t*, const float*, const float*, float*);
template Status cross_entropy_backward<double>(int64_t, int64_t, const double*, const int32_t*, const double*, const double*, double*);

}  // namespace ttr::cpu
