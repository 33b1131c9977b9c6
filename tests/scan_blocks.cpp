// The published layers of elementwise memories, as --recipe NAME makes them: Mamba's and Longhorn's block against plain loops, LRU's and HGRN's
// against operations, and the initial values of all.
#include <algorithm>
#include <cmath>
#include <map>
#include <ttr/core/ops.hpp>
#include <ttr/layers/memory.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/tests/ops_numbers.hpp>

using namespace ttr;
using test::random_tensor;
using test::worst;

namespace {

constexpr Options kF64{Dtype::f64, cpu_device};

double silu_of(double x) { return x / (1 + std::exp(-x)); }

void stir(MemoryLayer& layer, double size = 0.3) {
  uint64_t seed = 100;
  each_parameter(layer, [&](const std::string&, Parameter& p) { p.rebind(*p + random_tensor(p->shape(), seed++, p->dtype()) * size); });
}
std::map<std::string, Tensor> parameters_of(MemoryLayer& layer) {
  std::map<std::string, Tensor> all;
  each_parameter(layer, [&](const std::string& name, Parameter& p) { all[name] = *p; });
  return all;
}
const HeadSlot& learned(const MemoryLayer& layer, const std::string& name) {
  for (const HeadSlot& h : layer.learned)
    if (h.slot.name == name) return h;
  throw refuse("test", "{} is no learned slot, needs one of the layer's", name);
}
double least(const Tensor& x) {
  const std::vector<double> all = x.to_vector<double>();
  return *std::min_element(all.begin(), all.end());
}
double most(const Tensor& x) { return -least(-x); }

}  // namespace

TEST_SUITE("scan_blocks") {
  TEST_CASE("mamba and longhorn: every projection, convolution and gate of the block, by loops") {
    for (const bool longhorn : {false, true}) {
      CAPTURE(longhorn);
      const int64_t T = 7, D = 6, H = 2, E = 12, K = 16, R = 1;   // inner width 2 D, a state of 16, a bottleneck of D / 16 rounded up
      Init init(5, kF64);
      MemoryLayer layer({.dim = D, .heads = H, .recipe = longhorn ? recipes::longhorn_diagonal : recipes::mamba}, init);
      REQUIRE((layer.options.key_dim == K && layer.options.value_dim * H == E && layer.options.key_heads == 1));
      stir(layer);
      const auto p = parameters_of(layer);
      const Tensor x = random_tensor({1, T, D}, 10);
      const std::string gate = longhorn ? "step_size" : "delta";
      const auto numbers = [&](const std::string& name, const Shape& shape) {
        CAPTURE(name);
        REQUIRE(p.contains(name));
        REQUIRE(p.at(name).shape() == shape);
        return p.at(name).to_vector<double>();
      };
      const auto in = x.to_vector<double>(), project = numbers("project.weight", {2 * E, D}), conv = numbers("conv.weight", {E, 4}),
                 conv_bias = numbers("conv.bias", {E}), keys = numbers("from_value.weight", {2 * K, E}), down = numbers(gate + ".down", {R, E}),
                 up = numbers(gate + ".weight", {E, R}), bias = numbers(gate + ".bias", {E}), skip = numbers("skip", {H, E / H}),
                 out = numbers("output.weight", {D, E});
      const auto a_log = longhorn ? std::vector<double>() : numbers("rate", {H, E / H, K});
      CHECK(p.size() == (longhorn ? 9 : 10));

      std::vector<double> answer(size_t(T * D)), memory(size_t(E * K)), wet(size_t(T * E));
      for (int64_t t = 0; t < T; ++t) {
        std::vector<double> z(static_cast<size_t>(E)), u(static_cast<size_t>(E)), k(static_cast<size_t>(K)), q(static_cast<size_t>(K));
        for (int64_t e = 0; e < E; ++e)
          for (int64_t d = 0; d < D; ++d) {
            wet[size_t(t * E + e)] += project[size_t(e * D + d)] * in[size_t(t * D + d)];
            z[size_t(e)] += project[size_t((E + e) * D + d)] * in[size_t(t * D + d)];
          }
        for (int64_t e = 0; e < E; ++e) {
          double sum = conv_bias[size_t(e)];
          for (int64_t j = 0; j < 4 && j <= t; ++j) sum += conv[size_t(e * 4 + j)] * wet[size_t((t - j) * E + e)];
          u[size_t(e)] = silu_of(sum);
        }
        double low = 0, square = 0;
        for (int64_t e = 0; e < E; ++e) low += down[size_t(e)] * u[size_t(e)];
        for (int64_t j = 0; j < K; ++j) {
          for (int64_t e = 0; e < E; ++e) {
            q[size_t(j)] += keys[size_t(j * E + e)] * u[size_t(e)];
            k[size_t(j)] += keys[size_t((K + j) * E + e)] * u[size_t(e)];
          }
          square += k[size_t(j)] * k[size_t(j)];
        }
        for (int64_t e = 0; e < E; ++e) {
          const double raw = up[size_t(e)] * low + bias[size_t(e)], sigma = 1 / (1 + std::exp(-raw));
          const double dt = longhorn ? sigma / (1 + sigma * square) : std::log1p(std::exp(raw));
          double y = skip[size_t(e)] * u[size_t(e)];
          for (int64_t j = 0; j < K; ++j) {
            double& m = memory[size_t(e * K + j)];
            const double a = longhorn ? 1 - dt * k[size_t(j)] * k[size_t(j)] : std::exp(-dt * std::exp(a_log[size_t(e * K + j)]));
            m = a * m + dt * u[size_t(e)] * k[size_t(j)];
            y += m * q[size_t(j)];
          }
          y *= silu_of(z[size_t(e)]);
          for (int64_t d = 0; d < D; ++d) answer[size_t(t * D + d)] += out[size_t(d * E + e)] * y;
        }
      }
      CHECK(worst(layer(x), answer) < 1e-11);

      MemoryState state;   // and a token at a time
      for (int64_t t = 0; t < T; ++t)
        CHECK(worst(layer.step(slice(x, 1, t, t + 1), state), slice(layer(x), 1, t, t + 1)) < 1e-12);
    }
  }

  TEST_CASE("mamba begins as published") {
    Init init(6, kF64);
    MemoryLayer layer({.dim = 40, .heads = 1, .recipe = recipes::mamba}, init);
    const auto p = parameters_of(layer);
    CHECK(p.at("project.weight").shape() == Shape{160, 40});
    CHECK(p.at("delta.down").shape() == Shape{3, 80});   // ceil(40 / 16)
    const Tensor rate = learned(layer, "rate")();
    for (int64_t j = 0; j < 16; ++j) CHECK(worst(slice(rate, 2, j, j + 1), full({1, 80, 1}, double(j + 1), kF64)) < 1e-5);
    const Tensor delta = softplus(p.at("delta.bias"));
    CHECK(least(delta) > 0.99e-3);
    CHECK(most(delta) < 1.01e-1);
    CHECK(least(delta) < 0.01);
    CHECK(most(delta) > 0.02);
    CHECK(most(abs(p.at("delta.weight"))) <= 1 / std::sqrt(3.0));
    CHECK(most(abs(p.at("delta.weight"))) > 0.5);
    CHECK(least(p.at("skip")) == 1);
    CHECK(most(p.at("skip")) == 1);
    Init other(6, kF64);
    MemoryLayer longhorn({.dim = 40, .heads = 1, .recipe = recipes::longhorn_diagonal}, other);
    CHECK(most(abs(parameters_of(longhorn).at("step_size.bias"))) < 1e-12);   // sigmoid(0) = 1/2
  }

  TEST_CASE("lru: a ring of decays, values of one size, a skip from the token; against operations") {
    const int64_t D = 6, H = 2, V = 4, T = 9;
    Init init(7, kF64), many(8, kF64);
    MemoryLayer wide({.dim = 400, .heads = 1, .recipe = recipes::lru}, many);
    const Tensor size = exp(learned(wide, "log_decay")()), phase = learned(wide, "phase")();
    CHECK(mean(square(size)).item() == doctest::Approx(0.5).epsilon(0.1));   // uniform in area
    CHECK(most(size) < 1);
    CHECK(least(phase) > 0);
    CHECK(most(phase) < 6.2832);
    CHECK(most(phase) > 5.5);
    CHECK(worst(square(exp(parameters_of(wide).at("gamma"))), 1.0 - square(size)) < 1e-5);
    CHECK(mean(square(parameters_of(wide).at("project.weight"))).item() == doctest::Approx(1.0 / 800).epsilon(0.05));
    CHECK(mean(square(parameters_of(wide).at("output.weight"))).item() == doctest::Approx(1.0 / 200).epsilon(0.05));
    CHECK(mean(square(parameters_of(wide).at("skip"))).item() == doctest::Approx(1).epsilon(0.3));

    MemoryLayer layer({.dim = D, .heads = H, .value_dim = V, .recipe = recipes::lru}, init);
    stir(layer);
    const auto p = parameters_of(layer);
    CHECK(p.size() == 6);
    const Tensor x = random_tensor({1, T, D}, 11), mixed = reshape(matmul(x, p.at("project.weight"), false, true), {T, H, V});
    const Tensor nu = exp(p.at("log_decay")), theta = exp(p.at("phase")), gamma = exp(p.at("gamma"));   // [H, V / 2]
    const Tensor a = exp(-nu) * cos(theta), b = exp(-nu) * sin(theta);
    Tensor re = zeros({H, V / 2}, kF64), im = re;
    Tensors ys;
    for (int64_t t = 0; t < T; ++t) {
      const Tensor u = reshape(slice(mixed, 0, t, t + 1), {H, V});
      const Tensor next = a * re - b * im + gamma * slice(u, 1, 0, V / 2);
      im = b * re + a * im + gamma * slice(u, 1, V / 2, V);
      re = next;
      ys.push_back(reshape(concat({re, im}, 1), {1, H * V}));
    }
    const Tensor want = reshape(matmul(concat(ys, 0), p.at("output.weight"), false, true), {1, T, D}) + x * p.at("skip");
    CHECK(worst(layer(x), want) < 1e-12);
  }

  TEST_CASE("hgrn: SiLU on the value, a tied gate, one norm over all heads, a SiLU gate; against operations") {
    const int64_t D = 6, H = 2, V = 3, T = 9;
    Init init(9, kF64);
    MemoryLayer layer({.dim = D, .heads = H, .recipe = recipes::hgrn}, init);
    stir(layer);
    const auto p = parameters_of(layer);
    CHECK(p.at("output_norm.weight").shape() == Shape{H * V});
    const Tensor x = random_tensor({1, T, D}, 12), mixed = reshape(matmul(x, p.at("project.weight"), false, true), {T, 2 * H * V});
    CHECK(p.count("log_decay.bias") == 0);   // W_f x alone
    const Tensor f = sigmoid(reshape(matmul(x, p.at("log_decay.weight"), false, true), {T, H * V}));
    const Tensor v = silu(slice(mixed, 1, 0, H * V)), z = slice(mixed, 1, H * V, 2 * H * V);
    Tensor h = zeros({1, H * V}, kF64);
    Tensors ys;
    for (int64_t t = 0; t < T; ++t) {
      const Tensor now = slice(f, 0, t, t + 1);
      h = now * h + (1.0 - now) * slice(v, 0, t, t + 1);
      ys.push_back(h * rsqrt(mean(square(h), -1, true) + 1e-5) * p.at("output_norm.weight"));
    }
    const Tensor want = matmul(concat(ys, 0) * silu(z), p.at("output.weight"), false, true);
    CHECK(worst(layer(x), reshape(want, {1, T, D})) < 1e-12);
  }
}
