// Border of softmax over rows of n: y = e^{x - max} / sum. A row of -inf gives zeros.
//   backward: dx = y (dy - sum y dy)
#pragma once
#include <ttr/core/border.hpp>

namespace ttr {

namespace cpu {   // T: float, double
template <class T> Status softmax_forward(int64_t rows, int64_t n, const T* x, T* y);
template <class T> Status softmax_backward(int64_t rows, int64_t n, const T* y, const T* dy, T* dx);
}  // namespace cpu
namespace cuda {  // T: float, double, bf16
template <class T> Status softmax_forward(int64_t rows, int64_t n, const T* x, T* y, Stream);
template <class T> Status softmax_backward(int64_t rows, int64_t n, const T* y, const T* dy, T* dx, Stream);
}  // namespace cuda

}  // namespace ttr
