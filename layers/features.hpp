// Feature maps phi: what a LinearMap is linear in. Applied to q and k alike (arXiv 2006.16236).
// A feature map: slots(), size(K) and map(x [N, K], View, token) -> [N, size]; size(View) where a learned slot decides how many there are.
// tokens_at_once (default false): rows may also be the tokens of one head, then View::head(slot) is [...] instead of [N, ...], and what depends on
// the position asks View::place; kernels need it.
#pragma once
#include <ttr/layers/recipe.hpp>

namespace ttr {

template <class P> concept FeatureMap = HasSlots<P> && requires(const P& p, const Tensor& x, const View& view, int64_t token) {
  requires requires { { p.size(token) } -> std::same_as<int64_t>; } || requires { { p.size(view) } -> std::same_as<int64_t>; };
  { p.map(x, view, token) } -> std::same_as<Tensor>;
};

namespace detail {
struct FeatureModel : Described {
  virtual int64_t size(const View&) const = 0;
  virtual Tensor map(const Tensor& x, const View&, int64_t token) const = 0;
  virtual bool tokens_at_once() const = 0;
};
template <class P> struct FeatureHolder final : Holder<FeatureModel, P> {
  using Holder<FeatureModel, P>::Holder;
  int64_t size(const View& view) const override {
    if constexpr (requires { this->value.size(view); }) return this->value.size(view);
    else return this->value.size(view.key_dim());
  }
  Tensor map(const Tensor& x, const View& view, int64_t token) const override { return this->value.map(x, view, token); }
  bool tokens_at_once() const override {
    if constexpr (requires { P::tokens_at_once; }) return P::tokens_at_once;
    return false;
  }
};
extern template class Handle<FeatureModel>;
}  // namespace detail

struct AnyFeature : detail::Handle<detail::FeatureModel> {
  using Handle::Handle;
  template <FeatureMap P> AnyFeature(P p) : Handle(detail::hold<detail::FeatureHolder<P>>(std::move(p))) {}
  static AnyFeature parse(const std::string& text);   // through the vocabulary
};

struct Identity {
  static constexpr const char* name = "identity";
  static constexpr bool tokens_at_once = true;
  std::vector<Slot> slots() const { return {}; }
  int64_t size(int64_t key_dim) const { return key_dim; }
  Tensor map(const Tensor& x, const View&, int64_t) const { return x; }
};

// Taylor-2 (Based, arXiv 2402.18668): [1; x'; x'_i^2 / sqrt 2; x'_i x'_j (i < j)] with x' = x K^{-1/4}, so phi(q).phi(k) = 1 + s + s^2/2, s = q.k / sqrt K.
struct Taylor2 {
  static constexpr const char* name = "taylor2";
  static constexpr bool tokens_at_once = true;
  std::vector<Slot> slots() const { return {}; }
  int64_t size(int64_t key_dim) const { return 1 + key_dim + key_dim * (key_dim + 1) / 2; }
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

// 1 + ELU (arXiv 2006.16236): x > 0 ? x + 1 : e^x.
struct Elu1 {
  static constexpr const char* name = "elu1";
  static constexpr bool tokens_at_once = true;
  std::vector<Slot> slots() const { return {}; }
  int64_t size(int64_t key_dim) const { return key_dim; }
  Tensor map(const Tensor& x, const View&, int64_t) const;
};

// phi of every token at once: x [B, T, h, K] -> [B, T, h, size], for a map with tokens_at_once. `first` is the position of the first token.
// With slots of its own the map is another one in every head, and h is the number of heads.
Tensor features_of(const AnyFeature&, const Tensor& x, const Slots&, int64_t first);
int64_t feature_count(const AnyFeature&, int64_t key_dim);   // with slots of their usual sizes
double feature_flops(const AnyFeature&, int64_t key_dim, bool training);   // of phi(x), x [K]: its products with slots that are matrices

namespace detail {
extern template const FeatureModel* hold<FeatureHolder<Identity>>(Identity);
extern template const FeatureModel* hold<FeatureHolder<Taylor2>>(Taylor2);
extern template const FeatureModel* hold<FeatureHolder<Elu1>>(Elu1);
}  // namespace detail

}  // namespace ttr
