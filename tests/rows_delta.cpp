// Self-checks of group E: the online learners as one another.
#include "rows_reference_checks.hpp"

namespace reference {

TEST_SUITE("rows_reference") {

TEST_CASE("the delta family") {
  Inputs in = draw("gated_delta_net");
  const Array &k = in["k"], &step = in["step_size"], &g = in["log_decay"];
  const Array gated = run("gated_delta_net", in), plain = run("delta_net", in), still = zeros({T}), alpha = exponential_of(g);
  const Array wide = spread(g, K), minus_k = scaled(k, -1);
  CHECK(difference(run("gated_delta_net", with(in, "log_decay", still)), plain) < kExact);
  CHECK(difference(run("kda", with(in, "log_decay", wide)), gated) < kExact);
  const Inputs two_gates = with(with(with(in, "log_decay", wide), "erase_gate", spread(step, K)), "value_gate", spread(step, V));
  CHECK(difference(run("gdn2", two_gates), gated) < kExact);
  CHECK(difference(run("comba", with(with(in, "log_decay", still), "erase_key", k)), plain) < kExact);
  CHECK(difference(run("comba", with(in, "erase_key", scaled_lines(k, alpha))), gated) < kExact);
  Inputs dplr{{"q", in["q"]}, {"v", scaled_lines(in["v"], step)}, {"k", k}, {"log_decay", wide}, {"erase_key", minus_k},
              {"erase_write", scaled_lines(scaled_lines(k, step), alpha)}};
  CHECK(difference(run("rwkv7", dplr), gated) < kExact);
  const Inputs channel = draw("kda");
  const Inputs no_erase = with(with(channel, "erase_key", zeros({T, K})), "erase_write", k);
  CHECK(difference(run("rwkv7", no_erase), scaled(run("gla", channel), 2)) < kExact);
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
  const Inputs no_momentum = with(with(l2, "momentum", still), "log_decay", as_gate["log_decay"]);
  CHECK(difference(run("momentum_delta", no_momentum), run("l2_sgd", l2)) < kExact);

  Inputs prox = draw("longhorn"), as_step = prox;
  for (int64_t t = 0; t < T; ++t) as_step["step_size"](t) /= 1 + prox["step_size"](t) * dot(line(prox["k"], t), line(prox["k"], t));
  CHECK(difference(run("longhorn", prox), run("delta_net", as_step)) < kExact);
  Inputs one = row("longhorn").draw(T, 1, V, 2);   // with one key channel the diagonal is the matrix
  CHECK(difference(run("longhorn_diagonal", with(one, "step_size", spread(one["step_size"], V))), run("longhorn", one)) < kExact);
}

TEST_CASE("products of micro steps, preconditioning, transposition, momentum") {
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

}  // TEST_SUITE

}  // namespace reference
