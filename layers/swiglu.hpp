// Feed-forward layers, x [..., D] -> [..., D].
//   SwiGLU (arXiv 2002.05202)  y = W_down (silu(W_gate x) * W_up x), gate and up in one product
//   GeluMlp                    y = W_down gelu(W_up x)
#pragma once
#include <ttr/core/ops.hpp>
#include <ttr/layers/linear.hpp>

namespace ttr {

struct FeedForwardOptions {
  int64_t dim = 0, hidden = 0;
  double output_deviation = 0.02;
};

struct SwiGLU {
  SwiGLU() = default;
  SwiGLU(const FeedForwardOptions& o, Init& init)
      : gate_up({.in = o.dim, .out = 2 * o.hidden}, init), down({.in = o.hidden, .out = o.dim, .deviation = o.output_deviation}, init) {}
  Tensor operator()(const Tensor& x) const { return down(swiglu(gate_up(x))); }
  void each(auto&& f) { f("gate_up", gate_up), f("down", down); }
  Linear gate_up, down;
};

struct GeluMlp {
  GeluMlp() = default;
  GeluMlp(const FeedForwardOptions& o, Init& init)
      : up({.in = o.dim, .out = o.hidden}, init), down({.in = o.hidden, .out = o.dim, .deviation = o.output_deviation}, init) {}
  Tensor operator()(const Tensor& x) const { return down(gelu(up(x))); }
  void each(auto&& f) { f("up", up), f("down", down); }
  Linear up, down;
};

}  // namespace ttr
