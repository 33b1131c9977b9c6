// Initial values. Each draw takes the next stream of one Philox seed, so a model is the same numbers for the same options and seed on every
// device: parameters are made on the CPU in f32, then cast and moved.
#pragma once
#include <ttr/optim/parameter.hpp>

namespace ttr {

// Where in a model a layer stands: some published initial values change from the first block to the last.
struct Depth {
  int64_t block = 0, blocks = 1;
  double risen() const { return blocks > 1 ? double(block) / double(blocks - 1) : 0; }   // 0 in the first block, 1 in the last
  double left() const { return 1 - double(block) / double(blocks); }                     // 1 in the first, nearly 0 in the last
};

class Init {
 public:
  explicit Init(uint64_t seed, Options place = {}) : seed_(seed), place_(place) {}
  Options place() const { return place_; }

  Parameter normal(const Shape&, double deviation, bool decays = true);
  Parameter uniform(const Shape&, double low, double high, bool decays = true);
  Parameter constant(const Shape&, double value, bool decays = false);
  Parameter log_uniform(const Shape&, double low, double high);   // log of U(low, high)
  Parameter log_time(const Shape&, double low, double high);      // softplus of it is exp(U(log low, log high))
  Parameter log_ramp(const Shape&);                               // log(1 .. n) along the last axis
  Parameter log_ring(const Shape&);                               // r: exp(-exp(r))^2 is uniform in (0, 1)
  Parameter log_octaves(const Shape&);                            // r: exp(-exp(r)) is 1 - 2^(-5-h), h along the first axis
  Parameter given(const Tensor& x);                               // these numbers
  Frozen frozen_given(const Tensor& x);
  Frozen frozen_normal(const Shape&, double deviation);

 private:
  Tensor placed(const Tensor&) const;
  uint64_t seed_, stream_ = 0;
  Options place_;
};

}  // namespace ttr
