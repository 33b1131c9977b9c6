// Self-checks of group A: limits, closed forms, and each row as another row in disguise.
#include "rows_reference_checks.hpp"

namespace reference {

TEST_SUITE("rows_reference") {

TEST_CASE("softmax limits") {
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

TEST_CASE("normalised keys are a gaussian kernel, and rms norm is softmax on longer vectors") {
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

TEST_CASE("the local line is the centred closed form, and parallax with its slope") {
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

TEST_CASE("a local quadratic reproduces quadratics") {
  Inputs in = row("local_quadratic_attention").draw(20, 2, 1, 4);
  in["ridge"] = filled({2}, 1e-11);
  const auto quadratic = [](double a, double b) { return 1 + 2 * a - b + 0.5 * a * a - a * b + 0.3 * b * b; };
  for (int64_t t = 0; t < 20; ++t) in["v"](t, 0) = quadratic(in["k"](t, 0), in["k"](t, 1));
  const Array y = run("local_quadratic_attention", in);
  for (int64_t t = 12; t < 20; ++t) CHECK(y(t, 0) == doctest::Approx(quadratic(in["q"](t, 0), in["q"](t, 1))).epsilon(1e-5));
}

TEST_CASE("path attention transforms its cached keys, deltaformer solves for its residuals") {
  Inputs in = draw("path_attention");
  Array keys = in["k"], y = zeros({T, V});
  for (int64_t t = 0; t < T; ++t) {
    Vector logits;
    const Vector path = line(in["path_key"], t);
    for (int64_t j = 0; j < t; ++j) set_line(keys, j, line(keys, j) - (in["path_step"](t) * dot(line(keys, j), path)) * path);
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

TEST_CASE("kernel regression") {
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
    const double noise = ridge / decay_between(in["log_decay"], t, T - 1);
    for (int64_t i = 0; i < T; ++i) noisy(t, i) = kernel(line(in["k"], t), line(in["k"], i)) + (i == t ? noise : 0);
  }
  CHECK(difference(run("kernel_regression", in), y) < kExact);
  Vector query;
  for (int64_t i = 0; i < T; ++i) query.push_back(kernel(line(in["k"], i), line(in["q"], T - 1)));
  const Vector last = transposed_product(in["v"], solve(noisy, query)), got = line(run("geometric_kernel_regression", in), T - 1);
  for (size_t j = 0; j < V; ++j) CHECK(got[j] == doctest::Approx(last[j]).epsilon(1e-10));
}

TEST_CASE("intention is mesa at the last token; iterated inverses approach exact ones") {
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

}  // TEST_SUITE

}  // namespace reference
