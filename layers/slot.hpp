// Slot: one input that an ingredient reads. Fold, the command line, the JSON listing, decode and the projections of MemoryLayer are all
// generated from the slots of a recipe, so a gate of your own needs no change anywhere else.
#pragma once
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>
#include <ttr/core/tensor.hpp>

namespace ttr {

// How often a slot has a value, and so its leading axes as a caller gives it:
//   token [B, T, H, ...]   write [B, nT, H, ...] (n writes a token)   chunk [B, chunks, H, ...]   head [H, ...] (learned)   frozen [H, ...] (never learned)
enum class Per { token, write, chunk, head, frozen };

// One trailing size of a slot: a number, or a multiple of the key size K or the value size V. any: a caller's value may have another size
// (how many landmarks, how many random features); this is the one a new layer takes.
struct Extent {
  enum Of { number, K, V } of = number;
  int64_t times = 1, over = 1;
  bool any = false;
  Extent(int64_t n) : times(n) {}
  Extent(Of o, int64_t t = 1, int64_t d = 1) : of(o), times(t), over(d) {}
  int64_t at(int64_t key_dim, int64_t value_dim) const { return (of == K ? key_dim : of == V ? value_dim : 1) * times / over; }
  std::string text() const;
};
inline constexpr auto key_size = Extent::K;      // {key_size} is a shape [K]; {{key_size, 1, 2}} is [K/2]
inline constexpr auto value_size = Extent::V;
inline Extent any_size(Extent usual) { usual.any = true; return usual; }

// The values that make sense; also how MemoryLayer maps a projection's output to the slot.
struct Range {
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  bool operator==(const Range&) const = default;
};
inline constexpr Range any_value{};
inline constexpr Range unit_interval{0, 1};
inline constexpr Range positive{0, std::numeric_limits<double>::infinity()};
inline constexpr Range log_of_unit{-std::numeric_limits<double>::infinity(), 0};   // the logarithm of something in (0, 1]

// How a new layer's value begins. near: at the slot's init. The others are what published layers draw:
//   ramp    log(1 .. n) along the last axis, learned as the logarithm of a positive value (Mamba's A_log)
//   ring    of log_decay: a from a ring, |a|^2 uniform in (0, 1), learned as log(-log_decay) (LRU)
//   angle   of phase: uniform in (0, 2 pi), learned as its logarithm (LRU)
//   time    of a positive value a token: bias so that softplus draws exp(U(log 0.001, log 0.1)) (Mamba's delta)
//   octaves of log_decay: log(1 - 2^(-5-h)) for head h, learned as log(-log_decay) (RetNet, arXiv 2307.08621)
//   zigzag  of bonus: 0, 0.1, -0.1 in turn over all channels, and from a slope that grows with the block down to 0 (RWKV-6, arXiv 2404.05892)
//   root    K^(1/4), so that a Gaussian kernel of that width has h^2 = sqrt(K), the scale of softmax attention
enum class Start { near, ramp, ring, angle, time, octaves, zigzag, root };

struct Slot {
  std::string name;
  Per per = Per::token;
  std::vector<Extent> shape;    // trailing sizes of one head
  Range range = any_value;
  double init = 0;              // a learned or gated slot starts near this value
  bool required = true;         // false: a value that leaves the recipe unchanged stands in
  bool read = true;             // false: this ingredient's word that it never reads the slot; see unread()
  Start start = Start::near;
};

// q and k are slots of every recipe unless both its weights and its function class list them as unread: a running average needs neither.
inline Slot unread(std::string name) { return {std::move(name), Per::token, {}, any_value, 0, false, false}; }

using Slots = std::map<std::string, Tensor>;   // name -> value

}  // namespace ttr
