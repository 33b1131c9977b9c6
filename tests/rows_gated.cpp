// Self-checks of group D: the recurrences against sums over pairs, and against each other.
#include "rows_reference_checks.hpp"

namespace reference {

TEST_SUITE("rows_reference") {

TEST_CASE("scalar gates, channel gates, entry gates") {
  Inputs in = draw("simple_gla");
  const Array y = run("mamba2", in);
  CHECK(difference(run("simple_gla", in), scaled(y, 0.5)) < kExact);
  CHECK(difference(run("gla", with(in, "log_decay", spread(in["log_decay"], K))), scaled(y, 0.5)) < kExact);
  Inputs timed = in;   // Mamba with one rate: delta = -log_decay, and the value divided by what it is written with
  timed.erase("log_decay");
  timed["delta"] = spread(scaled(in["log_decay"], -1), V);
  timed["rate"] = filled({V, K}, 1);
  for (size_t i = 0; i < timed["v"].data.size(); ++i) timed["v"].data[i] /= timed["delta"].data[i];
  CHECK(difference(run("mamba", timed), y) < kExact);
  CHECK(difference(run("log_linear_attention", with(in, "level_scale", filled({T, 5}, 1))), y) < kExact);
  CHECK(difference(run("mamba2", with(in, "log_decay", zeros({T}))), run("linear_attention", in)) < kExact);
  const Inputs retnet = draw("retnet");
  const double gamma = std::exp(retnet.at("log_decay")(0));
  Array pairs = zeros({T, V});
  for (int64_t t = 0; t < T; ++t)
    for (int64_t i = 0; i <= t; ++i)
      for (int64_t j = 0; j < V; ++j) {
        const double score = dot(line(retnet.at("q"), t), line(retnet.at("k"), i)) / 2;
        pairs(t, j) += std::pow(gamma, static_cast<double>(t - i)) * score * retnet.at("v")(i, j);
      }
  CHECK(difference(run("retnet", retnet), pairs) < kExact);

  in = draw("hgrn2");
  Array k = exponential_of(in["log_decay"]);
  for (double& value : k.data) value = 1 - value;
  CHECK(difference(run("hgrn2", in), run("gla", with(in, "k", k))) < kExact);

  in = draw("hgrn");   // one key channel that is always one
  Array written = in["v"];
  const Array delta = scaled(in["log_decay"], -1);
  for (size_t i = 0; i < written.data.size(); ++i) written.data[i] *= (1 - std::exp(in["log_decay"].data[i])) / delta.data[i];
  const Array ones = filled({T, 1}, 1);
  const Inputs one_channel{{"q", ones}, {"k", ones}, {"v", written}, {"delta", delta}, {"rate", filled({V, 1}, 1)}};
  CHECK(difference(run("hgrn", in), run("mamba", one_channel)) < kExact);
}

TEST_CASE("complex gates are real gates on rotated features") {
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

TEST_CASE("rwkv6, mlstm, mamba3, levels") {
  Inputs in = draw("rwkv6");
  const Inputs plain = with(with(in, "log_decay", zeros({T, K})), "bonus", filled({K}, 1));
  CHECK(difference(run("rwkv6", plain), run("linear_attention", in)) < kExact);
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
  const Array one_tap = run("mamba2", with(in, "v", scaled_lines(in["v"], in["delta"])));
  CHECK(difference(run("mamba3", with(in, "trapezoid", filled({T}, 1))), one_tap) < kExact);
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

}  // TEST_SUITE

}  // namespace reference
