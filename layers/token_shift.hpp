// Token shift (RWKV-6, arXiv 2404.05892): each of the n projections of a layer reads its own mixture of a token and the one before.
//   d = x_{t-1} - x_t, x_{-1} = 0
//   y_i = x + d * (mix_i + up_i tanh(down_i (x + d * first)))      rank r
//   y_i = x + d * mix_i                                            rank 0
//   x [B, T, D] -> n times [B, T, D]; first [D], mix [n, D], down [n r, D], up [n, D, r]
//   What decoding carries is the last token [B, 1, D].
#pragma once
#include <ttr/layers/init.hpp>

namespace ttr {

// A mixture begins, for channel c of D, as 1 - (c / D)^(power left) - lift risen: the first channels are the token before, the last the token
// itself, and the more so the later the block.
struct Mixture { double power = 1, lift = 0; };

struct TokenShiftOptions {
  int64_t dim = 0, rank = 0;
  std::vector<Mixture> mixtures = {};
  Depth depth = {};
};
struct TokenShift {
  TokenShift() = default;
  TokenShift(const TokenShiftOptions&, Init&);
  Tensors operator()(const Tensor& x, const Tensor& segments = {}) const;   // segments i32 [B, T]: nothing is read across documents
  Tensors step(const Tensor& x, Tensor& last) const;                        // last: undefined before the first token
  void each(auto&& f) { f("first", first), f("mix", mix), f("down", down), f("up", up); }
  Parameter first, mix, down, up;   // mix alone at rank 0

 private:
  Tensors mixed(const Tensor& x, const Tensor& before) const;
};

// The token before each, [B, T, D]: last [B, 1, D] before the first, or zeros; zeros where a document begins.
Tensor token_before(const Tensor& x, const Tensor& last, const Tensor& segments);

}  // namespace ttr
