// The published layers on the GPU: what stands around a memory is operations that both devices have, so outputs, gradients, decoding and packed
// documents are the CPU's, in f64 nearly to the bit, in bf16 to its roundings; and a captured step is the uncaptured one.
#include <string>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>

#if TTR_WITH_CUDA
#include <cmath>
#include <ttr/core/device_kernel.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/layers/vocabulary.hpp>
#include <ttr/optim/trainer.hpp>
#include <ttr/tests/ops_numbers.hpp>

using namespace ttr;
using test::random_tensor;
using test::worst;

namespace {

constexpr int64_t kWidth = 32, kTokens = 70;

bool no_gpu() {
  if (cuda::device_count() > 0) return false;
  MESSAGE("skipped: " << std::string(cuda::device_problem()));
  return true;
}

LanguageModel model_of(const std::string& recipe, Device device, Dtype dtype) {
  LanguageModel model({.vocab = 11, .dim = kWidth, .blocks = 2, .heads = 2, .mixer = vocabulary().parse(recipe), .hidden = 32}, 5, device, dtype);
  uint64_t seed = 100;
  each_parameter(model, [&](const std::string&, Parameter& p) {
    p.rebind(*p + to_device(cast(random_tensor(p->shape(), seed++) * 0.1, dtype), device));
  });
  return model;
}

Tensor tokens_of(int64_t batch, uint64_t seed) {
  std::vector<int32_t> ids;
  for (const double r : random_tensor({batch, kTokens}, seed).to_vector<double>()) ids.push_back(std::min(10, int32_t((r + 1) * 5.5)));
  return from_vector(ids, {batch, kTokens});
}

double far(const std::vector<double>& got, const std::vector<double>& want) {   // |got - want| / |want|
  double apart = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) apart += std::pow(got[i] - want[i], 2), size += std::pow(want[i], 2);
  return std::sqrt(apart / size);
}

struct Numbers {
  std::vector<double> logits;
  std::map<std::string, std::vector<double>> gradients;
};
Numbers numbers_of(const std::string& recipe, Device device, Dtype dtype) {
  LanguageModel model = model_of(recipe, device, dtype);
  std::vector<int32_t> documents(size_t(2 * kTokens));
  for (size_t i = 0; i < documents.size(); ++i) documents[i] = i > 40 && i < 110;
  const Tensor tokens = to_device(tokens_of(2, 3), device), segments = to_device(from_vector(documents, {2, kTokens}), device);
  const Tensor logits = model(tokens, {.segments = segments});
  Tensors xs;
  std::vector<std::string> names;
  each_parameter(model, [&](const std::string& name, Parameter& p) { xs.push_back(*p), names.push_back(name); });
  const Tensors dxs = grad({cross_entropy(logits, to_device(tokens_of(2, 4), device))}, {}, xs);
  Numbers n{logits.to_vector<double>(), {}};
  for (size_t i = 0; i < xs.size(); ++i) n.gradients[names[i]] = dxs[i].to_vector<double>();
  return n;
}

struct Batch {
  Tensor input, target;   // i32 [B, T]
  void each(auto&& f) { f("input", input), f("target", target); }
};

const std::vector<std::string> kRecipes{"rwkv6", "mlstm", "mlstm_sigmoid", "forgetting_attention", "mesa_net", "hgrn2"};

}  // namespace

TEST_SUITE("cuda_published_blocks") {
TEST_CASE("packed documents in f64: logits and the gradients of all parameters are the CPU's") {
  if (no_gpu()) return;
  for (const std::string& recipe : kRecipes) {
    CAPTURE(recipe);
    const Numbers here = numbers_of(recipe, cpu_device, Dtype::f64), there = numbers_of(recipe, cuda_device, Dtype::f64);
    CHECK(far(there.logits, here.logits) < 1e-10);
    for (const auto& [name, d] : here.gradients) {
      CAPTURE(name);
      CHECK(far(there.gradients.at(name), d) < 1e-8);
    }
  }
}

TEST_CASE("decoding equals the forward pass") {
  if (no_gpu()) return;
  for (const std::string& recipe : kRecipes) {
    CAPTURE(recipe);
    const LanguageModel model = model_of(recipe, cuda_device, Dtype::f64);
    const Tensor tokens = to_device(tokens_of(2, 3), cuda_device), full = model(tokens);
    LanguageModelState state;
    CHECK(worst(model.prefill(slice(tokens, 1, 0, 60), state), slice(full, 1, 59, 60)) < 1e-9);
    for (int64_t t = 60; t < kTokens; ++t) CHECK(worst(model.step(slice(tokens, 1, t, t + 1), state), slice(full, 1, t, t + 1)) < 1e-9);
  }
}

TEST_CASE("one layer in bf16 is the f64 one of the same rounded numbers, to its roundings") {
  if (no_gpu()) return;
  for (const std::string recipe : {"rwkv6", "mlstm", "mlstm_sigmoid", "forgetting_attention", "hgrn2"}) {   // mesa_net's solve is the parity test's
    CAPTURE(recipe);
    LanguageModel narrow = model_of(recipe, cuda_device, Dtype::bf16), exact = model_of(recipe, cpu_device, Dtype::f64);
    std::map<std::string, Tensor> rounded;
    each_parameter(narrow, [&](const std::string& name, Parameter& p) { rounded[name] = to_device(cast(*p, Dtype::f64), cpu_device); });
    each_parameter(exact, [&](const std::string& name, Parameter& p) { p.rebind(rounded.at(name)); });
    const Tensor x = cast(to_device(random_tensor({2, kTokens, kWidth}, 9), cuda_device), Dtype::bf16);
    const Tensor y = narrow.blocks[1].mixer(x), want = exact.blocks[1].mixer(to_device(cast(x, Dtype::f64), cpu_device));
    const double error = far(cast(y, Dtype::f64).to_vector<double>(), want.to_vector<double>());
    CAPTURE(error);
    CHECK(error < 4.0 / 256);
  }
}

TEST_CASE("captured steps are the uncaptured ones bit for bit") {
  if (no_gpu()) return;
  const auto loss = [](const LanguageModel& m, const Batch& b) { return cross_entropy(m(b.input), b.target); };
  for (const std::string recipe : {"rwkv6", "mlstm", "mlstm_sigmoid"})
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      CAPTURE(recipe);
      CAPTURE(name_of(dtype));
      std::vector<double> losses[2], values[2];
      for (const bool captured : {false, true}) {
        LanguageModel model({.vocab = 11, .dim = 64, .blocks = 2, .heads = 2, .mixer = vocabulary().parse(recipe)}, 1, cuda_device, dtype);
        Trainer trainer(model, AdamW{}, loss);
        const auto batch = [](int step) { return Batch{tokens_of(4, uint64_t(step % 2)), tokens_of(4, uint64_t(step % 2) + 10)}; };
        if (captured) trainer.capture(batch(0));
        std::vector<StepReport> reports;
        const StepOptions o{.rate = 3e-3, .clip = 1};
        for (int s = 0; s < 10; ++s) reports.push_back(captured ? trainer.replay(batch(s), o) : trainer.step(batch(s), o));
        for (const StepReport& r : reports) losses[captured].push_back(r.loss());
        each_parameter(model, [&](const std::string&, Parameter& p) {
          for (const double v : p->to_vector<double>()) values[captured].push_back(v);
        });
      }
      CHECK(losses[0] == losses[1]);
      CHECK(values[0] == values[1]);
      CHECK(losses[0].back() < losses[0].front());
    }
}

}
#else
TEST_SUITE("cuda_published_blocks") {
TEST_CASE("published blocks on cuda") { MESSAGE("skipped: built without CUDA"); }
}
#endif
