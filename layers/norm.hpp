// RMSNorm (arXiv 1910.07467): y = x / sqrt(mean x^2 + eps) * w over the last axis. x [..., D], w [D].
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

}  // namespace ttr
