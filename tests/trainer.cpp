// The trainer on the CPU: the rule against a loop written by hand, one rule on two clocks, accumulation, clipping, ties, schedules, files,
// refusals.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/core/safetensors.hpp>
#include <ttr/optim/schedule.hpp>
#include <ttr/optim/trainer.hpp>

using namespace ttr;

namespace {

struct Dense {
  Parameter weight, bias;
  Tensor operator()(const Tensor& x) const { return matmul(x, *weight) + *bias; }
  void each(auto&& f) { f("weight", weight), f("bias", bias); }
};

Dense dense(int64_t in, int64_t out, uint64_t stream, Dtype dtype) {
  return {Parameter(normal({in, out}, 7, stream, 0, 1 / std::sqrt(double(in)), {dtype})),
          Parameter(normal({out}, 8, stream, 0, 0.1, {dtype}), false)};
}

struct Net {   // 6 -> 10 -> 5
  Dense below, above;
  Tensor operator()(const Tensor& x) const { return above(tanh(below(x))); }
  void each(auto&& f) { f("below", below), f("above", above); }
};
Net net(Dtype dtype) { return {dense(6, 10, 1, dtype), dense(10, 5, 2, dtype)}; }

struct Larger {
  Net net;
  Parameter extra;
  void each(auto&& f) { net.each(f), f("extra", extra); }
};
struct Explosive {
  Dense below, above;
  Tensor operator()(const Tensor& x) const { return above(exp(below(x))); }
  void each(auto&& f) { f("below", below), f("above", above); }
};
struct Tied {
  Parameter table;        // [4, 3]
  Dense middle;
  Parameter again;        // the table once more
  void each(auto&& f) { f("table", table), f("middle", middle), f("again", again); }
};
struct Point {
  Parameter at;
  void each(auto&& f) { f("at", at); }
};
struct Projected {       // a layer behind a random projection that nobody learns
  Frozen random;         // [6, 6]
  Dense dense;
  Tensor operator()(const Tensor& x) const { return dense(matmul(x, random.value)); }
  void each(auto&& f) { f("random", random), f("dense", dense); }
};
struct Nothing {
  void each(auto&&) {}
};

struct TensorRate {   // what a rule reads where its numbers are tensors
  using Number = double;
  double step_size, momentum, correct1, correct2, decay;
};

struct Batch {
  Tensor input, target;   // [N, 6], i32 [N]
  void each(auto&& f) { f("input", input), f("target", target); }
};
Batch batch(int64_t n, uint64_t stream, Dtype dtype, int ignore_every = 0) {
  std::vector<int32_t> labels;
  for (int64_t i = 0; i < n; ++i) labels.push_back(ignore_every && i % ignore_every == 0 ? -1 : int32_t((i * 7 + int64_t(stream)) % 5));
  return {normal({n, 6}, 9, stream, 0, 1, {dtype}), from_vector(labels, {n})};
}

const auto mean_loss = [](const auto& m, const Batch& b) { return cross_entropy(m(b.input), b.target); };
const auto summed_loss = [](const auto& m, const Batch& b) {
  return Loss{cross_entropy(m(b.input), b.target, false), label_count(b.target)};
};

std::vector<double> values_of(auto& model) {
  std::vector<double> all;
  each_parameter(model, [&](const std::string&, Parameter& p) {
    for (const double v : (*p).template to_vector<double>()) all.push_back(v);
  });
  return all;
}

double worst(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double w = 0;
  for (size_t i = 0; i < a.size(); ++i) w = std::max(w, std::abs(a[i] - b[i]));
  return w;
}

std::string what_of(auto&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was refused";
}
bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

std::string file_at(const char* name) {
  return (std::filesystem::temp_directory_path() / (std::string("ttr_trainer_") + name + ".safetensors")).string();
}

// AdamW as the paper writes it, on the gradients that grad gives, with clipping before.
struct ByHand {
  double beta1, beta2, eps, decay;
  std::vector<std::vector<double>> m, v;
  int t = 0;
  double step(Net& model, const Tensor& loss, double rate, double clip) {
    Tensors xs;
    std::vector<Parameter> ps;
    each_parameter(model, [&](const std::string&, Parameter& p) { xs.push_back(*p), ps.push_back(p); });
    const Tensors ds = grad({loss}, {}, xs);
    std::vector<std::vector<double>> g;
    double squares = 0;
    for (const Tensor& d : ds) {
      g.push_back(d.to_vector<double>());
      for (const double x : g.back()) squares += x * x;
    }
    const double norm = std::sqrt(squares), scale = clip > 0 && norm > clip ? clip / norm : 1;
    m.resize(g.size()), v.resize(g.size());
    ++t;
    for (size_t i = 0; i < g.size(); ++i) {
      std::vector<double> p = xs[i].to_vector<double>();
      m[i].resize(p.size()), v[i].resize(p.size());
      for (size_t j = 0; j < p.size(); ++j) {
        const double x = g[i][j] * scale;
        m[i][j] = beta1 * m[i][j] + (1 - beta1) * x;
        v[i][j] = beta2 * v[i][j] + (1 - beta2) * x * x;
        const double m_hat = m[i][j] / (1 - std::pow(beta1, t)), v_hat = v[i][j] / (1 - std::pow(beta2, t));
        p[j] -= rate * m_hat / (std::sqrt(v_hat) + eps) + rate * (ps[i].decays() ? decay : 0) * p[j];
      }
      ps[i].rebind(from_vector(p, Shape(xs[i].shape())));
    }
    return norm;
  }
};

}  // namespace

TEST_SUITE("trainer") {

TEST_CASE("AdamW with clipping and decay is the loop written by hand") {
  for (const double clip : {0.0, 0.05}) {
    Net ours = net(Dtype::f64), theirs = net(Dtype::f64);
    Trainer trainer(ours, AdamW{.beta1 = 0.8, .beta2 = 0.97, .eps = 1e-7, .decay = 0.3}, mean_loss);
    ByHand hand{0.8, 0.97, 1e-7, 0.3, {}, {}};
    for (int s = 0; s < 20; ++s) {
      const Batch b = batch(12, uint64_t(s), Dtype::f64);
      const Tensor loss = mean_loss(theirs, b);
      const double want = loss.item(), rate = 0.01 * (1 + s % 3);
      const double norm = hand.step(theirs, loss, rate, clip);
      const StepReport report = trainer.step(b, {.rate = rate, .clip = clip});
      CHECK(report.loss() == doctest::Approx(want).epsilon(1e-12));
      CHECK(report.grad_norm() == doctest::Approx(norm).epsilon(1e-12));
      CHECK(report.finite());
      CHECK(report.index() == s);
      if (clip > 0) CHECK(norm > clip);
    }
    CHECK(worst(values_of(ours), values_of(theirs)) < 1e-12);
    CHECK(trainer.steps() == 20);
  }
}

// The Newton-Schulz iterations of K. Jordan, in plain loops: x [rows, columns], five times, from x / |x|.
using Matrix = std::vector<std::vector<double>>;
Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.size(), std::vector<double>(b[0].size(), 0.0));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t k = 0; k < b.size(); ++k)
      for (size_t j = 0; j < b[0].size(); ++j) c[i][j] += a[i][k] * b[k][j];
  return c;
}
Matrix flipped(const Matrix& a) {
  Matrix t(a[0].size(), std::vector<double>(a.size()));
  for (size_t i = 0; i < a.size(); ++i)
    for (size_t j = 0; j < a[0].size(); ++j) t[j][i] = a[i][j];
  return t;
}
Matrix orthogonal(Matrix x) {
  double squares = 0;
  for (const auto& row : x)
    for (const double v : row) squares += v * v;
  for (auto& row : x)
    for (double& v : row) v /= std::sqrt(squares) + 1e-7;
  for (int s = 0; s < 5; ++s) {
    const Matrix a = product(x, flipped(x)), aa = product(a, a);
    Matrix b = a;
    for (size_t i = 0; i < a.size(); ++i)
      for (size_t j = 0; j < a.size(); ++j) b[i][j] = -4.7750 * a[i][j] + 2.0315 * aa[i][j];
    const Matrix bx = product(b, x);
    for (size_t i = 0; i < x.size(); ++i)
      for (size_t j = 0; j < x[0].size(); ++j) x[i][j] = 3.4445 * x[i][j] + bx[i][j];
  }
  return x;
}

TEST_CASE("Muon moves hidden matrices by Newton-Schulz in loops written by hand, and the rest by AdamW") {
  for (const double clip : {0.0, 0.05}) {
    Net ours = net(Dtype::f64), theirs = net(Dtype::f64);
    ours.above.weight.outer();   // stands for a head
    const MuonAdamW rule{.momentum = 0.9, .others = {.beta1 = 0.8, .beta2 = 0.97, .eps = 1e-7, .decay = 0.3}};
    Trainer trainer(ours, rule, mean_loss);
    CHECK(std::string(trainer.rule_name()) == "muon");
    CHECK(trainer.arena().matrices() == 64);   // 6 x 10, to the next multiple of 64
    ByHand hand{0.8, 0.97, 1e-7, 0.3, {}, {}};
    Matrix m(6, std::vector<double>(10, 0.0));
    for (int s = 0; s < 20; ++s) {
      const Batch b = batch(12, uint64_t(s), Dtype::f64);
      const Tensor loss = mean_loss(theirs, b);
      const double rate = 0.01 * (1 + s % 3);
      std::vector<double> p = theirs.below.weight->to_vector<double>();
      const std::vector<double> g = grad(mean_loss(theirs, b), *theirs.below.weight).to_vector<double>();
      const double norm = hand.step(theirs, loss, rate, clip), scale = clip > 0 && norm > clip ? clip / norm : 1;
      Matrix ahead = m;
      for (size_t i = 0; i < 6; ++i)
        for (size_t j = 0; j < 10; ++j) {
          m[i][j] = 0.9 * m[i][j] + scale * g[i * 10 + j];
          ahead[i][j] = scale * g[i * 10 + j] + 0.9 * m[i][j];
        }
      const Matrix o = orthogonal(ahead);
      for (size_t i = 0; i < 6; ++i)
        for (size_t j = 0; j < 10; ++j) p[i * 10 + j] -= rate * (0.2 * std::sqrt(10.0) * o[i][j] + 0.3 * p[i * 10 + j]);
      theirs.below.weight.rebind(from_vector(p, {6, 10}));
      trainer.step(b, {.rate = rate, .clip = clip});
    }
    CHECK(worst(values_of(ours), values_of(theirs)) < 1e-11);
  }
}

TEST_CASE("Muon's file continues bit for bit and leaves out what the next step makes anew") {
  const std::string path = file_at("muon");
  for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
    Net whole = net(dtype), resumed = net(dtype);
    Trainer unbroken(whole, MuonAdamW{}, summed_loss, 0, 0.9), after(resumed, MuonAdamW{}, summed_loss, 0, 0.9);
    const auto run = [&](auto& trainer, int from, int to) {
      for (int s = from; s < to; ++s) {
        const std::vector<Batch> pieces{batch(8, uint64_t(s), dtype, 3), batch(5, uint64_t(s + 9), dtype)};
        trainer.step(pieces, {.rate = 0.01, .clip = 0.5});
      }
    };
    run(unbroken, 0, 5);
    unbroken.save(path);
    run(unbroken, 5, 10);
    run(after, 20, 22);
    after.load(path);
    run(after, 5, 10);
    CHECK(values_of(resumed) == values_of(whole));
    const SafetensorsFile file(path);
    CHECK(file.has("optimizer.0.below.weight"));
    CHECK_FALSE(file.has("optimizer.1.below.weight"));
    CHECK(file.has("optimizer.1.below.bias"));
    // a step that is not finite leaves all of it as it was
    Batch bad = batch(8, 1, dtype);
    bad.input = bad.input * std::numeric_limits<double>::infinity();
    const std::vector<double> before = values_of(whole);
    CHECK_FALSE(unbroken.step(bad, {.rate = 0.01}).finite());
    CHECK(values_of(whole) == before);
    run(unbroken, 10, 12), run(after, 10, 12);
    CHECK(values_of(whole) == values_of(resumed));
  }
  std::filesystem::remove(path);
}

TEST_CASE("one update rule, two clocks: with Tensor as inside a layer, and over the arena") {
  const auto compare = [](auto rule, auto number, double tolerance) {
    using X = decltype(number);
    constexpr int64_t n = 133;   // not a multiple of a vector
    constexpr int memories = decltype(rule)::memories;
    const Options options{dtype_of<X>};
    Tensor p = normal({n}, 1, 1, 0, 1, options);
    Tensors m(2, zeros({n}, options));
    Tensor flat = normal({n}, 1, 1, 0, 1, options), memory0 = zeros({n}, options), memory1 = zeros({n}, options);
    for (int s = 1; s <= 10; ++s) {
      const Tensor g = normal({n}, 2, uint64_t(s), 0, 1, options);
      StepState state;
      state.rate = 0.03, state.scale = 1, state.applies = 1;
      const Betas betas = betas_of(rule);
      if (betas.first > 0) state.correct1 = 1 - std::pow(betas.first, s), state.correct2 = 1 - std::pow(betas.second, s);
      Update<X> u{.n = n, .decaying = n, .master = flat.mutate<X>(), .gradient = g.data<X>(), .state = &state};
      u.memory[0] = memory0.mutate<X>(), u.memory[1] = memory1.mutate<X>();
      REQUIRE(cpu::update(rule, u) == Status::ok);

      const StepRate<double> r = rate_of<double>(rule, state, true);
      const TensorRate rate{r.step_size, r.momentum, r.correct1, r.correct2, r.decay};
      if constexpr (memories == 0) rule(p, g, rate);
      else if constexpr (memories == 1) rule(p, g, m[0], rate);
      else rule(p, g, m[0], m[1], rate);
      CHECK(worst(p.to_vector<double>(), flat.to_vector<double>()) <= tolerance);
      if (memories > 0) CHECK(worst(m[0].to_vector<double>(), memory0.to_vector<double>()) <= tolerance);
      if (memories > 1) CHECK(worst(m[1].to_vector<double>(), memory1.to_vector<double>()) <= tolerance);
    }
  };
  compare(Sgd{}, 0.0f, 1e-6), compare(Sgd{}, 0.0, 1e-14);
  compare(Momentum{.momentum = 0.7}, 0.0f, 1e-6), compare(Momentum{.momentum = 0.7}, 0.0, 1e-14);
  compare(AdamW{.beta2 = 0.99, .decay = 0.2}, 0.0f, 2e-6), compare(AdamW{.beta2 = 0.99, .decay = 0.2}, 0.0, 1e-14);
}

TEST_CASE("micro-batches equal the big batch, also when label counts differ") {
  Net big = net(Dtype::f64), small = net(Dtype::f64), wrong = net(Dtype::f64);
  Trainer one(big, AdamW{}, mean_loss);
  Trainer many(small, AdamW{}, summed_loss);
  Trainer means(wrong, AdamW{}, mean_loss);
  for (int s = 0; s < 5; ++s) {
    const uint64_t stream = uint64_t(3 * s);
    const std::vector<Batch> parts{batch(8, stream, Dtype::f64, 2), batch(6, stream + 1, Dtype::f64), batch(10, stream + 2, Dtype::f64, 5)};
    const Batch whole{concat({parts[0].input, parts[1].input, parts[2].input}, 0), [&] {
      std::vector<int32_t> labels;
      for (const Batch& b : parts)
        for (const int32_t l : b.target.to_vector<int32_t>()) labels.push_back(l);
      return from_vector(labels, {int64_t(labels.size())});
    }()};
    const StepReport a = one.step(whole, {.rate = 0.02, .clip = 0.1}), b = many.step(parts, {.rate = 0.02, .clip = 0.1});
    means.step(parts, {.rate = 0.02, .clip = 0.1});
    CHECK(a.loss() == doctest::Approx(b.loss()).epsilon(1e-12));
    CHECK(a.grad_norm() == doctest::Approx(b.grad_norm()).epsilon(1e-12));
  }
  CHECK(worst(values_of(big), values_of(small)) < 1e-12);
  CHECK(worst(values_of(big), values_of(wrong)) > 1e-5);   // the mean of means is another thing: the labels above do tell
}

TEST_CASE("equal micro-batches of a mean are the big batch") {
  Net big = net(Dtype::f64), small = net(Dtype::f64);
  Trainer one(big, Momentum{}, mean_loss), many(small, Momentum{}, mean_loss);
  const Batch a = batch(8, 1, Dtype::f64), b = batch(8, 2, Dtype::f64);
  std::vector<int32_t> labels = a.target.to_vector<int32_t>();
  for (const int32_t l : b.target.to_vector<int32_t>()) labels.push_back(l);
  one.step(Batch{concat({a.input, b.input}, 0), from_vector(labels, {16})}, {.rate = 0.5});
  many.step(std::vector<Batch>{a, b}, {.rate = 0.5});
  CHECK(worst(values_of(big), values_of(small)) < 1e-13);
}

TEST_CASE("clipping bounds the step, and reports the norm before it") {
  Net model = net(Dtype::f64);
  Trainer trainer(model, Sgd{}, mean_loss);
  const std::vector<double> before = values_of(model);
  const StepReport report = trainer.step(batch(8, 1, Dtype::f64), {.rate = 1, .clip = 1e-3});
  const std::vector<double> after = values_of(model);
  double squares = 0;
  for (size_t i = 0; i < before.size(); ++i) squares += (after[i] - before[i]) * (after[i] - before[i]);
  CHECK(std::sqrt(squares) == doctest::Approx(1e-3).epsilon(1e-10));
  CHECK(report.grad_norm() > 0.1);
}

TEST_CASE("tied parts are one parameter: one place, the sum of both gradients") {
  Tied model{Parameter(normal({4, 3}, 1, 1, 0, 1, {Dtype::f64})), dense(3, 3, 2, Dtype::f64), {}};
  model.again = model.table;
  const Tensor x = normal({5, 4}, 1, 3, 0, 1, {Dtype::f64}), pull = normal({5, 4}, 1, 4, 0, 1, {Dtype::f64});
  const auto loss = [](const Tied& m, const std::array<Tensor, 2>& b) {
    return sum(m.middle(matmul(b[0], *m.table)) * matmul(b[1], *m.again));
  };
  const Tensor d = grad(loss(model, {x, pull}), *model.table);
  const std::vector<double> before = model.table->to_vector<double>(), slope = d.to_vector<double>();
  Trainer trainer(model, Sgd{}, loss);
  REQUIRE(trainer.arena().entries().size() == 3);
  CHECK(trainer.arena().entries()[0].name == "table");
  CHECK(trainer.arena().parameters() == 12 + 9 + 3);
  trainer.step(std::array<Tensor, 2>{x, pull}, {.rate = 0.1});
  CHECK((*model.table).same_as(*model.again));
  const std::vector<double> after = model.table->to_vector<double>();
  for (size_t i = 0; i < after.size(); ++i) CHECK(after[i] == doctest::Approx(before[i] - 0.1 * slope[i]).epsilon(1e-12));
}

TEST_CASE("the arena: what decays comes first, the model sees views, gaps stay zero") {
  Net model = net(Dtype::f32);
  const std::vector<double> before = values_of(model);
  Trainer trainer(model, AdamW{.decay = 0.5}, mean_loss);
  CHECK(values_of(model) == before);
  const Arena& arena = trainer.arena();
  CHECK(arena.count() == 4 * 64);
  CHECK(arena.decaying() == 2 * 64);
  CHECK(arena.dtype() == Dtype::f32);
  CHECK(arena.entries()[1].name == "below.bias");
  CHECK(arena.entries()[1].first >= arena.decaying());
  for (int s = 0; s < 3; ++s) trainer.step(batch(8, uint64_t(s), Dtype::f32), {.rate = 0.1});
  const std::vector<float> flat = arena.master().to_vector<float>();
  std::vector<bool> owned(flat.size());
  for (size_t i = 0; i < arena.entries().size(); ++i) {
    const auto& e = arena.entries()[i];
    for (int64_t j = 0; j < e.value.count(); ++j) owned[size_t(e.first + j)] = true;
    CHECK(arena.part(arena.master(), i).to_vector<float>() == e.value.to_vector<float>());
  }
  for (size_t i = 0; i < flat.size(); ++i) if (!owned[i]) CHECK(flat[i] == 0);
}

TEST_CASE("schedules") {
  const auto close = [](double a, double b) { return std::abs(a - b) < 1e-15; };
  const Schedule constant{.rate = 0.5, .warmup = 4};
  CHECK(close(constant(0), 0.125));
  CHECK(close(constant(3), 0.5));
  CHECK(close(constant(1000000), 0.5));
  const Schedule cosine{.rate = 2, .kind = schedule_kind("cosine"), .warmup = 10, .schedule_steps = 110, .floor = 0.1};
  CHECK(close(cosine(4), 1));
  CHECK(close(cosine(10), 2));
  CHECK(close(cosine(60), 2 * 0.55));
  CHECK(close(cosine(110), 0.2));
  CHECK(close(cosine(5000), 0.2));
  const Schedule wsd{.rate = 1, .kind = schedule_kind("wsd"), .warmup = 5, .schedule_steps = 100, .floor = 0.2, .cooldown = 0.4};
  CHECK(close(wsd(4), 1));
  CHECK(close(wsd(60), 1));
  CHECK(close(wsd(80), 0.6));
  CHECK(close(wsd(100), 0.2));
  CHECK(what_of([] { schedule_kind("linear"); }) == "[schedule] name is linear, needs constant, cosine or wsd");
  CHECK(what_of([] { Schedule{.kind = ScheduleKind::cosine, .warmup = 10, .schedule_steps = 10}(0); }) ==
        "[schedule] schedule_steps is 10, needs more than the warmup of 10; only a constant schedule has no end");
}

TEST_CASE("save and load continue bit for bit; another model's file is refused") {
  const std::string path = file_at("continue");
  Net whole = net(Dtype::f32), first = net(Dtype::f32), second = net(Dtype::f32);
  const auto run = [](auto& trainer, int from, int to) {
    double last = 0;
    for (int s = from; s < to; ++s) last = trainer.step(batch(8, uint64_t(s), Dtype::f32), {.rate = 0.01, .clip = 0.5}).loss();
    return last;
  };
  Trainer unbroken(whole, AdamW{}, mean_loss);
  const double want = run(unbroken, 0, 12);
  {
    Trainer before(first, AdamW{}, mean_loss);
    run(before, 0, 7);
    before.save(path, {{"note", "seven"}});
  }
  Trainer after(second, AdamW{}, mean_loss);
  run(after, 40, 43);   // whatever was there is replaced
  after.load(path);
  CHECK(after.steps() == 7);
  CHECK(run(after, 7, 12) == want);
  CHECK(values_of(second) == values_of(whole));
  CHECK(SafetensorsFile(path).metadata().at("note") == "seven");

  Net sampled = net(Dtype::f32);
  load_parameters(sampled, SafetensorsFile(path));
  CHECK(values_of(sampled) == values_of(first));

  Net other{dense(6, 11, 1, Dtype::f32), dense(11, 5, 2, Dtype::f32)};
  Trainer wider(other, AdamW{}, mean_loss);
  const std::vector<double> untouched = values_of(other);
  const std::string misshapen = what_of([&] { wider.load(path); });
  CHECK(has(misshapen, "[load] above.weight is [10, 5] in "));
  CHECK(has(misshapen, "needs [11, 5]"));
  CHECK(values_of(other) == untouched);
  Net plain = net(Dtype::f32);
  Trainer sgd(plain, Sgd{}, mean_loss);
  CHECK(has(what_of([&] { sgd.load(path); }), "was saved by adamw, needs sgd; resume with the same optimizer"));
  Dense single = dense(6, 5, 1, Dtype::f32);
  Trainer smaller(single, AdamW{}, mean_loss);
  CHECK(has(what_of([&] { smaller.load(path); }), "which the model does not have; was it another model"));
  Larger larger{net(Dtype::f32), Parameter(zeros({2}))};
  Trainer more(larger, AdamW{}, [](const Larger& m, const Batch& b) { return mean_loss(m.net, b) + sum(*m.extra); });
  CHECK(has(what_of([&] { more.load(path); }), "[load] extra is not in "));
  std::filesystem::remove(path);
}

TEST_CASE("frozen parts are not learned, and are kept in the file") {
  const std::string path = file_at("frozen");
  const auto start = [](uint64_t stream) { return Projected{{normal({6, 6}, 11, stream)}, dense(6, 5, 1, Dtype::f32)}; };
  Projected drawn = start(1), another = start(2), sampled = start(3);
  const std::vector<float> random = drawn.random.value.to_vector<float>();
  Trainer trainer(drawn, AdamW{}, mean_loss);
  for (int s = 0; s < 3; ++s) trainer.step(batch(8, uint64_t(s), Dtype::f32), {.rate = 0.1});
  CHECK(drawn.random.value.to_vector<float>() == random);
  CHECK(trainer.arena().entries().size() == 2);
  trainer.save(path);
  Trainer resumed(another, AdamW{}, mean_loss);
  resumed.load(path);
  load_parameters(sampled, SafetensorsFile(path));
  for (const Projected* m : {&another, &sampled}) {
    CHECK(m->random.value.to_vector<float>() == random);
    CHECK(m->dense.weight->to_vector<float>() == drawn.dense.weight->to_vector<float>());
  }
  std::filesystem::remove(path);
}

TEST_CASE("a backward through a graph recorded before the update is refused") {
  Net model = net(Dtype::f32);
  Trainer trainer(model, Sgd{}, mean_loss);
  const Batch b = batch(8, 1, Dtype::f32);
  const Tensor stale = mean_loss(model, b);
  trainer.step(b, {.rate = 0.1});
  const std::string text = what_of([&] { grad(stale, *model.below.weight); });
  CHECK(has(text, "a tensor that "));
  CHECK(has(text, "was modified in place since, needs its old values; take derivatives before the update"));
  CHECK_NOTHROW(grad(mean_loss(model, b), *model.below.weight));
}

TEST_CASE("a step that is not finite changes nothing and is explained") {
  Explosive model{dense(6, 10, 1, Dtype::f32), dense(10, 5, 2, Dtype::f32)};
  Trainer trainer(model, AdamW{}, mean_loss);
  const Batch good = batch(8, 1, Dtype::f32), bad{good.input * 1e4, good.target};
  trainer.step(good, {.rate = 0.01});
  const std::vector<double> before = values_of(model);
  const StepReport report = trainer.step(bad, {.rate = 0.01});
  CHECK_FALSE(report.finite());
  CHECK_FALSE(std::isfinite(report.loss()));
  CHECK(values_of(model) == before);
  CHECK(trainer.step(good, {.rate = 0.01}).finite());
  const std::string why = trainer.explain_nonfinite(bad);
  CHECK(why == "an output of exp is inf; the nearest parameter is below.bias");
  CHECK(trainer.explain_nonfinite(good) == "the loss and every gradient are finite");

  // a finite loss with an infinite slope: sqrt at 0
  Dense single = dense(6, 5, 1, Dtype::f64);
  Trainer root(single, Sgd{}, [](const Dense& m, const Batch& b) { return sum(sqrt(square(m(b.input) * 0.0))) + sum(square(*m.bias)); });
  const StepReport slope = root.step(batch(4, 1, Dtype::f64), {.rate = 0.1});
  CHECK(std::isfinite(slope.loss()));
  CHECK_FALSE(slope.finite());
  CHECK(has(root.explain_nonfinite(batch(4, 1, Dtype::f64)), "the gradient of "));
}

TEST_CASE("a quadratic converges under each rule") {
  const Tensor aim = normal({9}, 3, 3, 0, 1, {Dtype::f64});
  const auto loss = [](const Point& m, const Tensor& target) { return sum(square(*m.at - target)); };
  const auto run = [&](UpdateRule rule, double rate) {
    Point point{Parameter(zeros({9}, {Dtype::f64}))};
    Trainer trainer(point, rule, loss);
    double last = 0;
    for (int s = 0; s < 400; ++s) last = trainer.step(aim, {.rate = rate * std::pow(0.98, s)}).loss();
    return last;
  };
  CHECK(run(Sgd{}, 0.4) < 1e-12);
  CHECK(run(Momentum{.momentum = 0.5}, 0.2) < 1e-12);
  CHECK(run(AdamW{.decay = 0}, 0.1) < 1e-3);
  CHECK(run(MuonAdamW{.others = {.decay = 0}}, 0.1) < 1e-3);   // of a vector it is AdamW
}

TEST_CASE("the numbers do not depend on the number of threads") {
  const auto run = [](int threads) {
    const int before = thread_count();
    set_thread_count(threads);
    Point wide{Parameter(normal({40000}, 1, 1))};
    Trainer trainer(wide, AdamW{}, [](const Point& m, const Tensor& x) { return sum(square(*m.at - x)); });
    std::vector<double> norms;
    for (int s = 0; s < 3; ++s) norms.push_back(trainer.step(normal({40000}, 2, uint64_t(s)), {.rate = 0.1, .clip = 1}).grad_norm());
    set_thread_count(before);
    norms.push_back(values_of(wide)[39999]);
    return norms;
  };
  CHECK(run(1) == run(3));
}

TEST_CASE("the average follows the parameters, forgets its start, and stands in their place while it is asked for") {
  Point point{Parameter(full({3}, 10, {Dtype::f64}))};
  Trainer trainer(point, Sgd{}, [](const Point& m, const Tensor& x) { return sum(*m.at * x); }, 0, 0.9);
  double p = 10, average = 10;
  for (int n = 1; n <= 200; ++n) {
    trainer.step(full({3}, n % 5, {Dtype::f64}), {.rate = 0.1});
    p -= 0.1 * (n % 5);
    average += (1 - std::min(0.9, (1.0 + n) / (10.0 + n))) * (p - average);
  }
  CHECK(values_of(point)[0] == doctest::Approx(p).epsilon(1e-12));
  bool asked = false;
  trainer.averaged([&] {
    asked = true;
    CHECK(values_of(point)[2] == doctest::Approx(average).epsilon(1e-12));
  });
  CHECK(asked);
  const std::vector<double> own = values_of(point);
  CHECK(own[0] == doctest::Approx(p).epsilon(1e-12));
  CHECK_THROWS(trainer.averaged([] { throw 1; }));
  CHECK(values_of(point) == own);

  const std::string path = (std::filesystem::temp_directory_path() / "ttr_trainer_average.safetensors").string();
  trainer.save(path);
  Point again{Parameter(zeros({3}, {Dtype::f64}))};
  Trainer resumed(again, Sgd{}, [](const Point& m, const Tensor& x) { return sum(*m.at * x); }, 0, 0.9);
  resumed.load(path);
  resumed.averaged([&] { CHECK(values_of(again)[0] == doctest::Approx(average).epsilon(1e-12)); });
  Point read{Parameter(zeros({3}, {Dtype::f64}))};
  load_parameters(read, SafetensorsFile(path));   // without a trainer: what the run evaluated
  CHECK(values_of(read)[0] == doctest::Approx(average).epsilon(1e-12));
  Point without{Parameter(zeros({3}, {Dtype::f64}))};
  Trainer plain(without, Sgd{}, [](const Point& m, const Tensor& x) { return sum(*m.at * x); });
  CHECK(has(what_of([&] { plain.load(path); }), "holds optimizer.average.at, which the model does not have"));
  plain.averaged([&] { CHECK(values_of(without)[0] == 0); });
  CHECK(has(what_of([&] { Trainer t(without, Sgd{}, [](const Point&, const Tensor& x) { return x; }, 0, 1.0); }), "the average's decay is 1"));
  std::filesystem::remove(path);
}

TEST_CASE("a loss that takes a StepKey draws anew each step and each piece, and alike after a load") {
  const Tensor x = ones({64}, {Dtype::f64});
  const auto loss = [](const Point& m, const Tensor& x, StepKey key) { return sum(dropout(*m.at * x, 0.5, key.key, key.piece)); };
  Point point{Parameter(ones({64}, {Dtype::f64}))};
  Trainer trainer(point, Sgd{}, loss, 5);
  const auto course = [&](auto& t) {
    std::vector<double> losses;
    for (int s = 0; s < 6; ++s) losses.push_back(t.step(x, {.rate = 0}).loss());
    return losses;
  };
  const std::string path = (std::filesystem::temp_directory_path() / "ttr_trainer_key.safetensors").string();
  trainer.save(path);
  const auto first = course(trainer), later = course(trainer);
  CHECK(first != later);
  CHECK(std::any_of(first.begin(), first.end(), [&](double v) { return v != first[0]; }));
  trainer.load(path);
  CHECK(course(trainer) == first);
  trainer.load(path);   // two pieces: not twice the same mask
  CHECK(trainer.step(std::vector<Tensor>{x, x}, {.rate = 0}).loss() != first[0]);
  std::filesystem::remove(path);
  CHECK(what_of([&] { dropout(x, 0.5, ones({2}, {Dtype::f64}), 0); }) == "[dropout] key is f64 [2] on cpu, needs f64 [1] on cpu");
}

TEST_CASE("pieces drop what the whole batch drops") {
  const Tensor x = normal({7, 5}, 1, 1, 0, 1, {Dtype::f64});
  const auto loss = [](const Point& m, const Tensor& x, StepKey key) {
    return Loss{sum(square(dropout(*m.at * x, 0.5, key.key, 3, key.row * x.size(1)))), {}};
  };
  const auto course = [&](const std::vector<Tensor>& pieces) {
    Point point{Parameter(ones({5}, {Dtype::f64}))};
    Trainer trainer(point, Sgd{}, loss, 5);
    std::vector<double> norms;
    for (int s = 0; s < 4; ++s) norms.push_back(trainer.step(pieces, {.rate = 0}).grad_norm() * double(pieces.size()));   // each counts 1
    return norms;
  };
  const std::vector<double> whole = course({x});
  CHECK(whole[0] != whole[1]);
  for (const auto& cuts : {std::vector<int64_t>{0, 3, 7}, std::vector<int64_t>{0, 1, 2, 6, 7}}) {
    std::vector<Tensor> pieces;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) pieces.push_back(slice(x, 0, cuts[i], cuts[i + 1]));
    CHECK(worst(course(pieces), whole) < 1e-12);
  }
  for (const int64_t first : {int64_t(0), int64_t(1), int64_t(13), int64_t(34)}) {   // any split of the elements, forward and backward
    const Tensor flat = variable(reshape(x, {35})), part = variable(slice(flat, 0, first, 35));
    const Tensor all = dropout(flat, 0.4, 9, 2), some = dropout(part, 0.4, 9, 2, first);
    CHECK(slice(all, 0, first, 35).to_vector<double>() == some.to_vector<double>());
    CHECK(slice(grad(sum(all), flat), 0, first, 35).to_vector<double>() == grad(sum(some), part).to_vector<double>());
  }
  CHECK(what_of([&] { dropout(x, 0.5, 1, 1, -1); }) == "[dropout] first is -1, needs at least 0");
}

TEST_CASE("refusals say what is wrong") {
  Net model = net(Dtype::f32);
  Trainer trainer(model, Sgd{}, mean_loss);
  const Batch b = batch(8, 1, Dtype::f32);
  CHECK(what_of([&] { trainer.capture(b); }) == "[capture] the model is on cpu, needs cuda; only there can a step become a graph");
  CHECK(what_of([&] { trainer.replay(b); }) == "[replay] no step was captured, needs capture() first");
  CHECK(what_of([&] { trainer.step(std::vector<Batch>{}); }) == "[trainer] there are 0 micro-batches, needs at least one");
  CHECK(what_of([&] { trainer.step(b, {.rate = NAN}); }) == "[trainer] rate is nan, needs a finite number");
  Trainer rows(model, Sgd{}, [](const Net& m, const Batch& x) { return m(x.input); });
  CHECK(what_of([&] { rows.step(b); }) ==
        "[trainer] the loss function's total has shape [8, 5], needs a scalar; reduce it with sum or mean");
  // rows took the model over
  CHECK(has(what_of([&] { trainer.step(b); }), "[trainer] below.weight was rebound since the trainer took the model"));
  Trainer cut(model, Sgd{}, [](const Net& m, const Batch& x) { return stop_gradient(mean_loss(m, x)); });
  CHECK(has(what_of([&] { cut.step(b); }), "[trainer] the loss is untracked, needs to depend on a parameter"));
  Nothing nothing;
  CHECK(has(what_of([&] { Trainer t(nothing, Sgd{}, [](const Nothing&, const Tensor& x) { return x; }); }),
            "[arena] the model has 0 parameters"));
  Net mixed{dense(6, 10, 1, Dtype::f32), dense(10, 5, 2, Dtype::f64)};
  CHECK(has(what_of([&] { Trainer t(mixed, Sgd{}, mean_loss); }),
            "[arena] below.weight is f32 and above.weight is f64, needs f64 for all or none"));
}

TEST_CASE("a report can be read later, for as long as its place lasts") {
  Point point{Parameter(ones({1}))};
  Trainer trainer(point, Sgd{}, [](const Point& m, const Tensor& x) { return sum(*m.at * x); });
  const Tensor x = ones({1});
  const StepReport first = trainer.step(x, {.rate = 0});
  StepReport last = first;
  for (int64_t s = 1; s < kStepRecords; ++s) last = trainer.step(x, {.rate = 0});
  CHECK(last.index() == kStepRecords - 1);
  const StepReport copy = first;
  CHECK(first.loss() == 1);
  trainer.step(x, {.rate = 0});
  CHECK(first.loss() == 1);   // read before
  CHECK(has(what_of([&] { (void)copy.loss(); }), "[trainer] the report of step 0 is gone, needs to be read within 1024 steps"));
}

}
