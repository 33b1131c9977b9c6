// Border of the short causal convolution and of rotary embedding.
//   conv    z_t = sum_j w[:, j] x_{t-j} + b,   j = 0 .. W-1, depthwise; x_{t<0} = past[:, W-1+t] (null: zero);   y = z, or active: y = silu(z) = z s(z)
//           dz = dy, or dy s(z) (1 + z s(-z)) of z computed again;   dx_t = sum_j w[:, j] dz_{t+j}
//   rotary  (arXiv 2104.09864) rotates pairs (i, i + D/2) by angle (first + t) base^(-2i/D); sign -1 is the inverse and the backward
#pragma once
#include <ttr/core/border.hpp>

namespace ttr {

template <class T> struct ConvInputs {
  int64_t batch = 0, tokens = 0, dim = 0, width = 0;
  bool active = false;
  const T* x = nullptr;        // [B, T, D]
  const T* weight = nullptr;   // [D, W]
  const T* bias = nullptr;     // [D]; may be null
  Rows<const T> past = {};     // [B, W-1, D]; may be null
};
template <class T> struct ConvForward : ConvInputs<T> {
  T* y = nullptr;              // [B, T, D]
};
template <class T> struct ConvBackward : ConvInputs<T> {
  const T* dy = nullptr;       // [B, T, D]
  T* dx = nullptr;             // overwritten; null: not needed (so the others)
  T* d_weight = nullptr;
  T* d_bias = nullptr;
  Rows<T> d_past = {};
};
struct RotarySizes { int64_t batch = 0, tokens = 0, heads = 0, dim = 0, first = 0; double base = 10000; int sign = 1; };

namespace cpu {   // T: float, double
template <class T> size_t conv_workspace(const ConvForward<T>&);
template <class T> size_t conv_workspace(const ConvBackward<T>&);
template <class T> Status conv_forward(const ConvForward<T>&, Workspace);
template <class T> Status conv_backward(const ConvBackward<T>&, Workspace);
template <class T> Status rotary(const RotarySizes&, const T* x, T* y);
}  // namespace cpu
namespace cuda {  // T: float, double, bf16
template <class T> size_t conv_workspace(const ConvBackward<T>&);
template <class T> Status conv_forward(const ConvForward<T>&, Stream);
template <class T> Status conv_backward(const ConvBackward<T>&, Workspace, Stream);
template <class T> Status rotary(const RotarySizes&, const T* x, T* y, Stream);
}  // namespace cuda

}  // namespace ttr
