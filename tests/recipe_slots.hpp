// Values for every slot of any recipe, drawn from what the slot says about itself: its shape, its range, how often it has a value.
#pragma once
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fold.hpp>

namespace ttr {

struct Sizes {
  int64_t batch = 1, tokens = 9, heads = 1, key_heads = 0, value_heads = 0, key_dim = 4, value_dim = 4;
};   // 0 heads: as many as q

inline Tensor draw_slot(const Slot& s, const Shape& shape, uint64_t stream) {
  const Options f64{Dtype::f64, cpu_device};
  constexpr uint64_t seed = 11;
  if (s.range == log_of_unit) return log(uniform(shape, seed, stream, 0.6, 0.98, f64));
  if (std::isinf(s.range.high) && s.range.low == 0) return uniform(shape, seed, stream, 0.3, 1, f64);
  if (!std::isinf(s.range.low) && !std::isinf(s.range.high)) return uniform(shape, seed, stream, 0.1, 0.5, f64);
  return normal(shape, seed, stream, 0, s.name == "v" ? 1 : 0.6, f64);
}

// As leaves: derivatives with respect to each exist.
inline Slots draw_slots(const Recipe& recipe, const Sizes& n, uint64_t seed = 1) {
  Slots given;
  uint64_t stream = 1000 * seed;
  for (const Slot& s : recipe.slots()) {
    Shape shape;
    if (s.per != Per::head && s.per != Per::frozen) shape = {n.batch, s.per == Per::write ? n.tokens * recipe.reading().writes : n.tokens};
    const int64_t wanted = s.name == "k" ? n.key_heads : s.name == "v" ? n.value_heads : 0;
    shape.push_back(wanted ? wanted : n.heads);
    for (const Extent& e : s.shape) shape.push_back(e.at(n.key_dim, n.value_dim));
    given[s.name] = variable(draw_slot(s, shape, ++stream));
  }
  return given;
}

inline Tensors leaves(const Slots& slots) {
  Tensors xs;
  for (const auto& [name, x] : slots) xs.push_back(x);
  return xs;
}

// Tokens [begin, end) of every slot that has a value a token.
inline Slots tokens_of(const Recipe& recipe, const Slots& slots, int64_t begin, int64_t end) {
  Slots part = slots;
  for (const Slot& s : recipe.slots()) {
    const int64_t n = s.per == Per::write ? recipe.reading().writes : 1;
    if (s.per != Per::head && s.per != Per::frozen && slots.count(s.name)) part[s.name] = slice(slots.at(s.name), 1, begin * n, end * n);
  }
  return part;
}

// The largest difference, relative to the larger of 1 and the largest entry; infinite when something is not finite.
inline double difference(const Tensor& a, const Tensor& b) {
  if (a.shape() != b.shape()) throw refuse("test", "a has shape {}, needs that of b, {}", to_string(a.shape()), to_string(b.shape()));
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double gap = 0, size = 1;
  for (size_t i = 0; i < x.size(); ++i) {
    gap = std::abs(x[i] - y[i]) <= gap ? gap : std::abs(x[i] - y[i]);
    size = std::max(size, std::abs(y[i]));
  }
  return std::isfinite(gap) ? gap / size : std::numeric_limits<double>::infinity();
}

// A fixed direction, so that a sum of many outputs cannot hide a difference.
inline Tensors gradients(const Tensor& y, const Tensors& xs) {
  std::vector<double> w(size_t(y.count()));
  for (size_t i = 0; i < w.size(); ++i) w[i] = std::sin(1 + 3.7 * double(i));
  return grad({y}, {from_vector(w, y.shape(), like(y))}, xs);
}

}   // namespace ttr
