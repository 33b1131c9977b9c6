// What the self-checks of the references share: draw and run by name, compare, rebuild inputs. Two paths agree when their largest
// difference is small beside the largest entry.
#pragma once
#include <doctest/doctest.h>

#include "rows_reference_algebra.hpp"

namespace reference {

constexpr int64_t T = 9, K = 4, V = 3;
constexpr double kExact = 1e-11;   // relative to the largest entry

inline Inputs draw(const std::string& name, uint64_t seed = 1) { return row(name).draw(T, K, V, seed); }
inline Array run(const std::string& name, const Inputs& in) { return row(name).run(in); }

inline double largest(const Array& a) {
  double top = 0;
  for (double value : a.data) top = std::max(top, std::abs(value));
  return top;
}
inline double difference(const Array& a, const Array& b) {
  REQUIRE(a.shape == b.shape);
  REQUIRE(largest(b) > 1e-3);   // two silent rows agree about nothing
  Array gap = a;
  add_scaled(gap, -1, b);
  return largest(gap) / largest(b);
}

inline Array filled(std::vector<int64_t> shape, double value) {
  Array a = zeros(std::move(shape));
  for (double& entry : a.data) entry = value;
  return a;
}
inline Array spread(const Array& per_token, int64_t columns) {   // [T] -> [T, columns]
  Array a = zeros({per_token.size(0), columns});
  for (int64_t t = 0; t < a.size(0); ++t)
    for (int64_t j = 0; j < columns; ++j) a(t, j) = per_token(t);
  return a;
}
inline Array scaled_lines(const Array& a, const Array& per_token) {
  Array out = a;
  for (int64_t t = 0; t < a.size(0); ++t) set_line(out, t, per_token(t) * line(a, t));
  return out;
}
inline Array scaled(Array a, double c) {
  rescale(a, c);
  return a;
}
inline Array exponential_of(Array a) {
  for (double& value : a.data) value = std::exp(value);
  return a;
}
inline Inputs with(Inputs in, const std::string& name, Array value) {
  in[name] = std::move(value);
  return in;
}
inline double decay_between(const Array& g, int64_t after, int64_t t) {
  double sum = 0;
  for (int64_t s = after + 1; s <= t; ++s) sum += g(s);
  return std::exp(sum);
}

}  // namespace reference
