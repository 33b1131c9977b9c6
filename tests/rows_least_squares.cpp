// Self-checks of group B: the direct solves against recursive least squares, which never solves.
#include "rows_reference_checks.hpp"

namespace reference {

TEST_SUITE("rows_reference") {

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

TEST_CASE("direct solves are recursive least squares") {
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

TEST_CASE("the refreshed ridge is LDL' of each chunk from the moments before it") {
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

TEST_CASE("mesa_net moments are recurrences, conjugate gradients arrive, gradient steps are a Neumann sum") {
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

}  // TEST_SUITE

}  // namespace reference
