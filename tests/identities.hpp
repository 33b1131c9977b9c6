// What the tests of identities share: leaves that two recipes read, and the check that both answer alike (identities*.cpp).
#pragma once
#include <doctest/doctest.h>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/vocabulary.hpp>
#include <ttr/tests/recipe_slots.hpp>

namespace ttr::identities {

inline constexpr Options kF64{Dtype::f64, cpu_device};
inline constexpr int64_t T = 9, K = 4, V = 3;

// Shared inputs, all [1, n, 1, ...] or [1, ...].
struct Shared {
  Slots slots;
  uint64_t stream = 1;
  Tensor put(const std::string& name, const Tensor& x) { return slots[name] = variable(x); }
  Tensor signal(const std::string& name, const Shape& shape, double size = 1) {
    return put(name, normal(shape, 5, ++stream, 0, size, kF64));
  }
  Tensor gate(const std::string& name, const Shape& shape, double low, double high) {
    return put(name, uniform(shape, 5, ++stream, low, high, kF64));
  }
  Tensor decay(const std::string& name, const Shape& shape) { return put(name, log(uniform(shape, 5, ++stream, 0.6, 0.98, kF64))); }
};
struct Usual : Shared {   // q, k, v, a step and a decay a token
  Tensor q = signal("q", {1, T, 1, K}), k = signal("k", {1, T, 1, K}, 0.6), v = signal("v", {1, T, 1, V});
  Tensor beta = gate("beta", {1, T, 1}, 0.1, 0.9), g = decay("g", {1, T, 1});
};

inline Tensor run(const std::string& recipe, const Slots& slots) { return fold(parse_recipe(recipe), {.slots = slots}).y; }
inline Tensor zero(const Shape& s) { return zeros(s, kF64); }
inline Tensor one(const Shape& s) { return ones(s, kF64); }
inline Tensor wide_as(const Tensor& per_token, const Tensor& like) {
  return broadcast_to(reshape(per_token, {1, like.size(1), 1, 1}), like.shape());
}   // [1, T, 1] -> [1, T, 1, D]
inline Tensor column(const Tensor& per_token) { return reshape(per_token, {1, per_token.size(1), 1, 1}); }

inline void check_same(const Tensor& y, const Tensor& z, const Shared& shared) {
  CHECK(difference(y, z) <= 1e-10);
  CHECK(difference(y, y * 0.0) > 1e-3);   // two silent recipes agree about nothing
  const Tensors dy = gradients(y, leaves(shared.slots)), dz = gradients(z, leaves(shared.slots));
  size_t i = 0;
  for (const auto& [name, x] : shared.slots) {
    CAPTURE(name);
    CHECK(difference(dy[i], dz[i]) <= 1e-10);
    ++i;
  }
}

}   // namespace ttr::identities
