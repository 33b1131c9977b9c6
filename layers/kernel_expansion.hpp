// Function classes of a reproducing kernel kappa(a, b) = exp(-|a - b|^2 / (2 h^2)); m(x) = sum_j kappa(c_j, x) theta_j, theta [centres, V].
//
//   KernelExpansion   centres: the keys themselves, so the whole space (the representer theorem); with Exact: kernel ridge regression
//   Landmarks         centres: the slot `landmarks` [n, K], one set a head
//   TokenLandmarks    centres: numbers 0, 2, 4, ... of [q_1 .. q_T; k_1 .. k_T] (arXiv 2111.00035)
//
// The penalty is the norm in the space, kappa(centres, centres). With the optimizer Nystrom the last two are smoothers (SOFT, Skyformer); with Exact they
// are Nystrom regressions.
#pragma once
#include <ttr/layers/recipe.hpp>

namespace ttr {

enum class Bandwidth { slot, root };   // h: the slot bandwidth, one a head; or K^{1/4}, so that kappa is exp(q.k / sqrt K) of unit keys
template <> struct NamesOf<Bandwidth> {
  static constexpr Naming<Bandwidth> names[] = {{Bandwidth::slot, "slot"}, {Bandwidth::root, "root"}};
};
Tensor gaussian(const View&, Bandwidth, const Tensor& a, const Tensor& b);   // [N, n, K], [N, m, K] -> [N, n, m]

struct KernelExpansion {
  static constexpr const char* name = "kernel_expansion";
  static constexpr bool grows = true;
  Bandwidth bandwidth = Bandwidth::slot;
  void each(auto&& f) { f("bandwidth", bandwidth); }
  std::vector<Slot> slots() const;
  Pack init(const View&) const;                                                    // coefficients [N, pairs, V]
  Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const;
  Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const;
  Design design(const View&) const;                                                // dual
  Tensor penalty(const View&, const Tensor& ridge) const;
  Pack solved(const Tensor& solution) const { return {{{"coefficients", solution}}}; }
};

struct Landmarks {
  static constexpr const char* name = "landmarks";
  Bandwidth bandwidth = Bandwidth::root;
  bool shared = false;                                                             // the queries are the keys: k is not read (SOFT)
  void each(auto&& f) { f("bandwidth", bandwidth), f("shared", shared); }
  std::vector<Slot> slots() const;
  Pack init(const View&) const;                                                    // coefficients [N, n, V]
  Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const;
  Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const;
  Design design(const View&) const;
  Tensor penalty(const View&, const Tensor& ridge) const;
  Pack solved(const Tensor& solution) const { return {{{"coefficients", solution}}}; }
};

struct TokenLandmarks {
  static constexpr const char* name = "token_landmarks";
  static constexpr bool grows = true;
  Bandwidth bandwidth = Bandwidth::root;
  void each(auto&& f) { f("bandwidth", bandwidth); }
  std::vector<Slot> slots() const;
  Pack init(const View&) const;
  Tensor loss(const Pack& theta, const Pack& point, const View&, int64_t i) const;
  Tensor read(const Pack& theta, const View&, const Tensor& log_scale) const;
  Design design(const View&) const;
  Tensor penalty(const View&, const Tensor& ridge) const;
  Pack solved(const Tensor& solution) const { return {{{"coefficients", solution}}}; }

 private:
  Tensor centres(const View&) const;                                               // [N, tokens, K]
};

}  // namespace ttr
