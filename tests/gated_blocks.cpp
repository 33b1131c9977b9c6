// The published layers of gated linear memories, as --recipe NAME makes them: RetNet's, GLA's, HGRN-2's, Mamba-2's and mLSTM's blocks against
// operations a token at a time, their initial values, decoding, and the width with which a Gaussian kernel begins.
#include <algorithm>
#include <cmath>
#include <map>
#include <ttr/core/ops.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/vocabulary.hpp>
#include <ttr/tests/ops_numbers.hpp>

using namespace ttr;
using test::random_tensor;
using test::worst;

namespace {

constexpr Options kF64{Dtype::f64, cpu_device};
constexpr int64_t D = 6, H = 2, T = 9;

std::map<std::string, Tensor> parameters_of(MemoryLayer& layer) {
  std::map<std::string, Tensor> all;
  each_parameter(layer, [&](const std::string& name, Parameter& p) { all[name] = *p; });
  return all;
}
std::map<std::string, Tensor> stirred(MemoryLayer& layer, double size = 0.3) {
  uint64_t seed = 100;
  each_parameter(layer, [&](const std::string&, Parameter& p) { p.rebind(*p + random_tensor(p->shape(), seed++, p->dtype()) * size); });
  return parameters_of(layer);
}
double most(const Tensor& x) {
  const std::vector<double> all = x.to_vector<double>();
  return *std::max_element(all.begin(), all.end());
}
Tensor frozen_of(MemoryLayer& layer, const std::string& name) {
  for (const auto& [known, x] : layer.frozen)
    if (known == name) return x.value;
  return {};
}

Tensor headed(const Tensor& x) { return reshape(x, {T, H, -1}); }
Tensor by(const Tensor& x, const Tensor& w) { return reshape(matmul(x, w, false, true), {T, -1}); }   // [1, T, D], [n, D] -> [T, n]
Tensor at(const Tensor& x, int64_t t) { return reshape(slice(x, 0, t, t + 1), {x.size(1), x.size(2)}); }
Tensor rms(const Tensor& x) { return x * rsqrt(mean(square(x), -1, true) + 1e-5); }

// M = M diag(a) + v k', y = M q, token by token: q, k, a [T, H, K], v [T, H, V] -> [T, H, V]; one K for all channels or heads is stretched.
Tensor remembered(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& a) {
  const int64_t V = v.size(2), K = k.size(2);
  Tensor m = zeros({H, V, K}, kF64);
  Tensors ys;
  for (int64_t t = 0; t < T; ++t) {
    const auto row = [&](const Tensor& x) { return reshape(at(x, t), {x.size(1), 1, x.size(2)}); };
    m = m * row(a) + reshape(at(v, t), {H, V, 1}) * row(k);
    ys.push_back(reshape(sum(m * row(q), -1, false), {1, H, V}));
  }
  return concat(ys, 0);
}

void check_steps(const MemoryLayer& layer, const Tensor& x) {
  const Tensor all = layer(x);
  MemoryState state;
  for (int64_t t = 0; t < T; ++t) CHECK(worst(layer.step(slice(x, 1, t, t + 1), state), slice(all, 1, t, t + 1)) < 1e-12);
}

}  // namespace

TEST_SUITE("gated_blocks") {
  TEST_CASE("retnet: decays that are never learned, rotation, wide values, a norm of each head and a SiLU gate; against operations") {
    Init init(1, kF64);
    MemoryLayer begun({.dim = 32, .heads = 8, .recipe = recipes::retnet}, init);
    std::vector<double> published;
    for (int h = 0; h < 8; ++h) published.push_back(std::log(1 - std::pow(2.0, -5 - h)));
    CHECK(worst(frozen_of(begun, "log_decay") / from_vector(published, {8}, kF64), ones({8}, kF64)) < 1e-6);
    Init narrow(1, {Dtype::bf16, cpu_device});
    MemoryLayer rounded({.dim = 32, .heads = 8, .recipe = recipes::retnet}, narrow);   // once: 8 bits of the decay itself
    CHECK(worst(cast(frozen_of(rounded, "log_decay"), Dtype::f64) / from_vector(published, {8}, kF64), ones({8}, kF64)) < 1.0 / 256);
    CHECK(begun.gates.empty());
    CHECK(begun.learned.empty());
    CHECK(begun.options.value_dim == 8);   // twice the key's

    const int64_t K = 4, V = 8, width = 8;
    Init other(2, kF64);
    MemoryLayer layer({.dim = width, .heads = H, .recipe = recipes::retnet}, other);
    const auto p = stirred(layer);
    CHECK(p.size() == 3);   // project, norm, output
    const Tensor x = random_tensor({1, T, width}, 11), mixed = by(x, p.at("project.weight"));
    const auto turned = [&](const Tensor& u) { return reshape(rotary(reshape(u, {1, T, H, K})), {T, H, K}); };
    const Tensor q = turned(slice(mixed, 1, 0, 8)) * 0.5, k = turned(slice(mixed, 1, 8, 16));
    const Tensor a = broadcast_to(reshape(exp(frozen_of(layer, "log_decay")), {1, H, 1}), {T, H, 1});
    const Tensor y = rms(remembered(q, k, headed(slice(mixed, 1, 16, 16 + H * V)), a)) * p.at("output_norm.weight");
    const Tensor gate = silu(slice(mixed, 1, 16 + H * V, 16 + 2 * H * V));
    CHECK(worst(layer(x), reshape(matmul(reshape(y, {T, H * V}) * gate, p.at("output.weight"), false, true), {1, T, width})) < 1e-12);
    check_steps(layer, x);

    Init free(3, kF64);   // the same decays, learned, where only the recipe is asked for
    MemoryLayer learning({.dim = width, .heads = 8, .recipe = recipes::retnet, .around = Surroundings{}}, free);
    REQUIRE(learning.learned.size() == 1);
    CHECK(worst(learning.learned[0]() / from_vector(published, {8}, kF64), ones({8}, kF64)) < 1e-6);
  }

  TEST_CASE("gla: keys of half a value's size, a gate of rank 16 over them") {
    Init init(4, kF64);
    MemoryLayer layer({.dim = 40, .heads = 4, .recipe = recipes::gla}, init);
    CHECK(layer.options.key_dim == 5);
    CHECK(layer.options.value_dim == 10);
    const auto p = parameters_of(layer);
    CHECK(p.at("log_decay.down").shape() == Shape{16, 40});
    CHECK(p.at("log_decay.weight").shape() == Shape{20, 16});
    const Tensor even = full({1, T, 4, 5}, -std::log(2.0) / 16, kF64);   // sigmoid(0)^(1/16)
    CHECK(worst(layer.slots(zeros({1, T, 40}, kF64)).at("log_decay"), even) < 1e-12);
    CHECK(MemoryLayer({.dim = 6, .heads = 2, .recipe = recipes::gla}, init).options.key_dim == 2);   // rounded up
    CHECK(MemoryLayer({.dim = 6, .heads = 2, .key_dim = 3, .recipe = recipes::gla}, init).options.key_dim == 3);
  }

  TEST_CASE("hgrn2: SiLU on the query, a key tied to the gate, one norm over all heads; against operations") {
    Init init(5, kF64);
    MemoryLayer layer({.dim = D, .heads = H, .recipe = recipes::hgrn2}, init);
    const auto p = stirred(layer);
    CHECK(p.at("output_norm.weight").shape() == Shape{D});
    const Tensor x = random_tensor({1, T, D}, 12), mixed = by(x, p.at("project.weight"));
    CHECK(mixed.size(1) == 2 * D);   // q and v
    CHECK(p.count("log_decay.bias") == 0);   // W_f x alone
    const Tensor f = sigmoid(by(x, p.at("log_decay.weight"))), q = silu(slice(mixed, 1, 0, D)) / std::sqrt(3.0);
    const Tensor y = remembered(headed(q), 1.0 - headed(f), headed(slice(mixed, 1, D, 2 * D)), headed(f));
    const Tensor want = matmul(rms(reshape(y, {T, D})) * p.at("output_norm.weight"), p.at("output.weight"), false, true);
    CHECK(worst(layer(x), reshape(want, {1, T, D})) < 1e-12);
    check_steps(layer, x);
  }

  TEST_CASE("hgrn and hgrn2: decays of later blocks stay above a bound that grows from block to block, learned") {
    const int64_t blocks = 3;
    for (const Recipe& recipe : {recipes::hgrn, recipes::hgrn2}) {
      LanguageModel model({.vocab = 7, .dim = D, .blocks = blocks, .heads = H, .mixer = recipe, .hidden = 4}, 3, cpu_device, Dtype::f64);
      REQUIRE(model.decay_floors.defined());
      REQUIRE(model.decay_floors->shape() == Shape{D, blocks});
      int visits = 0;
      each_parameter(model, [&](const std::string& name, Parameter&) { visits += name == "decay_floors"; });
      CHECK(visits == 1);
      const Tensor still = zeros({1, T, D}, kF64);
      for (int64_t i = 0; i < blocks; ++i) {   // evenly spaced at first, and z = 0
        const double low = double(i) / double(blocks);
        const Tensor a = exp(model.blocks[size_t(i)].mixer.slots(still).at("log_decay"));
        CHECK(worst(a, full(a.shape(), low + (1 - low) / 2, kF64)) < 1e-12);
      }
      model.decay_floors.rebind(random_tensor({D, blocks}, 31) * 2.0);
      const std::vector<double> drawn = model.decay_floors->to_vector<double>();
      const Tensor x = random_tensor({1, T, D}, 32);
      for (int64_t i = 0; i < blocks; ++i) {
        const MemoryLayer& mixer = model.blocks[size_t(i)].mixer;
        const Gate& gate = mixer.gates.at(0);
        const std::vector<double> f = sigmoid(gate.before_range(x)).to_vector<double>(), g = mixer.slots(x).at("log_decay").to_vector<double>();
        for (size_t n = 0; n < f.size(); ++n) {
          const double* row = &drawn[n % D * blocks];
          double total = 0, low = 0;
          for (int64_t j = 0; j < blocks; ++j) total += std::exp(row[j]);
          for (int64_t j = 1; j <= i; ++j) low += std::exp(row[j]) / total;
          CHECK(std::exp(g[n]) == doctest::Approx(low + (1 - low) * f[n]).epsilon(1e-12));
        }
      }
    }
    LanguageModel other({.vocab = 7, .dim = D, .blocks = blocks, .heads = H, .mixer = recipes::gla, .hidden = 4}, 3);
    CHECK(!other.decay_floors.defined());
    LanguageModel one({.vocab = 7, .dim = D, .blocks = 1, .heads = H, .mixer = recipes::hgrn2, .hidden = 4}, 3);
    CHECK(!one.decay_floors.defined());   // nothing bounds the first block
  }

  TEST_CASE("mamba2: B, C and u convolved, values times their time, D u, the gate inside one norm; against operations") {
    const int64_t K = 5, V = 6, inner = H * V;
    Init init(6, kF64);
    MemoryLayer usual({.dim = D, .heads = H, .recipe = recipes::mamba2}, init);
    CHECK(usual.options.key_dim == 128);
    CHECK(usual.options.value_dim == V);   // twice dim / heads
    CHECK(worst(*usual.skip, ones({H, 1}, kF64)) == 0);
    CHECK(usual.conv->bias->shape() == Shape{2 * 128 + inner});

    MemoryLayer layer({.dim = D, .heads = H, .key_dim = K, .recipe = recipes::mamba2}, init);
    const auto p = stirred(layer);
    const Tensor x = random_tensor({1, T, D}, 13), mixed = by(x, p.at("project.weight"));
    REQUIRE(mixed.size(1) == 2 * K + 2 * inner);
    const Tensor raw = slice(mixed, 1, 0, 2 * K + inner), z = slice(mixed, 1, 2 * K + inner, 2 * K + 2 * inner);
    Tensor wet = reshape(p.at("conv.bias"), {1, 2 * K + inner});
    for (int64_t j = 0; j < 4; ++j)
      wet = wet + slice(pad(raw, 0, j, 0), 0, 0, T) * reshape(slice(p.at("conv.weight"), 1, j, j + 1), {1, 2 * K + inner});
    wet = silu(wet);
    const Tensor dt = reshape(softplus(by(x, p.at("log_decay.weight")) + p.at("log_decay.bias")), {T, H, 1});
    const Tensor a = exp(-dt * reshape(exp(p.at("log_decay.rate")), {1, H, 1})), u = headed(slice(wet, 1, 2 * K, 2 * K + inner));
    const auto shared = [&](const Tensor& s) { return reshape(s, {T, 1, K}); };   // by all heads
    const Tensor y = remembered(shared(slice(wet, 1, 0, K)), shared(slice(wet, 1, K, 2 * K)), dt * u, a) + reshape(p.at("skip"), {1, H, 1}) * u;
    const Tensor normed = rms(reshape(y, {T, inner}) * silu(z)) * p.at("output_norm.weight");
    CHECK(worst(layer(x), reshape(matmul(normed, p.at("output.weight"), false, true), {1, T, D})) < 1e-11);
    check_steps(layer, x);

    // heads that share values have times of their own
    MemoryLayer grouped({.dim = D, .heads = H, .value_heads = 1, .key_dim = K, .recipe = recipes::mamba2}, init);
    stirred(grouped);
    CHECK(grouped.slots(x).at("v").shape() == Shape{1, T, H, V});
    check_steps(grouped, x);

    Surroundings timeless = usual_surroundings(recipes::mamba2);
    timeless.timed_decay = false;
    CHECK(test::message([&] { MemoryLayer({.dim = D, .heads = H, .recipe = recipes::mamba2, .around = timeless}, init); })
              .starts_with("[memory_layer] scaled_value is true and "));
  }

  TEST_CASE("mlstm: gates that begin as constants, graded over the heads, and a soft cap") {
    const int64_t heads = 4;
    Init init(7, kF64);
    MemoryLayer begun({.dim = 400, .heads = 200, .recipe = recipes::mlstm}, init);
    const auto first = parameters_of(begun);
    const Tensor forget = first.at("log_decay.bias"), input = first.at("log_write_gate.bias");
    for (int64_t h = 0; h < 200; h += 199) CHECK(slice(forget, 0, h, h + 1).item() == doctest::Approx(h == 0 ? 3 : 6));
    CHECK(slice(forget, 0, 100, 101).item() == doctest::Approx(3 + 3 * 100.0 / 199));
    CHECK(mean(square(input)).item() == doctest::Approx(0.01).epsilon(0.3));
    CHECK(most(abs(first.at("log_decay.weight"))) == 0);
    CHECK(most(abs(first.at("log_write_gate.weight"))) == 0);

    Surroundings gates = core_of(usual_surroundings(recipes::mlstm));   // the gates from the token
    gates.gate_cap = 15;
    MemoryLayer layer({.dim = 8, .heads = heads, .recipe = recipes::mlstm, .around = gates}, init);
    const auto p = stirred(layer, 2);
    const Tensor x = random_tensor({1, T, 8}, 14) * 8.0;
    const auto capped = [&](const std::string& gate) { return 15.0 * tanh((by(x, p.at(gate + ".weight")) + p.at(gate + ".bias")) / 15.0); };
    const Slots slots = layer.slots(x);
    CHECK(most(abs(by(x, p.at("log_decay.weight")))) > 15);   // or the cap would not show
    CHECK(worst(reshape(slots.at("log_decay"), {T, heads}), logsigmoid(capped("log_decay"))) < 1e-12);
    CHECK(worst(reshape(slots.at("log_write_gate"), {T, heads}), capped("log_write_gate")) < 1e-12);
    MemoryLayer mild({.dim = 8, .heads = heads, .recipe = recipes::mlstm, .around = gates}, init);
    stirred(mild);
    check_steps(mild, x);
  }

  TEST_CASE("a Gaussian kernel of attention begins with h^2 = sqrt K") {
    Init init(8, kF64);
    for (const int64_t K : {4, 64}) {
      MemoryLayer layer({.dim = 8, .heads = 2, .key_dim = K, .recipe = recipes::nadaraya_watson}, init);
      CHECK(worst(square(layer.learned.at(0)()), full({2}, std::sqrt(double(K)), kF64)) < 1e-5);
    }
  }

  TEST_CASE("what stands around the gated recipes") {
    const auto usual = [](const std::string& recipe) { return usual_surroundings(vocabulary().parse(recipe)); };
    CHECK(published("retnet").recipe.text() != published("simple_gla").recipe.text());
    CHECK(usual("retnet").rotary);
    CHECK(!usual("simple_gla").rotary);
    CHECK(text_of(usual("retnet")) == "surroundings[rotary=true,output_norm=true,output_gate=true,expand=2,frozen_decay=true]");
    CHECK(text_of(Surroundings{}) == "surroundings");
    const Surroundings bare = core_of(usual("mamba2"));   // the memory keeps what its values and keys are
    CHECK((bare.conv == 0 && !bare.output_norm && !bare.output_gate && bare.scaled_value && bare.skip && bare.key_dim == 128));
    CHECK((core_of(usual("retnet")).rotary && core_of(usual("retnet")).frozen_decay));
  }
}
