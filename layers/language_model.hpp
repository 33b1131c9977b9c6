// LanguageModel: embedding, blocks, norm, head. tokens i32 [B, T] -> logits [B, T, N].
//   LanguageModel model({.vocab = 256, .dim = 256, .blocks = 4, .heads = 4, .mixer = recipes::gated_delta_net}, seed, device);
// Initial weights are normal with deviation 0.02; those that write to the residual stream 0.02 / sqrt(2 blocks).
#pragma once
#include <ttr/layers/block.hpp>

namespace ttr {

namespace recipes { extern const Recipe softmax_attention; }

struct LanguageModelOptions {
  int64_t vocab = 256, dim = 256, blocks = 4;
  int64_t heads = 4, key_heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;   // as in MemoryOptions
  Recipe mixer = recipes::softmax_attention;
  std::vector<Recipe> mixers = {};               // one a block, from the first again when they run out; empty: mixer in all
  std::optional<Surroundings> around = {};       // of every mixer; unset: what is usual around each
  std::string route = {};
  FeedForward feed_forward = FeedForward::swiglu;
  int64_t hidden = 0;
  int64_t positions = 0;                         // learned positions for this many tokens, instead of rotation; 0: none
  bool tied = true;                              // the head is the embedding
  double dropout = 0;
};

struct LanguageModelState {
  std::vector<MemoryState> blocks;
  int64_t position = 0;
};

struct LanguageModel {
  LanguageModel(const LanguageModelOptions&, uint64_t seed, Device = cpu_device, Dtype = Dtype::f32);
  LanguageModel(const LanguageModel&);
  LanguageModel(LanguageModel&&) noexcept;
  LanguageModel& operator=(const LanguageModel&);
  LanguageModel& operator=(LanguageModel&&) noexcept;
  ~LanguageModel();
  Tensor operator()(const Tensor& tokens, const Pass& = {}) const;
  // Decoding, unrecorded. Any number of tokens at a time, equal to the call on all of them; logits of the last token only, [B, 1, N].
  Tensor prefill(const Tensor& tokens, LanguageModelState&) const;
  Tensor step(const Tensor& tokens, LanguageModelState& state) const { return prefill(tokens, state); }
  int64_t parameter_count() const;   // tied ones once

  void each(auto&& f) {
    f("embed", embed), f("positions", positions), f("blocks", blocks), f("decay_floors", decay_floors), f("norm", norm), f("head", head);
  }

  LanguageModelOptions options;
  Embedding embed;
  std::optional<Embedding> positions;
  std::vector<Block> blocks;
  Parameter decay_floors;   // [H ..., blocks] of what has Surroundings::decay_floor, or undefined
  RMSNorm norm;
  std::optional<Linear> head;

 private:
  void bound_decays(Init&);
  Tensor embedded(const Tensor& tokens, const Tensor& segments, int64_t first) const;   // first: how many tokens came before
  Tensor scored(const Tensor& x) const;
};

extern template void each_part<Parameter, LanguageModel>(LanguageModel&, const PartVisitor<Parameter>&, const std::string&);
extern template void each_part<Frozen, LanguageModel>(LanguageModel&, const PartVisitor<Frozen>&, const std::string&);

}  // namespace ttr
