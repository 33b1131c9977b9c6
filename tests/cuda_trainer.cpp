// The whole step on the GPU: the same as on the CPU, and captured as a graph whose replays are the uncaptured steps bit for bit.
#include <string>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>

#if TTR_WITH_CUDA
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <ttr/core/device_kernel.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/optim/trainer.hpp>

using namespace ttr;

namespace {

bool no_gpu() {
  if (cuda::device_count() > 0) return false;
  MESSAGE("skipped: " << std::string(cuda::device_problem()));
  return true;
}

constexpr int64_t kVocab = 37, kWidth = 24, kHidden = 40;

struct Speller {   // each token from the one before: embedding, norm, two layers, the embedding again as the head
  Parameter table, scale, up, down, bias;
  Tensor operator()(const Tensor& ids) const {
    const Tensor x = embedding(*table, ids);
    const Tensor y = x + (matmul(gelu(matmul(rms_norm(x, *scale), *up)), *down) + *bias);
    return matmul(reshape(y, {-1, kWidth}), *table, false, true);
  }
  void each(auto&& f) { f("table", table), f("scale", scale), f("up", up), f("down", down), f("bias", bias); }
};

Speller speller(Dtype dtype, Device device) {
  const auto start = [&](const Shape& shape, uint64_t stream, double deviation, bool decays) {
    const Tensor host = normal(shape, 5, stream, 0, deviation, {dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32});
    const Tensor there = to_device(host, device);
    return Parameter(dtype == Dtype::bf16 ? cast(there, dtype) : there, decays);
  };
  return {start({kVocab, kWidth}, 1, 0.3, true), start({kWidth}, 2, 1, false), start({kWidth, kHidden}, 3, 0.2, true),
          start({kHidden, kWidth}, 4, 0.2, true), start({kWidth}, 5, 0.1, false)};
}

struct Batch {
  Tensor input, target;   // i32 [B, T]
  void each(auto&& f) { f("input", input), f("target", target); }
};
Batch batch(int step) {   // on the CPU; every fifth label is ignored, more in later steps
  std::vector<int32_t> ids, labels;
  for (int i = 0; i < 6 * 16; ++i) {
    ids.push_back((i * 11 + step * 3) % int(kVocab));
    labels.push_back(i % 5 == 0 || i < step ? -1 : (i * 7 + step) % int(kVocab));
  }
  return {from_vector(ids, {6, 16}), from_vector(labels, {6, 16})};
}

const auto mean_loss = [](const Speller& m, const Batch& b) { return cross_entropy(m(b.input), reshape(b.target, {-1})); };
const auto summed_loss = [](const Speller& m, const Batch& b) {
  const Tensor labels = reshape(b.target, {-1});
  return Loss{cross_entropy(m(b.input), labels, false), label_count(labels)};
};

std::vector<double> values_of(Speller& model) {
  std::vector<double> all;
  each_parameter(model, [&](const std::string&, Parameter& p) {
    for (const double v : p->to_vector<double>()) all.push_back(v);
  });
  return all;
}

StepOptions options_of(int step) { return {.rate = 0.002 * (1 + step % 4), .clip = step % 2 ? 0.4 : 0.0}; }

// 20 steps, captured after `plain` of them.
struct Course {
  std::vector<double> losses, norms, values;
};
Course course(Dtype dtype, UpdateRule rule, auto loss, int plain, auto&& batches) {
  Speller model = speller(dtype, cuda_device);
  Trainer trainer(model, rule, loss);
  std::vector<StepReport> reports;
  for (int s = 0; s < 20; ++s) {
    if (s == plain) trainer.capture(batches(0));
    reports.push_back(s < plain ? trainer.step(batches(s), options_of(s)) : trainer.replay(batches(s), options_of(s)));
  }
  Course c{{}, {}, values_of(model)};
  for (const StepReport& r : reports) {
    CHECK(r.finite());
    c.losses.push_back(r.loss());
    c.norms.push_back(r.grad_norm());
  }
  return c;
}

}  // namespace

TEST_SUITE("cuda_trainer") {

TEST_CASE("20 captured steps are the uncaptured ones bit for bit") {
  if (no_gpu()) return;
  const auto one = [](int s) { return batch(s); };
  const auto three = [](int s) { return std::vector<Batch>{batch(s), batch(s + 30), batch(s + 60)}; };
  for (const bool nan_memory : {false, true}) {
    set_fresh_memory_nan(nan_memory);
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f64})
      for (const UpdateRule& rule : {UpdateRule(AdamW{}), UpdateRule(Sgd{}), UpdateRule(Momentum{}), UpdateRule(MuonAdamW{})}) {
        CAPTURE(name_of(dtype));
        CAPTURE(rule.index());
        const Course plain = course(dtype, rule, mean_loss, 20, one);
        for (const int before : {0, 3}) {
          const Course graph = course(dtype, rule, mean_loss, before, one);
          CHECK(graph.losses == plain.losses);
          CHECK(graph.norms == plain.norms);
          CHECK(graph.values == plain.values);
        }
      }
    const Course plain = course(Dtype::f32, AdamW{}, summed_loss, 20, three), graph = course(Dtype::f32, AdamW{}, summed_loss, 0, three);
    CHECK(graph.losses == plain.losses);
    CHECK(graph.values == plain.values);
    CHECK(plain.losses.front() > plain.losses.back());
  }
  set_fresh_memory_nan(false);
}

TEST_CASE("nano, 4 layers of 4 heads, width 128, context 64, batch 12: 20 replayed steps are the uncaptured ones bit for bit") {
  if (no_gpu()) return;
  const auto text = [](int step) {
    std::vector<int32_t> ids(12 * 65);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t((i * i * 31 + i * 7 + size_t(step) * 13) % 65);
    const Tensor all = from_vector(ids, {12, 65});
    return Batch{slice(all, 1, 0, 64), slice(all, 1, 1, 65)};
  };
  const auto loss = [](const LanguageModel& m, const Batch& b) { return cross_entropy(m(b.input), b.target); };
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16})
    for (const int64_t positions : {0, 64}) {
      CAPTURE(name_of(dtype));
      CAPTURE(positions);
      std::vector<double> losses[2], norms[2], values[2];
      for (const bool captured : {false, true}) {
        LanguageModel model({.vocab = 65, .dim = 128, .blocks = 4, .heads = 4, .positions = positions}, 1, cuda_device, dtype);
        Trainer trainer(model, AdamW{.beta2 = 0.99, .decay = 0.1}, loss);
        if (captured) trainer.capture(text(0));
        std::vector<StepReport> reports;
        for (int s = 0; s < 20; ++s) {
          const StepOptions o{.rate = 1e-3 * (s + 1) / 20, .clip = 1};
          reports.push_back(captured ? trainer.replay(text(s), o) : trainer.step(text(s), o));
        }
        for (const StepReport& r : reports) losses[captured].push_back(r.loss()), norms[captured].push_back(r.grad_norm());
        each_parameter(model, [&](const std::string&, Parameter& p) {
          for (const double v : p->to_vector<double>()) values[captured].push_back(v);
        });
      }
      CHECK(losses[0] == losses[1]);
      CHECK(norms[0] == norms[1]);
      CHECK(values[0] == values[1]);
      CHECK(losses[0].back() < losses[0].front());
    }
}

TEST_CASE("dropout by the step's key and the average of the parameters: 20 replays are the uncaptured steps bit for bit, each with its own mask") {
  if (no_gpu()) return;
  const auto loss = [](const Speller& m, const Batch& b, StepKey key) {
    const Tensor labels = reshape(b.target, {-1});
    const Tensor logits = dropout(m(b.input), 0.3, key.key, key.piece);
    return Loss{cross_entropy(logits, labels, false), label_count(labels)};
  };
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    CAPTURE(name_of(dtype));
    std::vector<double> losses[2], values[2], averages[2];
    for (const bool captured : {false, true}) {
      Speller model = speller(dtype, cuda_device);
      Trainer trainer(model, AdamW{}, loss, 3, 0.9);
      const auto two = [](int s) { return std::vector<Batch>{batch(s), batch(s + 30)}; };
      if (captured) trainer.capture(two(0));
      std::vector<StepReport> reports;
      for (int s = 0; s < 20; ++s) reports.push_back(captured ? trainer.replay(two(s), options_of(s)) : trainer.step(two(s), options_of(s)));
      for (const StepReport& r : reports) losses[captured].push_back(r.loss());
      values[captured] = values_of(model);
      trainer.averaged([&] { averages[captured] = values_of(model); });
      CHECK(values_of(model) == values[captured]);
    }
    CHECK(losses[0] == losses[1]);
    CHECK(values[0] == values[1]);
    CHECK(averages[0] == averages[1]);
    CHECK(averages[0] != values[0]);
  }
  // the same batch at rate 0: only the mask changes
  Speller model = speller(Dtype::f32, cuda_device);
  Trainer trainer(model, Sgd{}, loss, 3);
  trainer.capture(batch(0));
  const double first = trainer.replay(batch(0), {.rate = 0}).loss(), second = trainer.replay(batch(0), {.rate = 0}).loss();
  CHECK(first != second);
}

TEST_CASE("a loss that uploads cannot be captured: the replay would read memory that is gone") {
  if (no_gpu()) return;
  Speller model = speller(Dtype::f32, cuda_device);
  Trainer trainer(model, Sgd{}, [](const Speller& m, const Batch& b) {
    return mean_loss(m, b) * to_device(full({}, 2.0), cuda_device);
  });
  std::string text;
  try {
    trainer.capture(batch(0));
  } catch (const Error& e) {
    text = e.what();
  }
  CHECK(text.find("an upload inside a captured step") != std::string::npos);
  CHECK_FALSE(trainer.captured());
  CHECK(trainer.step(batch(0), {.rate = 0.1}).finite());
}

TEST_CASE("the step on the GPU is the step on the CPU") {
  if (no_gpu()) return;
  for (const UpdateRule& rule : {UpdateRule(AdamW{}), UpdateRule(Sgd{}), UpdateRule(Momentum{}), UpdateRule(MuonAdamW{})}) {
    Speller here = speller(Dtype::f64, cpu_device), there = speller(Dtype::f64, cuda_device);
    Trainer cpu_trainer(here, rule, mean_loss);
    Trainer gpu_trainer(there, rule, mean_loss);
    for (int s = 0; s < 10; ++s) {
      const StepReport a = cpu_trainer.step(batch(s), options_of(s)), b = gpu_trainer.step(batch(s), options_of(s));
      CHECK(a.loss() == doctest::Approx(b.loss()).epsilon(1e-10));
      CHECK(a.grad_norm() == doctest::Approx(b.grad_norm()).epsilon(1e-10));
    }
    const std::vector<double> a = values_of(here), b = values_of(there);
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
    CHECK(worst < 1e-9);
  }
}

TEST_CASE("a bf16 model sees its f32 master, rounded") {
  if (no_gpu()) return;
  Speller model = speller(Dtype::bf16, cuda_device);
  Trainer trainer(model, AdamW{}, mean_loss);
  for (int s = 0; s < 5; ++s) trainer.step(batch(s), options_of(s));
  const Arena& arena = trainer.arena();
  CHECK(arena.dtype() == Dtype::f32);
  for (size_t i = 0; i < arena.entries().size(); ++i) {
    const std::vector<float> master = arena.part(arena.master(), i).to_vector<float>(), seen = arena.entries()[i].value.to_vector<float>();
    for (size_t j = 0; j < master.size(); ++j) CHECK(seen[j] == float(bf16(master[j])));
  }
}

TEST_CASE("save and load continue bit for bit, also under a captured graph") {
  if (no_gpu()) return;
  const std::string path = (std::filesystem::temp_directory_path() / "ttr_cuda_trainer.safetensors").string();
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
    Speller whole = speller(dtype, cuda_device), broken = speller(dtype, cuda_device);
    Trainer unbroken(whole, AdamW{}, mean_loss);
    for (int s = 0; s < 6; ++s) unbroken.step(batch(s), options_of(s));
    unbroken.save(path);
    for (int s = 6; s < 12; ++s) unbroken.step(batch(s), options_of(s));

    Trainer resumed(broken, AdamW{}, mean_loss);
    resumed.capture(batch(0));
    resumed.replay(batch(50), options_of(0));   // whatever was there is replaced
    resumed.load(path);
    for (int s = 6; s < 12; ++s) resumed.replay(batch(s), options_of(s));
    CHECK(values_of(broken) == values_of(whole));
    CHECK(resumed.steps() == 12);
  }
  std::filesystem::remove(path);
}

TEST_CASE("a loss that reads a number back cannot be captured, and the trainer goes on without") {
  if (no_gpu()) return;
  Speller model = speller(Dtype::f32, cuda_device);
  bool reads = true;
  Trainer trainer(model, Sgd{}, [&](const Speller& m, const Batch& b) {
    const Tensor loss = mean_loss(m, b);
    return reads ? loss * (loss.item() > -1 ? 1.0 : 2.0) : loss;
  });
  std::string text;
  try {
    trainer.capture(batch(0));
  } catch (const Error& e) {
    text = e.what();
  }
  CHECK(text.find("[capture] the step broke while it was recorded: ") == 0);
  CHECK_FALSE(trainer.captured());
  CHECK(trainer.step(batch(0), {.rate = 0.1}).finite());
  reads = false;
  trainer.capture(batch(0));
  CHECK(trainer.replay(batch(1), {.rate = 0.1}).finite());
}

TEST_CASE("a replay's batch must be like the captured one; a graph recorded before it is stale") {
  if (no_gpu()) return;
  Speller model = speller(Dtype::f32, cuda_device);
  Trainer trainer(model, Sgd{}, mean_loss);
  trainer.capture(batch(0));
  std::string text;
  try {
    trainer.replay(Batch{from_vector(std::vector<int32_t>(12, 1), {2, 6}), batch(0).target});
  } catch (const Error& e) {
    text = e.what();
  }
  CHECK(text == "[replay] input is i32 [2, 6], needs i32 [6, 16]");
  const Batch b{to_device(batch(0).input, cuda_device), to_device(batch(0).target, cuda_device)};
  const Tensor stale = mean_loss(model, b);
  trainer.replay(batch(0), {.rate = 0.1});
  CHECK_THROWS_AS(grad(stale, *model.up), Error);
}

}
#else
TEST_SUITE("cuda_trainer") {
TEST_CASE("trainer on cuda") { MESSAGE("skipped: built without CUDA"); }
}
#endif
