// The list of references, and their own checks: identities between rows (reference section 4), each reached by two code paths that
// share no equation. What these do not catch is a convention both paths share; those are stated at the rows.
#include "rows_reference.hpp"

#include <doctest/doctest.h>

#include <algorithm>

#include "rows_reference_algebra.hpp"

namespace reference {

const std::vector<Row>& rows() {
  static const std::vector<Row> all = [] {
    std::vector<Row> joined;
    for (auto* group : {nonparametric_rows, least_squares_rows, linear_rows, gated_rows, delta_rows, nonlinear_rows})
      for (Row& r : group()) joined.push_back(std::move(r));
    return joined;
  }();
  return all;
}

const Row& row(const std::string& name) {
  for (const Row& r : rows())
    if (r.name == name) return r;
  throw std::out_of_range("[rows_reference] row is " + name + ", needs one of rows()");
}

namespace {

constexpr int64_t T = 9, K = 4, V = 3;
constexpr double kExact = 1e-11;   // relative to the largest entry

Inputs draw(const std::string& name, uint64_t seed = 1) { return row(name).draw(T, K, V, seed); }
Array run(const std::string& name, const Inputs& in) { return row(name).run(in); }

double largest(const Array& a) {
  double top = 0;
  for (double value : a.data) top = std::max(top, std::abs(value));
  return top;
}
double difference(const Array& a, const Array& b) {
  REQUIRE(a.shape == b.shape);
  REQUIRE(largest(b) > 1e-3);   // two silent rows agree about nothing
  Array gap = a;
  add_scaled(gap, -1, b);
  return largest(gap) / largest(b);
}

Array filled(std::vector<int64_t> shape, double value) {
  Array a = zeros(std::move(shape));
  for (double& entry : a.data) entry = value;
  return a;
}
Array spread(const Array& per_token, int64_t columns) {   // [T] -> [T, columns]
  Array a = zeros({per_token.size(0), columns});
  for (int64_t t = 0; t < a.size(0); ++t)
    for (int64_t j = 0; j < columns; ++j) a(t, j) = per_token(t);
  return a;
}
Array scaled_lines(const Array& a, const Array& per_token) {
  Array out = a;
  for (int64_t t = 0; t < a.size(0); ++t) set_line(out, t, per_token(t) * line(a, t));
  return out;
}
Array scaled(Array a, double c) {
  rescale(a, c);
  return a;
}
Array exponential_of(Array a) {
  for (double& value : a.data) value = std::exp(value);
  return a;
}
Inputs with(Inputs in, const std::string& name, Array value) {
  in[name] = std::move(value);
  return in;
}
double decay_between(const Array& g, int64_t after, int64_t t) {
  double sum = 0;
  for (int64_t s = after + 1; s <= t; ++s) sum += g(s);
  return std::exp(sum);
}

}  // namespace

TEST_SUITE("rows_reference") {

TEST_CASE("every row draws the same numbers twice, answers finite values of the right shape, and depends on every slot") {
  for (const Row& r : rows()) {
    CAPTURE(r.name);
    const Inputs in = r.draw(T, K, V, 3);
    const Array y = r.run(in);
    CHECK(y.data == r.run(r.draw(T, K, V, 3)).data);
    CHECK(y.shape == std::vector<int64_t>{T, slot(in, "v").size(1)});
    for (double value : y.data) CHECK(std::isfinite(value));
    for (const auto& [name, value] : in) {
      CAPTURE(name);
      Array moved = value;
      for (double& entry : moved.data) entry *= 1.01;
      double change = 0;
      const Array other = r.run(with(in, name, moved));
      for (size_t i = 0; i < y.data.size(); ++i) change = std::max(change, std::abs(other.data[i] - y.data[i]));
      CHECK(change > 0);
    }
  }
  CHECK_THROWS_AS(row("no_such_row"), std::out_of_range);
}

TEST_CASE("causal rows give a prefix the same bits; the others do not") {
  for (const Row& r : rows()) {
    CAPTURE(r.name);
    const Inputs in = r.draw(T, K, V, 5);
    const int64_t keep = 6;
    Inputs prefix = in;
    for (auto& [name, a] : prefix) {
      if (a.shape.empty() || a.shape[0] % T != 0 || a.shape[0] > 2 * T) continue;
      const int64_t writes = a.shape[0] / T;
      a.data.resize(a.data.size() / static_cast<size_t>(T) * static_cast<size_t>(keep));
      a.shape[0] = writes * keep;
    }
    const Array whole = r.run(in), part = r.run(prefix);
    CHECK(part.size(0) == keep);
    const bool same = std::equal(part.data.begin(), part.data.end(), whole.data.begin());
    CHECK(same == r.causal);
  }
}

TEST_CASE("A: softmax limits") {
  const Inputs base = draw("softmax_attention");
  const Array y = run("softmax_attention", base);
  CHECK(difference(run("forgetting_attention", with(base, "log_decay", zeros({T}))), y) < kExact);
  CHECK(difference(run("deltaformer", with(base, "step_size", zeros({T}))), y) < kExact);
  CHECK(difference(run("parallax", with(base, "slope", zeros({T, K}))), y) < kExact);
  CHECK(difference(run("path_attention", with(with(base, "path_key", base.at("k")), "path_step", zeros({T}))), y) < kExact);
  CHECK(difference(run("local_linear_attention", with(base, "ridge", scalar(1e9))), y) < 1e-7);
  // the softmax is the unnormalised row divided by the unnormalised row of ones
  Array ratio = run("unnormalised_softmax_attention", base);
  const Array sums = run("unnormalised_softmax_attention", with(base, "v", filled({T, V}, 1)));
  for (size_t i = 0; i < ratio.data.size(); ++i) ratio.data[i] /= sums.data[i];
  CHECK(difference(ratio, y) < kExact);
}

TEST_CASE("A: normalised keys are a gaussian kernel, and rms norm is softmax on longer vectors") {
  Inputs in = draw("qknorm_attention");
  const double temperature = in["temperature"](0);
  Inputs unit = in;
  for (const char* name : {"q", "k"})
    for (int64_t t = 0; t < T; ++t) {
      const Vector x = line(in[name], t);
      set_line(unit[name], t, (1 / std::sqrt(dot(x, x))) * x);
    }
  // all lengths are sqrt(1 / (1 + 1e-6)) after the norm, which only rescales the temperature
  Inputs gaussian = with(unit, "bandwidth", scalar(std::sqrt((1 + 1e-6) / temperature)));
  CHECK(difference(run("qknorm_attention", unit), run("nadaraya_watson", gaussian)) < kExact);

  in = draw("rms_qknorm_attention");
  Inputs normed = in;
  for (const char* name : {"q", "k"})
    for (int64_t t = 0; t < T; ++t)
      for (int64_t j = 0; j < K; ++j)
        normed[name](t, j) *= in[std::string(name) + "_norm_weight"](j) / std::sqrt(dot(line(in[name], t), line(in[name], t)) / K + 1e-6);
  CHECK(difference(run("rms_qknorm_attention", in), run("softmax_attention", normed)) < kExact);
}

TEST_CASE("A: the local line is the centred closed form, and parallax with its slope") {
  const Inputs in = draw("local_linear_attention");
  const Array &q = in.at("q"), &k = in.at("k"), &v = in.at("v");
  Array slope = zeros({T, K}), closed = zeros({T, V});
  for (int64_t t = 0; t < T; ++t) {
    Vector logits, mean(K, 0.0);
    for (int64_t i = 0; i <= t; ++i) logits.push_back(dot(line(q, t), line(k, i)) / 2);
    const Vector p = softmax(logits);
    for (int64_t i = 0; i <= t; ++i) mean = mean + p[static_cast<size_t>(i)] * line(k, i);
    Matrix covariance = identity(K, in.at("ridge")(0));
    for (int64_t i = 0; i <= t; ++i) add_outer(covariance, p[static_cast<size_t>(i)], line(k, i) - mean, line(k, i) - mean);
    const Vector u = solve(covariance, line(q, t) - mean);
    set_line(slope, t, -1.0 * u);
    for (int64_t i = 0; i <= t; ++i)
      for (int64_t j = 0; j < V; ++j) closed(t, j) += p[static_cast<size_t>(i)] * (1 + dot(line(k, i) - mean, u)) * v(i, j);
  }
  const Array y = run("local_linear_attention", in);
  CHECK(difference(y, closed) < kExact);
  CHECK(difference(y, run("parallax", with(in, "slope", slope))) < kExact);
  CHECK(difference(run("local_quadratic_attention", with(in, "ridge", Array{{2}, {in.at("ridge")(0), 1e10}})), y) < 1e-8);
}

TEST_CASE("A: a local quadratic reproduces quadratics") {
  Inputs in = row("local_quadratic_attention").draw(20, 2, 1, 4);
  in["ridge"] = filled({2}, 1e-11);
  const auto quadratic = [](double a, double b) { return 1 + 2 * a - b + 0.5 * a * a - a * b + 0.3 * b * b; };
  for (int64_t t = 0; t < 20; ++t) in["v"](t, 0) = quadratic(in["k"](t, 0), in["k"](t, 1));
  const Array y = run("local_quadratic_attention", in);
  for (int64_t t = 12; t < 20; ++t) CHECK(y(t, 0) == doctest::Approx(quadratic(in["q"](t, 0), in["q"](t, 1))).epsilon(1e-5));
}

TEST_CASE("A: path attention transforms its cached keys, deltaformer solves for its residuals") {
  Inputs in = draw("path_attention");
  Array keys = in["k"], y = zeros({T, V});
  for (int64_t t = 0; t < T; ++t) {
    Vector logits;
    for (int64_t j = 0; j < t; ++j) set_line(keys, j, line(keys, j) - (in["path_step"](t) * dot(line(keys, j), line(in["path_key"], t))) * line(in["path_key"], t));
    for (int64_t j = 0; j <= t; ++j) logits.push_back(dot(line(in["q"], t), line(keys, j)) / 2);
    const Vector p = softmax(logits);
    for (int64_t i = 0; i <= t; ++i)
      for (int64_t j = 0; j < V; ++j) y(t, j) += p[static_cast<size_t>(i)] * in["v"](i, j);
  }
  CHECK(difference(run("path_attention", in), y) < kExact);

  in = draw("deltaformer");
  Matrix system = identity(T), inclusive = zeros({T, T});
  for (int64_t t = 0; t < T; ++t) {
    double strict = 0, all = 0;
    const auto weight = [&](int64_t i) { return std::exp(dot(line(in["q"], t), line(in["k"], i)) / 2); };
    for (int64_t i = 0; i <= t; ++i) (i < t ? strict : all) += weight(i);
    for (int64_t i = 0; i <= t; ++i) {
      inclusive(t, i) = weight(i) / (strict + all);
      if (i < t) system(t, i) = in["step_size"](t) * weight(i) / strict;
    }
  }
  CHECK(difference(run("deltaformer", in), multiply(inclusive, solve(system, in["v"]))) < kExact);
}

TEST_CASE("A: kernel regression") {
  Inputs in = draw("geometric_kernel_regression");
  CHECK(difference(run("geometric_kernel_regression", with(in, "log_decay", zeros({T}))), run("kernel_regression", in)) < kExact);
  // one Cholesky answers every prefix (the noise of an old pair grows by 1 / gamma: checked at the last token)
  const double h = in["bandwidth"](0), ridge = in["ridge"](0);
  const auto kernel = [&](const Vector& a, const Vector& b) { return std::exp(-squared_distance(a, b) / (2 * h * h)); };
  Matrix lower = zeros({T, T});
  for (int64_t i = 0; i < T; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = kernel(line(in["k"], i), line(in["k"], j)) + (i == j ? ridge : 0);
      for (int64_t l = 0; l < j; ++l) sum -= lower(i, l) * lower(j, l);
      lower(i, j) = i == j ? std::sqrt(sum) : sum / lower(j, j);
    }
  const Matrix z = solve(lower, in["v"]);
  Array y = zeros({T, V});
  Matrix noisy = identity(T);
  for (int64_t t = 0; t < T; ++t) {
    Vector r;
    for (int64_t i = 0; i <= t; ++i) {
      double sum = kernel(line(in["k"], i), line(in["q"], t));
      for (int64_t l = 0; l < i; ++l) sum -= lower(i, l) * r[static_cast<size_t>(l)];
      r.push_back(sum / lower(i, i));
      for (int64_t j = 0; j < V; ++j) y(t, j) += r.back() * z(i, j);
    }
    for (int64_t i = 0; i < T; ++i) noisy(t, i) = kernel(line(in["k"], t), line(in["k"], i)) + (i == t ? ridge / decay_between(in["log_decay"], t, T - 1) : 0);
  }
  CHECK(difference(run("kernel_regression", in), y) < kExact);
  Vector query;
  for (int64_t i = 0; i < T; ++i) query.push_back(kernel(line(in["k"], i), line(in["q"], T - 1)));
  const Vector last = transposed_product(in["v"], solve(noisy, query)), got = line(run("geometric_kernel_regression", in), T - 1);
  for (size_t j = 0; j < V; ++j) CHECK(got[j] == doctest::Approx(last[j]).epsilon(1e-10));
}

TEST_CASE("A: intention is mesa at the last token; iterated inverses approach exact ones") {
  const Inputs in = draw("mesa");
  const Vector whole = line(run("intention", in), T - 1), last = line(run("mesa", in), T - 1);
  for (size_t j = 0; j < V; ++j) CHECK(whole[j] == doctest::Approx(last[j]).epsilon(1e-10));
  const Inputs soft = draw("soft"), sky = draw("skyformer");
  CHECK(difference(run("soft_newton", soft), run("soft", soft)) < 1e-6);
  CHECK(difference(run("skyformer", sky), run("skyformer_exact", sky)) < 1e-2);
  // all tokens as landmarks, the jitter undone by hand: kappa A^-1 kappa V with A = kappa + 0.01 I
  Inputs all = with(soft, "landmarks", soft.at("q"));
  Matrix gram = zeros({T, T});
  for (int64_t i = 0; i < T; ++i)
    for (int64_t j = 0; j < T; ++j) gram(i, j) = std::exp(-squared_distance(line(soft.at("q"), i), line(soft.at("q"), j)) / 4);
  Matrix jittered = gram;
  add_scaled(jittered, 0.01, identity(T));
  Array y = multiply(gram, soft.at("v"));   // kappa V - 0.01 A^-1 kappa V
  add_scaled(y, -0.01, solve(jittered, y));
  CHECK(difference(run("soft", all), y) < 1e-9);
}

namespace {

// Recursive least squares with forgetting: the gain form, no solve.
Array recursive_least_squares(const Inputs& in, const Array& g, double ridge) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  Matrix inverse = identity(K, 1 / ridge), memory = zeros({V, K});
  Array y = zeros({T, V});
  for (int64_t t = 0; t < T; ++t) {
    const Vector image = product(inverse, line(k, t));
    const Vector gain = (1 / (std::exp(g(t)) + dot(line(k, t), image))) * image;
    add_outer(inverse, -1, gain, image);
    rescale(inverse, std::exp(-g(t)));
    add_outer(memory, 1, line(v, t) - product(memory, line(k, t)), gain);
    set_line(y, t, product(memory, line(q, t)));
  }
  return y;
}

}  // namespace

TEST_CASE("B: direct solves are recursive least squares") {
  const Inputs in = draw("decaying_least_squares");
  const double ridge = in.at("ridge")(0);
  const Inputs steady = with(in, "log_decay", zeros({T}));
  const Array mesa = run("mesa", in);
  CHECK(difference(mesa, recursive_least_squares(in, zeros({T}), ridge)) < kExact);
  CHECK(difference(run("decaying_least_squares", in), recursive_least_squares(in, in.at("log_decay"), ridge)) < kExact);
  for (const char* name : {"weighted_least_squares", "decaying_least_squares", "refreshed_least_squares"})
    CHECK(difference(run(name, steady), mesa) < kExact);
  Inputs net = with(with(in, "write_gate", filled({T}, 1)), "ridge", filled({K}, ridge));
  CHECK(difference(run("mesa_net", net), run("weighted_least_squares", in)) < kExact);
  CHECK(difference(run("mesa_net", with(net, "log_decay", zeros({T}))), mesa) < kExact);
  // the three ridges differ where the decay does something
  CHECK(difference(run("weighted_least_squares", in), run("decaying_least_squares", in)) > 1e-3);
  CHECK(difference(run("refreshed_least_squares", in), run("decaying_least_squares", in)) > 1e-3);
  CHECK(difference(run("refreshed_least_squares", in), run("weighted_least_squares", in)) > 1e-3);
}

TEST_CASE("B: the refreshed ridge is LDL' of each chunk from the moments before it") {
  const Inputs in = draw("refreshed_least_squares");
  const Array &q = in.at("q"), &k = in.at("k"), &v = in.at("v"), &g = in.at("log_decay");
  Matrix keys = zeros({K, K}), values = zeros({V, K}), inverse, memory;
  Array y = zeros({T, V});
  for (int64_t t = 0; t < T; ++t) {
    if (t % 4 == 0) {
      Matrix system = keys;
      add_scaled(system, in.at("ridge")(0), identity(K));
      inverse = solve(system, identity(K));
      memory = multiply(values, inverse);
    }
    const Vector image = product(inverse, line(k, t));
    const Vector gain = (1 / (std::exp(g(t)) + dot(line(k, t), image))) * image;
    add_outer(inverse, -1, gain, image);
    rescale(inverse, std::exp(-g(t)));
    add_outer(memory, 1, line(v, t) - product(memory, line(k, t)), gain);
    set_line(y, t, product(memory, line(q, t)));
    rescale(keys, std::exp(g(t)));
    rescale(values, std::exp(g(t)));
    add_outer(keys, 1, line(k, t), line(k, t));
    add_outer(values, 1, line(v, t), line(k, t));
  }
  CHECK(difference(run("refreshed_least_squares", in), y) < kExact);
}

TEST_CASE("B: mesa_net moments are recurrences, conjugate gradients arrive, gradient steps are a Neumann sum") {
  Inputs in = draw("mesa_net");
  Matrix keys = zeros({K, K}), values = zeros({V, K});
  Array y = zeros({T, V});
  for (int64_t t = 0; t < T; ++t) {
    const double a = std::exp(in["log_decay"](t)), beta = in["write_gate"](t);
    rescale(keys, a);
    rescale(values, a);
    add_outer(keys, beta, line(in["k"], t), line(in["k"], t));
    add_outer(values, beta, line(in["v"], t), line(in["k"], t));
    Matrix system = keys;
    for (int64_t j = 0; j < K; ++j) system(j, j) += in["ridge"](j);
    set_line(y, t, product(values, solve(system, line(in["q"], t))));
  }
  CHECK(difference(run("mesa_net", in), y) < kExact);
  CHECK(difference(run("mesa_net_cg", in), y) < kExact);

  in = draw("mesa_sgd_steps");
  const double step = in["step_size"](0);
  keys = zeros({K, K}), values = zeros({V, K});
  for (int64_t t = 0; t < T; ++t) {
    add_outer(keys, 1, line(in["k"], t), line(in["k"], t));
    add_outer(values, 1, line(in["v"], t), line(in["k"], t));
    Vector term = step * line(in["q"], t), sum(K, 0.0);   // sum_{j<3} step (I - step H)^j q
    for (int j = 0; j < 3; ++j) {
      sum = sum + term;
      term = term - step * product(keys, term);
    }
    set_line(y, t, product(values, sum));
  }
  CHECK(difference(run("mesa_sgd_steps", in), y) < kExact);
}

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

TEST_CASE("C: every feature map, as a state") {
  const Array one = filled({T}, 1);
  const auto check = [&](const std::string& name, const std::function<Vector(const Inputs&, const Vector&, double)>& phi, double (*denominator)(double)) {
    CAPTURE(name);
    for (uint64_t seed : {1, 2, 3}) {
      const Inputs in = draw(name, seed);
      const Array keep = in.contains("gate") ? in.at("gate") : in.contains("log_decay") ? exponential_of(in.at("log_decay")) : one;
      Array write = one;
      if (in.contains("gate"))
        for (int64_t t = 0; t < T; ++t) write(t) = 1 - in.at("gate")(t);
      const Array state = feature_memory(in, [&](const Vector& x, double position) { return phi(in, x, position); }, denominator, keep, write);
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
    for (size_t j = 0; j < 4; ++j) x[j] = (raw[j] - mean) / std::sqrt(square - mean * mean + 1e-5) * in.at("norm_weight").data[j] + in.at("norm_bias").data[j];
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

TEST_CASE("C: the clamps of rfa are met from both sides, and performer estimates the softmax kernel") {
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

TEST_CASE("D: scalar gates, channel gates, entry gates") {
  Inputs in = draw("simple_gla");
  const Array y = run("mamba2", in);
  CHECK(difference(run("simple_gla", in), scaled(y, 0.5)) < kExact);
  CHECK(difference(run("gla", with(in, "log_decay", spread(in["log_decay"], K))), scaled(y, 0.5)) < kExact);
  CHECK(difference(run("mamba", with(in, "log_decay", Array{{T, V, K}, spread(in["log_decay"], V * K).data})), y) < kExact);
  CHECK(difference(run("log_linear_attention", with(in, "level_scale", filled({T, 5}, 1))), y) < kExact);
  CHECK(difference(run("mamba2", with(in, "log_decay", zeros({T}))), run("linear_attention", in)) < kExact);
  const Inputs retnet = draw("retnet");
  const double gamma = std::exp(retnet.at("log_decay")(0));
  Array pairs = zeros({T, V});
  for (int64_t t = 0; t < T; ++t)
    for (int64_t i = 0; i <= t; ++i)
      for (int64_t j = 0; j < V; ++j)
        pairs(t, j) += std::pow(gamma, static_cast<double>(t - i)) * dot(line(retnet.at("q"), t), line(retnet.at("k"), i)) / 2 * retnet.at("v")(i, j);
  CHECK(difference(run("retnet", retnet), pairs) < kExact);

  in = draw("hgrn2");
  Array k = exponential_of(in["log_decay"]);
  for (double& value : k.data) value = 1 - value;
  CHECK(difference(run("hgrn2", in), run("gla", with(in, "k", k))) < kExact);

  in = draw("hgrn");   // one key channel that is always one
  Array written = in["v"];
  for (size_t i = 0; i < written.data.size(); ++i) written.data[i] *= 1 - std::exp(in["log_decay"].data[i]);
  const Inputs one_channel{{"q", filled({T, 1}, 1)}, {"k", filled({T, 1}, 1)}, {"v", written}, {"log_decay", {{T, V, 1}, in["log_decay"].data}}};
  CHECK(difference(run("hgrn", in), run("mamba", one_channel)) < kExact);
}

TEST_CASE("D: complex gates are real gates on rotated features") {
  Inputs in = draw("gateloop"), real = in;
  Array g = zeros({T, K});
  for (int64_t c = 0; c < K / 2; ++c) {
    double angle = 0;
    for (int64_t t = 0; t < T; ++t) {
      angle += in["phase"](t, c);
      g(t, c) = g(t, c + K / 2) = in["log_decay"](t, c);
      for (const char* name : {"q", "k"}) {
        const double re = in[name](t, c), im = in[name](t, c + K / 2);
        real[name](t, c) = re * std::cos(angle) + im * std::sin(angle);
        real[name](t, c + K / 2) = im * std::cos(angle) - re * std::sin(angle);
      }
    }
  }
  CHECK(difference(run("gateloop", in), scaled(run("gla", with(real, "log_decay", g)), 2)) < kExact);

  in = row("lru").draw(T, K, 4, 1);
  Array y = zeros({T, 4});
  for (int64_t t = 0; t < T; ++t)
    for (int64_t i = 0; i <= t; ++i)
      for (int64_t c = 0; c < 2; ++c) {
        const double age = static_cast<double>(t - i), size = std::exp(age * in["log_decay"](c)), angle = age * in["phase"](c);
        y(t, c) += size * (std::cos(angle) * in["v"](i, c) - std::sin(angle) * in["v"](i, c + 2));
        y(t, c + 2) += size * (std::sin(angle) * in["v"](i, c) + std::cos(angle) * in["v"](i, c + 2));
      }
  CHECK(difference(run("lru", in), y) < kExact);
}

TEST_CASE("D: rwkv6, mlstm, mamba3, levels") {
  Inputs in = draw("rwkv6");
  CHECK(difference(run("rwkv6", with(with(in, "log_decay", zeros({T, K})), "bonus", filled({K}, 1))), run("linear_attention", in)) < kExact);
  // with one decay for all tokens: GLA(q) = RWKV-6(a q, bonus 1 / a)
  for (int64_t t = 1; t < T; ++t) set_line(in["log_decay"], t, line(in["log_decay"], 0));
  Inputs shifted = in;
  for (int64_t j = 0; j < K; ++j) {
    const double a = std::exp(in["log_decay"](0, j));
    shifted["bonus"](j) = 1 / a;
    for (int64_t t = 0; t < T; ++t) shifted["q"](t, j) *= a;
  }
  CHECK(difference(run("rwkv6", shifted), scaled(run("gla", in), 2)) < kExact);

  bool over = false, under = false;
  for (uint64_t seed : {1, 2, 3}) {   // the raw form: weights exp(i~) prod f, denominators max(|n.q|, 1) + 1e-6 exp(m)
    in = draw("mlstm", seed);
    Array y = zeros({T, V});
    for (int64_t t = 0; t < T; ++t) {
      double sum = 0, top = std::log(decay_between(in["log_decay"], -1, t));
      for (int64_t i = 0; i <= t; ++i) {
        const double log_weight = std::log(decay_between(in["log_decay"], i, t)) + in["log_write_gate"](i);
        const double score = std::exp(log_weight) * dot(line(in["q"], t), line(in["k"], i)) / 2;
        top = std::max(top, log_weight);
        sum += score;
        for (int64_t j = 0; j < V; ++j) y(t, j) += score * in["v"](i, j);
      }
      (std::abs(sum) > 1 ? over : under) = true;
      for (int64_t j = 0; j < V; ++j) y(t, j) /= std::max(std::abs(sum), 1.0) + 1e-6 * std::exp(top);
    }
    CHECK(difference(run("mlstm", in), y) < kExact);
  }
  CHECK(over);
  CHECK(under);
  in = draw("mlstm_sigmoid");
  CHECK(difference(run("mlstm_sigmoid", in), run("simple_gla", with(in, "v", scaled_lines(in["v"], in["write_gate"])))) < kExact);

  in = draw("mamba3");
  CHECK(difference(run("mamba3", with(in, "trapezoid", filled({T}, 1))), run("mamba2", with(in, "v", scaled_lines(in["v"], in["delta"])))) < kExact);
  Array key_scale = zeros({T}), next = zeros({T});   // keys scaled by what both taps write, the second tap taken back on the diagonal
  for (int64_t t = 0; t < T; ++t) {
    next(t) = t + 1 < T ? in["delta"](t + 1) * (1 - in["trapezoid"](t + 1)) : 0;
    key_scale(t) = in["delta"](t) * in["trapezoid"](t) + next(t);
  }
  Array y = run("mamba2", with(in, "k", scaled_lines(in["k"], key_scale)));
  for (int64_t t = 0; t < T; ++t) set_line(y, t, line(y, t) - (next(t) * dot(line(in["q"], t), line(in["k"], t))) * line(in["v"], t));
  CHECK(difference(run("mamba3", in), y) < kExact);

  // levels one by one, each a masked copy: token i is at level l of t when the position of the highest bit where they part says so
  in = draw("log_linear_attention");
  y = zeros({T, V});
  for (int64_t t = 0; t < T; ++t)
    for (int64_t i = 0; i <= t; ++i) {
      int64_t level = 0;
      while ((i >> level) != (t >> level)) ++level;   // equal after `level` bits: they part at bit level - 1
      const double w = in["level_scale"](t, level) * decay_between(in["log_decay"], i, t) * dot(line(in["q"], t), line(in["k"], i));
      for (int64_t j = 0; j < V; ++j) y(t, j) += w * in["v"](i, j);
    }
  CHECK(difference(run("log_linear_attention", in), y) < kExact);
}

TEST_CASE("E: the delta family") {
  Inputs in = draw("gated_delta_net");
  const Array &k = in["k"], &step = in["step_size"], &g = in["log_decay"];
  const Array gated = run("gated_delta_net", in), plain = run("delta_net", in), still = zeros({T}), alpha = exponential_of(g);
  const Array wide = spread(g, K), minus_k = scaled(k, -1);
  CHECK(difference(run("gated_delta_net", with(in, "log_decay", still)), plain) < kExact);
  CHECK(difference(run("kda", with(in, "log_decay", wide)), gated) < kExact);
  CHECK(difference(run("gdn2", with(with(with(in, "log_decay", wide), "erase_gate", spread(step, K)), "value_gate", spread(step, V))), gated) < kExact);
  CHECK(difference(run("comba", with(with(in, "log_decay", still), "erase_key", k)), plain) < kExact);
  CHECK(difference(run("comba", with(in, "erase_key", scaled_lines(k, alpha))), gated) < kExact);
  Inputs dplr{{"q", in["q"]}, {"v", scaled_lines(in["v"], step)}, {"k", k}, {"log_decay", wide}, {"erase_key", minus_k},
              {"erase_write", scaled_lines(scaled_lines(k, step), alpha)}};
  CHECK(difference(run("rwkv7", dplr), gated) < kExact);
  const Inputs channel = draw("kda");
  CHECK(difference(run("rwkv7", with(with(channel, "erase_key", zeros({T, K})), "erase_write", k)), scaled(run("gla", channel), 2)) < kExact);
  CHECK(difference(run("kda", with(channel, "step_size", still)), filled({T, V}, 1)) == doctest::Approx(1));   // silent without writes

  // L2 regularisation is a gate: alpha = 1 - step decay, step / alpha, alpha v
  Inputs l2 = draw("l2_sgd"), as_gate = l2;
  Array keep = zeros({T});
  for (int64_t t = 0; t < T; ++t) {
    keep(t) = 1 - l2["step_size"](t) * l2["weight_decay"](t);
    as_gate["step_size"](t) /= keep(t);
  }
  as_gate["log_decay"] = keep;
  for (double& value : as_gate["log_decay"].data) value = std::log(value);
  as_gate["v"] = scaled_lines(l2["v"], keep);
  CHECK(difference(run("l2_sgd", l2), run("gated_delta_net", as_gate)) < kExact);
  CHECK(difference(run("momentum_delta", with(with(l2, "momentum", still), "log_decay", as_gate["log_decay"])), run("l2_sgd", l2)) < kExact);

  Inputs prox = draw("longhorn"), as_step = prox;
  for (int64_t t = 0; t < T; ++t) as_step["step_size"](t) /= 1 + prox["step_size"](t) * dot(line(prox["k"], t), line(prox["k"], t));
  CHECK(difference(run("longhorn", prox), run("delta_net", as_step)) < kExact);
  Inputs one = row("longhorn").draw(T, 1, V, 2);   // with one key channel the diagonal is the matrix
  CHECK(difference(run("longhorn_diagonal", with(one, "step_size", spread(one["step_size"], V))), run("longhorn", one)) < kExact);
}

TEST_CASE("E: products of micro steps, preconditioning, transposition, momentum") {
  // two writes a token are one write on twice as many tokens, read at every second one
  Inputs in = draw("gated_delta_product"), micro = in;
  micro["q"] = zeros({2 * T, K});
  micro["log_decay"] = zeros({2 * T});
  for (int64_t t = 0; t < T; ++t) {
    set_line(micro["q"], 2 * t + 1, line(in["q"], t));
    micro["log_decay"](2 * t) = in["log_decay"](t);
  }
  const auto seconds = [](const Array& y) {
    Array out = zeros({T, V});
    for (int64_t t = 0; t < T; ++t) set_line(out, t, line(y, 2 * t + 1));
    return out;
  };
  CHECK(difference(run("gated_delta_product", in), seconds(run("gated_delta_net", micro))) < kExact);
  CHECK(difference(run("delta_product", in), seconds(run("delta_net", micro))) < kExact);

  // without curvature P is one number, 1.5^-s, which scales the step
  in = draw("preconditioned_delta");
  in["curvature_step"] = zeros({T});
  const double l = std::log(1e-6) - in["curvature_scale"](0), p = std::exp(-std::log(1.5) * l / (1 + std::abs(l)));
  CHECK(difference(run("preconditioned_delta", in), run("gated_delta_net", with(in, "step_size", scaled(in["step_size"], p)))) < kExact);
  in = draw("preconditioned_delta");
  CHECK(difference(run("preconditioned_kda", with(in, "log_decay", spread(in["log_decay"], K))), run("preconditioned_delta", in)) < kExact);
  // with one key channel P is a scalar a token
  Inputs one = row("preconditioned_delta").draw(T, 1, V, 3);
  Inputs gated = one;
  double curvature = 0;
  for (int64_t t = 0; t < T; ++t) {
    curvature = std::exp(one["curvature_log_decay"](t)) * curvature + one["curvature_step"](t) * one["k"](t, 0) * one["k"](t, 0);
    const double level = std::log(curvature + 1e-6) - one["curvature_scale"](0);
    gated["step_size"](t) *= std::pow(1.5, level < 0 ? -level / (1 - level) : -level / (1 + level));
  }
  CHECK(difference(run("preconditioned_delta", one), run("gated_delta_net", gated)) < kExact);

  // Oja's memory is the transpose of KDA's with keys and values exchanged: all columns against all rows
  in = draw("oja");
  Inputs exchanged{{"k", in["v"]}, {"v", in["k"]}, {"log_decay", in["log_decay"]}, {"step_size", in["step_size"]}};
  for (int64_t i = 0; i < V; ++i)
    for (int64_t j = 0; j < K; ++j) {
      Array read_key = zeros({T, K}), read_value = zeros({T, V});
      for (int64_t t = 0; t < T; ++t) read_key(t, j) = read_value(t, i) = 1;
      const Array oja = run("oja", with(in, "q", read_key)), kda = run("kda", with(exchanged, "q", read_value));
      for (int64_t t = 0; t < T; ++t) CHECK(oja(t, i) == doctest::Approx(kda(t, j)).epsilon(1e-11));
    }

  // momentum, as the second-order recurrence M_t = (alpha_t + eta_t) M_{t-1} - eta_t alpha_{t-1} M_{t-2} - step gradient
  in = draw("momentum_delta");
  Matrix last = zeros({V, K}), before = last;
  Array y = zeros({T, V});
  for (int64_t t = 0; t < T; ++t) {
    const double alpha = std::exp(in["log_decay"](t)), previous = t ? std::exp(in["log_decay"](t - 1)) : 0, eta = in["momentum"](t);
    Matrix next = last;
    rescale(next, alpha + eta);
    add_scaled(next, -eta * previous, before);
    add_outer(next, in["step_size"](t), line(in["v"], t) - product(last, line(in["k"], t)), line(in["k"], t));
    before = last, last = next;
    set_line(y, t, product(last, line(in["q"], t)));
  }
  CHECK(difference(run("momentum_delta", in), y) < kExact);
}

TEST_CASE("F: TTT in its dual form") {
  Inputs in = draw("ttt_linear");
  const Array &q = in["q"], &k = in["k"], &v = in["v"], &weight = in["norm_weight"], &bias = in["norm_bias"];
  const int64_t n = v.size(1);
  const double size = static_cast<double>(n);
  const auto norm = [&](const Vector& z, double& deviation) {
    double mean = 0, square = 0;
    for (double a : z) mean += a / size;
    for (double a : z) square += (a - mean) * (a - mean) / size;
    deviation = std::sqrt(square + 1e-6);
    Vector x = z;
    for (double& a : x) a = (a - mean) / deviation;
    return x;
  };
  const auto gradient = [&](const Vector& z, const Vector& target) {   // (g - mean g - x^ mean(g x^)) / sigma
    double deviation = 0, mean = 0, along = 0;
    const Vector x = norm(z, deviation);
    Vector g = times(weight.data, times(weight.data, x) + bias.data - target);
    for (size_t j = 0; j < g.size(); ++j) mean += g[j] / size, along += g[j] * x[j] / size;
    for (size_t j = 0; j < g.size(); ++j) g[j] = (g[j] - mean - x[j] * along) / deviation;
    return g;
  };
  const auto answer = [&](const Vector& query, const Vector& z) {
    double deviation = 0;
    return query + times(weight.data, norm(z, deviation)) + bias.data;
  };
  const auto eta = [&](int64_t i, int64_t j) { return in["row_scale"](i) * in["step_size"](j); };

  Matrix w = in["initial_weight"];
  Vector b = in["initial_bias"].data;
  Array y = zeros({T, n});
  for (int64_t start = 0; start < T; start += 4) {
    const int64_t end = std::min<int64_t>(start + 4, T);
    std::vector<Vector> deltas;
    for (int64_t t = start; t < end; ++t) deltas.push_back(gradient(product(w, line(k, t)) + b, line(v, t) - line(k, t)));
    for (int64_t i = start; i < end; ++i) {
      Vector z = product(w, line(q, i)) + b;
      for (int64_t j = start; j <= i; ++j) z = z - (eta(i, j) * (dot(line(q, i), line(k, j)) + 1)) * deltas[static_cast<size_t>(j - start)];
      set_line(y, i, answer(line(q, i), z));
    }
    for (int64_t j = start; j < end; ++j) {
      add_outer(w, -eta(end - 1, j), deltas[static_cast<size_t>(j - start)], line(k, j));
      b = b - eta(end - 1, j) * deltas[static_cast<size_t>(j - start)];
    }
  }
  CHECK(difference(run("ttt_linear", in), y) < kExact);

  Inputs mlp = in;   // the same tokens
  for (const auto& [name, value] : draw("ttt_mlp"))
    if (name.starts_with("initial")) mlp[name] = value;
  Matrix w1 = mlp["initial_weight_1"], w2 = mlp["initial_weight_2"];
  Vector b1 = mlp["initial_bias_1"].data, b2 = mlp["initial_bias_2"].data;
  const auto slope = [](double x) {   // of the tanh gelu, by its defining product
    const double c = 0.7978845608028654, u = c * (x + 0.044715 * x * x * x), s = 1 / (1 + std::exp(-2 * u));   // gelu = x s
    return s + x * 2 * s * (1 - s) * c * (1 + 0.134145 * x * x);
  };
  for (int64_t start = 0; start < T; start += 4) {
    const int64_t end = std::min<int64_t>(start + 4, T);
    std::vector<Vector> d1, d2, hidden;
    for (int64_t t = start; t < end; ++t) {
      const Vector z1 = product(w1, line(k, t)) + b1;
      hidden.push_back(each_entry(z1, gelu));
      d2.push_back(gradient(product(w2, hidden.back()) + b2, line(v, t) - line(k, t)));
      d1.push_back(times(transposed_product(w2, d2.back()), each_entry(z1, slope)));
    }
    for (int64_t i = start; i < end; ++i) {
      Vector z1 = product(w1, line(q, i)) + b1;
      for (int64_t j = start; j <= i; ++j) z1 = z1 - (eta(i, j) * (dot(line(q, i), line(k, j)) + 1)) * d1[static_cast<size_t>(j - start)];
      const Vector x = each_entry(z1, gelu);
      Vector z2 = product(w2, x) + b2;
      for (int64_t j = start; j <= i; ++j)
        z2 = z2 - (eta(i, j) * (dot(x, hidden[static_cast<size_t>(j - start)]) + 1)) * d2[static_cast<size_t>(j - start)];
      set_line(y, i, answer(line(q, i), z2));
    }
    for (int64_t j = start; j < end; ++j) {
      const size_t at = static_cast<size_t>(j - start);
      add_outer(w1, -eta(end - 1, j), d1[at], line(k, j));
      add_outer(w2, -eta(end - 1, j), d2[at], hidden[at]);
      b1 = b1 - eta(end - 1, j) * d1[at];
      b2 = b2 - eta(end - 1, j) * d2[at];
    }
  }
  CHECK(difference(run("ttt_mlp", mlp), y) < kExact);
}

namespace {

Matrix central_difference(const std::function<double(const Matrix&)>& loss, const Matrix& at) {
  Matrix slope = zeros(at.shape);
  const double h = 1e-4;
  for (size_t i = 0; i < at.data.size(); ++i) {
    const auto shifted = [&](double by) {
      Matrix moved = at;
      moved.data[i] += by;
      return loss(moved);
    };
    slope.data[i] = (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h);   // error h^4
  }
  return slope;
}

Vector two_layers(const Matrix& w1, const Matrix& w2, const Vector& x) { return product(w2, each_entry(product(w1, x), gelu)); }
Vector swiglu(const Matrix* w, const Vector& x) { return product(w[1], times(each_entry(product(w[0], x), silu), product(w[2], x))); }

}  // namespace

TEST_CASE("F: titans by differences of its loss, in closed form over a chunk") {
  const Inputs in = draw("titans");
  const Array &q = in.at("q"), &k = in.at("k"), &v = in.at("v"), &g = in.at("log_decay"), &eta = in.at("momentum"), &step = in.at("step_size");
  Matrix w[2] = {in.at("initial_weight_1"), in.at("initial_weight_2")}, speed[2] = {zeros(w[0].shape), zeros(w[1].shape)};
  Array y = zeros({T, V}), strict = y;
  for (int64_t start = 0; start < T; start += 4) {
    const Matrix w0[2] = {w[0], w[1]}, s0[2] = {speed[0], speed[1]};
    std::vector<Matrix> gradients[2];
    for (int64_t t = start; t < std::min<int64_t>(start + 4, T); ++t) {
      for (int part = 0; part < 2; ++part)
        gradients[part].push_back(central_difference([&](const Matrix& moved) {
          return 0.5 * squared_distance(two_layers(part == 0 ? moved : w0[0], part == 1 ? moved : w0[1], line(k, t)), line(v, t));
        }, w0[part]));
      for (int part = 0; part < 2; ++part) {   // the weights at t as one sum: no running state
        const auto product_of = [&](const Array& factors, int64_t after, bool log) {
          double p = 1;
          for (int64_t s = after + 1; s <= t; ++s) p *= log ? std::exp(factors(s)) : factors(s);
          return p;
        };
        w[part] = scaled(w0[part], product_of(g, start - 1, true));
        for (int64_t r = start; r <= t; ++r) {   // the speed at r, decayed since
          Matrix at_r = s0[part];
          for (int64_t s = start; s <= r; ++s) at_r = scaled(at_r, eta(s));
          for (int64_t j = start; j <= r; ++j) {
            double carried = -step(j);
            for (int64_t s = j + 1; s <= r; ++s) carried *= eta(s);
            add_scaled(at_r, carried, gradients[part][static_cast<size_t>(j - start)]);
          }
          add_scaled(w[part], product_of(g, r, true), at_r);
          if (r == t) speed[part] = at_r;
        }
      }
      set_line(y, t, two_layers(w[0], w[1], line(q, t)));
      set_line(strict, t, two_layers(w0[0], w0[1], line(q, t)));
    }
  }
  CHECK(difference(run("titans", in), y) < 1e-9);
  CHECK(difference(run("titans_strict", in), strict) < 1e-9);
}

TEST_CASE("F: the community form of titans meets ours where both say the same") {
  Inputs in = row("titans").draw(4, K, 2, 3);   // one chunk, two values: mean over two of squares is 1/2 of the sum
  in["momentum"] = zeros({4});
  in["log_decay"] = zeros({4});
  const Array ours = run("titans", in), theirs = run("titans_lucidrains", in), still = run("titans_strict", in);
  for (int64_t j = 0; j < 2; ++j) {
    CHECK(theirs(3, j) == doctest::Approx(ours(3, j)).epsilon(1e-12));
    for (int64_t t = 0; t < 3; ++t) CHECK(theirs(t, j) == doctest::Approx(still(t, j)).epsilon(1e-12));
  }
  // gates constant over a chunk, steps zero but at the chunks' last tokens: two chunks, one update each, from the initial gradients
  in = row("titans").draw(8, K, 2, 4);
  for (int64_t t = 0; t < 8; ++t) {
    in["momentum"](t) = t < 4 ? 0.3 : 0.6;
    in["log_decay"](t) = std::log(t < 4 ? 0.8 : 0.9);
    if (t % 4 != 3) in["step_size"](t) = 0;
  }
  Matrix w[2] = {in["initial_weight_1"], in["initial_weight_2"]}, gradient[2][2];
  for (int chunk = 0; chunk < 2; ++chunk)
    for (int part = 0; part < 2; ++part)
      gradient[chunk][part] = central_difference([&](const Matrix& moved) {
        const int64_t t = 4 * chunk + 3;
        return in["step_size"](t) / 2 * squared_distance(two_layers(part == 0 ? moved : w[0], part == 1 ? moved : w[1], line(in["k"], t)), line(in["v"], t));
      }, w[part]);
  Matrix moved[2];
  for (int part = 0; part < 2; ++part) {   // 0.9 (0.8 W - G_1) + (0.6 (-G_1) - G_2)
    moved[part] = scaled(w[part], 0.72);
    add_scaled(moved[part], -0.9 - 0.6, gradient[0][part]);
    add_scaled(moved[part], -1, gradient[1][part]);
  }
  const Vector want = two_layers(moved[0], moved[1], line(in["q"], 7)), got = line(run("titans_lucidrains", in), 7);
  for (size_t j = 0; j < 2; ++j) CHECK(got[j] == doctest::Approx(want[j]).epsilon(1e-9));
}

TEST_CASE("F: LaCT by differences of its loss") {
  for (bool muon : {false, true}) {
    CAPTURE(muon);
    Inputs in = draw("lact");
    const std::vector<NewtonSchulz> schedule{{4.0848, -6.8946, 2.9270}, {3.9505, -6.3029, 2.6377}, {3.7418, -5.5913, 2.3037},
                                             {2.8769, -3.1427, 1.2046}, {2.8366, -3.0525, 1.2012}};
    Matrix w[3], start[3], speed[3];
    for (int n = 0; n < 3; ++n) {
      start[n] = w[n] = in["initial_weight_" + std::to_string(n)];
      speed[n] = zeros(w[n].shape);
    }
    Array y = zeros({T, V});
    for (int64_t t = 0; t < T; ++t) {
      set_line(y, t, swiglu(w, line(in["q"], t)));
      if (t % 4 != 3) continue;
      double momentum = 0;
      for (int64_t s = t - 3; s <= t; ++s) momentum += in["momentum"](s) / 4;
      Matrix moved[3];
      for (int n = 0; n < 3; ++n) {
        Matrix descent = central_difference([&](const Matrix& changed) {   // of the negative loss: uphill
          Matrix at[3] = {w[0], w[1], w[2]};
          at[n] = changed;
          double sum = 0;
          for (int64_t s = t - 3; s <= t; ++s) sum += in["step_size_" + std::to_string(n)](s) * dot(swiglu(at, line(in["k"], s)), line(in["v"], s));
          return sum;
        }, w[n]);
        add_scaled(descent, momentum, speed[n]);
        speed[n] = descent;
        moved[n] = w[n];
        add_scaled(moved[n], 1, muon ? orthogonalize(descent, schedule) : descent);
        for (int64_t i = 0; i < moved[n].size(0); ++i) {
          double before = 0, now = 0;
          for (int64_t j = 0; j < moved[n].size(1); ++j) before += start[n](i, j) * start[n](i, j), now += moved[n](i, j) * moved[n](i, j);
          for (int64_t j = 0; j < moved[n].size(1); ++j) moved[n](i, j) *= std::sqrt(before) / (std::sqrt(now) + 1e-5);
        }
      }
      for (int n = 0; n < 3; ++n) w[n] = moved[n];
    }
    CHECK(difference(run(muon ? "lact_muon" : "lact", in), y) < 1e-8);
  }
}

TEST_CASE("F: Newton-Schulz and the windows") {
  Draw d(11);
  const Matrix x = d.normal({3, 5});
  const std::vector<NewtonSchulz> keller(5, {3.4445, -4.7750, 2.0315});
  CHECK(difference(orthogonalize(scaled(x, 7), keller), orthogonalize(x, keller)) < 1e-6);   // up to the 1e-7 of the norm
  CHECK(difference(transpose(orthogonalize(transpose(x), keller)), orthogonalize(x, keller)) < 1e-10);
  const Matrix near_orthogonal = orthogonalize(x, keller);
  Matrix gap = multiply(near_orthogonal, transpose(near_orthogonal));
  add_scaled(gap, -1, identity(3));
  CHECK(largest(gap) < 0.55);

  // only every third token has a weight: each window holds exactly one pair, and the row is the momentum delta rule on repeated pairs
  Inputs in = draw("omega_net");
  for (int64_t t = 0; t < T; ++t) in["window_weight"](t) = t % 3 == 0 ? 1 : 0;
  Inputs repeated = in;
  for (int64_t t = 0; t < T; ++t)
    for (const char* name : {"k", "v"}) set_line(repeated[name], t, line(in[name], t / 3 * 3));
  CHECK(difference(run("omega_net", in), run("momentum_delta", repeated)) < kExact);
  // three tokens: the window is the whole prefix
  in = row("omega_net").draw(3, K, V, 2);
  Matrix memory = zeros({V, K}), speed = memory, keys = zeros({K, K}), values = memory;
  Array y = zeros({3, V});
  for (int64_t t = 0; t < 3; ++t) {
    add_outer(keys, in["window_weight"](t), line(in["k"], t), line(in["k"], t));
    add_outer(values, in["window_weight"](t), line(in["v"], t), line(in["k"], t));
    rescale(speed, in["momentum"](t));
    add_scaled(speed, in["step_size"](t), values);
    add_scaled(speed, -in["step_size"](t), multiply(memory, keys));
    rescale(memory, std::exp(in["log_decay"](t)));
    add_scaled(memory, 1, speed);
    set_line(y, t, product(memory, line(in["q"], t)));
  }
  CHECK(difference(run("omega_net", in), y) < kExact);

  // one value: the memory is a row, whose orthogonalisation is its direction times a number
  in = row("atlas").draw(T, K, 1, 5);
  Vector m(K, 0.0), s(K, 0.0);
  y = zeros({T, 1});
  for (int64_t t = 0; t < T; ++t) {
    s = in["momentum"](t) * s;
    for (int64_t i = std::max<int64_t>(0, t - 2); i <= t; ++i) s = s + (in["window_weight"](i) * (dot(m, line(in["k"], i)) - in["v"](i, 0))) * line(in["k"], i);
    const double length = std::sqrt(dot(s, s));
    double sigma = length / (length + 1e-7);
    for (int n = 0; n < 5; ++n) sigma = 3.4445 * sigma - 4.7750 * std::pow(sigma, 3) + 2.0315 * std::pow(sigma, 5);
    m = std::exp(in["log_decay"](t)) * m - (in["step_size"](t) * sigma / length) * s;
    y(t, 0) = dot(m, line(in["q"], t));
  }
  CHECK(difference(run("atlas", in), y) < 1e-10);
}

}  // TEST_SUITE

}  // namespace reference
