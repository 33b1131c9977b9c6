// Group C: one batch gradient step from zero, y_t = sum_{i<=t} v_i phi(k_i).phi(q_t), with a feature map phi, written as the sum over
// pairs (no state). Normalised rows divide by sum_{i<=t} phi(k_i).phi(q_t); each says how that sum is kept from zero.
#include "rows_reference_algebra.hpp"

namespace reference {
namespace {

using Feature = std::function<Vector(const Vector& x, int64_t position)>;   // positions count from 1
using Denominator = std::function<double(double sum)>;

double unnormalised(double) { return 1; }
double plain(double sum) { return sum; }
double plus_small(double sum) { return sum + 1e-6; }
double at_least_small(double sum) { return std::max(sum, 1e-6); }
double at_least_one(double sum) { return std::max(sum, 1.0); }

// weight(t, i): how much of pair i is left at time t.
Array pairs(const Inputs& in, const Feature& phi, const Denominator& denominator,
            const std::function<double(int64_t, int64_t)>& weight = [](int64_t, int64_t) { return 1.0; }) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    const Vector query = phi(line(q, t), t + 1);
    Vector out(static_cast<size_t>(v.size(1)), 0.0);
    double sum = 0;
    for (int64_t i = 0; i <= t; ++i) {
      const double score = weight(t, i) * dot(query, phi(line(k, i), i + 1));
      sum += score;
      out = out + score * line(v, i);
    }
    set_line(y, t, (1 / denominator(sum)) * out);
  }
  return y;
}

Feature pointwise(double (*f)(double)) {
  return [f](const Vector& x, int64_t) { return each_entry(x, f); };
}

Array linear_attention(const Inputs& in) {
  return pairs(in, [](const Vector& x, int64_t) { return x; }, unnormalised);
}

Array normalised_linear_attention(const Inputs& in) {
  return pairs(in, pointwise([](double x) { return x > 0 ? x + 1 : std::exp(x); }), plus_small);
}

// T2R: relu(W x + b). The table asks for a clamp without naming it: max(sum, 1e-6).
Array relu_linear_attention(const Inputs& in) {
  const Array &w = slot(in, "feature_weight"), &b = slot(in, "feature_bias");
  return pairs(in, [&](const Vector& x, int64_t) { return each_entry(product(w, x) + b.data, relu); }, at_least_small);
}

constexpr double kHorizon = 64;

Array cosformer(const Inputs& in) {   // [relu(x) cos(pi i / 2M); relu(x) sin(pi i / 2M)], M = 64, the sum at least 1e-6
  return pairs(in, [](const Vector& x, int64_t position) {
    const double angle = std::numbers::pi * static_cast<double>(position) / (2 * kHorizon);
    const Vector positive = each_entry(x, relu);
    return concatenate(std::cos(angle) * positive, std::sin(angle) * positive);
  }, at_least_small);
}

// r = [relu(x); relu(-x)], phi = [r roll(r, 1); r roll(r, 2)] divided by its own sum (no epsilon); roll(r, j)_n = r_{n-j}.
Array dpfp(const Inputs& in) {
  return pairs(in, [](const Vector& x, int64_t) {
    const Vector r = concatenate(each_entry(x, relu), each_entry(-1.0 * x, relu));
    Vector out;
    double sum = 0;
    for (size_t shift = 1; shift <= 2; ++shift)
      for (size_t n = 0; n < r.size(); ++n) {
        out.push_back(r[n] * r[(n + r.size() - shift) % r.size()]);
        sum += out.back();
      }
    return (1 / sum) * out;
  }, unnormalised);
}

Array silu_linear_attention(const Inputs& in) { return pairs(in, pointwise(silu), unnormalised); }   // no key norm after it

// Rows whose feature map is known by its kernel: y = sum v_i kappa(q_t, k_i).
Array kernel_pairs(const Inputs& in, double (*kappa)(const Vector&, const Vector&), const Denominator& denominator) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    Vector out(static_cast<size_t>(v.size(1)), 0.0);
    double sum = 0;
    for (int64_t i = 0; i <= t; ++i) {
      const double score = kappa(line(q, t), line(k, i));
      sum += score;
      out = out + score * line(v, i);
    }
    set_line(y, t, (1 / denominator(sum)) * out);
  }
  return y;
}

Array polynomial_linear_attention(const Inputs& in) {   // (q.k)^2
  return kernel_pairs(in, [](const Vector& q, const Vector& k) { return dot(q, k) * dot(q, k); }, unnormalised);
}

Array based(const Inputs& in) {   // 1 + s + s^2/2, s = q.k / sqrt K
  return kernel_pairs(in, [](const Vector& q, const Vector& k) {
    const double s = dot(q, k) / std::sqrt(static_cast<double>(k.size()));
    return 1 + s + s * s / 2;
  }, plus_small);
}

Array rebased(const Inputs& in) {   // (q.k)^2 / K of layer-normed, weighted q and k; the layer norm's epsilon is 1e-5
  const Array &w = slot(in, "norm_weight"), &b = slot(in, "norm_bias");
  Inputs normed = in;
  for (const char* name : {"q", "k"})
    for (int64_t t = 0; t < slot(in, name).size(0); ++t)
      set_line(normed[name], t, times(standardize(line(slot(in, name), t), 1e-5), w.data) + b.data);
  const auto kappa = [](const Vector& q, const Vector& k) { return dot(q, k) * dot(q, k) / static_cast<double>(k.size()); };
  return kernel_pairs(normed, kappa, plus_small);
}

Array hedgehog(const Inputs& in) {   // [softmax(W x); softmax(-W x)]
  const Array& w = slot(in, "feature_weight");
  return pairs(in, [&](const Vector& x, int64_t) {
    const Vector y = product(w, x);
    return concatenate(softmax(y), softmax(-1.0 * y));
  }, plain);
}

Array hedgehog_joint(const Inputs& in) {   // softmax([2 W x; -2 W x])
  const Array& w = slot(in, "feature_weight");
  return pairs(in, [&](const Vector& x, int64_t) {
    const Vector y = product(w, x);
    return softmax(concatenate(2.0 * y, -2.0 * y));
  }, plain);
}

Array performer(const Inputs& in) {   // x' = x K^{-1/4}, (exp(Omega x' - |x'|^2/2) + 1e-4) / sqrt m: the shift c is zero
  const Array& omega = slot(in, "projection");
  return pairs(in, [&](const Vector& x, int64_t) {
    const Vector shrunk = std::pow(static_cast<double>(x.size()), -0.25) * x;
    Vector out = product(omega, shrunk);
    for (double& value : out) value = (std::exp(value - dot(shrunk, shrunk) / 2) + 1e-4) / std::sqrt(static_cast<double>(out.size()));
    return out;
  }, plain);
}

Feature random_waves(const Array& omega) {   // 0.1 [sin(Omega x^); cos(Omega x^)], x^ = x / (|x| + 1e-3)
  return [&omega](const Vector& x, int64_t) {
    const Vector angle = product(omega, (1 / (std::sqrt(dot(x, x)) + 1e-3)) * x);
    Vector waves;
    for (double a : angle) waves.push_back(0.1 * std::sin(a));
    for (double a : angle) waves.push_back(0.1 * std::cos(a));
    return waves;
  };
}

Array rfa(const Inputs& in) { return pairs(in, random_waves(slot(in, "projection")), at_least_one); }

// S = g S + (1 - g) v phi(k)', z likewise; the same clamp at one as the ungated row.
Array gated_rfa(const Inputs& in) {
  const Array& gate = slot(in, "gate");
  return pairs(in, random_waves(slot(in, "projection")), at_least_one, [&](int64_t t, int64_t i) {
    double weight = 1 - gate(i);
    for (int64_t s = i + 1; s <= t; ++s) weight *= gate(s);
    return weight;
  });
}

// softmax(P x) with a frozen square P (the orthonormal DCT-II times a random diagonal), decayed as RetNet, no normaliser. The slot is P
// itself: the text's P is DCT diag(t), the code applies its transpose.
Array dijiang(const Inputs& in) {
  const Array &p = slot(in, "projection"), &g = slot(in, "log_decay");
  return pairs(in, [&](const Vector& x, int64_t) { return softmax(product(p, x)); }, unnormalised, [&](int64_t t, int64_t i) {
    double sum = 0;
    for (int64_t s = i + 1; s <= t; ++s) sum += g(s);
    return std::exp(sum);
  });
}

Array hadamard_linear_attention(const Inputs& in) {   // (W_1 x) (W_2 x), elementwise
  const Array &a = slot(in, "feature_weight"), &b = slot(in, "feature_weight_2");
  return pairs(in, [&](const Vector& x, int64_t) { return times(product(a, x), product(b, x)); }, unnormalised);
}

}  // namespace

std::vector<Row> linear_rows() {
  // relu rows see mostly positive entries, so that no query has an empty sum
  const auto positive = draw_qkv([](Draw& d, Inputs& in, Sizes n) {
    in["q"] = d.uniform({n.T, n.K}, -0.3, 1.5);
    in["k"] = d.uniform({n.T, n.K}, -0.3, 1.5);
  });
  const auto square_map = draw_qkv([](Draw& d, Inputs& in, Sizes n) { in["feature_weight"] = d.normal({n.K, n.K}, 0.7); });
  return {
    {"linear_attention", draw_qkv(), linear_attention, "S17, arXiv 2006.16236", "scale=1 normaliser=none"},
    {"normalised_linear_attention", draw_qkv(), normalised_linear_attention, "S17, arXiv 2006.16236", "normaliser=sum eps=1e-6 (added)"},
    {"relu_linear_attention", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["feature_weight"] = d.normal({n.K + 1, n.K}, 0.5);
       in["feature_bias"] = d.uniform({n.K + 1}, 0.2, 0.8);
     }), relu_linear_attention, "S18, arXiv 2103.13076", "normaliser=sum at least 1e-6"},
    {"cosformer", positive, cosformer, "S18, arXiv 2202.08791", "horizon=64 normaliser=sum at least 1e-6"},
    {"dpfp", draw_qkv(), dpfp, "S18, arXiv 2102.11174", "nu=2 features sum to one, normaliser=none"},
    {"silu_linear_attention", draw_qkv(), silu_linear_attention, "S18", "scale=1 normaliser=none key_norm=none"},
    {"polynomial_linear_attention", draw_qkv(), polynomial_linear_attention, "S18", "degree=2 scale=1 normaliser=none"},
    {"based", draw_qkv(), based, "S18, arXiv 2402.18668", "normaliser=sum eps=1e-6 (added)"},
    {"rebased", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["norm_weight"] = d.uniform({n.K}, 0.5, 1.5);
       in["norm_bias"] = d.normal({n.K}, 0.3);
     }), rebased, "S18, arXiv 2402.10644", "normaliser=sum eps=1e-6 (added) norm_eps=1e-5"},
    {"hedgehog", square_map, hedgehog, "S18, arXiv 2402.04347", "normaliser=sum eps=0"},
    {"hedgehog_joint", square_map, hedgehog_joint, "S18, arXiv 2402.04347", "normaliser=sum eps=0"},
    {"performer", draw_qkv([](Draw& d, Inputs& in, Sizes n) { in["projection"] = d.normal({n.K + 2, n.K}); }), performer,
     "S18, arXiv 2009.14794", "normaliser=sum eps=0 feature_eps=1e-4"},
    // many waves, because only then does the sum outgrow its clamp within a short sequence
    {"rfa", draw_qkv([](Draw& d, Inputs& in, Sizes n) { in["projection"] = d.normal({40, n.K}, 0.7); }), rfa, "S18, arXiv 2103.02143",
     "normaliser=sum at least 1"},
    {"gated_rfa", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["projection"] = d.normal({160, n.K}, 0.7);
       in["gate"] = d.uniform({n.T}, 0.3, 0.9);
     }), gated_rfa, "S18, arXiv 2103.02143", "normaliser=sum at least 1"},
    {"dijiang", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["projection"] = zeros({n.K, n.K});
       const double size = static_cast<double>(n.K);
       for (int64_t j = 0; j < n.K; ++j) {
         const double diagonal = d.normal();
         for (int64_t i = 0; i < n.K; ++i)
           in["projection"](i, j) = diagonal * std::sqrt((i == 0 ? 1 : 2) / size) *
                                    std::cos(std::numbers::pi * static_cast<double>(i) * (2 * static_cast<double>(j) + 1) / (2 * size));
       }
       in["log_decay"] = d.log_decay({n.T});
     }), dijiang, "S18, arXiv 2403.19928", "scale=1 normaliser=none"},
    {"hadamard_linear_attention", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["feature_weight"] = d.normal({n.K + 1, n.K}, 0.4);
       in["feature_weight_2"] = d.normal({n.K + 1, n.K}, 0.4);
     }), hadamard_linear_attention, "S18", "scale=1 normaliser=none"},
  };
}

}  // namespace reference
