// Every operation of core/ops.hpp on a CUDA tensor equals itself on the CPU, forward and gradient, in f64 (1e-12, except where a sum of many
// terms or a chain of divisions is named) and in f32; second derivatives on the device; the same random numbers; copies; pools.
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/ops.hpp>

using namespace ttr;

namespace {

bool no_gpu() {
  if constexpr (with_cuda) {
    if (cuda::device_count() > 0) return false;
    MESSAGE("skipped: " << std::string(cuda::device_problem()));
  } else {
    MESSAGE("skipped: built without CUDA");
  }
  return true;
}

enum class Draw { any, positive, apart };   // normal; in [0.5, 2]; normal and no two equal or near 0 (for max, abs, sign, relu)

struct Input {
  Shape shape;
  Draw draw = Draw::any;
};
struct Case {
  std::string name;
  std::vector<Input> inputs;
  std::function<Tensors(const Tensors&)> f;
  bool differentiable = true;
  double looser = 1;          // times the tolerance
};

Tensor numbers(const Input& input, uint64_t seed) {
  const Options options{Dtype::f64, cpu_device};
  if (input.draw == Draw::positive) return uniform(input.shape, seed, 0, 0.5, 2, options);
  Tensor x = normal(input.shape, seed, 0, 0, 1, options);
  if (input.draw == Draw::any) return x;
  std::vector<double> values = x.to_vector<double>();
  for (size_t i = 0; i < values.size(); ++i) values[i] = (double((i * 7919 + seed) % (values.size() + 1)) + 0.5) / double(values.size() + 1) * 4 - 2 + 1e-3;
  return from_vector(values, input.shape, options);
}

Tensor ids(const std::vector<int32_t>& values, const Shape& shape, const Tensor& beside) { return from_vector(values, shape, {Dtype::i32, beside.device()}); }

// A well-conditioned symmetric positive definite matrix from anything square.
Tensor definite(const Tensor& x) { return matmul(x, x, false, true) + identity(x.size(-1), like(x)) * 2.0; }

std::vector<Case> cases() {
  std::vector<Case> list;
  const Input a{{3, 1, 5}}, b{{4, 1}}, plain{{6, 7}}, positive{{6, 7}, Draw::positive}, apart{{6, 7}, Draw::apart};
  const auto unary = [&](const char* name, Input input, Tensor (*f)(const Tensor&), bool differentiable = true) {
    list.push_back({name, {input}, [f](const Tensors& x) { return Tensors{f(x[0])}; }, differentiable});
  };
  const auto add = [&](const char* name, std::vector<Input> inputs, std::function<Tensor(const Tensors&)> f, bool differentiable = true, double looser = 1) {
    list.push_back({name, std::move(inputs), [f](const Tensors& x) { return Tensors{f(x)}; }, differentiable, looser});
  };
  add("add", {a, b}, [](const Tensors& x) { return x[0] + x[1]; });
  add("sub", {a, b}, [](const Tensors& x) { return x[0] - x[1]; });
  add("mul", {a, b}, [](const Tensors& x) { return x[0] * x[1]; });
  add("div", {a, {{4, 1}, Draw::positive}}, [](const Tensors& x) { return x[0] / x[1]; });
  add("neg", {a}, [](const Tensors& x) { return -x[0]; });
  add("with numbers", {positive}, [](const Tensors& x) { return 2.0 / (3.0 - (1.0 + ((x[0] + 1.5) - 0.25) * 2.0 / 3.0) * 4.0); });
  add("maximum", {apart, {{6, 7}}}, [](const Tensors& x) { return maximum(x[0], x[1]); });
  add("minimum", {apart, {{6, 7}}}, [](const Tensors& x) { return minimum(x[0], x[1]); });
  add("maximum, number", {apart}, [](const Tensors& x) { return maximum(x[0], 0.3); });
  add("minimum, number", {apart}, [](const Tensors& x) { return minimum(x[0], 0.3); });
  add("pow", {positive}, [](const Tensors& x) { return pow(x[0], 1.7); });
  unary("exp", plain, exp), unary("log", positive, log), unary("log1p", positive, log1p), unary("expm1", plain, expm1), unary("sqrt", positive, sqrt);
  unary("rsqrt", positive, rsqrt), unary("square", plain, square), unary("abs", apart, abs), unary("sin", plain, sin), unary("cos", plain, cos);
  unary("tanh", plain, tanh), unary("sigmoid", plain, sigmoid), unary("softplus", plain, softplus), unary("logsigmoid", plain, logsigmoid);
  unary("relu", apart, relu), unary("silu", plain, silu), unary("gelu", plain, gelu), unary("elu1", apart, elu1), unary("sign", apart, sign, false);
  add("less", {apart, {{7}}}, [](const Tensors& x) { return less(x[0], x[1]); }, false);
  add("less_equal", {apart, {{7}}}, [](const Tensors& x) { return less_equal(x[0], x[1]); }, false);
  add("equal", {apart}, [](const Tensors& x) { return equal(x[0], reverse(x[0], 0)); }, false);
  add("where", {apart, a, b}, [](const Tensors& x) { return where(less(slice(slice(x[0], 0, 0, 4), 1, 0, 5), zeros({4, 5}, like(x[0]))), x[1], x[2]); });

  unary("sum", {{1000, 3}}, [](const Tensor& x) { return sum(x); });
  unary("mean", {{100, 3}}, [](const Tensor& x) { return mean(x); });
  for (const int axis : {0, 1, -1}) {
    const auto over = [&](const char* name, auto f) {
      add((std::string(name) + " over " + std::to_string(axis)).c_str(), {{{3, 40, 5}, Draw::apart}},
          [=](const Tensors& x) { return f(x[0], axis); });
    };
    over("sum", [](const Tensor& x, int axis) { return sum(x, axis); });
    over("mean", [](const Tensor& x, int axis) { return mean(x, axis, true); });
    over("max", [](const Tensor& x, int axis) { return max(x, axis); });
    over("logsumexp", [](const Tensor& x, int axis) { return logsumexp(x, axis, true); });
    over("cumsum", [](const Tensor& x, int axis) { return cumsum(x, axis); });
    over("cumsum reversed", [](const Tensor& x, int axis) { return cumsum(x, axis, true); });
    over("roll", [](const Tensor& x, int axis) { return roll(x, axis, 2); });
    over("reverse", [](const Tensor& x, int axis) { return reverse(x, axis); });
    over("pad", [](const Tensor& x, int axis) { return pad(x, axis, 2, 1); });
  }
  add("sum_to", {{{3, 4, 5}}}, [](const Tensors& x) { return sum_to(x[0], {4, 1}); });

  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      const auto swap = [](Shape s, bool t) { return t ? Shape{s[0], s[2], s[1]} : s; };
      add("matmul", {{swap({3, 17, 9}, ta)}, {swap({3, 9, 20}, tb)}}, [=](const Tensors& x) { return matmul(x[0], x[1], ta, tb); }, true, 4);
    }
  add("matmul, shared right", {{{3, 5, 9}}, {{9, 4}}}, [](const Tensors& x) { return matmul(x[0], x[1]); }, true, 4);
  add("matmul, shared left", {{{5, 9}}, {{3, 9, 4}}}, [](const Tensors& x) { return matmul(x[0], x[1]); }, true, 4);

  add("reshape", {{{4, 6}}}, [](const Tensors& x) { return reshape(x[0], {2, -1}) * 2.0; });
  add("transpose", {{{4, 3, 6}}}, [](const Tensors& x) { return transpose(x[0], 0, 2); });
  add("broadcast_to", {{{4, 1}}}, [](const Tensors& x) { return broadcast_to(x[0], {2, 4, 3}); });
  add("concat", {{{4, 3}}, {{4, 2}}}, [](const Tensors& x) { return concat({x[0], x[1], x[0]}, 1); });
  add("stack", {{{4, 3}}, {{4, 3}}}, [](const Tensors& x) { return stack({x[0], x[1]}, 1); });
  add("slice", {{{4, 7}}}, [](const Tensors& x) { return slice(x[0], 1, 2, 6); });
  list.push_back({"split", {{{4, 7}}}, [](const Tensors& x) { return split(x[0], 1, {2, 4, 1}); }});
  list.push_back({"unstack", {{{4, 7}}}, [](const Tensors& x) { return unstack(x[0], 1); }});
  add("cast", {{{4, 7}}}, [](const Tensors& x) { return cast(cast(x[0], Dtype::f32), x[0].dtype()) * x[0]; }, true, 1e6);
  unary("alias", plain, alias), unary("stop_gradient", plain, [](const Tensor& x) { return stop_gradient(x) * x; });
  unary("tril", {{2, 5, 5}}, [](const Tensor& x) { return tril(x, 1); }), unary("diagonal", {{2, 5, 5}}, diagonal),
      unary("diagonal_matrix", {{2, 5}}, diagonal_matrix);
  add("identity", {{{5, 5}}}, [](const Tensors& x) { return identity(5, like(x[0])) * x[0]; });

  add("embedding", {{{6, 5}}}, [](const Tensors& x) { return embedding(x[0], ids({5, 0, 0, 3, 5, 5}, {2, 3}, x[0])); });
  add("gather", {{{3, 6, 2}}}, [](const Tensors& x) { return gather(x[0], 1, ids({5, 0, 0, 3}, {4}, x[0])); });
  add("scatter_add", {{{3, 4, 2}}}, [](const Tensors& x) { return scatter_add(x[0], 1, ids({5, 0, 0, 3}, {4}, x[0]), 7); });
  add("pick", {{{3, 2, 6}}}, [](const Tensors& x) { return pick(x[0], ids({5, 0, 0, 3, 1, 2}, {3, 2}, x[0])); });

  unary("softmax", {{5, 33}}, softmax);
  add("rms_norm", {{{5, 33}}, {{33}}}, [](const Tensors& x) { return rms_norm(x[0], x[1]); });
  add("rms_norm, no weight", {{{5, 33}}}, [](const Tensors& x) { return rms_norm(x[0], {}); });
  add("layer_norm", {{{5, 33}}, {{33}}, {{33}}}, [](const Tensors& x) { return layer_norm(x[0], x[1], x[2]); });
  list.push_back({"add_rms_norm", {{{5, 33}}, {{5, 33}}, {{33}}}, [](const Tensors& x) { return add_rms_norm(x[0], x[1], x[2]); }});
  add("swiglu", {{{5, 66}}}, [](const Tensors& x) { return swiglu(x[0]); });
  add("gated", {{{5, 33}}, {{5, 33}}}, [](const Tensors& x) { return gated(x[0], x[1]); });
  list.push_back({"project", {{{2, 5, 9}}, {{8, 9}}}, [](const Tensors& x) { return project(x[0], {x[1]}, {3, 1, 4}); }, true, 4});
  list.push_back({"project, several weights", {{{2, 5, 9}}, {{8, 9}}, {{2, 9}}, {{40, 9}}, {{1, 9}}},
                  [](const Tensors& x) { return project(x[0], {x[1], x[2], x[3], x[4]}, {3, 5, 2, 40, 1}); }, true, 4});
  add("l2_norm", {{{5, 33}}}, [](const Tensors& x) { return l2_norm(x[0]); });
  for (const bool mean : {true, false})
    add("cross_entropy", {{{2, 3, 33}}}, [=](const Tensors& x) { return cross_entropy(x[0], ids({5, -1, 0, 32, -7, 2}, {2, 3}, x[0]), mean); });
  add("label_count", {{{2}}}, [](const Tensors& x) { return cast(label_count(ids({5, -1, 0, 32, -7, 2}, {2, 3}, x[0])), x[0].dtype()); }, false);

  add("causal_conv", {{{2, 9, 5}}, {{5, 4}}, {{5}}, {{2, 3, 5}}}, [](const Tensors& x) { return causal_conv(x[0], x[1], x[2], x[3]); });
  add("causal_conv, bare", {{{2, 9, 5}}, {{5, 4}}}, [](const Tensors& x) { return causal_conv(x[0], x[1]); });
  add("causal_conv, active", {{{2, 9, 5}}, {{5, 4}}, {{5}}, {{2, 3, 5}}}, [](const Tensors& x) { return causal_conv(x[0], x[1], x[2], x[3], true); });
  list.push_back({"causal_conv, parts", {{{2, 9, 5}}, {{2, 9, 2}}, {{7, 4}}, {{7}}, {{2, 3, 7}}},
                  [](const Tensors& x) { return causal_conv({x[0], x[1]}, x[2], x[3], x[4], true); }});
  add("rotary", {{{2, 9, 3, 8}}}, [](const Tensors& x) { return rotary(x[0], 100); }, true, 4);
  add("dropout", {{{40, 9}}}, [](const Tensors& x) { return dropout(x[0], 0.3, 5, 6); });

  add("cholesky", {{{2, 7, 7}}}, [](const Tensors& x) { return cholesky(definite(x[0])); }, true, 20);
  for (const bool upper : {false, true})
    for (const bool transpose : {false, true})
      add("solve_triangular", {{{2, 7, 7}}, {{2, 7, 3}}}, [=](const Tensors& x) {
        const Tensor l = cholesky(definite(x[0]));
        return solve_triangular(upper ? ttr::transpose(l, 1, 2) : l, x[1], upper, transpose);
      }, true, 20);
  add("solve", {{{2, 7, 7}}, {{2, 7, 3}}}, [](const Tensors& x) { return solve(definite(x[0]), x[1]); }, true, 20);
  return list;
}

using Values = std::vector<std::vector<double>>;

Values evaluate(const Case& c, uint64_t seed, Dtype dtype, Device device) {
  Tensors xs;
  for (size_t i = 0; i < c.inputs.size(); ++i)
    xs.push_back(variable(to_device(from_vector(numbers(c.inputs[i], seed + i).to_vector<double>(), c.inputs[i].shape, {dtype, cpu_device}), device)));
  const Tensors ys = c.f(xs);
  Values found;
  Tensors dys;
  for (const Tensor& y : ys) {
    CHECK(y.device() == device);
    found.push_back(y.to_vector<double>());
    dys.push_back(to_device(normal(y.shape(), seed, 50 + dys.size(), 0, 1, {y.dtype(), cpu_device}), device));
  }
  if (!c.differentiable) return found;
  for (const Tensor& d : grad(ys, dys, xs)) found.push_back(d.to_vector<double>());
  return found;
}

// The largest |a - b| over the largest |b| (at least 1); infinite with a NaN.
double off(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0, size = 1;
  for (size_t i = 0; i < a.size(); ++i) {
    const double e = std::abs(a[i] - b[i]);
    worst = e <= worst ? worst : (e == e ? e : INFINITY);
    size = std::max(size, std::abs(b[i]));
  }
  return worst / size;
}

struct FreshMemoryNan {
  FreshMemoryNan() { set_fresh_memory_nan(true); }
  ~FreshMemoryNan() { set_fresh_memory_nan(false); }
};

}  // namespace

TEST_SUITE("cuda_ops") {
  TEST_CASE("every operation equals the CPU's, forward and gradient, f64 and f32") {
    if (no_gpu()) return;
    const FreshMemoryNan nan;
    uint64_t seed = 1;
    for (const Case& c : cases()) {
      seed += 10;
      CAPTURE(c.name);
      CAPTURE(seed);
      try {
        for (const auto& [dtype, tolerance] : {std::pair{Dtype::f64, 1e-12}, {Dtype::f32, 2e-5}}) {
          const Values want = evaluate(c, seed, dtype, cpu_device), got = evaluate(c, seed, dtype, cuda_device);
          REQUIRE(want.size() == got.size());
          for (size_t i = 0; i < want.size(); ++i) {
            CAPTURE(name_of(dtype));
            CAPTURE(i);   // outputs, then gradients
            CHECK(off(got[i], want[i]) <= tolerance * (dtype == Dtype::f64 ? c.looser : std::min(c.looser, 20.0)));
          }
        }
      } catch (const std::exception& e) {
        FAIL_CHECK(std::string(e.what()));
      }
    }
  }

  TEST_CASE("bf16: forward and gradient within a rounding or two of the CPU's in f64") {
    if (no_gpu()) return;
    uint64_t seed = 5001;
    for (const Case& c : cases()) {
      if (c.name.find("solve") == 0 || c.name == "cholesky" || c.name == "cast" || c.name == "label_count") continue;   // never run in bf16
      if (!c.differentiable || c.name.find("max") == 0 || c.name.find("min") == 0 || c.name == "where" || c.name.find("cumsum") == 0)
        continue;   // choices flip, long sums
      seed += 10;
      CAPTURE(c.name);
      CAPTURE(seed);
      try {
        const auto through = [&](Dtype dtype, Device device) {
          Tensors xs;
          for (size_t i = 0; i < c.inputs.size(); ++i) {
            const Tensor narrow = from_vector(numbers(c.inputs[i], seed + i).to_vector<double>(), c.inputs[i].shape, {Dtype::bf16, cpu_device});
            xs.push_back(variable(to_device(from_vector(narrow.to_vector<double>(), narrow.shape(), {dtype, cpu_device}), device)));
          }
          const Tensors ys = c.f(xs);
          Values found;
          Tensors dys;
          for (const Tensor& y : ys) {
            found.push_back(y.to_vector<double>());
            const Tensor dy = normal(y.shape(), seed, 50 + dys.size(), 0, 1, {Dtype::f64, cpu_device});
            const Tensor narrow = from_vector(dy.to_vector<double>(), y.shape(), {Dtype::bf16, cpu_device});
            dys.push_back(to_device(from_vector(narrow.to_vector<double>(), y.shape(), {y.dtype(), cpu_device}), device));
          }
          for (const Tensor& d : grad(ys, dys, xs)) found.push_back(d.to_vector<double>());
          return found;
        };
        const Values want = through(Dtype::f64, cpu_device), got = through(Dtype::bf16, cuda_device);
        for (size_t i = 0; i < want.size(); ++i) {
          CAPTURE(i);
          CHECK(off(got[i], want[i]) <= 8.0 / 256);   // composed operations round at each step
        }
      } catch (const std::exception& e) {
        FAIL_CHECK(std::string(e.what()));
      }
    }
  }

  TEST_CASE("second derivatives on the device") {
    if (no_gpu()) return;
    const auto on_device = [](std::function<Tensor(const Tensors&)> f) {
      return [f](const Tensors& xs) { return Tensors{f(xs)}; };
    };
    const auto input = [](const Shape& shape, uint64_t stream) { return to_device(normal(shape, 9, stream, 0, 1, {Dtype::f64, cpu_device}), cuda_device); };
    const std::vector<std::pair<const char*, std::pair<std::function<Tensor(const Tensors&)>, Tensors>>> list{
        {"silu", {[](const Tensors& x) { return silu(x[0]); }, {input({3, 4}, 0)}}},
        {"elu1", {[](const Tensors& x) { return elu1(x[0]); }, {input({3, 4}, 0)}}},
        {"softmax", {[](const Tensors& x) { return softmax(x[0]); }, {input({3, 4}, 1)}}},
        {"rms_norm", {[](const Tensors& x) { return rms_norm(x[0], x[1]); }, {input({3, 4}, 2), input({4}, 3)}}},
        {"layer_norm", {[](const Tensors& x) { return layer_norm(x[0], x[1], x[2]); }, {input({3, 4}, 4), input({4}, 5), input({4}, 6)}}},
        {"causal_conv", {[](const Tensors& x) { return causal_conv(x[0], x[1]); }, {input({2, 5, 3}, 7), input({3, 4}, 8)}}},
        {"causal_conv, active", {[](const Tensors& x) { return causal_conv(x[0], x[1], {}, {}, true); }, {input({2, 5, 3}, 14), input({3, 4}, 15)}}},
        {"solve", {[](const Tensors& x) { return solve(definite(x[0]), x[1]); }, {input({4, 4}, 9), input({4, 2}, 10)}}},
        {"cross_entropy", {[](const Tensors& x) { return cross_entropy(x[0], ids({1, -1, 3}, {3}, x[0])); }, {input({3, 5}, 11)}}},
        {"matmul", {[](const Tensors& x) { return tanh(matmul(x[0], x[1], true)); }, {input({4, 3}, 12), input({4, 2}, 13)}}}};
    for (const auto& [name, test] : list) {
      const GradCheck check = check_grad(on_device(test.first), test.second, 2);
      CAPTURE(name);
      CAPTURE(check.where);
      CHECK(check.within(1e-7));
    }
  }

  TEST_CASE("the same random numbers: uniforms bit for bit, normals to rounding") {
    if (no_gpu()) return;
    for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
      const auto both = [&](auto make) { return std::pair{make(cpu_device).template to_vector<double>(), make(cuda_device).template to_vector<double>()}; };
      const auto [u, v] = both([&](Device d) { return uniform({1001}, 12345678901234u, 3, -1, 2, {dtype, d}); });
      CHECK(u == v);
      const auto [n, m] = both([&](Device d) { return normal({1001}, 12345678901234u, 4, 1, 2, {dtype, d}); });
      CHECK(off(m, n) < (dtype == Dtype::f32 ? 2e-6 : 1e-14));
      const auto [k, l] = both([&](Device d) { return dropout(ones({1001}, {dtype, d}), 0.4, 7, 8); });
      CHECK(k == l);
    }
  }

  TEST_CASE("copies to the device and back; values made there") {
    if (no_gpu()) return;
    const std::vector<double> values{1, -2.5, 3e10, -0.0};
    for (const Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16}) {
      const Tensor host = from_vector(values, {2, 2}, {dtype, cpu_device}), there = to_device(host, cuda_device), back = to_device(there, cpu_device);
      CHECK(there.device() == cuda_device);
      CHECK(back.device() == cpu_device);
      CHECK(std::memcmp(back.address(), host.address(), 4 * bytes_of(dtype)) == 0);
      CHECK(there.to_vector<double>() == host.to_vector<double>());
      CHECK(full({3}, 2.5, {dtype, cuda_device}).to_vector<double>() == std::vector<double>{2.5, 2.5, 2.5});
      CHECK(from_vector(values, {4}, {dtype, cuda_device}).to_vector<double>() == host.to_vector<double>());
    }
    const Tensor whole = from_vector(std::vector<int32_t>{1, -7, 1 << 30}, {3}, {Dtype::i32, cuda_device});
    CHECK(whole.to_vector<int32_t>() == std::vector<int32_t>{1, -7, 1 << 30});
    CHECK(window(whole, 1, {2}).to_vector<int32_t>() == std::vector<int32_t>{-7, 1 << 30});
    CHECK(full({}, 3, {Dtype::f64, cuda_device}).item() == 3);
    const Tensor nothing = empty({0, 3}, {Dtype::f32, cuda_device});
    CHECK(nothing.to_vector<float>().empty());
    CHECK((nothing + nothing).shape() == Shape{0, 3});
    CHECK_THROWS_WITH_AS(full({2}, 1, {Dtype::f64, cuda_device}) + ones({2}, {Dtype::f64, cpu_device}),
                         doctest::Contains("needs one device; use to_device"), Error);
  }

  TEST_CASE("fresh device memory starts as NaN when asked; memory goes back where it was") {
    if (no_gpu()) return;
    const size_t before = memory_use(cuda_device).live_bytes;
    {
      const FreshMemoryNan nan;
      for (const double x : empty({70}, {Dtype::f32, cuda_device}).to_vector<double>()) CHECK(std::isnan(x));
      const Tensor x = variable(normal({1000}, 3, 0, 0, 1, {Dtype::f64, cuda_device}));
      CHECK(std::isfinite(sum(grad(sum(exp(sin(x) * x)), x)).item()));
    }
    CHECK(memory_use(cuda_device).live_bytes == before);
  }

  TEST_CASE("a private pool keeps its blocks to itself until it is destroyed") {
    if (no_gpu()) return;
    const Options there{Dtype::f32, cuda_device};
    void *inside = nullptr, *again = nullptr;
    Tensor survivor;
    {
      PrivatePool pool;
      {
        const PrivatePool::Use use(pool);
        inside = empty({12345}, there).address();   // free again at once
        again = empty({12345}, there).address();
        survivor = full({7}, 4, there);
      }
      CHECK(inside == again);
      Tensors held;
      for (int i = 0; i < 3; ++i) {
        held.push_back(empty({12345}, there));
        CHECK(held.back().address() != inside);
      }
    }
    CHECK(survivor.to_vector<float>() == std::vector<float>(7, 4));   // what outlives the pool is still its own
    Tensors held;
    bool found = false;
    for (int i = 0; i < 8; ++i) held.push_back(empty({12345}, there)), found |= held.back().address() == inside;
    CHECK(found);   // the pool's blocks are everybody's now
  }
}
