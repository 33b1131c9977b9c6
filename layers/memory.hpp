// MemoryLayer: a recipe as a layer of a network. Its projections are generated from the recipe's slots, so an ingredient of yours needs
// nothing here.
//   x [B, T, D] -> q [B, T, H, K], k [B, nT, Hk, K], v [B, nT, Hv, V]   by one weight, then convolution, norm and rotation where asked for;
//                                                                        of a token shifted towards the one before, or of an inner branch
//               -> every other slot a token or a head                  gate.hpp
//               -> y [B, T, H, V] by the recipe's plan -> norm, gate -> W_out [D, H V] -> [B, T, D]
#pragma once
#include <optional>
#include <ttr/layers/block_linear.hpp>
#include <ttr/layers/gate.hpp>
#include <ttr/layers/norm.hpp>
#include <ttr/layers/problem.hpp>
#include <ttr/layers/short_conv.hpp>
#include <ttr/layers/surroundings.hpp>
#include <ttr/layers/token_shift.hpp>

namespace ttr {

struct MemoryOptions {
  int64_t dim = 0;
  int64_t heads = 1, key_heads = 0, value_heads = 0;   // Hk and Hv divide H: heads that share keys or values; 0: H
  int64_t key_dim = 0, value_dim = 0;                  // K, V of one head; 0: dim / heads
  Recipe recipe;
  std::optional<Surroundings> around = {};             // unset: usual_surroundings(recipe)
  std::string route = {};                              // forces one by name
  double output_deviation = 0.02;
  Depth depth = {};                                    // where in a model it stands
};

// What decoding carries from token to token.
struct MemoryState {
  Slots memory;          // the recipe's own state
  Tensor past;           // the last inputs of the short convolution [B, W-1, channels]
  Tensor last;           // the last token of the token shift [B, 1, D]
  int64_t position = 0;  // tokens seen
};

struct MemoryLayer {
  MemoryLayer(MemoryOptions, Init&);
  MemoryLayer(const MemoryLayer&);
  MemoryLayer(MemoryLayer&&) noexcept;
  MemoryLayer& operator=(const MemoryLayer&);
  MemoryLayer& operator=(MemoryLayer&&) noexcept;
  ~MemoryLayer();
  Tensor operator()(const Tensor& x, const Tensor& segments = {}) const;   // segments i32 [B, T]
  Tensor step(const Tensor& x, MemoryState&) const;                        // any number of tokens, continuing; equal to the call on all of them
  Slots slots(const Tensor& x) const;                                      // what the recipe is called with for these tokens
  Problem problem(int64_t batch, int64_t tokens, bool training) const;     // what the plan decides on

  void each(auto&& f) {
    f("shift", shift), f("project", project), f("conv", conv), f("from_value", from_value);
    f("query", query), f("key", key), f("value", value), f("query_norm", query_norm), f("key_norm", key_norm);
    for (Gate& g : gates) f(g.slot.name.c_str(), g);
    for (HeadSlot& h : learned) f(h.slot.name.c_str(), h.value);
    for (auto& [name, x] : frozen) f(name.c_str(), x);
    f("skip", skip), f("gamma", gamma), f("output_norm", output_norm), f("output_norm", group_norm), f("output", output);
  }

  MemoryOptions options;   // every size and the surroundings filled in
  std::optional<TokenShift> shift;    // one mixture for each of q, k, v, the output gate and the gates
  Linear project;          // q | k | v | output gate; those that are not made from the value. Or inner branch | output gate
  std::optional<Linear> from_value;   // q | k of the convolved value
  std::optional<BlockLinear> query, key, value;   // q, k of the convolved inner branch and v of the branch itself
  std::optional<ShortConv> conv;
  std::optional<RMSNorm> query_norm, key_norm, output_norm;
  std::optional<GroupNorm> group_norm;
  std::vector<Gate> gates;
  std::vector<HeadSlot> learned;
  std::vector<std::pair<std::string, Frozen>> frozen;
  Parameter skip, gamma;   // [H, V] or [H, 1] (ring: [D]) and log [H, V / 2], or undefined: see Surroundings
  Linear output;
  Parameter decay_floors;       // the model's, shared by its blocks and visited there: [H ..., blocks], of block floor_block; or undefined
  int64_t floor_block = 0;

 private:
  // parts: q, k, v and the output gate [B, T, ...], or undefined; gates: each one's first product; branch: the convolved inner branch
  struct Made { Tensors parts, gates; Tensor branch; };
  Made make(const Tensor& x, const Tensor& segments, MemoryState*) const;
  Made make_inner(const Tensor& x, const Tensor& segments, MemoryState*) const;
  Tensors with_gates(const Tensor& x, const Tensors& weights, std::vector<int64_t> sizes, Tensors& gates) const;
  // gate [B, T, H V] or undefined; value [B, nT, Hv, V], before scaled_value
  struct Asked { Slots slots; Tensor gate, value, branch; };
  Asked ask(const Tensor& x, const Tensor& segments, MemoryState*) const;
  Tensor run(const Tensor& x, const Tensor& segments, MemoryState*) const;
  Tensor bounded(const Gate&, const Tensor& g) const;
  Tensor lasting(const Tensor& v, const Tensor& time) const;
  Tensor left(const Asked&, const Tensor& y) const;
  Tensor normed(const Tensor& x, const std::optional<RMSNorm>&) const;
  int64_t widths_[4] = {};   // of q, k, v and the output gate
};

extern template void each_part<Parameter, MemoryLayer>(MemoryLayer&, const PartVisitor<Parameter>&, const std::string&);
extern template void each_part<Frozen, MemoryLayer>(MemoryLayer&, const PartVisitor<Frozen>&, const std::string&);

}  // namespace ttr
