// Function classes: what kind of memory m answers a query.
#pragma once
#include <ttr/layers/features.hpp>

namespace ttr {

// m(k) = c: local constants. With kernel weights and Exact this is the Nadaraya-Watson estimator, so softmax attention.
// With weights that ask for no key either it needs no q and no k: a running average (HGRN, LRU).
struct Constant {
  static constexpr const char* name = "constant";
  std::vector<Slot> slots() const;
  Pack init(const View&) const;                                                   // value [N, V]
  Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const;   // 1/2 |v_i - c|^2
  Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const;
  Design design(const View&) const;                                               // phi = 1
  Tensor penalty(const View&, const Tensor& ridge) const;                                              // 0: a constant is never shrunk
  Pack solved(const Tensor& solution) const;
};

// m(k) = M phi(k), M [V, P].
//   erase      what the gradient takes away:   key: M k (the regression's own gradient)      gated: M (b * k), writing g * v (slots erase_gate, value_gate)
//              separate: M p (slot erase_key)  two: M alpha, written along beta (slots erase_key, erase_write; RWKV-7)    transposed: keys regressed on values
//   normaliser what the answer is divided by: none; sum: z.phi(q) + eps; clamp: max(z.phi(q), eps); max1: max(|z.phi(q)|, 1) + eps, with z the memory of ones
//   tied       k = 1 - exp(log_decay) (HGRN2)
//   bonus      the answer adds v_t (u * k_t).q_t (slot bonus; RWKV-6, with a strict read)
enum class Erase { key, separate, gated, two, transposed };
enum class Normaliser { none, sum, clamp, max1 };
template <> struct NamesOf<Erase> {
  static constexpr Naming<Erase> names[] = {{Erase::key, "key"}, {Erase::separate, "separate"}, {Erase::gated, "gated"}, {Erase::two, "two"},
                                                            {Erase::transposed, "transposed"}};
};
template <> struct NamesOf<Normaliser> {
  static constexpr Naming<Normaliser> names[] = {
      {Normaliser::none, "none"}, {Normaliser::sum, "sum"}, {Normaliser::clamp, "clamp"}, {Normaliser::max1, "max1"}};
};
struct LinearMap {
  static constexpr const char* name = "linear";
  AnyFeature feature = Identity{};
  Erase erase = Erase::key;
  Normaliser normaliser = Normaliser::none;
  double eps = 1e-6;
  bool tied = false, bonus = false, learned = false;   // learned: the initial memory is a slot
  void each(auto&& f) {
    f("feature", feature), f("erase", erase), f("normaliser", normaliser), f("eps", eps), f("tied", tied), f("bonus", bonus), f("learned", learned);
  }

  std::vector<Slot> slots() const;
  Pack init(const View&) const;                                                   // memory [N, V, P]; normalizer [N, P]
  Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const;
  Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const;
  bool can_design() const { return erase == Erase::key && normaliser == Normaliser::none; }
  Design design(const View&) const;
  Tensor penalty(const View&, const Tensor& ridge) const;                                              // diag(ridge): one number, or one a feature
  Pack solved(const Tensor& solution) const;

 private:
  Tensor raw_key(const View&, int64_t i) const;                                   // k_i [N, K]
  Tensor key(const View&, int64_t i) const;                                       // phi(k_i) [N, P]
  Tensor query(const View&) const;                                                // phi(q_t) [N, P]
};

// What a memory is scored by: 1/2 |m - v|^2; the mean over channels of (m - v)^2, 2/V times as much (community Titans); or -m.v (LaCT).
enum class PairLoss { squared, mean, dot };
template <> struct NamesOf<PairLoss> {
  static constexpr Naming<PairLoss> names[] = {{PairLoss::squared, "squared"}, {PairLoss::mean, "mean"}, {PairLoss::dot, "dot"}};
};
Tensor score(PairLoss, const Tensor& m, const Tensor& v);   // [N]

// m(k) = W_2 act(W_1 k): a two-layer perceptron whose weights are the memory; the initial weights are learned (arXiv 2501.00663).
enum class Activation { gelu, silu, tanh, relu, identity };
template <> struct NamesOf<Activation> {
  static constexpr Naming<Activation> names[] = {
      {Activation::gelu, "gelu"}, {Activation::silu, "silu"}, {Activation::tanh, "tanh"}, {Activation::relu, "relu"}, {Activation::identity, "identity"}};
};
Tensor activate(Activation, const Tensor&);
struct Mlp {
  static constexpr const char* name = "mlp";
  int64_t hidden = 64;
  Activation activation = Activation::gelu;
  PairLoss loss_of = PairLoss::squared;
  void each(auto&& f) { f("hidden", hidden), f("activation", activation), f("loss", loss_of); }
  std::vector<Slot> slots() const;                                                // initial_weight_1 [hidden, K], initial_weight_2 [V, hidden]
  Pack init(const View&) const;                                                   // weight_1, weight_2
  Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const;
  Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const;

 private:
  Tensor apply(const Pack& theta, const Tensor& x) const;                         // [N, K] -> [N, V]
};

// m(k) = polynomial of degree 0, 1 or 2 around q_t (local polynomials: arXiv 2501.12352, 2510.01450). Features of z = k - q_t: [1; z; z_i^2; sqrt2 z_i z_j].
struct Polynomial {
  static constexpr const char* name = "polynomial";
  int64_t degree = 1;
  void each(auto&& f) { f("degree", degree); }
  std::vector<Slot> slots() const { return {}; }
  Pack init(const View&) const;                                                   // coefficients [N, P, V]
  Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const;
  Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const;     // the value at z = 0: the first coefficient
  Design design(const View&) const;
  Tensor penalty(const View&, const Tensor& ridge) const;   // ridge on everything but the constant: one number, or one a degree
  Pack solved(const Tensor& solution) const;
  int64_t size(int64_t key_dim) const;

 private:
  Tensor features(const Tensor& z) const;                                         // [N, n, K] -> [N, n, P]
};

// Pieces that function classes share. x [N, D], m [N, R, D].
Tensor apply_matrix(const Tensor& m, const Tensor& x);       // m x: [N, R]
Tensor half_square(const Tensor& x);                         // 1/2 |x|^2 over the last axis: [N]
Tensor dot(const Tensor& a, const Tensor& b);                // over the last axis: [N]

namespace detail {
extern template const FunctionModel* hold<FunctionHolder<Constant>>(Constant);
extern template const FunctionModel* hold<FunctionHolder<LinearMap>>(LinearMap);
extern template const FunctionModel* hold<FunctionHolder<Mlp>>(Mlp);
extern template const FunctionModel* hold<FunctionHolder<Polynomial>>(Polynomial);
}  // namespace detail

}  // namespace ttr
