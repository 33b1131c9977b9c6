// The published layers of RWKV-6, xLSTM and the Forgetting Transformer, as --recipe NAME makes them: each against plain loops in f64, its gradients
// against differences of those loops, decoding, packed documents, and its initial values.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <ttr/core/ops.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/optim/trainer.hpp>
#include <ttr/tests/ops_numbers.hpp>

using namespace ttr;
using test::random_tensor;
using test::worst;

namespace {

constexpr Options kF64{Dtype::f64, cpu_device};
constexpr int64_t D = 8, H = 2, T = 7;

using Numbers = std::vector<double>;
using Values = std::map<std::string, Numbers>;
using Reference = std::function<Numbers(const Values&, const Numbers& x)>;   // x [T, D] -> [T, D]

double sigma(double z) { return 1 / (1 + std::exp(-z)); }
double silu_of(double z) { return z * sigma(z); }

std::vector<std::pair<std::string, Parameter*>> parameters_of(MemoryLayer& layer) {
  std::vector<std::pair<std::string, Parameter*>> all;
  each_parameter(layer, [&](const std::string& name, Parameter& p) { all.emplace_back(name, &p); });
  return all;
}
std::map<std::string, Tensor> tensors_of(MemoryLayer& layer) {
  std::map<std::string, Tensor> all;
  for (const auto& [name, p] : parameters_of(layer)) all[name] = **p;
  return all;
}
void stir(MemoryLayer& layer, double size = 0.4) {
  uint64_t seed = 100;
  for (const auto& [name, p] : parameters_of(layer)) p->rebind(**p + random_tensor((*p)->shape(), seed++, (*p)->dtype()) * size);
}

// Row r of w [out, in] times x, from row `first`
double row_times(const Numbers& w, int64_t r, const double* x, int64_t in) {
  double sum = 0;
  for (int64_t i = 0; i < in; ++i) sum += w[size_t(r * in + i)] * x[i];
  return sum;
}

// Each head of y [H, V] less its mean, over its deviation
void centre(Numbers& y, double eps) {
  const int64_t V = int64_t(y.size()) / H;
  for (int64_t h = 0; h < H; ++h) {
    double mean = 0, var = 0;
    for (int64_t i = 0; i < V; ++i) mean += y[size_t(h * V + i)] / double(V);
    for (int64_t i = 0; i < V; ++i) var += std::pow(y[size_t(h * V + i)] - mean, 2) / double(V);
    for (int64_t i = 0; i < V; ++i) y[size_t(h * V + i)] = (y[size_t(h * V + i)] - mean) / std::sqrt(var + eps);
  }
}

// The layer's outputs and gradients against the loops, a token at a time, in pieces, and packed.
void check_block(MemoryLayer& layer, const Reference& reference) {
  const Tensor x = random_tensor({1, T, D}, 11), weight = random_tensor({1, T, D}, 12);
  Values values;
  for (const auto& [name, p] : parameters_of(layer)) values[name] = (*p)->to_vector<double>();
  const Numbers in = x.to_vector<double>();
  CHECK(worst(layer(x), reference(values, in)) < 1e-11);

  const Tensor seen = variable(x);
  Tensors xs{seen};
  for (const auto& [name, p] : parameters_of(layer)) xs.push_back(**p);
  const Tensors dxs = grad({sum(layer(seen) * weight)}, {}, xs);
  const Numbers w = weight.to_vector<double>();
  const auto projected = [&](const Values& v, const Numbers& at) {
    const Numbers y = reference(v, at);
    double total = 0;
    for (size_t i = 0; i < y.size(); ++i) total += w[i] * y[i];
    return total;
  };
  const auto moved = [](Numbers v, const Numbers& by, double h) {
    for (size_t i = 0; i < v.size(); ++i) v[i] += h * by[i];
    return v;
  };
  const auto differs = [&](size_t i, const std::function<double(const Numbers& direction, double h)>& f) {
    const Tensor direction = random_tensor(xs[i].shape(), 500 + i);
    const Numbers d = direction.to_vector<double>();
    const double h = 1e-4, numeric = (8 * (f(d, h) - f(d, -h)) - (f(d, 2 * h) - f(d, -2 * h))) / (12 * h), analytic = sum(dxs[i] * direction).item();
    CHECK(analytic != 0);
    CHECK(std::abs(analytic - numeric) < 1e-8 * std::max(1.0, std::abs(numeric)));
  };
  differs(0, [&](const Numbers& d, double h) { return projected(values, moved(in, d, h)); });
  size_t i = 1;
  for (const auto& [name, p] : parameters_of(layer)) {
    CAPTURE(name);
    differs(i++, [&](const Numbers& d, double h) {
      Values other = values;
      other[name] = moved(other[name], d, h);
      return projected(other, in);
    });
  }

  const Tensor all = layer(x);
  MemoryState state, pieces;
  for (int64_t t = 0; t < T; ++t) CHECK(worst(layer.step(slice(x, 1, t, t + 1), state), slice(all, 1, t, t + 1)) < 1e-11);
  CHECK(worst(layer.step(slice(x, 1, 0, 3), pieces), slice(all, 1, 0, 3)) < 1e-11);
  CHECK(worst(layer.step(slice(x, 1, 3, T), pieces), slice(all, 1, 3, T)) < 1e-11);

  const Tensor segments = from_vector(std::vector<int32_t>{0, 0, 0, 4, 0, 0, 0}, {1, T}), together = layer(x, segments);
  for (const auto& [begin, end] : std::vector<std::pair<int64_t, int64_t>>{{0, 3}, {3, 4}, {4, T}})
    CHECK(worst(slice(together, 1, begin, end), layer(slice(x, 1, begin, end))) < 1e-11);
}

// RWKV-6 (arXiv 2404.05892), K = V = D / H
Numbers rwkv6(const Values& p, const Numbers& x) {
  const int64_t K = D / H, r = 32;
  Numbers before(D), m(size_t(D * K)), answer;
  for (int64_t t = 0; t < T; ++t) {
    const double* now = &x[size_t(t * D)];
    Numbers d(D), first(D);
    for (int64_t c = 0; c < D; ++c) d[size_t(c)] = before[size_t(c)] - now[c], first[size_t(c)] = now[c] + d[size_t(c)] * p.at("shift.first")[size_t(c)];
    const auto mixture = [&](int64_t i) {   // of r, k, v, g, w
      Numbers low(size_t(32), 0.0), y(D);
      for (int64_t j = 0; j < r; ++j) low[size_t(j)] = std::tanh(row_times(p.at("shift.down"), i * r + j, first.data(), D));
      for (int64_t c = 0; c < D; ++c)
        y[size_t(c)] = now[c] + d[size_t(c)] * (p.at("shift.mix")[size_t(i * D + c)] + row_times(p.at("shift.up"), i * D + c, low.data(), r));
      return y;
    };
    const auto projected = [&](int64_t i) {
      const Numbers seen = mixture(i);
      Numbers y(D);
      for (int64_t c = 0; c < D; ++c) y[size_t(c)] = row_times(p.at("project.weight"), i * D + c, seen.data(), D);
      return y;
    };
    const Numbers q = projected(0), k = projected(1), v = projected(2), g = projected(3), seen = mixture(4);
    Numbers low(64), y(D);
    for (int64_t j = 0; j < 64; ++j) low[size_t(j)] = std::tanh(row_times(p.at("log_decay.down"), j, seen.data(), D));
    for (int64_t h = 0; h < H; ++h)
      for (int64_t i = 0; i < K; ++i)
        for (int64_t j = 0; j < K; ++j) {
          const size_t c = size_t(h * K + j), row = size_t(h * K + i);
          double& entry = m[row * size_t(K) + size_t(j)];
          y[row] += (entry + v[row] * p.at("bonus")[c] * k[c]) * q[c];
          entry = entry * std::exp(-std::exp(p.at("log_decay.bias")[c] + row_times(p.at("log_decay.weight"), int64_t(c), low.data(), 64))) + v[row] * k[c];
        }
    centre(y, 64e-5);
    for (size_t c = 0; c < size_t(D); ++c) y[c] = (y[c] * p.at("output_norm.weight")[c] + p.at("output_norm.bias")[c]) * silu_of(g[c]);
    for (int64_t c = 0; c < D; ++c) answer.push_back(row_times(p.at("output.weight"), c, y.data(), D));
    before.assign(now, now + D);
  }
  return answer;
}

// xLSTM's mLSTM block (arXiv 2405.04517): an inner branch of E = 2 D, K = V = E / H
Numbers mlstm(const Values& p, const Numbers& x) {
  const int64_t E = 2 * D, K = E / H;
  Numbers branch(size_t(T * E)), m(size_t(E * K)), n(static_cast<size_t>(E)), scale(H), answer;
  for (int64_t t = 0; t < T; ++t) {
    Numbers z(static_cast<size_t>(E)), wet(static_cast<size_t>(E));
    for (int64_t c = 0; c < E; ++c) {
      branch[size_t(t * E + c)] = row_times(p.at("project.weight"), c, &x[size_t(t * D)], D);
      z[size_t(c)] = row_times(p.at("project.weight"), E + c, &x[size_t(t * D)], D);
      double sum = p.at("conv.bias")[size_t(c)];
      for (int64_t j = 0; j < std::min<int64_t>(4, t + 1); ++j) sum += p.at("conv.weight")[size_t(c * 4 + j)] * branch[size_t((t - j) * E + c)];
      wet[size_t(c)] = silu_of(sum);
    }
    const auto piecewise = [&](const std::string& name, const double* from) {   // [E / 4, 4, 4]
      Numbers y;
      for (int64_t c = 0; c < E; ++c) y.push_back(row_times(p.at(name + ".weight"), c, from + c / 4 * 4, 4));
      return y;
    };
    const Numbers q = piecewise("query", wet.data()), k = piecewise("key", wet.data()), v = piecewise("value", &branch[size_t(t * E)]);
    Numbers heard = q, y(static_cast<size_t>(E));
    heard.insert(heard.end(), k.begin(), k.end()), heard.insert(heard.end(), v.begin(), v.end());
    for (int64_t h = 0; h < H; ++h) {
      const double f = std::log(sigma(p.at("log_decay.bias")[size_t(h)] + row_times(p.at("log_decay.weight"), h, heard.data(), 3 * E)));
      const double i = p.at("log_write_gate.bias")[size_t(h)] + row_times(p.at("log_write_gate.weight"), h, heard.data(), 3 * E);
      const double last = scale[size_t(h)], next = std::max(f + last, i), keep = std::exp(f + last - next), write = std::exp(i - next);
      scale[size_t(h)] = next;
      double norm = 0;
      for (int64_t j = 0; j < K; ++j) {
        double& total = n[size_t(h * K + j)];
        total = keep * total + write * k[size_t(h * K + j)];
        norm += total * q[size_t(h * K + j)] / std::sqrt(double(K));
      }
      for (int64_t row = h * K; row < (h + 1) * K; ++row) {
        for (int64_t j = 0; j < K; ++j) {
          double& entry = m[size_t(row * K + j)];
          entry = keep * entry + write * v[size_t(row)] * k[size_t(h * K + j)];
          y[size_t(row)] += entry * q[size_t(h * K + j)] / std::sqrt(double(K));
        }
        y[size_t(row)] /= std::max(std::abs(norm), std::exp(-next)) + 1e-6;
      }
    }
    centre(y, 1e-5);
    for (size_t c = 0; c < size_t(E); ++c) y[c] = (y[c] * p.at("output_norm.weight")[c] + p.at("skip")[c] * wet[c]) * silu_of(z[c]);
    for (int64_t c = 0; c < D; ++c) answer.push_back(row_times(p.at("output.weight"), c, y.data(), E));
  }
  return answer;
}

// xLSTM 7B's block with a sigmoid write gate (arXiv 2503.14376): K = V / 2, V = D / H
Numbers mlstm_sigmoid(const Values& p, const Numbers& x) {
  const int64_t V = D / H, K = V / 2;
  Numbers m(size_t(D * K)), answer;
  for (int64_t t = 0; t < T; ++t) {
    const double* now = &x[size_t(t * D)];
    const auto projected = [&](int64_t r) { return row_times(p.at("project.weight"), r, now, D); };
    Numbers y(D);
    for (int64_t h = 0; h < H; ++h) {
      const auto gate = [&](const std::string& name) {
        return sigma(15 * std::tanh((p.at(name + ".bias")[size_t(h)] + row_times(p.at(name + ".weight"), h, now, D)) / 15));
      };
      const double keep = gate("log_decay"), write = gate("write_gate");
      for (int64_t row = h * V; row < (h + 1) * V; ++row)
        for (int64_t j = 0; j < K; ++j) {
          double& entry = m[size_t(row * K + j)];
          entry = keep * entry + write * projected(2 * H * K + row) * projected(H * K + h * K + j);
          y[size_t(row)] += entry * projected(h * K + j) / std::sqrt(double(K));
        }
    }
    centre(y, 1e-6);
    for (size_t c = 0; c < size_t(D); ++c) y[c] *= p.at("output_norm.weight")[c] * sigma(projected(2 * H * K + D + int64_t(c)));
    for (int64_t c = 0; c < D; ++c) answer.push_back(row_times(p.at("output.weight"), c, y.data(), D));
  }
  return answer;
}

// FoX (arXiv 2503.02130): softmax attention whose logits lose what was forgotten since
Numbers forgetting_attention(const Values& p, const Numbers& x) {
  const int64_t K = D / H;
  Numbers answer;
  for (int64_t t = 0; t < T; ++t) {
    const auto projected = [&](int64_t part, int64_t at, int64_t c) { return row_times(p.at("project.weight"), part * D + c, &x[size_t(at * D)], D); };
    Numbers y(D);
    for (int64_t h = 0; h < H; ++h) {
      Numbers values(static_cast<size_t>(K));
      double total = 0, forgotten = 0;
      for (int64_t i = t; i >= 0; --i) {
        double logit = forgotten;
        for (int64_t j = h * K; j < (h + 1) * K; ++j) logit += projected(0, t, j) * projected(1, i, j) / std::sqrt(double(K));
        total += std::exp(logit);
        for (int64_t j = 0; j < K; ++j) values[size_t(j)] += std::exp(logit) * projected(2, i, h * K + j);
        forgotten += std::log(sigma(p.at("log_decay.bias")[size_t(h)] + row_times(p.at("log_decay.weight"), h, &x[size_t(i * D)], D)));
      }
      for (int64_t j = 0; j < K; ++j) y[size_t(h * K + j)] = values[size_t(j)] / total;
    }
    for (int64_t c = 0; c < D; ++c) answer.push_back(row_times(p.at("output.weight"), c, y.data(), D));
  }
  return answer;
}

double most(const Tensor& x) {
  const Numbers all = x.to_vector<double>();
  return *std::max_element(all.begin(), all.end());
}
Tensor row(const Tensor& x, int64_t r) { return reshape(slice(x, 0, r, r + 1), {x.size(1)}); }

}  // namespace

TEST_SUITE("published_blocks") {
  TEST_CASE("rwkv6, mlstm, mlstm_sigmoid and forgetting_attention against plain loops") {
    const std::tuple<const char*, const Recipe&, Reference> rows[] = {{"rwkv6", recipes::rwkv6, rwkv6},
                                                                      {"mlstm", recipes::mlstm, mlstm},
                                                                      {"mlstm_sigmoid", recipes::mlstm_sigmoid, mlstm_sigmoid},
                                                                      {"forgetting_attention", recipes::forgetting_attention, forgetting_attention}};
    for (const auto& [name, recipe, reference] : rows) {
      CAPTURE(name);
      Init init(3, kF64);
      MemoryLayer layer({.dim = D, .heads = H, .recipe = recipe, .depth = {.block = 1, .blocks = 3}}, init);
      stir(layer);
      check_block(layer, reference);
    }
  }

  TEST_CASE("rwkv6 begins as published, in every block") {
    const int64_t width = 12, blocks = 3;
    LanguageModel model({.vocab = 7, .dim = width, .blocks = blocks, .heads = 3, .mixer = recipes::rwkv6, .hidden = 4}, 3, cpu_device, Dtype::f64);
    for (int64_t b = 0; b < blocks; ++b) {
      CAPTURE(b);
      MemoryLayer& mixer = model.blocks[size_t(b)].mixer;
      const auto p = tensors_of(mixer);
      const double risen = double(b) / 2, left = 1 - double(b) / 3;
      Numbers x, k, v, q, speed, bonus;
      for (int n = 0; n < width; ++n) {
        const double d = n / double(width);
        x.push_back(1 - std::pow(d, left)), k.push_back(1 - std::pow(d, left));
        v.push_back(1 - (std::pow(d, left) + 0.3 * risen)), q.push_back(1 - std::pow(d, 0.5 * left));
        speed.push_back(-6 + 5 * std::pow(n / double(width - 1), 0.7 + 1.3 * risen));
        bonus.push_back(risen * (1 - n / double(width - 1)) + ((n + 1) % 3 - 1) * 0.1);
      }
      CHECK(worst(p.at("shift.first"), x) < 1e-6);
      REQUIRE(p.at("shift.mix").shape() == Shape{5, width});
      for (const int64_t part : {0, 3}) CHECK(worst(row(p.at("shift.mix"), part), q) < 1e-6);   // r and g
      for (const int64_t part : {1, 4}) CHECK(worst(row(p.at("shift.mix"), part), k) < 1e-6);   // k and w
      CHECK(worst(row(p.at("shift.mix"), 2), v) < 1e-6);
      CHECK(p.at("shift.down").shape() == Shape{5 * 32, width});
      CHECK(p.at("log_decay.down").shape() == Shape{64, width});
      for (const char* zero : {"shift.down", "log_decay.down", "output_norm.bias"}) CHECK(most(abs(p.at(zero))) == 0);
      for (const char* small : {"shift.up", "log_decay.weight"}) {
        CHECK(most(abs(p.at(small))) <= 0.01);
        CHECK(most(abs(p.at(small))) > 0.009);
      }
      CHECK(worst(p.at("log_decay.bias"), speed) < 1e-6);
      CHECK(worst(p.at("bonus"), bonus) < 1e-6);
      CHECK(worst(p.at("output_norm.weight"), ones({3, 4}, kF64)) == 0);
      CHECK(mixer.group_norm->eps == 64e-5);
      const Numbers decays = mixer.slots(zeros({1, 1, width}, kF64)).at("log_decay").to_vector<double>();
      for (size_t n = 0; n < decays.size(); ++n) CHECK(decays[n] == doctest::Approx(-std::exp(speed[n])).epsilon(1e-6));
    }
  }

  TEST_CASE("mlstm begins as published: twice the width, pieces of 4, a skip of ones, gates that are constants") {
    Init init(5, kF64);
    MemoryLayer layer({.dim = 32, .heads = 4, .recipe = recipes::mlstm}, init);
    CHECK((layer.options.key_dim == 16 && layer.options.value_dim == 16));
    const auto p = tensors_of(layer);
    CHECK(p.at("project.weight").shape() == Shape{128, 32});
    for (const char* part : {"query.weight", "key.weight", "value.weight"}) CHECK(p.at(part).shape() == Shape{16, 4, 4});
    CHECK(p.at("conv.weight").shape() == Shape{64, 4});
    CHECK(p.at("log_decay.weight").shape() == Shape{4, 3 * 64});
    CHECK(worst(p.at("skip"), ones({4, 16}, kF64)) == 0);
    CHECK(p.count("output_norm.bias") == 0);
    CHECK(mean(square(p.at("project.weight"))).item() == doctest::Approx(2.0 / (5 * 32)).epsilon(0.1));
    CHECK(worst(p.at("log_decay.bias"), Numbers{3, 4, 5, 6}) < 1e-6);
    CHECK(layer.options.around->gate_cap == 0);   // that is xLSTM 7B's
    MemoryLayer odd({.dim = 5, .heads = 1, .key_dim = 3, .recipe = recipes::mlstm}, init);   // whole pieces of what does not divide
    CHECK(tensors_of(odd).at("query.weight").shape() == Shape{1, 3, 10});
    CHECK(tensors_of(odd).at("value.weight").shape() == Shape{5, 2, 2});
    CHECK(odd(random_tensor({2, 3, 5}, 1)).shape() == Shape{2, 3, 5});

    MemoryLayer sigmoid({.dim = 32, .heads = 4, .recipe = recipes::mlstm_sigmoid}, init);
    CHECK((sigmoid.options.key_dim == 4 && sigmoid.options.value_dim == 8));
    CHECK(worst(tensors_of(sigmoid).at("write_gate.bias"), full({4}, -10, kF64)) == 0);
  }

  TEST_CASE("what forgets a half at first: FoX and MesaNet") {
    for (const Recipe& recipe : {recipes::forgetting_attention, recipes::mesa_net, recipes::mesa_net_cg}) {
      CAPTURE(recipe.text());
      Init init(6, kF64);
      MemoryLayer layer({.dim = D, .heads = H, .recipe = recipe}, init);
      CHECK(worst(layer.slots(zeros({1, T, D}, kF64)).at("log_decay"), full({1, T, H}, -std::log(2.0), kF64)) < 1e-12);
      CHECK(!layer.options.around->rotary);
    }
  }

  TEST_CASE("a checkpoint holds all of a block, under names of its own") {
    const Tensor tokens = from_vector(std::vector<int32_t>{1, 4, 2, 0, 6, 3, 3, 5}, {1, 8});
    const auto loss = [](const LanguageModel& m, const Tensor& ids) { return mean(square(m(ids))); };
    const std::string path = (std::filesystem::temp_directory_path() / "ttr_published_blocks.safetensors").string();
    const std::tuple<const Recipe&, std::vector<std::string>> rows[] = {
        {recipes::rwkv6, {"shift.first", "shift.mix", "shift.down", "shift.up", "project.weight", "log_decay.down", "log_decay.weight", "log_decay.bias",
                          "bonus", "output_norm.weight", "output_norm.bias", "output.weight"}},
        {recipes::mlstm, {"project.weight", "conv.weight", "conv.bias", "query.weight", "key.weight", "value.weight", "log_decay.weight",
                          "log_decay.bias", "log_write_gate.weight", "log_write_gate.bias", "skip", "output_norm.weight", "output.weight"}}};
    for (const auto& [recipe, names] : rows) {
      CAPTURE(recipe.text());
      const auto made = [&](uint64_t seed) {
        return LanguageModel({.vocab = 7, .dim = D, .blocks = 1, .heads = H, .mixer = recipe, .hidden = 4}, seed, cpu_device, Dtype::f64);
      };
      LanguageModel first = made(1), other = made(2);
      std::vector<std::string> found;
      for (const auto& [name, p] : parameters_of(first.blocks[0].mixer)) found.push_back(name);
      CHECK(found == names);
      Trainer before(first, AdamW{}, loss), after(other, AdamW{}, loss);
      for (int step = 0; step < 3; ++step) before.step(tokens, {.rate = 0.01});
      before.save(path);
      CHECK(worst(first(tokens), other(tokens)) > 1e-3);
      after.load(path);
      CHECK(worst(first(tokens), other(tokens)) == 0);
    }
    std::filesystem::remove(path);
  }

  TEST_CASE("the bare memory has no shift, branch, norm or gate, and keeps the form of its own gates") {
    Init init(7, kF64);
    for (const Recipe& recipe : {recipes::rwkv6, recipes::mlstm, recipes::mlstm_sigmoid}) {
      CAPTURE(recipe.text());
      MemoryLayer layer({.dim = D, .heads = H, .recipe = recipe, .around = core_of(usual_surroundings(recipe))}, init);
      CHECK((!layer.shift && !layer.query && !layer.conv && !layer.group_norm && !layer.output_norm && !layer.skip.defined()));
      CHECK(layer.options.value_dim == D / H);
      CHECK(tensors_of(layer).at("project.weight").size(0) == H * (2 * layer.options.key_dim + layer.options.value_dim));
    }
    CHECK(core_of(usual_surroundings(recipes::rwkv6)).exponential_decay);
    CHECK(core_of(usual_surroundings(recipes::mlstm)).constant_gates);
  }

  TEST_CASE("a block-diagonal map is a product a piece, whether its pieces stand alone or together") {
    Init init(9, kF64);
    for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{{96, 96}, {96, 48}, {8, 8}, {48, 96}})
      for (const int64_t rows : {3, 80}) {
        CAPTURE(in);
        CAPTURE(rows);
        BlockLinear map({.in = in, .out = out, .deviation = 1}, init);
        const int64_t n = map.weight->size(0);
        CHECK(n == in / 4);
        const auto by_piece = [&](const Tensor& x, const Tensor& w) {
          Tensors ys;
          for (int64_t i = 0; i < n; ++i)
            ys.push_back(matmul(slice(x, 2, i * in / n, (i + 1) * in / n), reshape(slice(w, 0, i, i + 1), {out / n, in / n}), false, true));
          return concat(ys, 2);
        };
        const Tensor x = variable(random_tensor({2, rows, in}, 21)), y = map(x), want = by_piece(x, *map.weight), d = random_tensor(y.shape(), 22);
        CHECK(worst(y, want) < 1e-13);
        const Tensors got = grad({y}, {d}, {x, *map.weight}), expected = grad({want}, {d}, {x, *map.weight});
        for (size_t i = 0; i < 2; ++i) CHECK(worst(got[i], expected[i]) < 1e-12);
      }
  }

  TEST_CASE("a mixture that depends on nothing, and what an inner branch cannot stand beside") {
    Init init(8, kF64);
    Surroundings plain = usual_surroundings(recipes::rwkv6);
    plain.shift_rank = 0;
    MemoryLayer layer({.dim = D, .heads = H, .recipe = recipes::rwkv6, .around = plain}, init);
    CHECK(tensors_of(layer).count("shift.down") == 0);
    const Tensor x = random_tensor({2, T, D}, 9), before = concat({zeros({2, 1, D}, kF64), slice(x, 1, 0, T - 1)}, 1);
    const Tensors ys = (*layer.shift)(x);
    REQUIRE(ys.size() == 5);
    for (int64_t i = 0; i < 5; ++i) CHECK(worst(ys[size_t(i)], x + (before - x) * row(*layer.shift->mix, i)) < 1e-14);

    Surroundings both = usual_surroundings(recipes::mlstm);
    both.shift = true;
    CHECK(test::message([&] { MemoryLayer({.dim = D, .heads = H, .recipe = recipes::mlstm, .around = both}, init); })
              .starts_with("[memory_layer] inner is 4 for "));
  }
}
