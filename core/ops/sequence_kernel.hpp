// Border of the short causal convolution and of rotary embedding.
//   conv    y_t = sum_j w[:, j] x_{t-j} + b,   j = 0 .. W-1, depthwise; x_{t<0} = past[:, W-1+t] (null: zero)
//   rotary  (arXiv 2104.09864) rotates pairs (i, i + D/2) by angle (first + t) base^(-2i/D); sign -1 is the inverse and the backward
#pragma once
#include <ttr/core/border.hpp>

namespace ttr {

template <class T> struct ConvForward {
  int64_t batch = 0, tokens = 0, dim = 0, width = 0;
  const T* x = nullptr;        // [B, T, D]
  const T* weight = nullptr;   // [D, W]
  const T* bias = nullptr;     // [D]; may be null
  const T* past = nullptr;     // [B, W-1, D]; may be null
  T* y = nullptr;              // [B, T, D]
};
template <class T> struct ConvBackward {
  int64_t batch = 0, tokens = 0, dim = 0, width = 0;
  const T* x = nullptr;
  const T* weight = nullptr;
  const T* past = nullptr;
  const T* dy = nullptr;       // [B, T, D]
  T* dx = nullptr;             // overwritten; null: not needed (so the others)
  T* d_weight = nullptr;
  T* d_bias = nullptr;
  T* d_past = nullptr;
};
struct RotarySizes { int64_t batch = 0, tokens = 0, heads = 0, dim = 0, first = 0; double base = 10000; int sign = 1; };

namespace cpu {   // T: float, double
template <class T> Status conv_forward(const ConvForward<T>&);
template <class T> Status conv_backward(const ConvBackward<T>&);
template <class T> Status rotary(const RotarySizes&, const T* x, T* y);
}  // namespace cpu
namespace cuda {  // T: float, double, bf16
template <class T> Status conv_forward(const ConvForward<T>&, Stream);
template <class T> Status conv_backward(const ConvBackward<T>&, Stream);
template <class T> Status rotary(const RotarySizes&, const T* x, T* y, Stream);
}  // namespace cuda

}  // namespace ttr
