// Border of the gated unit: y = x silu(g), with x and g rows of the same tensor (SwiGLU, arXiv 2002.05202) or of two (a layer's output gate).
//   s = sigmoid(g);   y = x g s;   dx = dy g s,   d_g = dy x s (1 + g (1 - s))
#pragma once
#include <ttr/core/border.hpp>

namespace ttr {

template <class T> struct GatedForward {
  int64_t rows = 0, n = 0;
  Rows<const T> x, gate;         // [rows, n], token_stride elements from row to row
  T* y = nullptr;                // [rows, n]
};
template <class T> struct GatedBackward {
  int64_t rows = 0, n = 0;
  Rows<const T> x, gate;
  const T* dy = nullptr;         // [rows, n]
  Rows<T> dx, d_gate;            // overwritten; null: not needed
};

namespace cpu {   // T: float, double
template <class T> Status gated_forward(const GatedForward<T>&);
template <class T> Status gated_backward(const GatedBackward<T>&);
}  // namespace cpu
namespace cuda {  // T: float, double, bf16
template <class T> Status gated_forward(const GatedForward<T>&, Stream);
template <class T> Status gated_backward(const GatedBackward<T>&, Stream);
}  // namespace cuda

}  // namespace ttr
