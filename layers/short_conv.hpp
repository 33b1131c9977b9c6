// Short convolution: y_t = silu(sum_j w[:, j] * x_{t-j}), j = 0 .. W-1, depthwise and causal.
// With a bias, silu(that + b).
//   x [B, T, D], w [D, W] -> [B, T, D], the channels of x in one tensor or in several
//   What decoding carries is the last W-1 inputs [B, W-1, D], before the activation.
#pragma once
#include <ttr/layers/init.hpp>

namespace ttr {

struct ShortConvOptions {
  int64_t dim = 0, width = 4;
  bool bias = false;
};
struct ShortConv {
  ShortConv() = default;
  ShortConv(const ShortConvOptions&, Init&);
  Tensor operator()(const Tensor& x, const Tensor& segments = {}) const;      // segments i32 [B, T]: nothing is read across documents
  Tensors operator()(const Tensors& parts, const Tensor& segments = {}) const;   // parts of D, each [B, T, its channels]
  Tensors step(const Tensors& parts, Tensor& past) const;                     // past: undefined before the first token
  void each(auto&& f) { f("weight", weight), f("bias", bias); }
  Parameter weight, bias;   // [D, W], [D] or undefined
};

}  // namespace ttr
