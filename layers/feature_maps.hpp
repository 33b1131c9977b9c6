// The published feature maps (arXiv ids below). phi is applied to q and k alike; weights are learned (a slot a head), projections are drawn once (frozen).
// The talk's slide of these reads sum v phi(k).phi(q): it silently drops (Phi' Phi)^{-1};
// with the inverse it would be mesa on phi (docs/3-three-ingredients.md).
#pragma once
#include <ttr/layers/features.hpp>

namespace ttr {

// relu(W x + b), all learned (T2R, arXiv 2103.13076).
struct LearnedRelu {
  static constexpr const char* name = "learned_relu";
  static constexpr bool tokens_at_once = true;
  std::vector<Slot> slots() const { return {{"feature_weight", Per::head, {any_size(key_size), key_size}}, {"feature_bias", Per::head, {any_size(key_size)}}}; }
  int64_t size(const View&) const;
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

// [relu(x) cos a; relu(x) sin a], a = pi position / (2 horizon), positions from 1 (cosFormer, arXiv 2202.08791): weights cos(pi (t - i) / (2 horizon)), which
// are positive up to `horizon` tokens apart. The published code takes the length as the horizon, so that an answer depends on what comes later.
struct Cosformer {
  static constexpr const char* name = "cosformer";
  static constexpr bool tokens_at_once = true;
  int64_t horizon = 4096;
  void each(auto&& f) { f("horizon", horizon); }
  std::vector<Slot> slots() const { return {}; }
  int64_t size(int64_t key_dim) const { return 2 * key_dim; }
  Tensor map(const Tensor& x, const View&, int64_t token) const;
};

// r = [relu(x); relu(-x)], phi = [r roll(r, 1); ...; r roll(r, nu)] / its sum (DPFP, arXiv 2102.11174).
struct Dpfp {
  static constexpr const char* name = "dpfp";
  static constexpr bool tokens_at_once = true;
  int64_t nu = 2;
  void each(auto&& f) { f("nu", nu); }
  std::vector<Slot> slots() const { return {}; }
  int64_t size(int64_t key_dim) const { return 2 * key_dim * nu; }
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

struct Silu {
  static constexpr const char* name = "silu";
  static constexpr bool tokens_at_once = true;
  std::vector<Slot> slots() const { return {}; }
  int64_t size(int64_t key_dim) const { return key_dim; }
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

// Every monomial of one degree p, weighted so that phi(q).phi(k) = (q.k)^p: sqrt(p! / prod n_i!) prod x_i^{n_i}; C(K + p - 1, p) of them.
struct Monomials {
  static constexpr const char* name = "monomials";
  static constexpr bool tokens_at_once = true;
  int64_t degree = 2;
  void each(auto&& f) { f("degree", degree); }
  std::vector<Slot> slots() const { return {}; }
  int64_t size(int64_t key_dim) const;
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

// Monomials of degree 2 of a layer norm with learned weight and bias, phi(q).phi(k) = (q.k)^2 / K (ReBased, arXiv 2402.10644).
struct Rebased {
  static constexpr const char* name = "rebased";
  static constexpr bool tokens_at_once = true;
  double eps = 1e-5;
  void each(auto&& f) { f("eps", eps); }
  std::vector<Slot> slots() const { return {{"norm_weight", Per::head, {key_size}, any_value, 1}, {"norm_bias", Per::head, {key_size}}}; }
  int64_t size(int64_t key_dim) const { return key_dim * (key_dim + 1) / 2; }
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

// [softmax(W x); softmax(-W x)]; joint: softmax([2 W x; -2 W x]), another map that is in use under the name (Hedgehog, arXiv 2402.04347).
struct Hedgehog {
  static constexpr const char* name = "hedgehog";
  static constexpr bool tokens_at_once = true;
  bool joint = false;
  void each(auto&& f) { f("joint", joint); }
  std::vector<Slot> slots() const { return {{"feature_weight", Per::head, {any_size(key_size), key_size}}}; }
  int64_t size(const View&) const;
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

// (exp(Omega x' - |x'|^2 / 2) + eps) / sqrt m, x' = x K^{-1/4}, so that E phi(q).phi(k) = exp(q.k / sqrt K) for rows of Omega drawn from N(0, 1)
// (Performer, arXiv 2009.14794). Nothing is subtracted in the exponent: the published maximum over all keys looks ahead.
struct Performer {
  static constexpr const char* name = "performer";
  static constexpr bool tokens_at_once = true;
  double eps = 1e-4;
  void each(auto&& f) { f("eps", eps); }
  std::vector<Slot> slots() const { return {{"projection", Per::frozen, {any_size({Extent::K, 2}), key_size}}}; }
  int64_t size(const View&) const;
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

// 0.1 [sin(Omega x^); cos(Omega x^)], x^ = x / (|x| + 1e-3): E phi(q).phi(k) ~ a Gaussian of q^ - k^ (RFA, arXiv 2103.02143).
struct RandomWaves {
  static constexpr const char* name = "random_waves";
  static constexpr bool tokens_at_once = true;
  std::vector<Slot> slots() const { return {{"projection", Per::frozen, {any_size(key_size), key_size}}}; }
  int64_t size(const View&) const;
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

// softmax(P x) with P frozen: the orthonormal DCT-II times a random diagonal (DiJiang, arXiv 2403.19928).
struct SoftmaxFeatures {
  static constexpr const char* name = "softmax_features";
  static constexpr bool tokens_at_once = true;
  std::vector<Slot> slots() const { return {{"projection", Per::frozen, {any_size(key_size), key_size}}}; }
  int64_t size(const View&) const;
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

// (W_1 x) * (W_2 x), elementwise.
struct Hadamard {
  static constexpr const char* name = "hadamard";
  static constexpr bool tokens_at_once = true;
  std::vector<Slot> slots() const {
    return {{"feature_weight", Per::head, {any_size(key_size), key_size}}, {"feature_weight_2", Per::head, {any_size(key_size), key_size}}};
  }
  int64_t size(const View&) const;
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

}  // namespace ttr
