// Group F: minibatch learners of nonlinear memories and learners over a window. Gradients are written out by hand. `at chunk` means that
// the gradients of four tokens in a row are taken at the weights that stood before the first of them.
#include "rows_reference_algebra.hpp"

namespace reference {
namespace {

constexpr int64_t kChunk = 4;

// ---------------------------------------------------------------------------------------------------------------------------- TTT
// S42, S43, the official layer: m(k) = k + LN(net(k)) is shown v, so LN(net(k)) is shown v - k; the layer norm's variance is biased and
// its epsilon is 1e-6. Within a chunk, token i reads weights moved by -row_scale_i sum_{j<=i} step_size_j gradient_j; the next chunk
// starts from the last token's weights. The read keeps the residual: y = q + LN(net(q)).

constexpr double kNormEps = 1e-6;

Vector layer_norm(const Vector& z, const Array& weight, const Array& bias) {
  return times(weight.data, standardize(z, kNormEps)) + bias.data;
}

// d/dz of 1/2 |LN(z) - target|^2, from the Jacobian of the standardisation written out entry by entry.
Vector layer_norm_gradient(const Vector& z, const Vector& target, const Array& weight, const Array& bias) {
  const Vector standard = standardize(z, kNormEps), error = layer_norm(z, weight, bias) - target;
  const double n = static_cast<double>(z.size());
  double mean = 0, variance = 0;
  for (double value : z) mean += value / n;
  for (double value : z) variance += (value - mean) * (value - mean) / n;
  const double deviation = std::sqrt(variance + kNormEps);
  Vector gradient(z.size(), 0.0);
  for (size_t out = 0; out < z.size(); ++out)
    for (size_t into = 0; into < z.size(); ++into) {
      const double slope = ((out == into ? 1 : 0) - 1 / n - standard[out] * standard[into] / n) / deviation;
      gradient[into] += error[out] * weight.data[out] * slope;
    }
  return gradient;
}

Array ttt_linear(const Inputs& in) {   // S42: net(k) = W k + b
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &step = slot(in, "step_size"), &row_scale = slot(in, "row_scale");
  const Array &weight = slot(in, "norm_weight"), &bias = slot(in, "norm_bias");
  Matrix w = slot(in, "initial_weight"), sum_w = zeros(w.shape), w0 = w;
  Vector b = slot(in, "initial_bias").data, sum_b(b.size(), 0.0), b0 = b;
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    if (t % kChunk == 0) {
      w0 = w, b0 = b;
      sum_w = zeros(w.shape), sum_b = Vector(b.size(), 0.0);
    }
    const Vector gradient = layer_norm_gradient(product(w0, line(k, t)) + b0, line(v, t) - line(k, t), weight, bias);
    add_outer(sum_w, step(t), gradient, line(k, t));
    sum_b = sum_b + step(t) * gradient;
    w = w0, b = b0 - row_scale(t) * sum_b;
    add_scaled(w, -row_scale(t), sum_w);
    set_line(y, t, line(q, t) + layer_norm(product(w, line(q, t)) + b, weight, bias));
  }
  return y;
}

Array ttt_mlp(const Inputs& in) {   // S43: net(k) = W_2 gelu(W_1 k + b_1) + b_2, the tanh gelu
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &step = slot(in, "step_size"), &row_scale = slot(in, "row_scale");
  const Array &weight = slot(in, "norm_weight"), &bias = slot(in, "norm_bias");
  struct Net { Matrix w1; Vector b1; Matrix w2; Vector b2; };
  Net now{slot(in, "initial_weight_1"), slot(in, "initial_bias_1").data, slot(in, "initial_weight_2"), slot(in, "initial_bias_2").data};
  const Net nothing{zeros(now.w1.shape), Vector(now.b1.size(), 0.0), zeros(now.w2.shape), Vector(now.b2.size(), 0.0)};
  Net start = now, sum = nothing;
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    if (t % kChunk == 0) start = now, sum = nothing;
    const Vector z1 = product(start.w1, line(k, t)) + start.b1, hidden = each_entry(z1, gelu);
    const Vector d2 = layer_norm_gradient(product(start.w2, hidden) + start.b2, line(v, t) - line(k, t), weight, bias);
    const Vector d1 = times(transposed_product(start.w2, d2), each_entry(z1, gelu_slope));
    add_outer(sum.w1, step(t), d1, line(k, t));
    add_outer(sum.w2, step(t), d2, hidden);
    sum.b1 = sum.b1 + step(t) * d1;
    sum.b2 = sum.b2 + step(t) * d2;
    now = start;
    add_scaled(now.w1, -row_scale(t), sum.w1);
    add_scaled(now.w2, -row_scale(t), sum.w2);
    now.b1 = start.b1 - row_scale(t) * sum.b1;
    now.b2 = start.b2 - row_scale(t) * sum.b2;
    const Vector net = product(now.w2, each_entry(product(now.w1, line(q, t)) + now.b1, gelu)) + now.b2;
    set_line(y, t, line(q, t) + layer_norm(net, weight, bias));
  }
  return y;
}

// ------------------------------------------------------------------------------------------------------------------------- Titans
// S44 with m(k) = W_2 gelu(W_1 k), the tanh gelu, loss 1/2 |m(k) - v|^2.

struct Layers { Matrix first, second; };

Layers titans_gradient(const Layers& at, const Vector& key, const Vector& value) {
  const Vector z = product(at.first, key), hidden = each_entry(z, gelu), error = product(at.second, hidden) - value;
  Layers gradient{zeros(at.first.shape), zeros(at.second.shape)};
  add_outer(gradient.second, 1, error, hidden);
  add_outer(gradient.first, 1, times(transposed_product(at.second, error), each_entry(z, gelu_slope)), key);
  return gradient;
}
Vector titans_read(const Layers& at, const Vector& query) { return product(at.second, each_entry(product(at.first, query), gelu)); }

// S = momentum S - step gradient(at the chunk's start), W = exp(log_decay) W + S, both token by token; the decay shrinks the initial
// weights too (towards zero). Strict: every token of a chunk reads the weights that stood before the chunk.
Array titans_with(const Inputs& in, bool strict) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  const Array &g = slot(in, "log_decay"), &eta = slot(in, "momentum"), &step = slot(in, "step_size");
  Layers now{slot(in, "initial_weight_1"), slot(in, "initial_weight_2")}, start = now;
  Layers speed{zeros(now.first.shape), zeros(now.second.shape)};
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    if (t % kChunk == 0) start = now;
    const Layers gradient = titans_gradient(start, line(k, t), line(v, t));
    for (auto part : {&Layers::first, &Layers::second}) {
      rescale(speed.*part, eta(t));
      add_scaled(speed.*part, -step(t), gradient.*part);
      rescale(now.*part, std::exp(g(t)));
      add_scaled(now.*part, 1, speed.*part);
    }
    set_line(y, t, titans_read(strict ? start : now, line(q, t)));
  }
  return y;
}
Array titans(const Inputs& in) { return titans_with(in, false); }
Array titans_strict(const Inputs& in) { return titans_with(in, true); }

// As the community code runs one call: every gradient of the whole sequence is taken at the initial weights, of mean_d (m(k) - v)^2
// (so 2/V times ours); momentum and 1 - decay are averaged over each chunk and applied once a chunk to the summed gradients; token t
// (from 0) reads the weights after floor((t + 1) / chunk) chunks, so the last token of a chunk already reads its own chunk.
Array titans_lucidrains(const Inputs& in) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v");
  const Array &g = slot(in, "log_decay"), &eta = slot(in, "momentum"), &step = slot(in, "step_size");
  const Layers initial{slot(in, "initial_weight_1"), slot(in, "initial_weight_2")};
  Layers now = initial, speed{zeros(initial.first.shape), zeros(initial.second.shape)};
  Array y = zeros(v.shape);
  for (int64_t t = 0; t < v.size(0); ++t) {
    if ((t + 1) % kChunk == 0) {
      double momentum = 0, keep = 0;
      Layers total{zeros(initial.first.shape), zeros(initial.second.shape)};
      for (int64_t s = t + 1 - kChunk; s <= t; ++s) {
        momentum += eta(s) / kChunk;
        keep += std::exp(g(s)) / kChunk;
        const Layers gradient = titans_gradient(initial, line(k, s), line(v, s));
        for (auto part : {&Layers::first, &Layers::second})
          add_scaled(total.*part, 2 * step(s) / static_cast<double>(v.size(1)), gradient.*part);
      }
      for (auto part : {&Layers::first, &Layers::second}) {
        rescale(speed.*part, momentum);
        add_scaled(speed.*part, -1, total.*part);
        rescale(now.*part, keep);
        add_scaled(now.*part, 1, speed.*part);
      }
    }
    set_line(y, t, titans_read(now, line(q, t)));
  }
  return y;
}

// --------------------------------------------------------------------------------------------------------------------------- LaCT
// S45: f(x) = W_1 (silu(W_0 x) (W_2 x)), loss -<f(k), v>; each chunk is read with the weights before it, then updates them once:
// D = sum_j step_j (descent direction)_j + mean(momentum over the chunk) D_before, W <- rows of (W + D, or W + NS(D)) divided by
// (their norm + 1e-5), times the norms of the initial rows. q, k, v enter as they are.

const std::vector<NewtonSchulz> kLactSchedule{{4.0848, -6.8946, 2.9270}, {3.9505, -6.3029, 2.6377}, {3.7418, -5.5913, 2.3037},
                                              {2.8769, -3.1427, 1.2046}, {2.8366, -3.0525, 1.2012}};

Array lact_with(const Inputs& in, bool muon) {
  const Array &q = slot(in, "q"), &k = slot(in, "k"), &v = slot(in, "v"), &eta = slot(in, "momentum");
  const Matrix initial[3] = {slot(in, "initial_weight_0"), slot(in, "initial_weight_1"), slot(in, "initial_weight_2")};
  const Array steps[3] = {slot(in, "step_size_0"), slot(in, "step_size_1"), slot(in, "step_size_2")};
  Matrix w[3] = {initial[0], initial[1], initial[2]};
  Matrix before[3] = {zeros(w[0].shape), zeros(w[1].shape), zeros(w[2].shape)};
  Array y = zeros(v.shape);
  const int64_t T = v.size(0);
  for (int64_t start = 0; start < T; start += kChunk) {
    const int64_t end = std::min(start + kChunk, T);
    Matrix move[3] = {zeros(w[0].shape), zeros(w[1].shape), zeros(w[2].shape)};
    double momentum = 0;
    for (int64_t t = start; t < end; ++t) {
      const Vector query = line(q, t), key = line(k, t), value = line(v, t);
      set_line(y, t, product(w[1], times(each_entry(product(w[0], query), silu), product(w[2], query))));
      const Vector gate = product(w[0], key), up = product(w[2], key), back = transposed_product(w[1], value);
      add_outer(move[0], steps[0](t), times(times(back, up), each_entry(gate, silu_slope)), key);
      add_outer(move[1], steps[1](t), value, times(each_entry(gate, silu), up));
      add_outer(move[2], steps[2](t), times(back, each_entry(gate, silu)), key);
      momentum += eta(t) / static_cast<double>(end - start);
    }
    for (int n = 0; n < 3; ++n) {
      add_scaled(move[n], momentum, before[n]);
      before[n] = move[n];
      add_scaled(w[n], 1, muon ? orthogonalize(move[n], kLactSchedule) : move[n]);
      for (int64_t i = 0; i < w[n].size(0); ++i) {
        const Vector old_row = line(initial[n], i), new_row = line(w[n], i);
        set_line(w[n], i, (std::sqrt(dot(old_row, old_row)) / (std::sqrt(dot(new_row, new_row)) + 1e-5)) * new_row);
      }
    }
  }
  return y;
}
Array lact(const Inputs& in) { return lact_with(in, false); }
Array lact_muon(const Inputs& in) { return lact_with(in, true); }

// ------------------------------------------------------------------------------------------------------------------------- window
// S46 with a linear memory from zero and a window of three tokens: G_t = sum_{i=max(1,t-2)..t} window_weight_i (M k_i - v_i) k_i' at
// M_{t-1} (loss 1/2 |.|^2), window_weight_i belonging to token i.

Matrix window_gradient(const Inputs& in, const Matrix& memory, int64_t t) {
  const Array &k = slot(in, "k"), &v = slot(in, "v"), &gamma = slot(in, "window_weight");
  Matrix gradient = zeros(memory.shape);
  for (int64_t i = std::max<int64_t>(0, t - 2); i <= t; ++i)
    add_outer(gradient, gamma(i), product(memory, line(k, i)) - line(v, i), line(k, i));
  return gradient;
}

const std::vector<NewtonSchulz> kKeller(5, {3.4445, -4.7750, 2.0315});

// omega_net: S = momentum S - step G, M <- alpha M + S. atlas: S = momentum S + G, M <- alpha M - step NS(S).
Array window_learner(const Inputs& in, bool muon) {
  const Array &q = slot(in, "q"), &g = slot(in, "log_decay"), &eta = slot(in, "momentum"), &step = slot(in, "step_size");
  Matrix memory = zeros({slot(in, "v").size(1), slot(in, "k").size(1)}), speed = memory;
  Array y = zeros({q.size(0), memory.size(0)});
  for (int64_t t = 0; t < q.size(0); ++t) {
    const Matrix gradient = window_gradient(in, memory, t);
    rescale(speed, eta(t));
    add_scaled(speed, muon ? 1 : -step(t), gradient);
    rescale(memory, std::exp(g(t)));
    add_scaled(memory, muon ? -step(t) : 1, muon ? orthogonalize(speed, kKeller) : speed);
    set_line(y, t, product(memory, line(q, t)));
  }
  return y;
}
Array omega_net(const Inputs& in) { return window_learner(in, false); }
Array atlas(const Inputs& in) { return window_learner(in, true); }

}  // namespace

std::vector<Row> nonlinear_rows() {
  // the residual k + LN(.) ties the sizes: every slot takes V = K
  const auto ttt = [](Draw& d, Inputs& in, Sizes n) {
    in["v"] = d.normal({n.T, n.K});
    in["norm_weight"] = d.uniform({n.K}, 0.5, 1.5);
    in["norm_bias"] = d.normal({n.K}, 0.3);
    in["step_size"] = d.uniform({n.T}, 0.05, 0.4);
    in["row_scale"] = d.uniform({n.T}, 0.2, 1);
  };
  const auto learner = [](Draw& d, Inputs& in, Sizes n) {
    in["log_decay"] = d.log_decay({n.T}, 0.7, 0.99);
    in["momentum"] = d.uniform({n.T}, 0.2, 0.8);
    in["step_size"] = d.uniform({n.T}, 0.05, 0.3);
  };
  const auto two_layers = draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
    learner(d, in, n);
    in["step_size"] = d.uniform({n.T}, 0.02, 0.1);   // a chunk of frozen gradients and momentum runs away at larger steps
    in["momentum"] = d.uniform({n.T}, 0.2, 0.6);
    in["initial_weight_1"] = d.normal({n.K + 1, n.K}, 0.5);
    in["initial_weight_2"] = d.normal({n.V, n.K + 1}, 0.5);
  });
  const auto swiglu = draw_qkv([](Draw& d, Inputs& in, Sizes n) {
    const int64_t hidden = n.K + 1;
    in["initial_weight_0"] = d.normal({hidden, n.K}, 0.6);
    in["initial_weight_1"] = d.normal({n.V, hidden}, 0.6);
    in["initial_weight_2"] = d.normal({hidden, n.K}, 0.6);
    for (const char* name : {"step_size_0", "step_size_1", "step_size_2"}) in[name] = d.uniform({n.T}, 0.05, 0.3);
    in["momentum"] = d.uniform({n.T}, 0.2, 0.8);
  });
  const auto window = draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
    learner(d, in, n);
    in["window_weight"] = d.uniform({n.T}, 0.2, 1);
  });
  return {
    {"ttt_linear", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       ttt(d, in, n);
       in["initial_weight"] = d.normal({n.K, n.K}, 0.4);
       in["initial_bias"] = d.normal({n.K}, 0.2);
     }), ttt_linear, "S42, arXiv 2407.04620", "chunk=4 norm_eps=1e-6"},
    {"ttt_mlp", draw_qkv([=](Draw& d, Inputs& in, Sizes n) {
       ttt(d, in, n);
       in["initial_weight_1"] = d.normal({4 * n.K, n.K}, 0.4);
       in["initial_bias_1"] = d.normal({4 * n.K}, 0.2);
       in["initial_weight_2"] = d.normal({n.K, 4 * n.K}, 0.4);
       in["initial_bias_2"] = d.normal({n.K}, 0.2);
     }), ttt_mlp, "S43, arXiv 2407.04620", "chunk=4 hidden=4V norm_eps=1e-6"},
    {"titans", two_layers, titans, "S44, arXiv 2501.00663", "chunk=4 hidden=K+1"},
    {"titans_strict", two_layers, titans_strict, "S44, arXiv 2501.00663", "chunk=4 hidden=K+1 read=strict (the chunk's first weights)"},
    {"titans_lucidrains", two_layers, titans_lucidrains, "S44, arXiv 2501.00663", "chunk=4 hidden=K+1 gradients at the initial weights"},
    {"lact", swiglu, lact, "S45, arXiv 2505.23884", "chunk=4 hidden=K+1 read=strict (the chunk's first weights)"},
    {"lact_muon", swiglu, lact_muon, "S45, arXiv 2505.23884", "chunk=4 hidden=K+1 read=strict (the chunk's first weights) newton_schulz=5"},
    {"omega_net", window, omega_net, "S46, arXiv 2505.23735", "window=3"},
    {"atlas", window, atlas, "S46, arXiv 2505.23735", "window=3 newton_schulz=5 coefficients 3.4445 -4.7750 2.0315"},
  };
}

}  // namespace reference
