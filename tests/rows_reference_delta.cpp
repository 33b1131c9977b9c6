// Group E: online learners, as token recurrences on M [V, K]. Every read is inclusive, y_t = M_t q_t, and unscaled.
#include "rows_reference_algebra.hpp"

namespace reference {
namespace {

using Step = std::function<void(Matrix& memory, int64_t t)>;

Array walk(const Inputs& in, const Step& step) {
  const Array& q = slot(in, "q");
  const int64_t T = q.size(0), V = slot(in, "v").size(1);
  Matrix memory = zeros({V, q.size(1)});
  Array y = zeros({T, V});
  for (int64_t t = 0; t < T; ++t) {
    step(memory, t);
    set_line(y, t, product(memory, line(q, t)));
  }
  return y;
}

void decay(Matrix& memory, const Array& g, int64_t t) {   // one decay, or one a key channel
  if (g.shape.size() == 1) rescale(memory, std::exp(g(t)));
  else scale_columns(memory, each_entry(line(g, t), exponential));
}

// M <- M + step (v - M erase) write'
void correct(Matrix& memory, double step, const Vector& value, const Vector& erase, const Vector& write) {
  add_outer(memory, step, value - product(memory, erase), write);
}

Array delta_net(const Inputs& in) {   // S30
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &step = slot(in, "step_size");
  return walk(in, [&](Matrix& m, int64_t t) { correct(m, step(t), line(v, t), line(k, t), line(k, t)); });
}

Array gated_delta_net(const Inputs& in) {   // S33, and S35 with a decay a channel: the erase sees the decayed memory
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &step = slot(in, "step_size"), &g = slot(in, "log_decay");
  return walk(in, [&](Matrix& m, int64_t t) {
    decay(m, g, t);
    correct(m, step(t), line(v, t), line(k, t), line(k, t));
  });
}

Array gdn2(const Inputs& in) {   // S36: M + (value_gate v - M (erase_gate k)) k' after the decay
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &g = slot(in, "log_decay");
  const Array &erase = slot(in, "erase_gate"), &value = slot(in, "value_gate");
  return walk(in, [&](Matrix& m, int64_t t) {
    decay(m, g, t);
    correct(m, 1, times(line(value, t), line(v, t)), times(line(erase, t), line(k, t)), line(k, t));
  });
}

Array comba(const Inputs& in) {   // S37: alpha M + step (v - M erase_key) k' with M before the decay; q is the corrected query already
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &step = slot(in, "step_size"), &g = slot(in, "log_decay"), &p = slot(in, "erase_key");
  return walk(in, [&](Matrix& m, int64_t t) {
    const Vector residual = line(v, t) - product(m, line(p, t));
    decay(m, g, t);
    add_outer(m, step(t), residual, line(k, t));
  });
}

Array rwkv7(const Inputs& in) {   // S38: M (diag(w) + alpha beta') + v k', alpha = erase_key (its sign included), beta = erase_write
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &g = slot(in, "log_decay"), &a = slot(in, "erase_key"), &b = slot(in, "erase_write");
  return walk(in, [&](Matrix& m, int64_t t) {
    const Vector erased = product(m, line(a, t));
    decay(m, g, t);
    add_outer(m, 1, erased, line(b, t));
    add_outer(m, 1, line(v, t), line(k, t));
  });
}

// S34: the writes of a token one after the other (as many as k has per q), the decay once, before the first.
Array product_rows(const Inputs& in, const Array* g) {
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &step = slot(in, "step_size");
  const int64_t writes = k.size(0) / slot(in, "q").size(0);
  return walk(in, [&](Matrix& m, int64_t t) {
    if (g) decay(m, *g, t);
    for (int64_t n = t * writes; n < (t + 1) * writes; ++n) correct(m, step(n), line(v, n), line(k, n), line(k, n));
  });
}
Array delta_product(const Inputs& in) { return product_rows(in, nullptr); }
Array gated_delta_product(const Inputs& in) { return product_rows(in, &slot(in, "log_decay")); }

// S31: the minimiser of 1/2 |M - M'|^2 + delta/2 |v - M k|^2, delta = step_size, solved as it stands: M (I + delta k k') = M' + delta v k'.
Array longhorn(const Inputs& in) {
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &delta = slot(in, "step_size");
  return walk(in, [&](Matrix& m, int64_t t) {
    Matrix system = identity(k.size(1));
    add_outer(system, delta(t), line(k, t), line(k, t));
    add_outer(m, delta(t), line(v, t), line(k, t));
    m = transpose(solve(system, transpose(m)));   // the system is symmetric
  });
}

// S31, the official code: kk' replaced by diag(k k), one delta a value channel (step_size [T, V] is delta, as in longhorn; the code's
// step is delta / (1 + delta |k|^2)).
Array longhorn_diagonal(const Inputs& in) {
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &delta = slot(in, "step_size");
  return walk(in, [&](Matrix& m, int64_t t) {
    const double squared = dot(line(k, t), line(k, t));
    for (int64_t i = 0; i < m.size(0); ++i) {
      const double step = delta(t, i) / (1 + delta(t, i) * squared);
      for (int64_t j = 0; j < m.size(1); ++j) m(i, j) = (1 - step * k(t, j) * k(t, j)) * m(i, j) + step * v(t, i) * k(t, j);
    }
  });
}

Array l2_sgd(const Inputs& in) {   // S32: M - step [(M k - v) k' + weight_decay M], both at the same M
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &step = slot(in, "step_size"), &weight_decay = slot(in, "weight_decay");
  return walk(in, [&](Matrix& m, int64_t t) {
    const Matrix before = m;
    add_scaled(m, -step(t) * weight_decay(t), before);
    add_outer(m, step(t), line(v, t) - product(before, line(k, t)), line(k, t));
  });
}

// S39: A = exp(curvature_log_decay) A + curvature_step k k (A_0 = 0), l = log(A + 1e-6) - curvature_scale, P = 1.5^(-l / (1 + |l|));
// erase with k from the decayed memory, write step (P k).
Array preconditioned_delta(const Inputs& in) {
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &step = slot(in, "step_size"), &g = slot(in, "log_decay");
  const Array &curvature_g = slot(in, "curvature_log_decay"), &curvature_step = slot(in, "curvature_step");
  const double center = slot(in, "curvature_scale")(0);
  Vector curvature(static_cast<size_t>(k.size(1)), 0.0);
  return walk(in, [&](Matrix& m, int64_t t) {
    curvature = std::exp(curvature_g(t)) * curvature + curvature_step(t) * times(line(k, t), line(k, t));
    Vector write = line(k, t);
    for (size_t j = 0; j < write.size(); ++j) {
      const double l = std::log(curvature[j] + 1e-6) - center;
      write[j] *= std::pow(1.5, -l / (1 + std::abs(l)));
    }
    decay(m, g, t);
    correct(m, step(t), line(v, t), line(k, t), write);
  });
}

Array oja(const Inputs& in) {   // S40: M <- diag(exp g) M, then M + step v (k - M'v)'
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &step = slot(in, "step_size"), &g = slot(in, "log_decay");
  return walk(in, [&](Matrix& m, int64_t t) {
    scale_rows(m, each_entry(line(g, t), exponential));
    add_outer(m, step(t), line(v, t), line(k, t) - transposed_product(m, line(v, t)));
  });
}

Array momentum_delta(const Inputs& in) {   // S41: S = momentum S - step (M k - v) k' with M before the decay, M <- alpha M + S
  const Array &k = slot(in, "k"), &v = slot(in, "v");
  const Array &step = slot(in, "step_size"), &g = slot(in, "log_decay"), &eta = slot(in, "momentum");
  Matrix speed = zeros({v.size(1), k.size(1)});
  return walk(in, [&](Matrix& m, int64_t t) {
    rescale(speed, eta(t));
    add_outer(speed, step(t), line(v, t) - product(m, line(k, t)), line(k, t));
    decay(m, g, t);
    add_scaled(m, 1, speed);
  });
}

}  // namespace

std::vector<Row> delta_rows() {
  const auto steps = [](Draw& d, Inputs& in, Sizes n) { in["step_size"] = d.uniform({n.T}, 0.1, 0.9); };
  const auto gated = [=](Draw& d, Inputs& in, Sizes n) {
    steps(d, in, n);
    in["log_decay"] = d.log_decay({n.T});
  };
  const auto channel_gated = [=](Draw& d, Inputs& in, Sizes n) {
    steps(d, in, n);
    in["log_decay"] = d.log_decay({n.T, n.K});
  };
  const auto two_writes = [](Draw& d, Inputs& in, Sizes n) {
    in["k"] = d.normal({2 * n.T, n.K}, 0.6);
    in["v"] = d.normal({2 * n.T, n.V});
    in["step_size"] = d.uniform({2 * n.T}, 0.1, 1.2);
  };
  const auto curvature = [](Draw& d, Inputs& in, Sizes n) {
    in["curvature_log_decay"] = d.log_decay({n.T});
    in["curvature_step"] = d.uniform({n.T}, 0.2, 1);
    in["curvature_scale"] = scalar(d.uniform(-0.4, 0));
  };
  const std::string unscaled = "scale=1";
  return {
    {"delta_net", draw_qkv(steps), delta_net, "S30, arXiv 2406.06484", unscaled},
    {"delta_net_negative", draw_qkv([](Draw& d, Inputs& in, Sizes n) {   // short keys, so that steps up to 2 stay contractions
       in["step_size"] = d.uniform({n.T}, 0.2, 2);
       in["k"] = d.normal({n.T, n.K}, 0.4);
     }), delta_net, "S30, arXiv 2411.12537", unscaled},
    {"gated_delta_net", draw_qkv(gated), gated_delta_net, "S33, arXiv 2412.06464", unscaled},
    {"kda", draw_qkv(channel_gated), gated_delta_net, "S35, arXiv 2510.26692", unscaled},
    {"gdn2", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["log_decay"] = d.log_decay({n.T, n.K});
       in["erase_gate"] = d.uniform({n.T, n.K}, 0.1, 0.9);
       in["value_gate"] = d.uniform({n.T, n.V}, 0.1, 0.9);
     }), gdn2, "S36", unscaled},
    {"comba", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       gated(d, in, n);
       in["erase_key"] = d.normal({n.T, n.K}, 0.5);
     }), comba, "S37, arXiv 2506.02475", unscaled},
    {"rwkv7", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["log_decay"] = d.log_decay({n.T, n.K});
       in["erase_key"] = d.normal({n.T, n.K}, 0.5);
       in["erase_write"] = d.normal({n.T, n.K}, 0.5);
     }), rwkv7, "S38, arXiv 2503.14456", unscaled},
    {"delta_product", draw_qkv(two_writes), delta_product, "S34, arXiv 2502.10297", "scale=1 writes=2"},
    {"gated_delta_product", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       two_writes(d, in, n);
       in["log_decay"] = d.log_decay({n.T});
     }), gated_delta_product, "S34, arXiv 2502.10297", "scale=1 writes=2"},
    {"longhorn", draw_qkv([](Draw& d, Inputs& in, Sizes n) { in["step_size"] = d.uniform({n.T}, 0.2, 3); }), longhorn,
     "S31, arXiv 2407.14207", unscaled},
    {"longhorn_diagonal", draw_qkv([](Draw& d, Inputs& in, Sizes n) { in["step_size"] = d.uniform({n.T, n.V}, 0.2, 3); }),
     longhorn_diagonal, "S31, arXiv 2407.14207", unscaled},
    {"l2_sgd", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       steps(d, in, n);
       in["weight_decay"] = d.uniform({n.T}, 0.05, 0.5);
     }), l2_sgd, "S32, arXiv 2501.12352", unscaled},
    {"preconditioned_delta", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       gated(d, in, n);
       curvature(d, in, n);
     }), preconditioned_delta, "S39, arXiv 2604.21100", "scale=1 x=1.5 eps=1e-6"},
    {"preconditioned_kda", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       channel_gated(d, in, n);
       curvature(d, in, n);
     }), preconditioned_delta, "S39, arXiv 2604.21100", "scale=1 x=1.5 eps=1e-6"},
    {"oja", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       steps(d, in, n);
       in["v"] = d.normal({n.T, n.V}, 0.7);
       in["log_decay"] = d.log_decay({n.T, n.V});
     }), oja, "S40", unscaled},
    {"momentum_delta", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       gated(d, in, n);
       in["momentum"] = d.uniform({n.T}, 0.2, 0.8);
     }), momentum_delta, "S41, arXiv 2501.00663", unscaled},
  };
}

}  // namespace reference
