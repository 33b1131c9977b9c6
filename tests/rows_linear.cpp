// Self-checks of group C: the sums over pairs against states of features written anew.
#include <algorithm>

#include "rows_reference_checks.hpp"

namespace reference {

TEST_SUITE("rows_reference") {

namespace {

// The state form M = a M + b v phi(k)', z = a z + b phi(k), y = M phi(q) / denominator(z.phi(q)).
Array feature_memory(const Inputs& in, const std::function<Vector(const Vector&, double position)>& phi, double (*denominator)(double),
                     const Array& keep, const Array& write) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  Matrix memory;
  Vector norm;
  Array y = zeros({T, V});
  for (int64_t t = 0; t < T; ++t) {
    const Vector key = phi(line(k, t), static_cast<double>(t + 1)), query = phi(line(q, t), static_cast<double>(t + 1));
    if (t == 0) memory = zeros({V, static_cast<int64_t>(key.size())}), norm = Vector(key.size(), 0.0);
    rescale(memory, keep(t));
    add_outer(memory, write(t), line(v, t), key);
    norm = keep(t) * norm + write(t) * key;
    set_line(y, t, (1 / denominator(dot(norm, query))) * product(memory, query));
  }
  return y;
}

}  // namespace

TEST_CASE("every feature map, as a state") {
  const Array one = filled({T}, 1);
  using Map = std::function<Vector(const Inputs&, const Vector&, double position)>;
  const auto check = [&](const std::string& name, const Map& phi, double (*denominator)(double)) {
    CAPTURE(name);
    for (uint64_t seed : {1, 2, 3}) {
      const Inputs in = draw(name, seed);
      const Array keep = in.contains("gate") ? in.at("gate") : in.contains("log_decay") ? exponential_of(in.at("log_decay")) : one;
      Array write = one;
      if (in.contains("gate"))
        for (int64_t t = 0; t < T; ++t) write(t) = 1 - in.at("gate")(t);
      const auto bound = [&](const Vector& x, double position) { return phi(in, x, position); };
      const Array state = feature_memory(in, bound, denominator, keep, write);
      CHECK(difference(run(name, in), state) < kExact);
    }
  };
  const auto none = [](double) { return 1.0; };
  const auto sum = [](double s) { return s; };
  const auto shifted = [](double s) { return s + 1e-6; };
  const auto clamped = [](double s) { return s < 1e-6 ? 1e-6 : s; };
  const auto clamped_one = [](double s) { return s < 1 ? 1 : s; };
  check("linear_attention", [](const Inputs&, const Vector& x, double) { return x; }, none);
  check("normalised_linear_attention", [](const Inputs&, Vector x, double) {
    for (double& a : x) a = std::min(std::exp(a), 1.0) + std::max(a, 0.0);
    return x;
  }, shifted);
  check("relu_linear_attention", [](const Inputs& in, const Vector& x, double) {
    Vector out;
    for (int64_t i = 0; i < in.at("feature_weight").size(0); ++i)
      out.push_back(std::max(0.0, dot(line(in.at("feature_weight"), i), x) + in.at("feature_bias")(i)));
    return out;
  }, clamped);
  check("cosformer", [](const Inputs&, const Vector& x, double position) {
    Vector out;
    for (double phase : {0.0, std::numbers::pi / 2})
      for (double a : x) out.push_back(std::max(a, 0.0) * std::cos(std::numbers::pi * position / 128 - phase));
    return out;
  }, clamped);
  check("dpfp", [](const Inputs&, const Vector& x, double) {
    Vector r(8), out;
    for (size_t n = 0; n < 4; ++n) r[n] = std::max(x[n], 0.0), r[n + 4] = std::max(-x[n], 0.0);
    for (int shift : {1, 2})
      for (int n = 0; n < 8; ++n) out.push_back(r[static_cast<size_t>(n)] * r[static_cast<size_t>((n - shift) & 7)]);
    double total = 0;
    for (double a : out) total += a;
    return (1 / total) * out;
  }, none);
  check("silu_linear_attention", [](const Inputs&, Vector x, double) {
    for (double& a : x) a /= 1 + std::exp(-a);
    return x;
  }, none);
  const auto outer_square = [](const Vector& x) {
    Vector out;
    for (double a : x)
      for (double b : x) out.push_back(a * b);
    return out;
  };
  check("polynomial_linear_attention", [&](const Inputs&, const Vector& x, double) { return outer_square(x); }, none);
  check("based", [](const Inputs&, const Vector& raw, double) {   // the triangular map
    const Vector x = std::sqrt(0.5) * raw;                       // K^{-1/4}
    Vector out = concatenate({1.0}, x);
    for (size_t i = 0; i < 4; ++i)
      for (size_t j = i; j < 4; ++j) out.push_back(x[i] * x[j] * (i == j ? std::sqrt(0.5) : 1));
    return out;
  }, shifted);
  check("rebased", [](const Inputs& in, const Vector& raw, double) {
    double mean = 0, square = 0;
    for (double a : raw) mean += a / 4, square += a * a / 4;
    Vector x = raw, out;
    const Vector &weight = in.at("norm_weight").data, &bias = in.at("norm_bias").data;
    for (size_t j = 0; j < 4; ++j) x[j] = (raw[j] - mean) / std::sqrt(square - mean * mean + 1e-5) * weight[j] + bias[j];
    for (size_t i = 0; i < 4; ++i)
      for (size_t j = i; j < 4; ++j) out.push_back(x[i] * x[j] * (i == j ? 0.5 : std::sqrt(0.5)));
    return out;
  }, shifted);
  check("hedgehog", [](const Inputs& in, const Vector& x, double) {
    const Vector y = product(in.at("feature_weight"), x);
    double up = 0, down = 0;
    for (double a : y) up += std::exp(a), down += std::exp(-a);
    Vector out;
    for (double a : y) out.push_back(std::exp(a) / up);
    for (double a : y) out.push_back(std::exp(-a) / down);
    return out;
  }, sum);
  check("hedgehog_joint", [](const Inputs& in, const Vector& x, double) {
    const Vector y = product(in.at("feature_weight"), x);
    double total = 0;
    for (double a : y) total += 2 * std::cosh(2 * a);
    Vector out;
    for (double sign : {2.0, -2.0})
      for (double a : y) out.push_back(std::exp(sign * a) / total);
    return out;
  }, sum);
  check("performer", [](const Inputs& in, const Vector& x, double) {
    const Array& omega = in.at("projection");
    Vector out;
    for (int64_t i = 0; i < omega.size(0); ++i)
      out.push_back((std::exp(dot(line(omega, i), x) / std::sqrt(2.0) - dot(x, x) / 4) + 1e-4) / std::sqrt(6.0));
    return out;
  }, sum);
  const auto waves = [](const Inputs& in, const Vector& x, double) {
    const Array& omega = in.at("projection");
    const double length = std::sqrt(dot(x, x)) + 1e-3;
    Vector out;
    for (int64_t i = 0; i < omega.size(0); ++i) {
      const double angle = dot(line(omega, i), x) / length;
      out.push_back(0.1 * std::sin(angle));
      out.push_back(0.1 * std::cos(angle));
    }
    return out;
  };
  check("rfa", waves, clamped_one);
  check("gated_rfa", waves, clamped_one);
  check("dijiang", [](const Inputs& in, const Vector& x, double) {
    Vector out = product(in.at("projection"), x);
    double total = 0;
    for (double& a : out) total += a = std::exp(a);
    return (1 / total) * out;
  }, none);
  check("hadamard_linear_attention", [](const Inputs& in, const Vector& x, double) {
    Vector out;
    for (int64_t i = 0; i < in.at("feature_weight").size(0); ++i)
      out.push_back(dot(line(in.at("feature_weight"), i), x) * dot(line(in.at("feature_weight_2"), i), x));
    return out;
  }, none);
}

TEST_CASE("the clamps of rfa are met from both sides, and performer estimates the softmax kernel") {
  for (const char* name : {"rfa", "gated_rfa"}) {
    Inputs in = draw(name);
    const Array y = run(name, with(in, "v", filled({T, V}, 1)));   // sum / max(sum, 1)
    CHECK(*std::min_element(y.data.begin(), y.data.end()) < 0.99);
    CHECK(*std::max_element(y.data.begin(), y.data.end()) == doctest::Approx(1));
  }
  Inputs in = draw("performer");
  Draw d(7);
  in["projection"] = d.normal({40000, K});
  CHECK(difference(run("performer", in), run("softmax_attention", in)) < 0.1);
}

}  // TEST_SUITE

}  // namespace reference
