// BlockLinear: a block-diagonal matrix. The channels are cut into n pieces, and each piece has a matrix of its own.
//   y_i = x_i W_i^T      x [B, T, in], W [n, out / n, in / n] -> [B, T, out]
#pragma once
#include <ttr/layers/init.hpp>

namespace ttr {

struct BlockLinearOptions {
  int64_t in = 0, out = 0;
  int64_t size = 4;          // of a piece of x; larger where this would not divide x and y into whole pieces
  double deviation = 0.02;   // of the normal initial weights
};
struct BlockLinear {
  BlockLinear() = default;
  BlockLinear(const BlockLinearOptions&, Init&);
  Tensor operator()(const Tensor& x) const;
  void each(auto&& f) { f("weight", weight); }
  Parameter weight;   // [n, out / n, in / n]
};

}  // namespace ttr
