// Modules: values against plain loops, derivatives through a whole language model, decoding, packed documents, names, causality, learning.
#include <array>
#include <set>
#include <ttr/layers/describe.hpp>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/vocabulary.hpp>
#include <ttr/tests/ops_numbers.hpp>

namespace {

using namespace ttr;
using test::random_tensor;
using test::worst;

constexpr Options kF64{Dtype::f64, cpu_device};
using Numbers = std::vector<double>;

Tensor tokens_of(int64_t batch, int64_t count, int64_t vocab, uint64_t seed = 3) {
  std::vector<int32_t> ids(size_t(batch * count));
  const Numbers r = random_tensor({batch, count}, seed).to_vector<double>();
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = std::min(int32_t(vocab - 1), int32_t((r[i] + 1) / 2 * double(vocab)));
  return from_vector(ids, {batch, count});
}
Tensor ids_of(const std::vector<int32_t>& ids, const Shape& shape) { return from_vector(ids, shape); }

// Every parameter far from its start, so that no part of the model is nearly zero.
template <class M> void stir(M& m, double size = 0.4) {
  uint64_t seed = 100;
  each_parameter(m, [&](const std::string&, Parameter& p) { p.rebind(*p + random_tensor(p->shape(), seed++, p->dtype()) * size); });
}

LanguageModelOptions tiny(const std::string& recipe) {
  return {.vocab = 7, .dim = 8, .blocks = 2, .heads = 2, .mixer = vocabulary().parse(recipe), .hidden = 12};
}

// A linear map whose keys pass a random projection that nobody learns.
struct Projected {
  static constexpr const char* name = "projected";
  std::vector<Slot> slots() const { return {{"projection", Per::frozen, {key_size, key_size}}}; }
  int64_t size(int64_t key_dim) const { return key_dim; }
  Tensor map(const Tensor& x, const View& view, int64_t) const { return apply_matrix(view.head("projection"), x); }
};

double sigma(double x) { return 1 / (1 + std::exp(-x)); }

// [T, in] x [out, in]^T
Numbers product(const Numbers& x, const Tensor& w) {
  const int64_t out = w.size(0), in = w.size(1), T = int64_t(x.size()) / in;
  const Numbers m = w.to_vector<double>();
  Numbers y(size_t(T * out));
  for (int64_t t = 0; t < T; ++t)
    for (int64_t o = 0; o < out; ++o)
      for (int64_t i = 0; i < in; ++i) y[size_t(t * out + o)] += x[size_t(t * in + i)] * m[size_t(o * in + i)];
  return y;
}

double mean_square(const Numbers& a) {
  double s = 0;
  for (const double x : a) s += x * x;
  return s / double(a.size());
}

}  // namespace

TEST_SUITE("modules") {
  TEST_CASE("linear, embedding, norm, feed-forward against plain operations") {
    Init init(1, kF64);
    const Tensor x = random_tensor({2, 3, 4}, 5);
    Linear linear({.in = 4, .out = 5, .bias = true}, init);
    stir(linear);
    CHECK(worst(linear(x), matmul(x, transpose(*linear.weight, 0, 1)) + *linear.bias) < 1e-14);
    CHECK(!Linear({.in = 4, .out = 5}, init).bias.defined());

    Embedding table({.count = 6, .dim = 4}, init);
    const Tensor ids = ids_of({0, 5, 2, 2, 1, 0}, {2, 3});
    const Numbers rows = table.weight->to_vector<double>(), got = table(ids).to_vector<double>();
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t j = 0; j < 4; ++j) CHECK(got[size_t(i * 4 + j)] == rows[size_t(std::array{0, 5, 2, 2, 1, 0}[size_t(i)] * 4 + j)]);
    CHECK(worst(table.scores(x), matmul(x, transpose(*table.weight, 0, 1))) < 1e-14);

    RMSNorm norm(4, init);
    stir(norm);
    CHECK(worst(norm(x), x * rsqrt(mean(square(x), -1, true) + 1e-5) * *norm.weight) < 1e-14);

    SwiGLU gated({.dim = 4, .hidden = 3}, init);
    stir(gated);
    const Tensor up = matmul(x, *gated.gate_up.weight, false, true), gate = slice(up, -1, 0, 3);
    CHECK(worst(gated(x), matmul(gate * sigmoid(gate) * slice(up, -1, 3, 6), *gated.down.weight, false, true)) < 1e-14);
    GeluMlp plain({.dim = 4, .hidden = 3}, init);
    stir(plain);
    CHECK(worst(plain(x), matmul(gelu(matmul(x, *plain.up.weight, false, true)), *plain.down.weight, false, true)) < 1e-14);

    CHECK(test::message([&] { linear(random_tensor({2, 3}, 1)); }) == "[linear] x has shape [2, 3], needs [..., 4]");
  }

  TEST_CASE("short convolution against loops, token by token, and within documents") {
    Init init(2, kF64);
    const int64_t B = 2, T = 9, D = 3;
    ShortConv conv({.dim = D, .width = 4}, init);
    const Tensor x = random_tensor({B, T, D}, 6), segments = ids_of({0, 0, 1, 1, 1, 0, 4, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2, 3}, {B, T});
    const Numbers w = conv.weight->to_vector<double>(), in = x.to_vector<double>();
    const std::vector<int32_t> ids = segments.to_vector<int32_t>();
    const auto loops = [&](bool packed) {
      Numbers y(in.size());
      for (int64_t b = 0; b < B; ++b)
        for (int64_t t = 0; t < T; ++t)
          for (int64_t d = 0; d < D; ++d) {
            double z = 0;
            for (int64_t j = 0; j < 4 && t - j >= 0; ++j) {
              z += w[size_t(d * 4 + j)] * in[size_t((b * T + t - j) * D + d)];
              if (packed && t - j > 0 && ids[size_t(b * T + t - j)] != ids[size_t(b * T + t - j - 1)]) break;
            }
            y[size_t((b * T + t) * D + d)] = z * sigma(z);
          }
      return y;
    };
    CHECK(worst(conv(x), loops(false)) < 1e-14);
    CHECK(worst(conv(x, segments), loops(true)) < 1e-14);
    for (const std::vector<int64_t>& sizes : {std::vector<int64_t>(9, 1), std::vector<int64_t>{2, 1, 4, 2}, std::vector<int64_t>{9}}) {
      Tensor past;
      Tensors ys;
      int64_t at = 0;
      for (const int64_t n : sizes) ys.push_back(conv.step({slice(x, 1, at, at + n)}, past)[0]), at += n;
      CHECK(worst(concat(ys, 1), loops(false)) < 1e-14);
    }
    const Tensors parts = split(x, 2, {1, 2});   // the same channels in two tensors
    CHECK(worst(concat(conv(parts), 2), loops(false)) < 1e-14);
    CHECK(worst(concat(conv(parts, segments), 2), loops(true)) < 1e-14);
    Tensor past;
    CHECK(worst(concat(conv.step(parts, past), 2), loops(false)) < 1e-14);
  }

  TEST_CASE("gates stay in their range and start at the slot's value") {
    const Tensor far = from_vector(Numbers{-500, -3, 0, 2, 500}, {5}, kF64);
    for (const Range range : {unit_interval, positive, log_of_unit, any_value, Range{0, 2}, Range{0.25, INFINITY}, Range{-1, 1}}) {
      for (const double v : into_range(range, far).to_vector<double>()) CHECK((v >= range.low && v <= range.high));
      for (const double temper : {1.0, 16.0}) {
        const double inside = range.high == 0 ? -0.05 : range.low == 0.25 ? 1 : 0.5;
        const double z = out_of_range(range, inside, temper);
        CHECK(into_range(range, from_vector(Numbers{z}, {1}, kF64), temper).item() == doctest::Approx(inside).epsilon(1e-6));
      }
    }
    Init init(3, kF64);
    const GateOptions sizes{.dim = 4, .heads = 2, .key_dim = 3, .value_dim = 5, .writes = 2};
    const Gate gate({"step_size", Per::write, {value_size}, unit_interval, 0.9}, sizes, init);
    const Tensor zero = gate(zeros({1, 3, 4}, kF64));
    CHECK(zero.shape() == Shape{1, 6, 2, 5});
    for (const double v : zero.to_vector<double>()) CHECK(v == doctest::Approx(0.9).epsilon(1e-6));

    GateOptions timed = sizes;
    timed.timed = true, timed.writes = 1;
    Gate decay({"log_decay", Per::token, {}, log_of_unit}, timed, init);
    const Tensor x = random_tensor({1, 3, 4}, 8);
    const Numbers g = decay(x).to_vector<double>(), z = product(x.to_vector<double>(), *decay.weight), b = decay.bias->to_vector<double>(),
                  a = decay.rate->to_vector<double>();
    for (size_t i = 0; i < 6; ++i)
      CHECK(g[i] == doctest::Approx(-std::exp(a[i % 2]) * std::log1p(std::exp(z[i] + b[i % 2]))).epsilon(1e-12));
    for (size_t h = 0; h < 2; ++h) {
      const double dt = std::log1p(std::exp(b[h])), rate = std::exp(a[h]);
      CHECK((dt > 0.9e-3 && dt < 0.11 && rate >= 1 && rate <= 16));
    }
  }

  TEST_CASE("memory layer: softmax attention against loops") {
    Init init(4, kF64);
    const int64_t T = 6, D = 6, H = 2, K = 3, V = 4;
    MemoryLayer layer({.dim = D,
                       .heads = H,
                       .key_heads = 1,
                       .key_dim = K,
                       .value_dim = V,
                       .recipe = recipes::softmax_attention,
                       .around = Surroundings{}},
                      init);
    stir(layer);
    const Tensor x = random_tensor({1, T, D}, 9);
    const Numbers mixed = product(x.to_vector<double>(), *layer.project.weight);
    const int64_t width = H * K + K + H * V;
    REQUIRE(layer.project.weight->size(0) == width);
    Numbers answer(size_t(T * H * V));
    for (int64_t h = 0; h < H; ++h)
      for (int64_t t = 0; t < T; ++t) {
        Numbers p(size_t(t + 1));
        double total = 0;
        for (int64_t i = 0; i <= t; ++i) {
          double s = 0;
          for (int64_t j = 0; j < K; ++j) s += mixed[size_t(t * width + h * K + j)] * mixed[size_t(i * width + H * K + j)];
          total += p[size_t(i)] = std::exp(s / std::sqrt(double(K)));
        }
        for (int64_t i = 0; i <= t; ++i)
          for (int64_t j = 0; j < V; ++j)
            answer[size_t((t * H + h) * V + j)] += p[size_t(i)] / total * mixed[size_t(i * width + H * K + K + h * V + j)];
      }
    CHECK(worst(layer(x), product(answer, *layer.output.weight)) < 1e-12);
    // rotation by position and by nothing else
    MemoryLayer rotated({.dim = 8, .heads = H, .recipe = recipes::softmax_attention}, init);
    REQUIRE(rotated.options.around->rotary);
    stir(rotated);
    const Tensor u = random_tensor({1, T, 8}, 9);
    const Tensors qkv = split(rotated.project(u), -1, {8, 8, 8});
    const auto headed = [&](const Tensor& a) { return transpose(reshape(a, {1, T, H, 4}), 1, 2); };
    const Tensor q = transpose(rotary(reshape(qkv[0], {1, T, H, 4})), 1, 2), k = transpose(rotary(reshape(qkv[1], {1, T, H, 4})), 1, 2);
    const Tensor mask = tril(ones({T, T}, kF64)), logits = matmul(q, k, false, true) * 0.5;
    const Tensor y = matmul(softmax(where(broadcast_to(mask, logits.shape()), logits, full({}, -INFINITY, kF64))), headed(qkv[2]));
    CHECK(worst(rotated(u), rotated.output(reshape(transpose(y, 1, 2), {1, T, 8}))) < 1e-12);
  }

  TEST_CASE("memory layer: gated delta rule against loops, with all that is usual around it") {
    Init init(5, kF64);
    const int64_t T = 7, D = 6, H = 2, K = 3, V = 3;
    MemoryLayer layer({.dim = D, .heads = H, .recipe = recipes::gated_delta_net}, init);
    stir(layer);
    REQUIRE((layer.conv && layer.output_norm && layer.options.around->output_gate));
    const Tensor x = random_tensor({1, T, D}, 10);
    const Numbers in = x.to_vector<double>(), raw = product(in, *layer.project.weight), w = layer.conv->weight->to_vector<double>();
    const int64_t width = 2 * H * K + 2 * H * V, wet = 2 * H * K + H * V;
    Numbers mixed = raw;
    for (int64_t t = 0; t < T; ++t)
      for (int64_t c = 0; c < wet; ++c) {
        double z = 0;
        for (int64_t j = 0; j < 4 && j <= t; ++j) z += w[size_t(c * 4 + j)] * raw[size_t((t - j) * width + c)];
        mixed[size_t(t * width + c)] = z * sigma(z);
      }
    REQUIRE(layer.gates.size() == 2);
    const Gate &decay = layer.gates[0], &step = layer.gates[1];
    REQUIRE((decay.slot.name == "log_decay" && step.slot.name == "step_size"));
    const Numbers g = decay(x).to_vector<double>(), beta_z = product(in, *step.weight), beta_b = step.bias->to_vector<double>(),
                  scale = layer.output_norm->weight->to_vector<double>();
    Numbers answer(size_t(T * H * V));
    for (int64_t h = 0; h < H; ++h) {
      Numbers m(size_t(V * K));
      for (int64_t t = 0; t < T; ++t) {
        const auto unit = [&](int64_t from) {
          Numbers u(mixed.begin() + t * width + from, mixed.begin() + t * width + from + K);
          const double length = std::sqrt(mean_square(u) * double(K) + 1e-6);
          for (double& a : u) a /= length;
          return u;
        };
        const Numbers q = unit(h * K), k = unit(H * K + h * K);
        const double beta = sigma(beta_z[size_t(t * H + h)] + beta_b[size_t(h)]);
        Numbers y(static_cast<size_t>(V));
        for (int64_t i = 0; i < V; ++i) {
          double held = 0;
          for (int64_t j = 0; j < K; ++j) held += (m[size_t(i * K + j)] *= std::exp(g[size_t(t * H + h)])) * k[size_t(j)];
          for (int64_t j = 0; j < K; ++j)
            m[size_t(i * K + j)] += beta * (mixed[size_t(t * width + 2 * H * K + h * V + i)] - held) * k[size_t(j)];
          for (int64_t j = 0; j < K; ++j) y[size_t(i)] += m[size_t(i * K + j)] * q[size_t(j)];
        }
        const double size = std::sqrt(mean_square(y) + 1e-5);
        for (int64_t i = 0; i < V; ++i) {
          const double z = raw[size_t(t * width + wet + h * V + i)];
          answer[size_t((t * H + h) * V + i)] = y[size_t(i)] / size * scale[size_t(i)] * z * sigma(z);
        }
      }
    }
    CHECK(worst(layer(x), product(answer, *layer.output.weight)) < 1e-12);
  }

  TEST_CASE("derivatives of all parameters through a language model") {
    for (const std::string recipe :
         {"softmax_attention", "gated_delta_net", "mamba", "longhorn_diagonal", "hgrn", "lru", "retnet", "gla", "hgrn2", "mamba2", "mlstm", "mlstm_sigmoid",
          "rwkv6", "nadaraya_watson", "forgetting_attention",
          "geometric / mlp[hidden=4] / descend[rule=momentum,at=chunk,chunk=2]"}) {
      CAPTURE(recipe);
      LanguageModelOptions options = tiny(recipe);
      options.tied = recipe != "gated_delta_net";
      LanguageModel model(options, 11, cpu_device, Dtype::f64);
      stir(model, 0.3);
      const Tensor tokens = tokens_of(2, 5, 7), labels = tokens_of(2, 5, 7, 4);
      const auto loss = [&] { return cross_entropy(model(tokens), labels); };
      std::vector<Parameter*> parameters;
      std::vector<std::string> names;
      Tensors xs;
      each_parameter(model,
                     [&](const std::string& name, Parameter& p) { parameters.push_back(&p), names.push_back(name), xs.push_back(*p); });
      const Tensors dxs = grad({loss()}, {}, xs);
      for (size_t i = 0; i < xs.size(); ++i) {
        CAPTURE(names[i]);
        const Tensor direction = random_tensor(xs[i].shape(), 500 + i);
        const double analytic = sum(dxs[i] * direction).item();
        const auto at = [&](double h) {
          parameters[i]->rebind(xs[i] + direction * h);
          const Recording off(false);
          return loss().item();
        };
        const double h = 1e-5, numeric = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
        parameters[i]->rebind(xs[i]);
        CHECK(analytic != 0);
        CHECK(std::abs(analytic - numeric) < 1e-9 + 1e-6 * std::abs(numeric));
      }
    }
  }

  TEST_CASE("decoding token by token equals the forward pass") {
    struct Case {
      std::string recipe;
      int64_t key_heads, value_heads;
      Surroundings around;
      bool usual;
      int64_t positions;
    };
    const Surroundings convolved{.conv = 4, .conv_value = false, .key_norm = KeyNorm::rms, .output_norm = true};
    for (const Case& c : std::vector<Case>{{"softmax_attention", 0, 0, {}, true, 0},
                                           {"softmax_attention", 1, 1, {}, true, 12},
                                           {"qknorm_attention", 0, 0, {}, true, 0},
                                           {"delta_net", 0, 0, {}, true, 0},
                                           {"gated_delta_net", 1, 2, {}, true, 0},
                                           {"gla", 2, 1, {}, true, 0},
                                           {"retnet", 0, 0, {}, true, 0},
                                           {"hgrn2", 0, 0, {}, true, 0},
                                           {"mamba2", 0, 0, {}, true, 0},
                                           {"mlstm", 0, 0, {}, true, 0},
                                           {"mlstm", 1, 1, {}, true, 0},
                                           {"rwkv6", 0, 0, {}, true, 0},
                                           {"rwkv6", 1, 2, {}, true, 0},
                                           {"mlstm_sigmoid", 2, 1, {}, true, 0},
                                           {"forgetting_attention", 0, 0, {}, true, 0},
                                           {"longhorn", 0, 0, {}, true, 0},
                                           {"l2_sgd", 0, 0, {}, true, 0},
                                           {"mesa", 0, 0, convolved, false, 0},
                                           {"geometric / mlp[hidden=4] / descend[rule=momentum,at=chunk,chunk=2]", 0, 0, {}, true, 0}}) {
      CAPTURE(c.recipe);
      LanguageModelOptions options = tiny(c.recipe);
      options.key_heads = c.key_heads, options.value_heads = c.value_heads, options.positions = c.positions;
      if (!c.usual) options.around = c.around;
      LanguageModel model(options, 12, cpu_device, Dtype::f64);
      stir(model, 0.3);
      const int64_t T = 9;
      const Tensor tokens = tokens_of(2, T, 7);
      const Tensor full = model(tokens);
      for (const int64_t prompt : {1, 2, 5}) {
        LanguageModelState state;
        CHECK(worst(model.prefill(slice(tokens, 1, 0, prompt), state), slice(full, 1, prompt - 1, prompt)) < 1e-10);
        for (int64_t t = prompt; t < T; ++t) CHECK(worst(model.step(slice(tokens, 1, t, t + 1), state), slice(full, 1, t, t + 1)) < 1e-10);
        CHECK(state.position == T);
      }
    }
  }

  TEST_CASE("packed documents equal separate runs") {
    for (const std::string recipe : {"softmax_attention", "gated_delta_net", "mesa", "rwkv6", "mlstm", "forgetting_attention"})
      for (const int64_t positions : {0, 10}) {
        CAPTURE(recipe);
        LanguageModelOptions options = tiny(recipe);
        options.positions = positions;
        LanguageModel model(options, 13, cpu_device, Dtype::f64);
        stir(model, 0.3);
        const Tensor tokens = tokens_of(2, 8, 7), segments = ids_of({5, 5, 5, 1, 1, 5, 5, 5, 0, 1, 1, 1, 1, 1, 1, 2}, {2, 8});
        const Tensor together = model(tokens, {.segments = segments});
        for (const auto& [row, begin, end] :
             std::vector<std::array<int64_t, 3>>{{0, 0, 3}, {0, 3, 5}, {0, 5, 8}, {1, 0, 1}, {1, 1, 7}, {1, 7, 8}}) {
          CAPTURE(begin);
          const auto part = [&](const Tensor& x) { return slice(slice(x, 0, row, row + 1), 1, begin, end); };
          CHECK(worst(part(together), model(part(tokens))) < 1e-10);
        }
      }
  }

  TEST_CASE("names of parameters are stable") {
    const auto names = [](auto& m) {
      std::vector<std::string> all;
      each_parameter(m, [&](const std::string& name, Parameter&) { all.push_back(name); });
      return all;
    };
    LanguageModelOptions options = tiny("softmax_attention");
    options.blocks = 1, options.feed_forward = FeedForward::gelu, options.positions = 4, options.tied = false;
    LanguageModel attention(options, 1);
    CHECK(names(attention) == std::vector<std::string>{"embed.weight", "positions.weight", "blocks.0.mixer_norm.weight",
                                                       "blocks.0.mixer.project.weight", "blocks.0.mixer.output.weight",
                                                       "blocks.0.mlp_norm.weight", "blocks.0.mlp.up.weight", "blocks.0.mlp.down.weight",
                                                       "norm.weight", "head.weight"});
    LanguageModelOptions hybrid = tiny("gated_delta_net");
    hybrid.mixers = {recipes::gated_delta_net, recipes::mesa};
    LanguageModel gated(hybrid, 1);
    CHECK(names(gated) == std::vector<std::string>{"embed.weight",
                                                   "blocks.0.mixer_norm.weight",
                                                   "blocks.0.mixer.project.weight",
                                                   "blocks.0.mixer.conv.weight",
                                                   "blocks.0.mixer.log_decay.weight",
                                                   "blocks.0.mixer.log_decay.bias",
                                                   "blocks.0.mixer.log_decay.rate",
                                                   "blocks.0.mixer.step_size.weight",
                                                   "blocks.0.mixer.step_size.bias",
                                                   "blocks.0.mixer.output_norm.weight",
                                                   "blocks.0.mixer.output.weight",
                                                   "blocks.0.mlp_norm.weight",
                                                   "blocks.0.mlp.gate_up.weight",
                                                   "blocks.0.mlp.down.weight",
                                                   "blocks.1.mixer_norm.weight",
                                                   "blocks.1.mixer.project.weight",
                                                   "blocks.1.mixer.conv.weight",
                                                   "blocks.1.mixer.ridge",
                                                   "blocks.1.mixer.output_norm.weight",
                                                   "blocks.1.mixer.output.weight",
                                                   "blocks.1.mlp_norm.weight",
                                                   "blocks.1.mlp.gate_up.weight",
                                                   "blocks.1.mlp.down.weight",
                                                   "norm.weight"});
    for (const Published& p : published_recipes()) {   // a name twice would lose a tensor in a checkpoint
      CAPTURE(p.name);
      LanguageModelOptions each = tiny("softmax_attention");
      each.mixer = p.recipe, each.blocks = 1;
      LanguageModel model(each, 1);
      std::set<std::string> seen;
      for (const std::string& name : names(model)) CHECK(seen.insert(name).second);
    }
  }

  TEST_CASE("the same seed is the same model, another seed another; deviations are as declared") {
    const auto numbers = [](uint64_t seed, Dtype dtype) {
      LanguageModel model({.vocab = 50, .dim = 64, .blocks = 2, .heads = 4, .mixer = recipes::gated_delta_net}, seed, cpu_device, dtype);
      std::map<std::string, Numbers> all;
      each_parameter(model, [&](const std::string& name, Parameter& p) { all[name] = p->to_vector<double>(); });
      return all;
    };
    auto a = numbers(7, Dtype::f32), other = numbers(8, Dtype::f32);
    CHECK(a == numbers(7, Dtype::f32));
    CHECK(a == numbers(7, Dtype::f64));
    CHECK(a["embed.weight"] != other["embed.weight"]);
    CHECK(a["blocks.0.mixer.project.weight"] != a["blocks.1.mixer.project.weight"]);
    CHECK(std::sqrt(mean_square(a["embed.weight"])) == doctest::Approx(0.02).epsilon(0.1));
    CHECK(std::sqrt(mean_square(a["blocks.0.mixer.output.weight"])) == doctest::Approx(0.01).epsilon(0.1));
    CHECK(std::sqrt(mean_square(a["blocks.1.mlp.down.weight"])) == doctest::Approx(0.01).epsilon(0.1));
    LanguageModel model({.vocab = 50, .dim = 64, .blocks = 2, .heads = 4, .tied = false}, 7);
    CHECK(model.parameter_count() == 50 * 64 * 2 + 64 + 2 * (64 * 3 * 64 + 64 * 64 + 2 * 64 + 3 * 64 * 192));
  }

  TEST_CASE("no logit reads a later token, bit for bit") {
    for (const std::string recipe : {"softmax_attention", "gated_delta_net", "gla", "mesa"}) {
      CAPTURE(recipe);
      LanguageModel model(tiny(recipe), 14);
      stir(model, 0.3);
      const Tensor tokens = tokens_of(1, 8, 7);
      const Numbers before = model(tokens).to_vector<double>();
      for (const int64_t changed : {1, 5, 7}) {
        std::vector<int32_t> ids = tokens.to_vector<int32_t>();
        ids[size_t(changed)] = (ids[size_t(changed)] + 1) % 7;
        const Numbers after = model(ids_of(ids, {1, 8})).to_vector<double>();
        for (int64_t i = 0; i < changed * 7; ++i) REQUIRE(before[size_t(i)] == after[size_t(i)]);
        CHECK(std::vector(before.begin() + changed * 7, before.end()) != std::vector(after.begin() + changed * 7, after.end()));
      }
    }
  }

  TEST_CASE("dropout acts when a seed is given, and as the seed says") {
    LanguageModelOptions options = tiny("softmax_attention");
    options.dropout = 0.3;
    LanguageModel model(options, 15), whole(tiny("softmax_attention"), 15);
    const Tensor tokens = tokens_of(2, 6, 7);
    const Numbers a = model(tokens, {.dropout_seed = 1}).to_vector<double>();
    CHECK(a == model(tokens, {.dropout_seed = 1}).to_vector<double>());
    CHECK(a != model(tokens, {.dropout_seed = 2}).to_vector<double>());
    CHECK(model(tokens).to_vector<double>() == whole(tokens).to_vector<double>());
  }

  TEST_CASE("a tiny model learns 32 bytes by heart") {
    const std::string text = "to be, or not to be: that is it.\n";
    std::vector<int32_t> ids(text.begin(), text.end());
    const Tensor input = slice(ids_of(ids, {1, 33}), 1, 0, 32), target = slice(ids_of(ids, {1, 33}), 1, 1, 33);
    for (const std::string recipe : {"softmax_attention", "gated_delta_net"}) {
      CAPTURE(recipe);
      LanguageModel model({.vocab = 128, .dim = 32, .blocks = 2, .heads = 2, .mixer = vocabulary().parse(recipe), .tied = false}, 16);
      double loss = 0;
      for (int step = 0; step < 400; ++step) {
        std::vector<Parameter*> parameters;
        Tensors xs;
        each_parameter(model, [&](const std::string&, Parameter& p) { parameters.push_back(&p), xs.push_back(*p); });
        const Tensor l = cross_entropy(model(input), target);
        loss = l.item();
        if (loss < 0.1) break;
        const Tensors dxs = grad({l}, {}, xs, {.consume = true});
        double square_norm = 0;
        for (const Tensor& d : dxs) square_norm += sum(square(d)).item();
        const double rate = 0.5 / std::max(1.0, std::sqrt(square_norm));
        const Recording off(false);
        for (size_t i = 0; i < xs.size(); ++i) parameters[i]->rebind(xs[i] - dxs[i] * rate);
      }
      CHECK(loss < 0.1);
    }
  }

  TEST_CASE("a frozen slot is drawn, kept beside the parameters and never learned") {
    const Recipe recipe{EvenWeights{}, LinearMap{.feature = Projected{}}, Descend<Sgd>{.at = initial}};
    LanguageModelOptions options = tiny("softmax_attention");
    options.mixer = recipe;
    LanguageModel model(options, 18, cpu_device, Dtype::f64);
    std::map<std::string, Tensor> frozen;
    each_frozen(model, [&](const std::string& name, Frozen& x) { frozen[name] = x.value; });
    REQUIRE(frozen.size() == 2);
    const Tensor first = frozen.at("blocks.0.mixer.projection");
    CHECK(first.shape() == Shape{2, 4, 4});
    CHECK(!first.tracked());
    CHECK(first.to_vector<double>() != frozen.at("blocks.1.mixer.projection").to_vector<double>());
    each_parameter(model, [&](const std::string& name, Parameter&) { CHECK(name.find("projection") == std::string::npos); });
    const Tensor tokens = tokens_of(1, 5, 7), before = model(tokens);
    each_frozen(model, [&](const std::string&, Frozen& x) { x.value = x.value * 2.0; });
    CHECK(worst(model(tokens), before) > 1e-6);
  }

  TEST_CASE("what is usual around a recipe") {
    const auto usual = [](const std::string& recipe) { return usual_surroundings(vocabulary().parse(recipe)); };
    CHECK(usual("softmax_attention").rotary);
    CHECK(!usual("forgetting_attention").rotary);
    CHECK(usual("gated_delta_net").timed_decay);
    CHECK(usual("gated_delta_net").output_gate);
    CHECK(!usual("delta_net").output_gate);
    CHECK(usual("simple_gla").decay_temper == 16);
    CHECK(usual("mamba2").conv == 4);   // the same ingredients as simple_gla, another reading
    CHECK(usual_surroundings(recipes::delta_net.with({.read = Read::strict})).conv == 4);
    CHECK(usual_surroundings(recipes::delta_net.with({.key_norm = KeyNorm::l2})).key_norm == KeyNorm::none);
    CHECK(usual("geometric / mlp / descend").key_norm == KeyNorm::l2);
    CHECK(usual("geometric / mlp / descend").output_norm);
  }

  TEST_CASE("several writes a token: as many keys and values, all at the token's position") {
    const Recipe twice = published("delta_net").recipe.with({.writes = 2});
    Surroundings around = usual_surroundings(twice);
    around.rotary = true;
    LanguageModelOptions options = tiny("softmax_attention");
    options.mixer = twice, options.around = around;
    LanguageModel model(options, 19, cpu_device, Dtype::f64);
    stir(model, 0.3);
    const Slots slots = model.blocks[0].mixer.slots(random_tensor({1, 5, 8}, 1));
    CHECK(slots.at("q").shape() == Shape{1, 5, 2, 4});
    CHECK(slots.at("k").shape() == Shape{1, 10, 2, 4});
    CHECK(slots.at("v").shape() == Shape{1, 10, 2, 4});
    CHECK(slots.at("step_size").shape() == Shape{1, 10, 2});
    const Tensor tokens = tokens_of(2, 6, 7), full = model(tokens);
    LanguageModelState state;
    for (int64_t t = 0; t < 6; ++t) CHECK(worst(model.step(slice(tokens, 1, t, t + 1), state), slice(full, 1, t, t + 1)) < 1e-10);
  }

  TEST_CASE("every published recipe makes a model that answers, learns and decodes") {
    for (const Published& p : published_recipes()) {
      CAPTURE(p.name);
      CAPTURE(p.recipe.text());
      LanguageModelOptions options = tiny("softmax_attention");
      options.mixer = p.recipe, options.blocks = 1;
      LanguageModel model(options, 20);
      Tensors xs;
      each_parameter(model, [&](const std::string&, Parameter& q) { xs.push_back(*q); });
      const Tensor tokens = tokens_of(1, 5, 7);
      const Tensor loss = cross_entropy(model(tokens), tokens_of(1, 5, 7, 4));
      CHECK(loss.item() == doctest::Approx(std::log(7.0)).epsilon(0.2));
      for (const Tensor& d : grad({loss}, {}, xs))
        for (const double v : d.to_vector<double>()) REQUIRE(std::isfinite(v));
      if (p.recipe.reading().visible == Visible::everything) continue;   // sees the whole context: nothing to decode token by token
      LanguageModel precise(options, 20, cpu_device, Dtype::f64);
      const Tensor full = precise(tokens);
      LanguageModelState state;
      for (int64_t t = 0; t < 5; ++t) CHECK(worst(precise.step(slice(tokens, 1, t, t + 1), state), slice(full, 1, t, t + 1)) < 1e-9);
    }
  }

  TEST_CASE("a forced route computes the same") {
    for (const std::string recipe : {"softmax_attention", "gated_delta_net"}) {
      CAPTURE(recipe);
      LanguageModelOptions options = tiny(recipe), forced = options;
      forced.route = "fold";
      LanguageModel model(options, 21, cpu_device, Dtype::f64), folded(forced, 21, cpu_device, Dtype::f64);
      stir(model, 0.3), stir(folded, 0.3);
      const Tensor tokens = tokens_of(2, 9, 7);
      CHECK(worst(model(tokens), folded(tokens)) < 1e-10);
    }
    LanguageModelOptions wrong = tiny("softmax_attention");
    wrong.route = "delta/cpu-chunk";
    CHECK(test::message([&] {
            LanguageModel(wrong, 1)(tokens_of(1, 4, 7));
          }).starts_with("[plan] route delta/cpu-chunk is asked for and refuses: "));
  }

  TEST_CASE("describe: parts add up, the plan is named, predicted bytes are those of a step") {
    for (const std::string recipe :
         {"softmax_attention", "gated_delta_net", "gla", "geometric / mlp[hidden=16] / descend[rule=momentum,at=chunk,chunk=16]"}) {
      CAPTURE(recipe);
      LanguageModel model({.vocab = 64, .dim = 32, .blocks = 2, .heads = 2, .mixer = vocabulary().parse(recipe)}, 17);
      const DescribeOptions sizes{.batch = 3, .tokens = 80};
      const std::string text = describe(model, sizes);
      const bool folds = recipe.find("mlp") != recipe.npos;
      CAPTURE(text);
      CHECK(text.find("2 blocks of width 32") != text.npos);
      CHECK(text.find("blocks.0-1") != text.npos);
      CHECK(text.find(folds                           ? ": fold\n"
                      : recipe == "softmax_attention" ? ": softmax_attention/cpu-blocked\n"
                      : recipe == "gla"               ? ": diagonal_decay/cpu-block\n"
                                                      : ": delta/cpu-chunk\n") != text.npos);
      for (const char* words : {", activations ", "weight decay acts on ", "not on gains, biases"}) CHECK(text.find(words) != text.npos);
      const Footprint f = footprint(model, sizes);
      CHECK(f.parameters == 4.0 * double(model.parameter_count()));
      CHECK(footprint(model, {.batch = 3, .tokens = 80, .training = false}).total() == f.parameters);

      const Tensor tokens = tokens_of(3, 80, 64);
      Tensors xs;
      each_parameter(model, [&](const std::string&, Parameter& p) { xs.push_back(*p); });
      const double before = double(memory_use(cpu_device).live_bytes);
      reset_peak(cpu_device);
      const Tensor loss = cross_entropy(model(tokens), tokens);
      const double kept = double(memory_use(cpu_device).live_bytes) - before;
      const Tensors dxs = grad({loss}, {}, xs, {.consume = true});
      const double peak = double(memory_use(cpu_device).peak_bytes) - before;
      CHECK(f.activations > 0.8 * kept);
      CHECK(f.activations < 1.6 * kept);
      CHECK(f.activations + f.gradients + f.workspace > 0.8 * peak);
      CHECK(f.activations + f.gradients + f.workspace < 2 * peak);
    }
  }

  TEST_CASE("refusals") {
    Init init(1);
    const auto layer = [&](MemoryOptions o) { return test::message([&] { MemoryLayer(o, init); }); };
    CHECK(layer({.dim = 8, .heads = 3, .recipe = recipes::delta_net}) ==
          "[memory_layer] dim is 8, needs a multiple of heads 3; or give key_dim and value_dim");
    CHECK(layer({.dim = 8, .heads = 4, .key_heads = 3, .recipe = recipes::delta_net}) ==
          "[memory_layer] key_heads is 3, needs a divisor of heads 4");
    CHECK(layer({.dim = 6, .heads = 2, .recipe = recipes::softmax_attention}) ==
          "[memory_layer] key_dim is 3, needs an even size to be rotated in pairs; or no rotary");
    LanguageModelOptions options = tiny("softmax_attention");
    options.positions = 4;
    LanguageModel model(options, 1);
    CHECK(test::message([&] { model(tokens_of(1, 5, 7)); }) ==
          "[language_model] tokens has 5 a row, needs at most 4, the learned positions");
  }
}
