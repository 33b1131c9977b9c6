// Feature maps in disguise (identities.cpp says how): a memory that is linear in features is linear attention on those features, a normaliser is
// one more value, and the sums that features stand for can be written out.
#include <ttr/tests/identities.hpp>

using namespace ttr;
using namespace ttr::identities;

namespace {

struct Triple : Shared {
  Tensor q = signal("q", {1, T, 1, K}), k = signal("k", {1, T, 1, K}, 0.6), v = signal("v", {1, T, 1, V});
};

Tensor linear_attention(const Tensor& q, const Tensor& k, const Tensor& v) { return run("linear_attention", {{"q", q}, {"k", k}, {"v", v}}); }
Tensor applied(const Tensor& x, const Tensor& weight) {   // [1, T, 1, K], [1, m, K] -> [1, T, 1, m]
  const Shape each{1, x.size(1), weight.size(1), weight.size(2)};
  return matmul(x, broadcast_to(reshape(weight, {1, 1, weight.size(1), weight.size(2)}), each), false, true);
}
Tensor scores(const Tensor& q, const Tensor& k) {   // q_t.k_i, i <= t: [T, T]
  return tril(matmul(reshape(q, {T, q.size(3)}), reshape(k, {T, k.size(3)}), false, true));
}
Tensor weighted(const Tensor& scores, const Tensor& v) { return reshape(matmul(scores, reshape(v, {T, V})), {1, T, 1, V}); }


}  // namespace

TEST_SUITE("identities") {
  TEST_CASE("27. what features stand for: Based is 1 + s + s^2 / 2, monomials a power, ReBased a square, cosFormer a cosine of the distance") {
    Triple in;
    const Slots s{{"q", in.q}, {"k", in.k}, {"v", in.v}};
    const Tensor qk = scores(in.q, in.k), half = 0.5 * qk;   // 1 / sqrt 4
    check_same(run("even / linear[feature=taylor2] / descend[at=initial]", s), weighted(tril(1.0 + half + 0.5 * square(half)), in.v), in);
    check_same(run("even / linear[feature=monomials[degree=3]] / descend[at=initial]", s), weighted(qk * qk * qk, in.v), in);
    const Tensor w = in.gate("w", {1, K}, 0.5, 1.5), b = in.gate("b", {1, K}, -0.5, 0.5);
    const auto normed = [&](const Tensor& x) {
      const Tensor away = x - mean(x, 3, true);
      return away * rsqrt(mean(square(away), 3, true) + 1e-5) * reshape(w, {1, 1, 1, K}) + reshape(b, {1, 1, 1, K});
    };
    const Tensor dot = scores(normed(in.q), normed(in.k));
    check_same(run("even / linear[feature=rebased] / descend[at=initial]", {{"q", in.q}, {"k", in.k}, {"v", in.v}, {"norm_weight", w}, {"norm_bias", b}}),
               weighted(square(dot) * 0.25, in.v), in);
    std::vector<double> turns;
    for (int64_t t = 0; t < T; ++t)
      for (int64_t i = 0; i < T; ++i) turns.push_back(std::cos(M_PI * double(t - i) / 40));
    check_same(run("even / linear[feature=cosformer[horizon=20]] / descend[at=initial]", s),
               weighted(from_vector(turns, {T, T}, kF64) * scores(relu(in.q), relu(in.k)), in.v), in);
  }

  TEST_CASE("28. a memory of features is linear attention on features, and a normaliser is one more value") {
    Triple in;
    const Tensor w = in.signal("w", {1, K, K}), u = in.signal("u", {1, K, K}), b = in.signal("b", {1, K});
    const auto check = [&](const std::string& feature, const Slots& more, const std::function<Tensor(const Tensor&)>& phi) {
      CAPTURE(feature);
      Slots s{{"q", in.q}, {"k", in.k}, {"v", in.v}};
      s.insert(more.begin(), more.end());
      check_same(run("even / linear[feature=" + feature + "] / descend[at=initial]", s), linear_attention(phi(in.q), phi(in.k), in.v), in);
    };
    check("silu", {}, [](const Tensor& x) { return silu(x); });
    check("elu1", {}, [](const Tensor& x) { return where(less(zero(x.shape()), x), x + 1.0, exp(x)); });
    check("learned_relu", {{"feature_weight", w}, {"feature_bias", b}}, [&](const Tensor& x) { return relu(applied(x, w) + reshape(b, {1, 1, 1, K})); });
    check("hadamard", {{"feature_weight", w}, {"feature_weight_2", u}}, [&](const Tensor& x) { return applied(x, w) * applied(x, u); });
    check("hedgehog", {{"feature_weight", w}}, [&](const Tensor& x) { return concat({softmax(applied(x, w)), softmax(-applied(x, w))}, 3); });
    check("hedgehog[joint=true]", {{"feature_weight", w}},
          [&](const Tensor& x) { return softmax(concat({2.0 * applied(x, w), -2.0 * applied(x, w)}, 3)); });
    check("softmax_features", {{"projection", w}}, [&](const Tensor& x) { return softmax(applied(x, w)); });
    check("performer", {{"projection", w}}, [&](const Tensor& x) {
      const Tensor y = x * std::pow(double(K), -0.25);
      return (exp(applied(y, w) - 0.5 * sum(square(y), 3, true)) + 1e-4) * (1 / std::sqrt(double(K)));
    });
    const auto waves = [&](const Tensor& x) {
      const Tensor turned = applied(x / (sqrt(sum(square(x), 3, true)) + 1e-3), w);
      return 0.1 * concat({sin(turned), cos(turned)}, 3);
    };
    check("random_waves", {{"projection", w}}, waves);
    check("dpfp", {}, [](const Tensor& x) {
      const Tensor r = concat({relu(x), relu(-x)}, 3), rolled = concat({r * roll(r, 3, 1), r * roll(r, 3, 2)}, 3);
      return rolled / sum(rolled, 3, true);
    });

    // the sum of weights is the answer of a memory of ones
    const Slots s{{"q", in.q}, {"k", in.k}, {"v", concat({in.v, one({1, T, 1, 1})}, 3)}}, bare{{"q", in.q}, {"k", in.k}, {"v", in.v}};
    const auto parts = [](const Tensor& y) { return split(y, 3, {V, 1}); };
    const Tensors sums = parts(run("even / linear[feature=elu1] / descend[at=initial]", s));
    check_same(run("normalised_linear_attention", bare), sums[0] / (sums[1] + 1e-6), in);
    // gated RFA: one gate that keeps g and writes 1 - g, of values and of ones, and a divisor that cannot fall below 1
    const Tensor g = in.gate("g", {1, T, 1}, 0.5, 0.9);
    const Tensors gated = parts(run("geometric[write=gate] / linear[feature=random_waves] / descend[at=initial]",
                                    {{"q", in.q}, {"k", in.k}, {"v", s.at("v")}, {"log_decay", log(g)}, {"write_gate", 1.0 - g}, {"projection", w}}));
    const Slots rfa{{"q", in.q}, {"k", in.k}, {"v", in.v}, {"gate", g}, {"projection", w}};
    check_same(run("gated_rfa", rfa), gated[0] / maximum(gated[1], 1.0), in);
    double low = 1, high = 0;   // a divisor that some answers meet from above and some from below
    for (const double x : gated[1].to_vector<double>()) low = std::min(low, x), high = std::max(high, x);
    const double middle = 0.5 * (low + high);
    check_same(run(fmt::format("moving_average / linear[feature=random_waves,normaliser=clamp,eps={}] / descend[at=initial]", middle), rfa),
               gated[0] / maximum(gated[1], middle), in);
    const Tensor decay = in.decay("decay", {1, T, 1});
    check_same(run("dijiang", {{"q", in.q}, {"k", in.k}, {"v", in.v}, {"log_decay", decay}, {"projection", w}}),
               run("mamba2", {{"q", softmax(applied(in.q, w))}, {"k", softmax(applied(in.k, w))}, {"v", in.v}, {"log_decay", decay}}), in);
  }
}
