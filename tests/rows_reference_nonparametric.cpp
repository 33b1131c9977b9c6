// Group A: rows without a memory. y_t = sum_i w_i(q_t) v_i over the visible tokens, with w from a softmax, a local polynomial, a kernel
// regression or a Nystrom smoother. Every row is solved anew for every query.
#include "rows_reference_algebra.hpp"

namespace reference {
namespace {

using Logit = std::function<double(int64_t t, int64_t i)>;

Array smooth(const Array& v, const Logit& logit, bool normalised = true) {   // y_t = sum_{i<=t} softmax(logit)_i v_i
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    Vector weights;
    for (int64_t i = 0; i <= t; ++i) weights.push_back(logit(t, i));
    weights = normalised ? softmax(weights) : each_entry(weights, exponential);
    for (int64_t i = 0; i <= t; ++i)
      for (int64_t j = 0; j < v.size(1); ++j) y(t, j) += weights[static_cast<size_t>(i)] * v(i, j);
  }
  return y;
}

double scaled(const Array& q, int64_t t, const Array& k, int64_t i) {        // q_t.k_i / sqrt K
  return dot(line(q, t), line(k, i)) / std::sqrt(static_cast<double>(k.size(1)));
}

Vector attention_weights(const Array& q, const Array& k, int64_t t, int64_t count) {
  Vector logits;
  for (int64_t i = 0; i < count; ++i) logits.push_back(scaled(q, t, k, i));
  return softmax(logits);
}

Array softmax_attention(const Inputs& in) {
  const Array &q = slot(in, "q"), &k = slot(in, "k");
  return smooth(slot(in, "v"), [&](int64_t t, int64_t i) { return scaled(q, t, k, i); });
}

Array unnormalised_softmax_attention(const Inputs& in) {
  const Array &q = slot(in, "q"), &k = slot(in, "k");
  return smooth(slot(in, "v"), [&](int64_t t, int64_t i) { return scaled(q, t, k, i); }, false);
}

Array qknorm_attention(const Inputs& in) {   // S2: x / sqrt(sum x^2 + 1e-6), logits temperature q.k
  const Array &q = slot(in, "q"), &k = slot(in, "k");
  const double temperature = slot(in, "temperature")(0);
  const auto length = [](const Vector& x) { return std::sqrt(dot(x, x) + 1e-6); };
  return smooth(slot(in, "v"), [&](int64_t t, int64_t i) {
    const Vector a = line(q, t), b = line(k, i);
    return temperature * dot(a, b) / (length(a) * length(b));
  });
}

Array rms_qknorm_attention(const Inputs& in) {   // S2: w x / sqrt(mean x^2 + 1e-6), logits q.k / sqrt K
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &wq = slot(in, "q_norm_weight"), &wk = slot(in, "k_norm_weight");
  const double size = static_cast<double>(k.size(1));
  const auto norm = [&](const Vector& x, const Array& w) { return (1 / std::sqrt(dot(x, x) / size + 1e-6)) * times(x, w.data); };
  return smooth(slot(in, "v"), [&](int64_t t, int64_t i) { return dot(norm(line(q, t), wq), norm(line(k, i), wk)) / std::sqrt(size); });
}

double gaussian(const Vector& a, const Vector& b, double bandwidth) {
  return std::exp(-squared_distance(a, b) / (2 * bandwidth * bandwidth));
}

Array nadaraya_watson(const Inputs& in) {
  const Array &q = slot(in, "q"), &k = slot(in, "k");
  const double h = slot(in, "bandwidth")(0);
  return smooth(slot(in, "v"), [&](int64_t t, int64_t i) { return -squared_distance(line(q, t), line(k, i)) / (2 * h * h); });
}

// S4, S5: theta = argmin sum_i p_i |v_i - theta' psi_i|^2 + theta' diag(0, penalty) theta with psi = [1; features(k_i - q)]; y = the
// intercept. p sums to one, so the penalty is relative to the sum of the raw weights, as S4's lambda' omega.
Array local_polynomial(const Inputs& in, const std::function<Vector(const Vector&)>& features, const Vector& penalty) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  const int64_t n = static_cast<int64_t>(penalty.size()) + 1;
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    const Vector p = attention_weights(q, k, t, t + 1);
    Matrix gram = zeros({n, n}), target = zeros({n, v.size(1)});
    for (int64_t a = 1; a < n; ++a) gram(a, a) = penalty[static_cast<size_t>(a - 1)];
    for (int64_t i = 0; i <= t; ++i) {
      const Vector psi = concatenate({1.0}, features(line(k, i) - line(q, t)));
      add_outer(gram, p[static_cast<size_t>(i)], psi, psi);
      add_outer(target, p[static_cast<size_t>(i)], psi, line(v, i));
    }
    set_line(y, t, line(solve(gram, target), 0));
  }
  return y;
}

Array local_linear_attention(const Inputs& in) {
  return local_polynomial(in, [](const Vector& z) { return z; }, Vector(static_cast<size_t>(slot(in, "k").size(1)), slot(in, "ridge")(0)));
}

Vector quadratic(const Vector& z) {   // [z_i^2; sqrt2 z_i z_j (i < j)]
  Vector out;
  for (double a : z) out.push_back(a * a);
  for (size_t i = 0; i < z.size(); ++i)
    for (size_t j = i + 1; j < z.size(); ++j) out.push_back(std::numbers::sqrt2 * z[i] * z[j]);
  return out;
}

// The features are of z = k - q itself: no division by a bandwidth (S5's advice for conditioning is not part of the definition).
Array local_quadratic_attention(const Inputs& in) {
  const Array& ridge = slot(in, "ridge");
  const size_t K = static_cast<size_t>(slot(in, "k").size(1));
  return local_polynomial(in, [](const Vector& z) { return concatenate(z, quadratic(z)); },
                          concatenate(Vector(K, ridge(0)), Vector(K * (K + 1) / 2, ridge(1))));
}

Array parallax(const Inputs& in) {   // S6: y = sum p_i (1 - (k_i - mean).slope) v_i, the slope's score is not scaled
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &slope = slot(in, "slope");
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    const Vector p = attention_weights(q, k, t, t + 1);
    Vector mean(static_cast<size_t>(k.size(1)), 0.0), out(static_cast<size_t>(v.size(1)), 0.0);
    for (int64_t i = 0; i <= t; ++i) mean = mean + p[static_cast<size_t>(i)] * line(k, i);
    for (int64_t i = 0; i <= t; ++i) out = out + (p[static_cast<size_t>(i)] * (1 - dot(line(k, i) - mean, line(slope, t)))) * line(v, i);
    set_line(y, t, out);
  }
  return y;
}

Array forgetting_attention(const Inputs& in) {   // S7: logits q.k / sqrt K + sum_{s=i+1..t} log f_s
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &g = slot(in, "log_decay");
  return smooth(slot(in, "v"), [&](int64_t t, int64_t i) {
    double logit = scaled(q, t, k, i);
    for (int64_t s = i + 1; s <= t; ++s) logit += g(s);
    return logit;
  });
}

// S8: logits q_t' H_t H_{t-1} ... H_{i+1} k_i / sqrt K, H_s = I - path_step_s w_s w_s'. The path keys enter as they are (no norm).
Array path_attention(const Inputs& in) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &w = slot(in, "path_key"), &step = slot(in, "path_step");
  return smooth(slot(in, "v"), [&](int64_t t, int64_t i) {
    Vector key = line(k, i);
    for (int64_t s = i + 1; s <= t; ++s) key = key - (step(s) * dot(key, line(w, s))) * line(w, s);
    return dot(line(q, t), key) / std::sqrt(static_cast<double>(k.size(1)));
  });
}

// S9: u_t = v_t - step_t sum_{j<t} softmax_{j<t}(q.k / sqrt K)_j u_j (q.k in both places, as the code), y = softmax_{i<=t} u.
Array deltaformer(const Inputs& in) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &step = slot(in, "step_size");
  Array u = v;
  for (int64_t t = 1; t < v.size(0); ++t) {
    const Vector p = attention_weights(q, k, t, t);
    Vector value = line(v, t);
    for (int64_t j = 0; j < t; ++j) value = value - (step(t) * p[static_cast<size_t>(j)]) * line(u, j);
    set_line(u, t, value);
  }
  return smooth(u, [&](int64_t t, int64_t i) { return scaled(q, t, k, i); });
}

// S10: f = sum_i a_i kappa(k_i, .) minimising 1/2 sum gamma_i |v_i - f(k_i)|^2 + ridge/2 |f|^2: (Gamma kappa + ridge I) a = Gamma V.
Array weighted_kernel_regression(const Inputs& in, const std::function<double(int64_t t, int64_t i)>& gamma) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  const double ridge = slot(in, "ridge")(0), h = slot(in, "bandwidth")(0);
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    Matrix system = zeros({t + 1, t + 1}), target = zeros({t + 1, v.size(1)});
    for (int64_t i = 0; i <= t; ++i) {
      for (int64_t j = 0; j <= t; ++j) system(i, j) = gamma(t, i) * gaussian(line(k, i), line(k, j), h) + (i == j ? ridge : 0);
      set_line(target, i, gamma(t, i) * line(v, i));
    }
    const Matrix a = solve(system, target);
    for (int64_t i = 0; i <= t; ++i)
      for (int64_t j = 0; j < v.size(1); ++j) y(t, j) += gaussian(line(k, i), line(q, t), h) * a(i, j);
  }
  return y;
}

Array kernel_regression(const Inputs& in) {
  return weighted_kernel_regression(in, [](int64_t, int64_t) { return 1.0; });
}

Array geometric_kernel_regression(const Inputs& in) {
  const Array& g = slot(in, "log_decay");
  return weighted_kernel_regression(in, [&](int64_t t, int64_t i) {
    double sum = 0;
    for (int64_t s = i + 1; s <= t; ++s) sum += g(s);
    return std::exp(sum);
  });
}

Array intention(const Inputs& in) {   // S11, not causal: y_t = V'K (K'K + ridge I)^-1 q_t over the whole context
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  Matrix system = multiply(transpose(k), k);
  add_scaled(system, slot(in, "ridge")(0), identity(k.size(1)));
  return multiply(q, solve(system, multiply(transpose(k), v)));
}

// S12, not causal, queries are the keys: y = kappa(Q, L) A^-1 kappa(L, Q) V with A = kappa(L, L) + 0.01 I and
// kappa(a, b) = exp(-|a - b|^2 / (2 sqrt K)). The landmarks live in the coordinates of q (before the division by K^{1/4}).
Array soft_with(const Inputs& in, const std::function<Matrix(const Matrix& gram)>& inverse) {
  const Array &q = slot(in, "q"), &v = slot(in, "v"), &l = slot(in, "landmarks");
  const double h = std::pow(static_cast<double>(q.size(1)), 0.25);
  const auto kernel = [&](const Array& a, const Array& b) {
    Matrix out = zeros({a.size(0), b.size(0)});
    for (int64_t i = 0; i < a.size(0); ++i)
      for (int64_t j = 0; j < b.size(0); ++j) out(i, j) = gaussian(line(a, i), line(b, j), h);
    return out;
  };
  return multiply(kernel(q, l), multiply(inverse(kernel(l, l)), multiply(kernel(l, q), v)));
}

Array soft(const Inputs& in) {
  return soft_with(in, [](const Matrix& gram) {
    Matrix jittered = gram;
    add_scaled(jittered, 0.01, identity(gram.size(0)));
    return solve(jittered, identity(gram.size(0)));
  });
}

// As the code: the first iterate is 1.8 / (largest row sum of A)^2 (A + 0.01 I), the row sum taken before the 0.01 is added.
Array soft_newton(const Inputs& in) {
  return soft_with(in, [](const Matrix& gram) {
    double largest = 0;
    for (int64_t i = 0; i < gram.size(0); ++i) {
      double sum = 0;
      for (int64_t j = 0; j < gram.size(0); ++j) sum += gram(i, j);
      largest = std::max(largest, sum);
    }
    Matrix a = gram;
    add_scaled(a, 0.01, identity(gram.size(0)));
    Matrix x = a;
    rescale(x, 1.8 / (largest * largest));
    for (int step = 0; step < 20; ++step) {
      Matrix next = multiply(multiply(x, a), x);   // X <- 2 X - X A X
      rescale(next, -1);
      add_scaled(next, 2, x);
      x = next;
    }
    return x;
  });
}

// S13, not causal. The 2T lifted tokens are [q_1..q_T; k_1..k_T], each times K^{-1/4}; the landmarks are every second one (numbers
// 0, 2, 4, ...). With A = kappa(S, S) + 0.1 I, D = diag(A 1)^{-1/2}: y = kappa(Q, S) D (D A D)^-1 D kappa(S, K) V.
Array skyformer_with(const Inputs& in, const std::function<Matrix(const Matrix&)>& inverse) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  const int64_t T = q.size(0);
  const double shrink = std::pow(static_cast<double>(q.size(1)), -0.25);
  Array lifted = zeros({2 * T, q.size(1)});
  for (int64_t t = 0; t < T; ++t) {
    set_line(lifted, t, shrink * line(q, t));
    set_line(lifted, T + t, shrink * line(k, t));
  }
  Matrix a = zeros({T, T}), left = zeros({T, T}), right = zeros({T, T});   // T landmarks
  for (int64_t i = 0; i < T; ++i)
    for (int64_t j = 0; j < T; ++j) {
      a(i, j) = gaussian(line(lifted, 2 * i), line(lifted, 2 * j), 1) + (i == j ? 0.1 : 0);
      left(i, j) = gaussian(line(lifted, i), line(lifted, 2 * j), 1);
      right(i, j) = gaussian(line(lifted, 2 * i), line(lifted, T + j), 1);
    }
  Vector d;
  for (int64_t i = 0; i < T; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < T; ++j) sum += a(i, j);
    d.push_back(1 / std::sqrt(sum));
  }
  scale_rows(a, d);
  scale_columns(a, d);
  scale_columns(left, d);
  scale_rows(right, d);
  return multiply(left, multiply(inverse(a), multiply(right, v)));
}

Array skyformer(const Inputs& in) {   // six third-order steps: X <- X/4 (13 I - AX (15 I - AX (7 I - AX))), from A' / largest column sum
  return skyformer_with(in, [](const Matrix& a) {
    const int64_t n = a.size(0);
    double largest = 0;
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += a(i, j);
      largest = std::max(largest, sum);
    }
    Matrix x = transpose(a);
    rescale(x, 1 / largest);
    for (int step = 0; step < 6; ++step) {
      const Matrix ax = multiply(a, x);
      Matrix inner = identity(n, 7);
      add_scaled(inner, -1, ax);
      Matrix middle = identity(n, 15);
      add_scaled(middle, -1, multiply(ax, inner));
      Matrix outer = identity(n, 13);
      add_scaled(outer, -1, multiply(ax, middle));
      x = multiply(x, outer);
      rescale(x, 0.25);
    }
    return x;
  });
}

Array skyformer_exact(const Inputs& in) {
  return skyformer_with(in, [](const Matrix& a) { return solve(a, identity(a.size(0))); });
}

}  // namespace

std::vector<Row> nonparametric_rows() {
  const auto put = [](const char* name, Array (*make)(Draw&, Sizes)) {
    return [=](Draw& d, Inputs& in, Sizes n) { in[name] = make(d, n); };
  };
  const auto bandwidth_and_ridge = [](Draw& d, Inputs& in, Sizes) {
    in["bandwidth"] = scalar(d.uniform(0.8, 1.5));
    in["ridge"] = scalar(d.uniform(0.1, 0.5));
  };
  const auto landmarks = [](Draw& d, Inputs& in, Sizes n) {
    in.erase("k");
    in["landmarks"] = d.normal({n.T / 2 + 1, n.K});
  };
  const std::string attention = "scale=1/sqrt(K)";
  return {
    {"softmax_attention", draw_qkv(), softmax_attention, "S1, arXiv 1706.03762", attention},
    {"unnormalised_softmax_attention", draw_qkv(), unnormalised_softmax_attention, "the seed's batch step in exp features", attention},
    {"qknorm_attention", draw_qkv(put("temperature", [](Draw& d, Sizes) { return scalar(d.uniform(2, 6)); })), qknorm_attention,
     "S2, arXiv 2010.04245", "key_norm=l2 eps=1e-6"},
    {"rms_qknorm_attention", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["q_norm_weight"] = d.uniform({n.K}, 0.5, 1.5);
       in["k_norm_weight"] = d.uniform({n.K}, 0.5, 1.5);
     }), rms_qknorm_attention, "S2, arXiv 2302.05442", "key_norm=rms eps=1e-6 scale=1/sqrt(K)"},
    {"nadaraya_watson", draw_qkv(put("bandwidth", [](Draw& d, Sizes) { return scalar(d.uniform(0.8, 1.5)); })), nadaraya_watson, "S3", ""},
    {"local_linear_attention", draw_qkv(put("ridge", [](Draw& d, Sizes) { return scalar(d.uniform(0.1, 0.5)); })), local_linear_attention,
     "S4, arXiv 2510.01450", "scale=1/sqrt(K) ridge=relative"},
    {"local_quadratic_attention", draw_qkv(put("ridge", [](Draw& d, Sizes) { return d.uniform({2}, 0.1, 0.5); })),
     local_quadratic_attention, "S5, arXiv 2501.12352", "scale=1/sqrt(K) ridge=relative"},
    {"parallax", draw_qkv(put("slope", [](Draw& d, Sizes n) { return d.normal({n.T, n.K}, 0.5); })), parallax, "S6, arXiv 2605.29157",
     attention},
    {"forgetting_attention", draw_qkv(put("log_decay", [](Draw& d, Sizes n) { return d.log_decay({n.T}); })), forgetting_attention,
     "S7, arXiv 2503.02130", attention},
    {"path_attention", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["path_key"] = d.normal({n.T, n.K}, 0.5);
       in["path_step"] = d.uniform({n.T}, 0.1, 1.5);
     }), path_attention, "S8, arXiv 2505.16381", attention},
    {"deltaformer", draw_qkv(put("step_size", [](Draw& d, Sizes n) { return d.uniform({n.T}, 0.1, 1); })), deltaformer,
     "S9, arXiv 2505.19488", attention},
    {"kernel_regression", draw_qkv(bandwidth_and_ridge), kernel_regression, "S10", "gaussian kernel"},
    {"geometric_kernel_regression", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       bandwidth_and_ridge(d, in, n);
       in["log_decay"] = d.log_decay({n.T});
     }), geometric_kernel_regression, "S10", "gaussian kernel, ridge=constant"},
    {"intention", draw_qkv(put("ridge", [](Draw& d, Sizes) { return scalar(d.uniform(0.1, 0.5)); })), intention, "S11, arXiv 2305.10203",
     "every query sees the whole context", false},
    {"soft", draw_qkv(landmarks), soft, "S12, arXiv 2110.11945", "jitter=0.01 exact inverse", false},
    {"soft_newton", draw_qkv(landmarks), soft_newton, "S12, arXiv 2110.11945", "jitter=0.01 newton=20", false},
    {"skyformer", draw_qkv(), skyformer, "S13, arXiv 2111.00035", "jitter=0.1 newton=6 landmarks=every second of [q; k]", false},
    {"skyformer_exact", draw_qkv(), skyformer_exact, "S13, arXiv 2111.00035", "jitter=0.1 exact inverse landmarks=every second of [q; k]",
     false},
  };
}

}  // namespace reference
