// Border of the norms over rows of n, of x or of a sum x + added that is wanted as well (a residual stream and its norm).
//   rms_norm    (arXiv 1910.07467)  y = x r w,            r = 1 / sqrt(mean x^2 + eps)
//   layer_norm  (arXiv 1607.06450)  y = (x - mean) r w + b, r = 1 / sqrt(var + eps)
//   l2_norm                         rms_norm with the sum in place of the mean: divisor 1 instead of n
#pragma once
#include <ttr/core/border.hpp>

namespace ttr {

template <class T> struct NormForward {
  int64_t rows = 0, n = 0;
  const T* x = nullptr;          // [rows, n]
  const T* weight = nullptr;     // [n]; null: 1
  const T* bias = nullptr;       // [n]; null: 0; layer_norm only
  Wide<T> eps = 0;
  T* y = nullptr;                // [rows, n]
  Wide<T>* mean = nullptr;       // [rows], saved; layer_norm only
  Wide<T>* rstd = nullptr;       // [rows], saved
  const T* added = nullptr;      // [rows, n]; null: x alone
  T* sum = nullptr;              // [rows, n]: x + added, the row that is normed; with added only
  bool whole = false;            // rms_norm only: the sum of squares, not their mean
};
template <class T> struct NormBackward {
  int64_t rows = 0, n = 0;
  const T* x = nullptr;          // the row that was normed
  const T* weight = nullptr;
  const Wide<T>* mean = nullptr;
  const Wide<T>* rstd = nullptr;
  const T* dy = nullptr;         // [rows, n]
  T* dx = nullptr;               // [rows, n]; overwritten; null: not needed (so the others)
  T* d_weight = nullptr;         // [n], sum over rows in a fixed order
  T* d_bias = nullptr;           // [n]
  const T* d_sum = nullptr;      // [rows, n]: what flows into the sum beside the norm, added to dx; null: nothing
  bool whole = false;            // as in the forward
};

namespace cpu {   // T: float, double
template <class T> size_t norm_workspace(const NormBackward<T>&);
template <class T> Status rms_norm_forward(const NormForward<T>&);
template <class T> Status rms_norm_backward(const NormBackward<T>&, Workspace);
template <class T> Status layer_norm_forward(const NormForward<T>&);
template <class T> Status layer_norm_backward(const NormBackward<T>&, Workspace);
}  // namespace cpu
namespace cuda {  // T: float, double, bf16
template <class T> size_t norm_workspace(const NormBackward<T>&);
template <class T> Status rms_norm_forward(const NormForward<T>&, Stream);
template <class T> Status rms_norm_backward(const NormBackward<T>&, Workspace, Stream);
template <class T> Status layer_norm_forward(const NormForward<T>&, Stream);
template <class T> Status layer_norm_backward(const NormBackward<T>&, Workspace, Stream);
}  // namespace cuda

}  // namespace ttr
