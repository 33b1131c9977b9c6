// Group B: least squares solved to optimality, M_t = (sum gamma v k')(sum gamma k k' + ridge)^-1, formed and solved anew at every token.
#include "rows_reference_algebra.hpp"

namespace reference {
namespace {

struct Moments { Matrix keys, values; };   // sum gamma k k' [K,K], sum gamma v k' [V,K]

double decay_between(const Array* g, int64_t after, int64_t t) {   // prod_{s=after+1..t} exp(g_s)
  double sum = 0;
  if (g)
    for (int64_t s = after + 1; s <= t; ++s) sum += (*g)(s);
  return std::exp(sum);
}

// gamma_i = gate_i prod_{s=i+1..t} exp(g_s), summed pair by pair.
Moments moments(const Array& k, const Array& v, int64_t t, const Array* g, const Array* gate) {
  Moments m{zeros({k.size(1), k.size(1)}), zeros({v.size(1), k.size(1)})};
  for (int64_t i = 0; i <= t; ++i) {
    const double gamma = decay_between(g, i, t) * (gate ? (*gate)(i) : 1);
    add_outer(m.keys, gamma, line(k, i), line(k, i));
    add_outer(m.values, gamma, line(v, i), line(k, i));
  }
  return m;
}

using Answer = std::function<Vector(const Moments&, const Vector& query, int64_t t)>;
Array every_token(const Inputs& in, const Array* g, const Array* gate, const Answer& answer) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) set_line(y, t, answer(moments(k, v, t, g, gate), line(q, t), t));
  return y;
}

Vector regularised(const Moments& m, const Vector& query, const Vector& ridge) {
  Matrix system = m.keys;
  for (int64_t i = 0; i < system.size(0); ++i) system(i, i) += ridge[static_cast<size_t>(i)];
  return product(m.values, solve(system, query));
}
Vector regularised(const Moments& m, const Vector& query, double ridge) { return regularised(m, query, Vector(query.size(), ridge)); }

Array mesa(const Inputs& in) {   // S14
  const double ridge = slot(in, "ridge")(0);
  return every_token(in, nullptr, nullptr, [=](const Moments& m, const Vector& q, int64_t) { return regularised(m, q, ridge); });
}

Array mesa_net(const Inputs& in) {   // S15: constant ridge diag(ridge), no query scale
  const Array& ridge = slot(in, "ridge");
  return every_token(in, &slot(in, "log_decay"), &slot(in, "write_gate"),
                     [&](const Moments& m, const Vector& q, int64_t) { return regularised(m, q, ridge.data); });
}

// 30 conjugate gradient steps from zero, no epsilon in the denominators. A residual that reached zero exactly stays where it is.
Array mesa_net_cg(const Inputs& in) {
  const Array& ridge = slot(in, "ridge");
  return every_token(in, &slot(in, "log_decay"), &slot(in, "write_gate"), [&](const Moments& m, const Vector& q, int64_t) {
    Vector x(q.size(), 0.0), residual = q, direction = q;
    double squared = dot(residual, residual);
    for (int step = 0; step < 30; ++step) {
      const Vector image = product(m.keys, direction) + times(ridge.data, direction);
      const double curvature = dot(direction, image);
      if (squared == 0 || curvature == 0) break;
      x = x + (squared / curvature) * direction;
      residual = residual - (squared / curvature) * image;
      const double next = dot(residual, residual);
      direction = residual + (next / squared) * direction;
      squared = next;
    }
    return product(m.values, x);
  });
}

Array weighted_least_squares(const Inputs& in) {   // S16, the ridge is constant
  const double ridge = slot(in, "ridge")(0);
  return every_token(in, &slot(in, "log_decay"), nullptr,
                     [=](const Moments& m, const Vector& q, int64_t) { return regularised(m, q, ridge); });
}

Array decaying_least_squares(const Inputs& in) {   // S16, the ridge is ridge prod_{s=1..t} gamma_s (the first token's decay counts)
  const double ridge = slot(in, "ridge")(0);
  const Array& g = slot(in, "log_decay");
  return every_token(in, &g, nullptr, [&](const Moments& m, const Vector& q, int64_t t) {
    return regularised(m, q, ridge * decay_between(&g, -1, t));
  });
}

constexpr int64_t kRefresh = 4;

// F5b: the ridge is set anew before the first token of each run of four and decays inside it: ridge prod_{s=start..t} gamma_s.
Array refreshed_least_squares(const Inputs& in) {
  const double ridge = slot(in, "ridge")(0);
  const Array& g = slot(in, "log_decay");
  return every_token(in, &g, nullptr, [&](const Moments& m, const Vector& q, int64_t t) {
    return regularised(m, q, ridge * decay_between(&g, t / kRefresh * kRefresh - 1, t));
  });
}

// S17: three full-batch gradient steps from zero at every token, M <- M + step (sum v k' - M sum k k').
Array mesa_sgd_steps(const Inputs& in) {
  const double step = slot(in, "step_size")(0);
  return every_token(in, nullptr, nullptr, [=](const Moments& m, const Vector& q, int64_t) {
    Matrix memory = zeros(m.values.shape);
    for (int n = 0; n < 3; ++n) {
      const Matrix fitted = multiply(memory, m.keys);
      add_scaled(memory, step, m.values);
      add_scaled(memory, -step, fitted);
    }
    return product(memory, q);
  });
}

}  // namespace

std::vector<Row> least_squares_rows() {
  const auto ridge = draw_qkv([](Draw& d, Inputs& in, Sizes) { in["ridge"] = scalar(d.uniform(0.3, 1)); });
  const auto ridge_and_decay = draw_qkv([](Draw& d, Inputs& in, Sizes n) {
    in["ridge"] = scalar(d.uniform(0.3, 1));
    in["log_decay"] = d.log_decay({n.T});
  });
  const auto mesa_net_slots = draw_qkv([](Draw& d, Inputs& in, Sizes n) {
    in["ridge"] = d.uniform({n.K}, 0.3, 1.5);
    in["log_decay"] = d.log_decay({n.T});
    in["write_gate"] = d.uniform({n.T}, 0.2, 1);
  });
  return {
    {"mesa", ridge, mesa, "S14, arXiv 2309.05858", "scale=1 ridge=constant"},
    {"mesa_net", mesa_net_slots, mesa_net, "S15, arXiv 2506.05233", "scale=1 ridge=constant exact"},
    {"mesa_net_cg", mesa_net_slots, mesa_net_cg, "S15, arXiv 2506.05233", "scale=1 ridge=constant iterations=30 from zero"},
    {"weighted_least_squares", ridge_and_decay, weighted_least_squares, "S16, arXiv 2501.12352", "scale=1 ridge=constant"},
    {"decaying_least_squares", ridge_and_decay, decaying_least_squares, "S16, arXiv 2501.12352", "scale=1 ridge=decaying"},
    {"refreshed_least_squares", ridge_and_decay, refreshed_least_squares, "F5b", "scale=1 ridge=refreshed chunk=4"},
    {"mesa_sgd_steps", draw_qkv([](Draw& d, Inputs& in, Sizes) { in["step_size"] = scalar(d.uniform(0.03, 0.1)); }), mesa_sgd_steps, "S17",
     "scale=1 steps=3 from zero at every token"},
  };
}

}  // namespace reference
