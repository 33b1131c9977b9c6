// What every reference has in common: finite, repeatable, reading every slot, causal or declared not to be.
#include <algorithm>

#include "rows_reference_checks.hpp"

namespace reference {

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

namespace {

Array rotated(const Array& x) {   // each row by the same product of plane rotations
  Array out = x;
  for (int64_t j = 0; j + 1 < x.size(1); ++j) {
    const double angle = 0.7 + static_cast<double>(j);
    for (int64_t t = 0; t < x.size(0); ++t) {
      const double a = out(t, j), b = out(t, j + 1);
      out(t, j) = std::cos(angle) * a - std::sin(angle) * b;
      out(t, j + 1) = std::sin(angle) * a + std::cos(angle) * b;
    }
  }
  return out;
}
double change_under_rotation(const std::string& name) {
  const Inputs in = draw(name);
  Inputs turned = in;
  for (const char* vectors : {"q", "k", "slope", "path_key", "erase_key", "erase_write", "landmarks"})
    if (turned.contains(vectors)) turned[vectors] = rotated(turned[vectors]);
  return difference(run(name, turned), run(name, in));
}

}  // namespace

TEST_CASE("rotating queries and keys together changes nothing, except where coordinates have a meaning") {
  for (const char* name : {"softmax_attention", "unnormalised_softmax_attention", "qknorm_attention", "nadaraya_watson",
                           "local_linear_attention", "local_quadratic_attention", "parallax", "forgetting_attention", "path_attention",
                           "deltaformer", "kernel_regression", "geometric_kernel_regression", "intention", "soft", "soft_newton",
                           "skyformer", "mesa", "weighted_least_squares", "decaying_least_squares", "refreshed_least_squares",
                           "mesa_sgd_steps", "linear_attention", "polynomial_linear_attention", "based", "simple_gla", "mamba2", "mlstm",
                           "mamba3", "log_linear_attention", "delta_net", "gated_delta_net", "comba", "delta_product", "longhorn",
                           "l2_sgd", "oja", "momentum_delta", "omega_net", "atlas"}) {
    CAPTURE(name);
    CHECK(change_under_rotation(name) < 1e-9);
  }
  for (const char* name : {"rms_qknorm_attention", "mesa_net", "cosformer", "dpfp", "gla", "mamba", "rwkv6", "kda", "rwkv7", "gdn2",
                           "longhorn_diagonal", "preconditioned_delta"}) {
    CAPTURE(name);
    CHECK(change_under_rotation(name) > 1e-3);
  }
}

TEST_CASE("values enter linearly, except where a memory is nonlinear in them; smoothers follow a shift of all values") {
  for (const Row& r : rows()) {
    CAPTURE(r.name);
    const bool nonlinear = std::ranges::any_of(nonlinear_rows(), [&](const Row& n) { return n.name == r.name && n.name != "omega_net"; });
    Inputs in = draw(r.name), other = in, sum = in, shifted = in;
    const Array &v = in["v"], w = draw(r.name, 9)["v"];
    other["v"] = w;
    for (size_t i = 0; i < w.data.size(); ++i) sum["v"].data[i] = 2 * v.data[i] - 0.5 * w.data[i], shifted["v"].data[i] += 1.5;
    const Array y = r.run(in);
    Array combined = scaled(y, 2), moved = y;
    add_scaled(combined, -0.5, r.run(other));
    for (double& value : moved.data) value += 1.5;
    const double bent = difference(r.run(sum), combined), lost = difference(r.run(shifted), moved);
    if (nonlinear || r.name == "oja") CHECK(bent > 1e-4);
    else CHECK(bent < 1e-10);
    const std::vector<std::string> averages{"softmax_attention", "qknorm_attention", "rms_qknorm_attention", "nadaraya_watson",
                                            "local_linear_attention", "local_quadratic_attention", "parallax", "forgetting_attention",
                                            "path_attention", "hedgehog", "hedgehog_joint", "performer", "relu_linear_attention",
                                            "cosformer"};
    const std::vector<std::string> nearly{"normalised_linear_attention", "based", "rebased"};   // up to their epsilon
    if (std::ranges::count(averages, r.name)) CHECK(lost < 1e-9);
    else if (std::ranges::count(nearly, r.name)) CHECK(lost < 1e-2);
    else CHECK(lost > 1e-4);
  }
}

}  // TEST_SUITE

}  // namespace reference
