// Memories with a residual and a layer norm, as test-time training uses them (TTT, arXiv 2407.04620): V = K.
//
//   m(k) = k + LN(net(k)),   LN(z) = w (z - mean z) / sqrt(var z + eps) + b,   loss 1/2 |m(k) - v|^2
//   normed_linear   net(k) = W k + c
//   normed_mlp      net(k) = W_2 gelu(W_1 k + c_1) + c_2, the tanh gelu, expand * K hidden units
//
// The memory is W and c; w and b (slots norm_weight, norm_bias) are learned outside and stay while the layer reads.
#pragma once
#include <ttr/layers/functions.hpp>

namespace ttr {

struct NormedLinear {
  static constexpr const char* name = "normed_linear";
  double eps = 1e-6;
  void each(auto&& f) { f("eps", eps); }
  std::vector<Slot> slots() const;
  Pack init(const View&) const;   // weight [N, V, K], bias [N, V]
  Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const;
  Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const;

 private:
  Tensor apply(const Pack& theta, const View&, const Tensor& x) const;
};

struct NormedMlp {
  static constexpr const char* name = "normed_mlp";
  int64_t expand = 4;
  double eps = 1e-6;
  void each(auto&& f) { f("expand", expand), f("eps", eps); }
  std::vector<Slot> slots() const;
  Pack init(const View&) const;   // weight_1 [N, H, K], bias_1 [N, H], weight_2 [N, V, H], bias_2 [N, V]
  Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const;
  Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const;

 private:
  Tensor apply(const Pack& theta, const View&, const Tensor& x) const;
};

}   // namespace ttr
