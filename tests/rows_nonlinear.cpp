// Self-checks of group F: dual forms, and gradients by differences of the loss.
#include <algorithm>

#include "rows_reference_checks.hpp"

namespace reference {

TEST_SUITE("rows_reference") {

TEST_CASE("TTT in its dual form") {
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

TEST_CASE("titans by differences of its loss, in closed form over a chunk") {
  const Inputs in = draw("titans");
  const Array &q = in.at("q"), &k = in.at("k"), &v = in.at("v");
  const Array &g = in.at("log_decay"), &eta = in.at("momentum"), &step = in.at("step_size");
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

TEST_CASE("the community form of titans meets ours where both say the same") {
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
        const Vector fitted = two_layers(part == 0 ? moved : w[0], part == 1 ? moved : w[1], line(in["k"], t));
        return in["step_size"](t) / 2 * squared_distance(fitted, line(in["v"], t));
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

TEST_CASE("LaCT by differences of its loss") {
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
          for (int64_t s = t - 3; s <= t; ++s)
            sum += in["step_size_" + std::to_string(n)](s) * dot(swiglu(at, line(in["k"], s)), line(in["v"], s));
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

TEST_CASE("Newton-Schulz and the windows") {
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
    for (int64_t i = std::max<int64_t>(0, t - 2); i <= t; ++i)
      s = s + (in["window_weight"](i) * (dot(m, line(in["k"], i)) - in["v"](i, 0))) * line(in["k"], i);
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
