// ttr bench: time, floor and ratio. A row is printed only after its parity with fold held.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <optional>
#include <ttr/apps/bench.hpp>
#include <ttr/apps/bench_timer.hpp>
#include <ttr/apps/grammar.hpp>
#include <ttr/apps/place.hpp>
#include <ttr/core/blas.hpp>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/language_model.hpp>
#include <ttr/layers/normal_equations_kernel.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/optim/trainer.hpp>

#define TTR_SIMD_EACH <ttr/apps/bench_exponentials.hpp>
#include <ttr/core/simd_sets.hpp>

extern "C" {   // OpenBLAS itself: what our product is measured against
void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b,
                 int ldb, float beta, float* c, int ldc);
[[gnu::weak]] void openblas_set_num_threads(int);
}

namespace ttr {
namespace {

// Measured on one H200: a copy of a large array, and cuBLAS products of 8192 x 8192.
constexpr double kCudaBytes = 4.26e12, kCudaFlopsF32 = 60e12, kCudaFlopsBf16 = 790e12;

constexpr int64_t kMatmul = 512;
constexpr double kMatmulFlops = 2.0 * kMatmul * kMatmul * kMatmul;
// Measured against products; scans against copies.
constexpr const char* kProductStems[] = {"delta", "diagonal_decay", "normal_equations", "softmax_attention"};

// -- rows ----------------------------------------------------------------------------------------------------------------------------------
std::string time_text(double seconds) {
  return seconds < 1e-6   ? fmt::format("{:.0f} ns", seconds * 1e9)
         : seconds < 1e-3 ? fmt::format("{:.2f} us", seconds * 1e6)
         : seconds < 1    ? fmt::format("{:.2f} ms", seconds * 1e3)
                          : fmt::format("{:.2f} s", seconds);
}

struct Table {
  bool failed = false;
  Table() { fmt::print("{:<58} {:>10} {:>10} {:>10} {:>7}  {}\n", "", "min", "median", "floor", "ratio", ""); }
  void row(const std::string& name, const Timing& t, std::optional<double> floor, const std::string& note) {
    const double ratio = t.ratio > 0 ? t.ratio : floor.value_or(0) / t.least;
    fmt::print("{:<58} {:>10} {:>10} {:>10} {:>7}  {}\n", name, time_text(t.least), time_text(t.median), floor ? time_text(*floor) : "-",
               floor ? fmt::format("{:.1f}%", 100 * ratio) : "-", note);
    std::fflush(stdout);
  }
  void refused(const std::string& name, const std::string& why) {
    failed = true;
    fmt::print("{:<58} no time: {}\n", name, why);
    std::fflush(stdout);
  }
};

double relative(const Tensor& got, const Tensor& want) {   // |got - want|_F / |want|_F; NaN where got is
  const auto x = got.to_vector<double>(), y = want.to_vector<double>();
  double error = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) error += (x[i] - y[i]) * (x[i] - y[i]), norm += y[i] * y[i];
  return std::sqrt(error) / std::max(std::sqrt(norm), 1e-30);
}

// -- a memory's inputs, drawn inside their ranges --------------------------------------------------------------------------------------------
Slots drawn_slots(const Recipe& recipe, const Problem& p) {   // f64 on the CPU
  Slots slots;
  uint64_t stream = 0;
  for (const Slot& s : recipe.slots()) {
    if (!s.required) continue;
    Shape shape;
    if (s.per != Per::head && s.per != Per::frozen) shape = {p.batch, s.per == Per::write ? p.tokens * recipe.reading().writes : p.tokens};
    shape.push_back(p.heads);
    for (const Extent& e : s.shape) shape.push_back(e.at(p.key_dim, p.value_dim));
    Tensor x = normal(shape, 11, stream++, 0, 1, {Dtype::f64, cpu_device});
    if (s.name == "k") x = l2_norm(x);   // longer keys make an online learner diverge
    const auto* exact = recipe.optimizer().ask<Exact>();
    const bool forgets_ridge = exact && (exact->ridge == Ridge::decaying || exact->ridge == Ridge::refreshed);
    if (s.range == log_of_unit)
      x = logsigmoid(x + (forgets_ridge ? 5.0 : 2.0));   // a ridge that forgets with the memory is soon none, and f32 has no digits left
    else if (s.range == unit_interval)
      x = sigmoid(x);
    else if (s.range == positive)
      x = softplus(x);
    slots[s.name] = x;
  }
  return slots;
}

struct Swept {
  Tensor y;
  Tensors d;
};   // an answer and the gradients of all its inputs
using Memory = std::function<Answer(const Arguments&)>;

struct Work {   // forward plus backward of one memory
  Slots slots;
  Tensor dy;
  Work(const Recipe& recipe, const Problem& p) {
    for (const auto& [name, x] : drawn_slots(recipe, p)) {
      const bool narrow = name == "q" || name == "k" || name == "v";
      slots[name] = variable(to_device(cast(x, narrow ? p.dtype : wide(p.dtype)), p.device));
    }
    dy = to_device(cast(normal({p.batch, p.tokens, p.heads, p.value_dim}, 12, 0, 0, 1, {Dtype::f64, cpu_device}), p.dtype), p.device);
  }
  Swept operator()(const Memory& memory) const {
    Tensors xs;
    for (const auto& [name, x] : slots) xs.push_back(x);
    const Answer answer = memory({.slots = slots});
    return {answer.y, grad({answer.y}, {dy}, xs, {.consume = true})};
  }
};

// "" when the route agrees with fold in f64 on the CPU, on the answer and on every gradient.
std::string disagreement(const Route& route, const Recipe& recipe, Problem p) {
  p.batch = 2, p.tokens = 65;
  const double tolerance = p.dtype == Dtype::bf16 ? 4.0 / 256 : 1e-4;
  Problem exact = p;
  exact.dtype = Dtype::f64, exact.device = cpu_device;
  const Work work(recipe, p);
  Work reference(recipe, exact);
  for (auto& [name, x] : reference.slots)
    x = variable(cast(to_device(work.slots.at(name), cpu_device), Dtype::f64));   // the rounded inputs
  reference.dy = cast(to_device(work.dy, cpu_device), Dtype::f64);
  const Swept got = work([&](const Arguments&a) { return route.run(recipe, a, p); }),
              want = reference([&](const Arguments&a) { return fold(recipe, a); });
  if (const double e = relative(got.y, want.y); !(e <= tolerance))
    return fmt::format("parity with fold failed, y is off by {:.2g}, needs {:.2g}", e, tolerance);
  size_t i = 0;
  for (const auto& [name, x] : work.slots) {
    if (const double e = relative(got.d[i], want.d[i]); !(e <= tolerance))
      return fmt::format("parity with fold failed, d{} is off by {:.2g}, needs {:.2g}", name, e, tolerance);
    ++i;
  }
  return {};
}

// -- what is timed -----------------------------------------------------------------------------------------------------------------------------
void bench_op(Table& table) {
  constexpr int kTimes = 1000;
  const Tensor a = variable(full({1}, 1.5)), b = variable(full({1}, 2.0)), dy = ones({1});
  const Tensor y = a + b;
  const Tensors d = grad({y}, {dy}, {a, b});
  const std::string name = "one-element f32 add, recorded and swept";
  if (y.item() != 3.5 || d[0].item() != 1 || d[1].item() != 1) return table.refused(name, "its value or derivative is wrong");
  Timing t = timing_of(cpu_device, [&] {
    for (int i = 0; i < kTimes; ++i) grad({a + b}, {dy}, {a, b});
  });
  table.row(name, {t.least / kTimes, t.median / kTimes}, 1e-6, "the floor is the limit of 1 us");
}

void bench_matmul(Table& table) {
  constexpr int64_t n = kMatmul;
  const Tensor a = normal({n, n}, 1, 1), b = normal({n, n}, 1, 2);
  Tensor c = matmul(a, b), direct = empty({n, n});
  const auto openblas = [&] {
    cblas_sgemm(101, 111, 111, n, n, n, 1, a.data<float>(), n, b.data<float>(), n, 0, static_cast<float*>(direct.address()), n);
  };
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(thread_count());
  openblas();
  const double error = relative(c, direct);
  const Timing theirs = timing_of(cpu_device, openblas);
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(1);
  const Timing ours = timing_of(cpu_device, [&] { c = matmul(a, b); });
  const std::string name = fmt::format("matmul {0} x {0} x {0} f32", n);
  if (!(error < 1e-5)) return table.refused(name, fmt::format("it differs from OpenBLAS by {:.2g}", error));
  table.row(name, ours, theirs.least,
            fmt::format("{:.0f} GFLOP/s; the floor is OpenBLAS ({}), {} threads", kMatmulFlops / ours.least * 1e-9, blas_core(), thread_count()));
}

// -- what the CPU does at best ---------------------------------------------------------------------------------------------------------------------
Yardstick product_yardstick() {   // our own product
  const Tensor a = normal({kMatmul, kMatmul}, 1, 1), b = normal({kMatmul, kMatmul}, 1, 2);
  matmul(a, b);
  return {.amount = kMatmulFlops, .run = [a, b] { matmul(a, b); }};
}

// A copy that no cache holds, its bytes read and written: what a memory-bound kernel is measured against.
Yardstick copy_yardstick() {
  constexpr int64_t count = int64_t(1) << 26;   // 256 MB each
  const Tensor from = ones({count});
  Tensor to = zeros({count});
  const auto copy = [from, to]() mutable {
    float* const at = static_cast<float*>(to.address());
    parallel_for(count, 1 << 16, [&](int64_t begin, int64_t end) { std::memcpy(at + begin, from.data<float>() + begin, size_t(end - begin) * sizeof(float)); });
  };
  return {.amount = 2.0 * double(count) * sizeof(float), .run = copy};
}

// Exponentials of all threads, from and to the nearest cache: what a scan whose every entry has a decay of its own is measured against.
constexpr int64_t kExponentials = 1024, kExponentialTimes = 4096;   // a thread
struct Exponentials {
  std::vector<float> from = std::vector<float>(size_t(kExponentials));
  std::vector<std::vector<float>> to;
  Exponentials() {
    for (int64_t i = 0; i < kExponentials; ++i) from[size_t(i)] = -float(i) / 64;
    for (int i = 0; i < thread_count(); ++i) to.emplace_back(size_t(kExponentials));
  }
  void operator()() {
    static auto* const run = TTR_SIMD_BEST(exponentials);
    parallel_for(thread_count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread)
        for (int64_t i = 0; i < kExponentialTimes; ++i) run(from.data(), to[size_t(thread)].data(), kExponentials);
    });
  }
  double error() const {
    double most = 0;
    for (size_t i = 0; i < from.size(); ++i) most = std::max(most, std::abs(double(to[0][i]) / std::exp2(double(from[i])) - 1));
    return most;
  }
};
double exponentials_at_once() { return double(kExponentials * kExponentialTimes * thread_count()); }
Yardstick exponential_yardstick() { return {.amount = exponentials_at_once(), .run = Exponentials()}; }

void bench_copy(Table& table) {
  const Yardstick copy = copy_yardstick();
  const Timing t = timing_of(cpu_device, copy.run, 1.0);
  table.row("copy of 256 MB", t, {}, fmt::format("{:.1f} GB/s read and written, {} threads", copy.amount / t.least * 1e-9, thread_count()));
}

void bench_exponentials(Table& table) {
  Exponentials work;
  const Timing t = timing_of(cpu_device, [&] { work(); });
  const std::string name = fmt::format("{:.0f} million exponentials f32", exponentials_at_once() * 1e-6);
  if (!(work.error() < 2e-7)) table.refused(name, fmt::format("one is off by {:.2g}", work.error()));
  else table.row(name, t, {}, fmt::format("{:.2f} G/s, {} threads", exponentials_at_once() / t.least * 1e-9, thread_count()));
}

Problem problem_of(Device device, Dtype dtype) {
  return {.batch = 4,
          .tokens = 1024,
          .heads = 4,
          .key_heads = 4,
          .value_heads = 4,
          .key_dim = 64,
          .value_dim = 64,
          .dtype = dtype,
          .device = device,
          .training = true};
}

// The fewest exponentials: one an entry in the forward and one where the backward makes it again, if the decay differs from entry to entry.
double exponentials_of(const Recipe& recipe, const Problem& p) {
  const auto* geometric = recipe.weights().ask<GeometricWeights>();
  if (!geometric || (geometric->per != Decay::entry && geometric->per != Decay::product)) return 0;
  return double(p.batch * p.tokens * p.heads * p.key_dim * p.value_dim) * (p.training ? 2 : 1);
}

void bench_fold(Table& table, const Recipe& recipe, const std::string& name) {   // on the CPU: the definition's price
  Problem p = problem_of(cpu_device, Dtype::f32);
  p.tokens = 32;
  const Work work(recipe, p);
  const Timing t = timing_of(
      cpu_device, [&] { work([&](const Arguments& a) { return fold(recipe, a); }); }, 0.5, 3);
  table.row(fmt::format("fold {} B{} T{} H{} K{} V{} f32", name, p.batch, p.tokens, p.heads, p.key_dim, p.value_dim), t, {},
            fmt::format("{:.0f} us/token", t.least * 1e6 / double(p.batch * p.tokens)));
}

// A feature map with more features than the key has channels: its own operations would be timed, and fold on its wide keys takes minutes.
bool widens(const Recipe& recipe, int64_t key_dim) {
  const auto* map = recipe.function().ask<LinearMap>();
  return map && map->feature->tokens_at_once() && feature_count(map->feature, key_dim) > key_dim;
}

// Each is taken in turn with the row. A stem of matrix products has its floor in the first; a scan in the largest of the three.
struct Yardsticks {
  Yardstick product, copy, exponential;
  double floor(const Route& route, const Recipe& recipe, const Problem& p) {   // seconds, at this moment
    double least = route.flops(recipe, p) / product.rate();
    if (copy.run) least = std::max(least, route.bytes(recipe, p) / copy.rate());
    if (exponential.run) least = std::max(least, exponentials_of(recipe, p) / exponential.rate());
    return least;
  }
};

void bench_routes(Table& table, const std::string& stem, Device device, Yardsticks& cpu, int64_t key_dim = 64) {
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16})
    for (const Route& route : routes()) {
      if (route.stem != stem) continue;
      for (const Published& published : published_recipes()) {
        const Recipe& recipe = published.recipe;
        Problem p = problem_of(device, dtype);
        p.key_dim = key_dim;
        if (!route.accepts(recipe, p).empty() || widens(recipe, p.key_dim)) continue;
        const auto slots = recipe.slots();
        const bool keyed = std::any_of(slots.begin(), slots.end(), [](const Slot& s) { return s.name == "k"; });
        if (key_dim != 64 && !keyed) continue;
        const std::string name = fmt::format("{} {} {}{}", route.name, published.name, name_of(dtype), key_dim == 64 ? "" : fmt::format(" K{}", key_dim));
        if (const std::string why = disagreement(route, recipe, p); !why.empty()) {
          table.refused(name, why);
          continue;
        }
        const Work work(recipe, p);
        const auto run = [&] { work([&](const Arguments& a) { return route.run(recipe, a, p); }); };
        const double flops = route.flops(recipe, p), tokens = double(p.batch * p.tokens);
        const Timing t = device.is_cuda() ? timing_of(device, run) : timing_in_turn(run, [&] { return cpu.floor(route, recipe, p); });
        const double floor = device.is_cuda() ? std::max(flops / (dtype == Dtype::bf16 ? kCudaFlopsBf16 : kCudaFlopsF32),
                                                         route.bytes(recipe, p) / kCudaBytes)
                                              : t.floor;
        table.row(name, t, floor, fmt::format("{:.1f} GFLOP/s, {:.1f} GB/s, {:.2f} us/token", flops / t.least * 1e-9,
                                              route.bytes(recipe, p) / t.least * 1e-9, t.least * 1e6 / tokens));
      }
    }
}

// Least squares by a factorisation and by conjugate gradients from zero: the kernels on one problem, each held against the f64 solution.
template <class T> struct Solved {
  std::vector<T> q, k, v, dy, y, dq, dk, dv, ridge, d_ridge, saved;
  NormalForward<T> forward;
  NormalBackward<T> backward;
  Solved(const Problem& p, NormalMethod method, int64_t steps, double tolerance) {
    const int64_t rows = p.batch * p.tokens * p.heads, K = p.key_dim, V = p.value_dim;
    const auto drawn = [&](uint64_t stream, int64_t dim, bool key) {   // the same in every type: drawn in f32
      Tensor x = normal({rows, dim}, 13, stream);
      if (key) x = l2_norm(x);
      const std::vector<double> values = x.to_vector<double>();
      return std::vector<T>(values.begin(), values.end());
    };
    q = drawn(0, K, false), k = drawn(1, K, true), v = drawn(2, V, false), dy = drawn(3, V, false);
    y = dv = v, dq = q, dk = k;
    ridge.assign(size_t(p.heads * K), T(0.75)), d_ridge.assign(size_t(p.batch * p.heads * K), 0);
    forward.size = {.batch = p.batch, .tokens = p.tokens, .heads = p.heads, .key_heads = p.heads, .value_heads = p.heads, .key_dim = K, .value_dim = V};
    saved.assign(size_t(p.batch * p.heads * forward.size.chunks() * (K + V) * K), 0);
    forward.q = {q.data(), p.heads * K}, forward.k = {k.data(), p.heads * K}, forward.v = {v.data(), p.heads * V};
    forward.ridge = ridge.data(), forward.method = method, forward.steps = steps, forward.tolerance = T(tolerance);
    forward.saved = saved.data(), forward.y = {y.data(), p.heads * V};
    static_cast<NormalProblem<T>&>(backward) = forward;
    backward.saved = saved.data(), backward.dy = {dy.data(), p.heads * V};
    backward.dq = {dq.data(), p.heads * K}, backward.dk = {dk.data(), p.heads * K}, backward.dv = {dv.data(), p.heads * V}, backward.d_ridge = d_ridge.data();
  }
  void operator()() {
    must("bench", cpu::normal_equations_forward(forward, Scratch(cpu::normal_equations_workspace(forward), cpu_device)));
    must("bench", cpu::normal_equations_backward(backward, Scratch(cpu::normal_equations_workspace(backward), cpu_device)));
  }
};

void bench_solvers(Table& table) {
  const Problem p = problem_of(cpu_device, Dtype::f32);
  Solved<double> exact(p, NormalMethod::chunk, 0, 0);
  exact();
  const auto off = [](const std::vector<float>& got, const std::vector<double>& want) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < got.size(); ++i) error += (got[i] - want[i]) * (got[i] - want[i]), norm += want[i] * want[i];
    return std::sqrt(error / norm);
  };
  struct Way { const char* name; NormalMethod method; double tolerance; };
  for (const Way& way : {Way{"mesa f32 factorised, kernels alone", NormalMethod::chunk, 0},
                        {"mesa f32 by 30 conjugate gradient steps", NormalMethod::iterative, 0},
                         {"mesa f32 by at most 30, until 1e-7", NormalMethod::iterative, 1e-7}}) {
    Solved<float> solved(p, way.method, 30, way.tolerance);
    const Timing t = timing_of(cpu_device, [&] { solved(); });
    table.row(way.name, t, {},
              fmt::format("off the f64 solution: y {:.1e}, dq {:.1e}, dk {:.1e}, dv {:.1e}", off(solved.y, exact.y), off(solved.dq, exact.dq),
                          off(solved.dk, exact.dk), off(solved.dv, exact.dv)));
  }
}

struct TextBatch {
  Tensor input, target;   // i32 [B, T]
  void each(auto&& f) { f("input", input), f("target", target); }
};

void bench_train(Table& table, Device device) {   // nanoGPT's CPU configuration, one step, optimizer included
  constexpr int64_t kBatch = 12, kContext = 64;
  LanguageModel model({.vocab = 256, .dim = 128, .blocks = 4, .heads = 4, .mixer = recipes::softmax_attention}, 1, device);
  Trainer trainer(model, AdamW{}, [](const LanguageModel& m, const TextBatch& b) { return cross_entropy(m(b.input), b.target); });
  const std::string text = make_grammar(1).sample(1, size_t(kBatch * kContext + 1));
  std::vector<int32_t> input, target;
  for (size_t i = 0; i + 1 < text.size(); ++i)
    input.push_back(int32_t(static_cast<unsigned char>(text[i]))), target.push_back(int32_t(static_cast<unsigned char>(text[i + 1])));
  const TextBatch batch{to_device(from_vector(input, {kBatch, kContext}), device),
                        to_device(from_vector(target, {kBatch, kContext}), device)};
  const std::string name = fmt::format("train 4 blocks, dim 128, B{} T{} f32", kBatch, kContext);
  const double before = trainer.step(batch).loss();
  const Timing t = timing_of(
      device, [&] { trainer.step(batch); }, 2.0, 10);
  const double after = trainer.step(batch).loss();
  if (!(after < before))
    return table.refused(name, fmt::format("the loss of one batch went from {:.4f} to {:.4f}, it does not learn", before, after));
  table.row(name, t, 120.0 / 2000,
            fmt::format("{:.0f} tokens/s, 2000 steps in {:.0f} s; the floor is the limit of 120 s", double(kBatch * kContext) / t.median,
                        t.median * 2000));
}

}   // namespace

int run_bench(const BenchOptions& o) {
  const Device device = place_named(o.device, "f32").device;
  const auto wants = [&](const char* what) { return o.what == "all" || o.what == what; };
  Table table;
  if (wants("op")) bench_op(table);
  const bool streams = wants("scan");
  const bool stems = std::any_of(std::begin(kProductStems), std::end(kProductStems), wants);
  if (wants("matmul")) bench_matmul(table);
  if (wants("copy") || (streams && !device.is_cuda())) bench_copy(table);
  if (streams && !device.is_cuda()) bench_exponentials(table);
  Yardsticks products, all;
  if (!device.is_cuda() && (stems || streams)) products.product = product_yardstick();
  if (!device.is_cuda() && streams) all = {products.product, copy_yardstick(), exponential_yardstick()};
  for (const char* stem : kProductStems)
    if (wants(stem)) bench_routes(table, stem, device, products);
  if (streams) bench_routes(table, "scan", device, all), bench_routes(table, "scan", device, all, 16);   // 16: of a published Mamba's memory
  if (wants("normal_equations") && !device.is_cuda()) bench_solvers(table);
  if (wants("fold") || wants("delta")) bench_fold(table, recipes::gated_delta_net, "gated_delta_net");
  if (wants("fold") || wants("softmax_attention")) bench_fold(table, recipes::softmax_attention, "softmax_attention");
  if (wants("fold") || wants("normal_equations")) bench_fold(table, recipes::mesa, "mesa");
  if (wants("fold")) bench_fold(table, recipes::titans, "titans");
  if (wants("train")) bench_train(table, device);
  if ((stems || streams) && device.is_cuda())
    fmt::print("\nforward plus backward; floors: {:.2f} TB/s, {:.0f} TFLOP/s f32, {:.0f} TFLOP/s bf16 (measured on H200)\n", kCudaBytes * 1e-12,
               kCudaFlopsF32 * 1e-12, kCudaFlopsBf16 * 1e-12);
  else if (stems || streams)
    fmt::print("\nforward plus backward. Floors are by rates taken in turn with the row, ratios the median of the turns:\n");
  const auto rates = [](const char* what, const Yardstick& y, const char* unit) {
    if (y.fastest > 0) fmt::print("  {}, {:.1f} to {:.1f} {}\n", what, y.slowest * 1e-9, y.fastest * 1e-9, unit);
  };
  rates("the route's own flops at the rate of our matmul at 512", products.product, "GFLOP/s");
  rates("of a scan the largest of its flops at that rate", all.product, "GFLOP/s");
  rates("  its bytes at the rate of our copy", all.copy, "GB/s");
  rates("  its exponentials, two an entry with a decay of its own", all.exponential, "G/s");
  return table.failed ? 1 : 0;
}

}   // namespace ttr
