// Group D: decayed batch steps, as token recurrences on M [V, K]: decay, write, read (inclusive unless the row says otherwise).
#include <complex>

#include "rows_reference_algebra.hpp"

namespace reference {
namespace {

Vector exponentials(const Array& g, int64_t t) { return each_entry(line(g, t), exponential); }

// M <- M diag(exp g_t) or exp(g_t) M, then M += v k'; y = scale M q.
Array decayed_memory(const Inputs& in, const Array& k, double scale) {
  const Array &q = slot(in, "q"), &v = slot(in, "v"), &g = slot(in, "log_decay");
  Matrix memory = zeros({v.size(1), k.size(1)});
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    if (g.shape.size() == 1) rescale(memory, std::exp(g(t)));
    else scale_columns(memory, exponentials(g, t));
    add_outer(memory, 1, line(v, t), line(k, t));
    set_line(y, t, scale * product(memory, line(q, t)));
  }
  return y;
}

double attention_scale(const Inputs& in) { return 1 / std::sqrt(static_cast<double>(slot(in, "q").size(1))); }

Array scaled_memory(const Inputs& in) { return decayed_memory(in, slot(in, "k"), attention_scale(in)); }   // gla, simple_gla
Array retnet(const Inputs& in) {   // S19: one decay of the head, at every token
  Inputs each = in;
  each["log_decay"] = zeros({slot(in, "v").size(0)});
  for (double& g : each["log_decay"].data) g = slot(in, "log_decay")(0);
  return scaled_memory(each);
}
Array mamba2(const Inputs& in) { return decayed_memory(in, slot(in, "k"), 1); }                            // S25, v = Delta u already

Array hgrn2(const Inputs& in) {   // S21: k = 1 - f, f = exp(log_decay)
  Array k = slot(in, "log_decay");
  for (double& value : k.data) value = 1 - std::exp(value);
  return decayed_memory(in, k, attention_scale(in));
}

Array hgrn(const Inputs& in) {   // S21: h = f h + (1 - f) v elementwise, y = h
  const Array &v = slot(in, "v"), &g = slot(in, "log_decay");
  Vector h(static_cast<size_t>(v.size(1)), 0.0);
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    const Vector f = exponentials(g, t);
    h = times(f, h) + line(v, t) - times(f, line(v, t));
    set_line(y, t, h);
  }
  return y;
}

using Complex = std::complex<double>;

// S22: n = K/2 complex channels, k = (real; imaginary) stacked, q likewise. M <- M diag(exp(log_decay + i phase)) + v k^T (k not
// conjugated), y = Re(M conj(q)).
Array gateloop(const Inputs& in) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &g = slot(in, "log_decay"), &phase = slot(in, "phase");
  const int64_t n = k.size(1) / 2, V = v.size(1);
  std::vector<Complex> memory(static_cast<size_t>(V * n));
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t)
    for (int64_t i = 0; i < V; ++i)
      for (int64_t c = 0; c < n; ++c) {
        Complex& m = memory[static_cast<size_t>(i * n + c)];
        m = m * std::polar(std::exp(g(t, c)), phase(t, c)) + v(t, i) * Complex(k(t, c), k(t, n + c));
        y(t, i) += (m * std::conj(Complex(q(t, c), q(t, n + c)))).real();
      }
  return y;
}

// S23: h = exp(log_decay + i phase) h + v with v = (real; imaginary) stacked; y = (Re h; Im h). The input's gamma B u and the output's
// Re(C h) + D u are projections outside the row.
Array lru(const Inputs& in) {
  const Array &v = slot(in, "v"), &g = slot(in, "log_decay"), &phase = slot(in, "phase");
  const int64_t n = v.size(1) / 2;
  std::vector<Complex> h(static_cast<size_t>(n));
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t)
    for (int64_t c = 0; c < n; ++c) {
      Complex& state = h[static_cast<size_t>(c)];
      state = state * std::polar(std::exp(g(c)), phase(c)) + Complex(v(t, c), v(t, n + c));
      y(t, c) = state.real();
      y(t, n + c) = state.imag();
    }
  return y;
}

Array mamba(const Inputs& in) {   // S24: one decay an entry, exp(-delta rate), delta [T,V], rate [V,K] = -A; v = u
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &delta = slot(in, "delta"), &rate = slot(in, "rate");
  Matrix memory = zeros({v.size(1), k.size(1)});
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t)
    for (int64_t i = 0; i < v.size(1); ++i)
      for (int64_t j = 0; j < k.size(1); ++j) {
        memory(i, j) = std::exp(-delta(t, i) * rate(i, j)) * memory(i, j) + delta(t, i) * v(t, i) * k(t, j);
        y(t, i) += memory(i, j) * q(t, j);
      }
  return y;
}

Array rwkv6(const Inputs& in) {   // S26: y = (M + v (bonus k)') q, then M <- M diag(exp g) + v k'
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &g = slot(in, "log_decay"), &bonus = slot(in, "bonus");
  Matrix memory = zeros({v.size(1), k.size(1)});
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    set_line(y, t, product(memory, line(q, t)) + dot(times(bonus.data, line(k, t)), line(q, t)) * line(v, t));
    scale_columns(memory, exponentials(g, t));
    add_outer(memory, 1, line(v, t), line(k, t));
  }
  return y;
}

// S27, stabilised, m_0 = 0: m = max(log f + m, i~), denominators max(|n.q|, exp(-m)) + 1e-6, q divided by sqrt K.
Array mlstm(const Inputs& in) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &g = slot(in, "log_decay"), &input = slot(in, "log_write_gate");
  Matrix memory = zeros({v.size(1), k.size(1)});
  Vector norm(static_cast<size_t>(k.size(1)), 0.0);
  double top = 0;
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    const double next = std::max(g(t) + top, input(t)), forget = std::exp(g(t) + top - next), write = std::exp(input(t) - next);
    top = next;
    rescale(memory, forget);
    add_outer(memory, write, line(v, t), line(k, t));
    norm = forget * norm + write * line(k, t);
    const Vector query = attention_scale(in) * line(q, t);
    set_line(y, t, (1 / (std::max(std::abs(dot(norm, query)), std::exp(-top)) + 1e-6)) * product(memory, query));
  }
  return y;
}

Array mlstm_sigmoid(const Inputs& in) {   // S27 with a write gate in (0, 1) and no normaliser
  const Array &k = slot(in, "k"), &gate = slot(in, "write_gate");
  Array written = k;
  for (int64_t t = 0; t < k.size(0); ++t) set_line(written, t, gate(t) * line(k, t));
  return decayed_memory(in, written, attention_scale(in));
}

// S28 without rotation: M <- alpha M + (1 - lambda) Delta alpha v_{t-1} k_{t-1}' + lambda Delta v k', alpha = exp(log_decay), nothing
// before the first token, no query scale. As in mamba and unlike in mamba2, v is u: Delta enters through its own slot.
Array mamba3(const Inputs& in) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &g = slot(in, "log_decay");
  const Array &delta = slot(in, "delta"), &lambda = slot(in, "trapezoid");
  Matrix memory = zeros({v.size(1), k.size(1)});
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    const double alpha = std::exp(g(t));
    rescale(memory, alpha);
    if (t > 0) add_outer(memory, (1 - lambda(t)) * delta(t) * alpha, line(v, t - 1), line(k, t - 1));
    add_outer(memory, lambda(t) * delta(t), line(v, t), line(k, t));
    set_line(y, t, product(memory, line(q, t)));
  }
  return y;
}

// S29: the level of token i seen from t (both from 0): 0 when i = t, else the l whose bucket [(t>>l)<<l, (t>>(l-1))<<(l-1)) holds i.
int64_t level(int64_t t, int64_t i) {
  if (i == t) return 0;
  for (int64_t l = 1; l < 63; ++l)
    if ((t >> (l - 1) & 1) && i >= (t >> l) << l && i < (t >> (l - 1)) << (l - 1)) return l;
  throw std::logic_error("[rows_reference] token is in no bucket");
}

Array log_linear_attention(const Inputs& in) {   // level_scale [T, L], L = 1 + bits of the last position
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &g = slot(in, "log_decay"), &scale = slot(in, "level_scale");
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t)
    for (int64_t i = 0; i <= t; ++i) {
      double sum = 0;
      for (int64_t s = i + 1; s <= t; ++s) sum += g(s);
      const double weight = scale(t, level(t, i)) * std::exp(sum) * dot(line(q, t), line(k, i));
      for (int64_t j = 0; j < v.size(1); ++j) y(t, j) += weight * v(i, j);
    }
  return y;
}

}  // namespace

std::vector<Row> gated_rows() {
  const auto per_token = [](Draw& d, Inputs& in, Sizes n) { in["log_decay"] = d.log_decay({n.T}); };
  const auto per_channel = [](Draw& d, Inputs& in, Sizes n) { in["log_decay"] = d.log_decay({n.T, n.K}); };
  return {
    {"retnet", draw_qkv([](Draw& d, Inputs& in, Sizes) { in["log_decay"] = scalar(std::log(d.uniform(0.8, 0.97))); }), retnet,
      "S19, arXiv 2307.08621", "scale=1/sqrt(K)"},
    {"gla", draw_qkv(per_channel), scaled_memory, "S20, arXiv 2312.06635", "scale=1/sqrt(K)"},
    {"simple_gla", draw_qkv(per_token), scaled_memory, "S20, arXiv 2312.06635", "scale=1/sqrt(K)"},
    {"hgrn2", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       per_channel(d, in, n);
       in.erase("k");
     }), hgrn2, "S21, arXiv 2404.07904", "scale=1/sqrt(K)"},
    {"hgrn", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["log_decay"] = d.log_decay({n.T, n.V});
       in.erase("q");
       in.erase("k");
     }), hgrn, "S21, arXiv 2311.04823", ""},
    {"gateloop", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       const int64_t channels = (n.K + 1) / 2;
       in["q"] = d.normal({n.T, 2 * channels});
       in["k"] = d.normal({n.T, 2 * channels}, 0.7);
       in["log_decay"] = d.log_decay({n.T, channels});
       in["phase"] = d.uniform({n.T, channels}, -2, 2);
     }), gateloop, "S22, arXiv 2311.01927", "scale=1"},
    {"lru", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       const int64_t channels = (n.V + 1) / 2;
       in["v"] = d.normal({n.T, 2 * channels});
       in["log_decay"] = d.log_decay({channels});
       in["phase"] = d.uniform({channels}, -2, 2);
       in.erase("q");
       in.erase("k");
     }), lru, "S23, arXiv 2303.06349", ""},
    {"mamba", draw_qkv([](Draw& d, Inputs& in, Sizes n) {
       in["delta"] = d.uniform({n.T, n.V}, 0.05, 1);
       in["rate"] = d.uniform({n.V, n.K}, 0.1, 2);
     }), mamba, "S24, arXiv 2312.00752", "scale=1"},
    {"mamba2", draw_qkv(per_token), mamba2, "S25, arXiv 2405.21060", "scale=1"},
    {"rwkv6", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       per_channel(d, in, n);
       in["bonus"] = d.uniform({n.K}, 0.2, 1.5);
     }), rwkv6, "S26, arXiv 2404.05892", "scale=1 read=strict plus the bonus"},
    {"mlstm", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       per_token(d, in, n);
       in["log_write_gate"] = d.normal({n.T});
     }), mlstm, "S27, arXiv 2405.04517", "scale=1/sqrt(K) normaliser=max1 eps=1e-6"},
    {"mlstm_sigmoid", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       per_token(d, in, n);
       in["write_gate"] = d.uniform({n.T}, 0.2, 1);
     }), mlstm_sigmoid, "S27, arXiv 2503.14376", "scale=1/sqrt(K) normaliser=none"},
    {"mamba3", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       per_token(d, in, n);
       in["delta"] = d.uniform({n.T}, 0.2, 1);
       in["trapezoid"] = d.uniform({n.T}, 0.2, 0.9);
     }), mamba3, "S28", "scale=1 no rotation"},
    {"log_linear_attention", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       per_token(d, in, n);
       int64_t levels = 1;
       while (((n.T - 1) >> (levels - 1)) > 0) ++levels;
       in["level_scale"] = d.uniform({n.T, levels}, 0.2, 1.5);
     }), log_linear_attention, "S29, arXiv 2506.04761", "scale=1"},
  };
}

}  // namespace reference
