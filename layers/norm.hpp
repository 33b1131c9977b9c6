// Norms over the last axis.
//   RMSNorm   (arXiv 1910.07467)  y = x / sqrt(mean x^2 + eps) * w                        x [..., D], w [D]
//   GroupNorm (arXiv 1803.08494)  y = (x - mean) / sqrt(var + eps) * w (+ b), a head a group   x [..., H, V], w, b [H, V]
#pragma once
#include <ttr/core/ops.hpp>
#include <ttr/layers/init.hpp>

namespace ttr {

struct RMSNorm {
  RMSNorm() = default;
  RMSNorm(int64_t dim, Init& init, double eps = 1e-5) : weight(init.constant({dim}, 1)), eps(eps) {}
  Tensor operator()(const Tensor& x) const { return rms_norm(x, *weight, eps); }
  void each(auto&& f) { f("weight", weight); }
  Parameter weight;   // [D]
  double eps = 1e-5;
};

struct GroupNormOptions {
  int64_t heads = 0, dim = 0;
  bool bias = false;
  double eps = 1e-5;
};
struct GroupNorm {
  GroupNorm() = default;
  GroupNorm(const GroupNormOptions& o, Init& init) : weight(init.constant({o.heads, o.dim}, 1)), eps(o.eps) {
    if (o.bias) bias = init.constant({o.heads, o.dim}, 0);
  }
  Tensor operator()(const Tensor& x) const {
    const Tensor y = layer_norm(x, {}, {}, eps) * *weight;
    return bias.defined() ? y + *bias : y;
  }
  void each(auto&& f) { f("weight", weight), f("bias", bias); }
  Parameter weight, bias;   // [H, V], the bias may be undefined
  double eps = 1e-5;
};

}  // namespace ttr
