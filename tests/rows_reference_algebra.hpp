// The little dense algebra the row references are written in: vectors, matrices, one elimination, one generator. Row-major doubles.
#pragma once
#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>
#include <utility>

#include "rows_reference.hpp"

namespace reference {

using Vector = std::vector<double>;
using Matrix = Array;                          // shape {rows, columns}

inline Array zeros(std::vector<int64_t> shape) {
  int64_t count = 1;
  for (int64_t n : shape) count *= n;
  return {std::move(shape), Vector(static_cast<size_t>(count), 0.0)};
}
inline Array scalar(double value) { return {{}, {value}}; }

inline const Array& slot(const Inputs& in, const std::string& name) {
  const auto found = in.find(name);
  if (found == in.end()) throw std::out_of_range("[rows_reference] slot " + name + " is missing, needs a value");
  return found->second;
}

inline Vector line(const Array& a, int64_t i) {    // row i of a matrix
  const int64_t n = a.size(1);
  return Vector(a.data.begin() + i * n, a.data.begin() + (i + 1) * n);
}
inline void set_line(Array& a, int64_t i, const Vector& x) {
  for (int64_t j = 0; j < a.size(1); ++j) a(i, j) = x.at(static_cast<size_t>(j));
}

inline double dot(const Vector& a, const Vector& b) {
  if (a.size() != b.size()) throw std::invalid_argument("[rows_reference] dot of two lengths");
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
inline Vector operator*(double c, Vector x) {
  for (double& value : x) value *= c;
  return x;
}
inline Vector operator+(Vector a, const Vector& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b.at(i);
  return a;
}
inline Vector operator-(Vector a, const Vector& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] -= b.at(i);
  return a;
}
inline Vector times(Vector a, const Vector& b) {   // elementwise
  for (size_t i = 0; i < a.size(); ++i) a[i] *= b.at(i);
  return a;
}
inline Vector each_entry(Vector x, double (*f)(double)) {
  for (double& value : x) value = f(value);
  return x;
}
inline double squared_distance(const Vector& a, const Vector& b) { return dot(a - b, a - b); }

inline Vector product(const Matrix& m, const Vector& x) {              // m x
  Vector y(static_cast<size_t>(m.size(0)), 0.0);
  for (int64_t i = 0; i < m.size(0); ++i)
    for (int64_t j = 0; j < m.size(1); ++j) y[static_cast<size_t>(i)] += m(i, j) * x.at(static_cast<size_t>(j));
  return y;
}
inline Vector transposed_product(const Matrix& m, const Vector& x) {   // m' x
  Vector y(static_cast<size_t>(m.size(1)), 0.0);
  for (int64_t i = 0; i < m.size(0); ++i)
    for (int64_t j = 0; j < m.size(1); ++j) y[static_cast<size_t>(j)] += m(i, j) * x.at(static_cast<size_t>(i));
  return y;
}
inline void add_outer(Matrix& m, double c, const Vector& u, const Vector& w) {   // m += c u w'
  for (int64_t i = 0; i < m.size(0); ++i)
    for (int64_t j = 0; j < m.size(1); ++j) m(i, j) += c * u.at(static_cast<size_t>(i)) * w.at(static_cast<size_t>(j));
}
inline void add_scaled(Matrix& m, double c, const Matrix& other) {
  for (size_t i = 0; i < m.data.size(); ++i) m.data[i] += c * other.data.at(i);
}
inline void rescale(Matrix& m, double c) {
  for (double& value : m.data) value *= c;
}
inline void scale_columns(Matrix& m, const Vector& a) {              // m diag(a)
  for (int64_t i = 0; i < m.size(0); ++i)
    for (int64_t j = 0; j < m.size(1); ++j) m(i, j) *= a.at(static_cast<size_t>(j));
}
inline void scale_rows(Matrix& m, const Vector& a) {                 // diag(a) m
  for (int64_t i = 0; i < m.size(0); ++i)
    for (int64_t j = 0; j < m.size(1); ++j) m(i, j) *= a.at(static_cast<size_t>(i));
}
inline Matrix multiply(const Matrix& a, const Matrix& b) {
  Matrix c = zeros({a.size(0), b.size(1)});
  for (int64_t i = 0; i < a.size(0); ++i)
    for (int64_t l = 0; l < a.size(1); ++l)
      for (int64_t j = 0; j < b.size(1); ++j) c(i, j) += a(i, l) * b(l, j);
  return c;
}
inline Matrix transpose(const Matrix& a) {
  Matrix c = zeros({a.size(1), a.size(0)});
  for (int64_t i = 0; i < a.size(0); ++i)
    for (int64_t j = 0; j < a.size(1); ++j) c(j, i) = a(i, j);
  return c;
}
inline Matrix identity(int64_t n, double value = 1.0) {
  Matrix c = zeros({n, n});
  for (int64_t i = 0; i < n; ++i) c(i, i) = value;
  return c;
}

// a x = b for several right-hand sides, by elimination with row exchanges.
inline Matrix solve(Matrix a, Matrix b) {
  const int64_t n = a.size(0), columns = b.size(1);
  for (int64_t p = 0; p < n; ++p) {
    int64_t best = p;
    for (int64_t i = p + 1; i < n; ++i)
      if (std::abs(a(i, p)) > std::abs(a(best, p))) best = i;
    if (a(best, p) == 0.0) throw std::domain_error("[rows_reference] the matrix of a direct solve is singular");
    for (int64_t j = 0; j < n; ++j) std::swap(a(p, j), a(best, j));
    for (int64_t j = 0; j < columns; ++j) std::swap(b(p, j), b(best, j));
    for (int64_t i = p + 1; i < n; ++i) {
      const double factor = a(i, p) / a(p, p);
      for (int64_t j = p; j < n; ++j) a(i, j) -= factor * a(p, j);
      for (int64_t j = 0; j < columns; ++j) b(i, j) -= factor * b(p, j);
    }
  }
  for (int64_t p = n - 1; p >= 0; --p)
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = p + 1; i < n; ++i) b(p, j) -= a(p, i) * b(i, j);
      b(p, j) /= a(p, p);
    }
  return b;
}
inline Vector solve(const Matrix& a, const Vector& b) { return solve(a, Matrix{{a.size(0), 1}, b}).data; }

inline Vector softmax(Vector logits) {
  double top = logits.at(0), sum = 0;
  for (double l : logits) top = std::max(top, l);
  for (double& l : logits) sum += l = std::exp(l - top);
  return (1 / sum) * logits;
}
inline Vector concatenate(Vector a, const Vector& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double silu(double x) { return x * sigmoid(x); }
inline double silu_slope(double x) { return sigmoid(x) * (1 + x * (1 - sigmoid(x))); }
inline double relu(double x) { return x > 0 ? x : 0; }
inline double exponential(double x) { return std::exp(x); }
inline double gelu(double x) {                  // the tanh form
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
}
inline double gelu_slope(double x) {
  const double c = std::sqrt(2 / std::numbers::pi), t = std::tanh(c * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

// (x - mean) / sqrt(variance + eps), the variance over all n entries.
inline Vector standardize(const Vector& x, double eps) {
  double mean = 0, variance = 0;
  for (double value : x) mean += value / static_cast<double>(x.size());
  for (double value : x) variance += (value - mean) * (value - mean) / static_cast<double>(x.size());
  Vector y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = (x[i] - mean) / std::sqrt(variance + eps);
  return y;
}

// Newton-Schulz: x <- a x + (b A + c A A) x with A = x x', from x / (|x|_F + 1e-7).
struct NewtonSchulz { double a, b, c; };
inline Matrix orthogonalize(const Matrix& g, const std::vector<NewtonSchulz>& steps) {
  double norm = 0;
  for (double value : g.data) norm += value * value;
  Matrix x = g;
  rescale(x, 1 / (std::sqrt(norm) + 1e-7));
  for (const NewtonSchulz& s : steps) {
    const Matrix gram = multiply(x, transpose(x));
    Matrix polynomial = multiply(gram, gram);
    rescale(polynomial, s.c);
    add_scaled(polynomial, s.b, gram);
    Matrix next = multiply(polynomial, x);
    add_scaled(next, s.a, x);
    x = next;
  }
  return x;
}

// The same numbers on every platform: splitmix64 and Box-Muller.
class Draw {
 public:
  explicit Draw(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15ull + 0x1234567ull) {}
  double uniform(double low, double high) { return low + (high - low) * (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(uniform(0, 1)));
    return radius * std::cos(2 * std::numbers::pi * uniform(0, 1));
  }
  Array uniform(std::vector<int64_t> shape, double low, double high) {
    Array a = zeros(std::move(shape));
    for (double& value : a.data) value = uniform(low, high);
    return a;
  }
  Array normal(std::vector<int64_t> shape, double scale = 1.0) {
    Array a = zeros(std::move(shape));
    for (double& value : a.data) value = scale * normal();
    return a;
  }
  Array log_decay(std::vector<int64_t> shape, double low = 0.6, double high = 0.98) {   // the log of a decay in (low, high)
    Array a = zeros(std::move(shape));
    for (double& value : a.data) value = std::log(uniform(low, high));
    return a;
  }

 private:
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15ull);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

// q, k, v of sizes where every row is well behaved, then what the row adds.
struct Sizes { int64_t T, K, V; };
using More = std::function<void(Draw&, Inputs&, Sizes)>;
inline std::function<Inputs(int64_t, int64_t, int64_t, uint64_t)> draw_qkv(More more = {}) {
  return [more](int64_t T, int64_t K, int64_t V, uint64_t seed) {
    Draw d(seed);
    Inputs in{{"q", d.normal({T, K})}, {"k", d.normal({T, K}, 0.7)}, {"v", d.normal({T, V})}};
    if (more) more(d, in, {T, K, V});
    return in;
  };
}

}  // namespace reference
