// Numbers for tests of operations: seeded random tensors, the worst difference, and both ways a kernel op can be differentiated.
#pragma once
#include <algorithm>
#include <cmath>
#include <doctest/doctest.h>
#include <functional>
#include <string>
#include <vector>
#include <ttr/core/ops.hpp>

namespace ttr::test {

inline Tensor random_tensor(const Shape& shape, uint64_t seed, Dtype dtype = Dtype::f64) {   // splitmix64 in [-1, 1)
  std::vector<double> values(size_t(shape.count()));
  uint64_t state = seed * 0x2545f4914f6cdd1du + 1;
  for (double& v : values) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    v = double((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1;
  }
  return from_vector(values, shape, {dtype, cpu_device});
}

// max |got - want| / max(1, |want|); infinity where only one of them is NaN or they differ in size
inline double worst(const std::vector<double>& got, const std::vector<double>& want) {
  if (got.size() != want.size()) return INFINITY;
  double most = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]))) continue;
    const double error = std::abs(got[i] - want[i]) / std::max(1.0, std::abs(want[i]));
    most = std::isnan(error) ? INFINITY : std::max(most, error);
  }
  return most;
}
inline double worst(const Tensor& got, const std::vector<double>& want) { return worst(got.to_vector<double>(), want); }
inline double worst(const Tensor& got, const Tensor& want) {
  return got.shape() == want.shape() ? worst(got.to_vector<double>(), want.to_vector<double>()) : INFINITY;
}

inline double tolerance(Dtype d, double f64, double f32) { return d == Dtype::f64 ? f64 : f32; }

using Function = std::function<Tensor(const Tensors&)>;

// Gradients of f, projected on fixed random numbers: by its kernels, or (define) through what it declares itself to be.
inline Tensors gradients(const Function& f, const Tensors& inputs, bool define = false) {
  const Recording on(true);
  Tensors xs;
  for (const Tensor& x : inputs) xs.push_back(variable(x));
  const Tensor y = f(xs);
  return grad({y}, {random_tensor(y.shape(), 77, y.dtype())}, xs, {.create_graph = define});
}

// The worst difference between the two, over all inputs
inline double kernel_against_define(const Function& f, const Tensors& inputs) {
  const Tensors kernel = gradients(f, inputs), define = gradients(f, inputs, true);
  double most = 0;
  for (size_t i = 0; i < inputs.size(); ++i) most = std::max(most, worst(kernel[i], define[i]));
  return most;
}

inline GradCheck check(const Function& f, const Tensors& inputs, int order = 2) {
  return check_grad([&](const Tensors& xs) { return Tensors{f(xs)}; }, inputs, order);
}

inline std::string message(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace ttr::test
