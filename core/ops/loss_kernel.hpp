// Border of the fused cross-entropy over rows of n classes; labels < 0 are ignored (loss and gradient zero).
//   loss_r = lse_r - x_r,label      lse_r = log sum_j e^{x_rj}
//   dx_rj  = g (e^{x_rj - lse_r} - [j = label])      g = *d_loss, one number on the device, the same for all rows
#pragma once
#include <ttr/core/border.hpp>

namespace ttr {

namespace cpu {   // T: float, double
template <class T> Status cross_entropy_forward(int64_t rows, int64_t n, const T* x, const int32_t* labels, Wide<T>* loss, Wide<T>* lse);
template <class T> Status cross_entropy_backward(int64_t rows, int64_t n, const T* x, const int32_t* labels, const Wide<T>* lse, const Wide<T>* d_loss, T* dx);
}  // namespace cpu
namespace cuda {  // T: float, double, bf16
template <class T> Status cross_entropy_forward(int64_t rows, int64_t n, const T* x, const int32_t* labels, Wide<T>* loss, Wide<T>* lse, Stream);
template <class T>
Status cross_entropy_backward(int64_t rows, int64_t n, const T* x, const int32_t* labels, const Wide<T>* lse, const Wide<T>* d_loss, T* dx,
                              Stream);
}  // namespace cuda

}  // namespace ttr
