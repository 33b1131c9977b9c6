// Gate: a slot's value from the token. It projects, then maps any real number into the slot's range, in the wide dtype:
//   [low, high]   low + (high - low) sigmoid(z)          unit_interval: sigmoid
//   [low, inf)    low + softplus(z)                      positive: softplus
//   (-inf, high]  high + logsigmoid(z) / temper          log_of_unit: logsigmoid; GLA divides by 16 (arXiv 2312.06635)
//   timed         -exp(rate) softplus(z)                 the decay of Mamba-2 and Gated DeltaNet (arXiv 2405.21060, 2412.06464)
//   exponential   -exp(z), z = W tanh(down x) + b        the decay of RWKV-6 (arXiv 2404.05892)
// rate is one a head. z = W x + b, or cap tanh((W x + b) / cap) (arXiv 2503.13427); b such that the slot starts near its `init`.
// x [B, T, D] -> [B, nT, H, ...] with n writes a token.
#pragma once
#include <optional>
#include <ttr/layers/linear.hpp>
#include <ttr/layers/slot.hpp>

namespace ttr {

// Any real number into the range, and back (values at or beyond a finite end are drawn inside first).
Tensor into_range(const Range&, const Tensor& z, double temper = 1);
double out_of_range(const Range&, double value, double temper = 1);

struct GateOptions {
  int64_t dim = 0, heads = 1, key_dim = 0, value_dim = 0;
  int64_t writes = 1;
  bool timed = false;
  double temper = 1;
  int64_t rank = 0;       // of the projection; 0: full. With Start::time its second half is uniform in +- rank^(-1/2) (arXiv 2312.00752)
  bool even = false;      // starts at z = 0 instead of the slot's init
  bool constant = false;  // starts as a constant: no weight, and the bias of log_of_unit from 3 to 6 over the heads, of others normal(0, 0.1)
  double constant_bias = 0;   // of those others, instead of normal(0, 0.1); 0: not
  double cap = 0;         // z becomes cap tanh(z / cap); 0: none
  bool exponential = false;   // a low-rank part begins at 0: down is 0, and W uniform in +- 0.01
  bool bias = true;       // false: z = W x
  Depth depth = {};
};
struct Gate {
  Gate() = default;
  Gate(const Slot&, const GateOptions&, Init&);
  Tensor operator()(const Tensor& x) const;     // in_range(before_range(x))
  Tensor before_range(const Tensor& x) const;   // z; of a timed gate softplus(z) is how long a token lasts
  const Tensor& first_weight() const { return down.defined() ? *down : *weight; }   // what x meets
  Tensor after_first(const Tensor& y) const;    // z of y = x first_weight()^T
  Tensor in_range(const Tensor& z) const;
  void each(auto&& f) { f("down", down), f("weight", weight), f("bias", bias), f("rate", rate); }

  Slot slot;
  GateOptions options;
  Shape tail;                            // [H, ...]
  Parameter down, weight, bias, rate;    // [rank, D] or undefined, [nH.., D or rank], [nH..] or undefined, [H] or undefined
};

// A slot with one value a head, learned: initial memories, a ridge, a temperature. Its value is [H, ...].
struct HeadSlot {
  HeadSlot() = default;
  HeadSlot(const Slot&, int64_t heads, int64_t key_dim, int64_t value_dim, Init&, const Depth& = {});
  Tensor operator()() const;   // in the range, in the wide dtype
  Slot slot;
  Parameter value;             // before the range
};

}  // namespace ttr
