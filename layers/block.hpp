// Block: a memory and a feed-forward layer, each on a normed copy of the residual stream.
//   x = x + mixer(norm(x));  x = x + mlp(norm(x))      x [B, T, D]
#pragma once
#include <optional>
#include <ttr/layers/memory.hpp>
#include <ttr/layers/swiglu.hpp>

namespace ttr {

// How one pass is made.
struct Pass {
  Tensor segments = {};                              // i32 [B, T], packed documents: a number unlike the one before starts afresh
  std::optional<uint64_t> dropout_seed = {};         // a new one a step while training; unset, and no key: nothing is dropped
  Tensor dropout_key = {};                           // f64 [1], instead of the seed: a StepKey's, for steps that become a graph
  int64_t dropout_row = 0;                           // of a step's whole batch, that the first row here is: pieces drop what the whole would

  Tensor dropped(const Tensor& x, double rate, uint64_t place) const;   // place: which of the model's dropouts this is
};

enum class FeedForward { swiglu, gelu, none };

struct BlockOptions {
  MemoryOptions mixer;
  FeedForward feed_forward = FeedForward::swiglu;
  int64_t hidden = 0;                                // 0: 8/3 of dim rounded up to 32 (swiglu), 4 dim (gelu)
  double dropout = 0;
};

struct Block {
  Block(const BlockOptions&, Init&);
  Tensor operator()(const Tensor& x, const Pass& = {}, uint64_t index = 0) const;   // index: of the block, so that each drops its own
  Tensor step(const Tensor& x, MemoryState&) const;
  Tensor feed(const Tensor& normed) const;   // what the feed-forward layer adds to the stream
  void each(auto&& f) {
    f("mixer_norm", mixer_norm), f("mixer", mixer), f("mlp_norm", mlp_norm), f("mlp", swiglu), f("mlp", gelu);
  }
  int64_t hidden() const;   // 0 without a feed-forward layer

  RMSNorm mixer_norm;
  MemoryLayer mixer;
  std::optional<RMSNorm> mlp_norm;
  std::optional<SwiGLU> swiglu;
  std::optional<GeluMlp> gelu;
  double dropout = 0;
};

}  // namespace ttr
