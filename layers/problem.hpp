// What a memory is called with, and what it answers; every route takes and gives exactly these.
#pragma once
#include <ttr/layers/recipe.hpp>

namespace ttr {

// slots   q [B, T, H, K]; k [B, nT, Hk, K]; v [B, nT, Hv, V] with n writes a token, Hk and Hv dividing H; the recipe's other slots as in slot.hpp
// state   what an earlier call answered, carried on; empty: fresh memory
// segments [B, T] i32, optional: a token whose number differs from the one before starts a document with a fresh memory
// Names of state: memory [B, H, V, K], normalizer, log_scale, optimizer.*, anchor.*, position [] i32; where old pairs are read again: keys [B, P, Hk, K],
// values [B, P, Hv, V], past.<slot>. f32 or f64.
struct Arguments {
  Slots slots;
  Slots state = {};
  Tensor segments = {};
  bool want_state = false;
};
struct Answer {
  Tensor y;        // [B, T, H, V]
  Slots state;     // when wanted
};

// The sizes and circumstances a route decides on.
struct Problem {
  int64_t batch = 1, tokens = 1, heads = 1, key_heads = 1, value_heads = 1, key_dim = 64, value_dim = 64;
  int64_t writes = 1;
  Dtype dtype = Dtype::f32;
  Device device{};
  bool training = false;      // derivatives are recorded
  bool carried = false;       // a state comes in
  bool segments = false;
  bool want_state = false;
};

// Checks every tensor by name, shape, dtype and device against the recipe's slots. Throws a sentence naming the tensor.
Problem examine(const Recipe&, const Arguments&);

// Pieces that fold and the routes share.
Tensor normed_keys(const Tensor& x, const Reading&);                       // the reading's key_norm over the last axis
Tensor over_heads(const Tensor& x, int64_t heads);                         // [B, T, h, ...] -> [B, T, H, ...]: each of the h heads serves H / h
Tensor position_state(int64_t position);                                   // the state `position`
int64_t position_of(const Slots& state);                                   // 0 for a fresh memory
Tensor documents_of(const Tensor& segments);                               // i32 [B, T]: the documents counted 0, 1, 2, ...; a number may come again in segments

}  // namespace ttr
