// Elementwise operations: values against the standard library, broadcasting, derivatives to order 2, accuracy of the f32 polynomials.
#include <cmath>
#include <functional>
#include <limits>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>
#include <ttr/core/parallel.hpp>

using namespace ttr;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const Options kF64{Dtype::f64, cpu_device};

Tensor f64(const std::vector<double>& values, const Shape& shape) { return from_vector(values, shape); }
Tensor noise(const Shape& shape, uint64_t stream, double low = -2, double high = 2) { return uniform(shape, 7, stream, low, high, kF64); }

struct Function {
  std::string name;
  Tensor (*op)(const Tensor&);
  double (*value)(double);
  double low, high;   // where derivatives are checked
};
const Function functions[] = {
    {"neg", [](const Tensor& x) { return -x; }, [](double x) { return -x; }, -2, 2},
    {"abs", [](const Tensor& x) { return abs(x); }, [](double x) { return std::fabs(x); }, 0.5, 2},
    {"exp", [](const Tensor& x) { return exp(x); }, [](double x) { return std::exp(x); }, -2, 2},
    {"expm1", [](const Tensor& x) { return expm1(x); }, [](double x) { return std::expm1(x); }, -2, 2},
    {"log", [](const Tensor& x) { return log(x); }, [](double x) { return std::log(x); }, 0.5, 3},
    {"log1p", [](const Tensor& x) { return log1p(x); }, [](double x) { return std::log1p(x); }, -0.5, 3},
    {"sqrt", [](const Tensor& x) { return sqrt(x); }, [](double x) { return std::sqrt(x); }, 0.5, 3},
    {"rsqrt", [](const Tensor& x) { return rsqrt(x); }, [](double x) { return 1 / std::sqrt(x); }, 0.5, 3},
    {"square", [](const Tensor& x) { return square(x); }, [](double x) { return x * x; }, -2, 2},
    {"sin", [](const Tensor& x) { return sin(x); }, [](double x) { return std::sin(x); }, -2, 2},
    {"cos", [](const Tensor& x) { return cos(x); }, [](double x) { return std::cos(x); }, -2, 2},
    {"tanh", [](const Tensor& x) { return tanh(x); }, [](double x) { return std::tanh(x); }, -2, 2},
    {"sigmoid", [](const Tensor& x) { return sigmoid(x); }, [](double x) { return 1 / (1 + std::exp(-x)); }, -2, 2},
    {"softplus", [](const Tensor& x) { return softplus(x); },
     [](double x) { return std::fmax(x, 0) + std::log1p(std::exp(-std::fabs(x))); }, -2, 2},
    {"logsigmoid", [](const Tensor& x) { return logsigmoid(x); },
     [](double x) { return std::fmin(x, 0) - std::log1p(std::exp(-std::fabs(x))); }, -2, 2},
    {"relu", [](const Tensor& x) { return relu(x); }, [](double x) { return std::fmax(x, 0); }, 0.5, 2},
    {"sign", [](const Tensor& x) { return sign(x); }, [](double x) { return double((x > 0) - (x < 0)); }, 0.5, 2},
    {"silu", [](const Tensor& x) { return silu(x); }, [](double x) { return x / (1 + std::exp(-x)); }, -3, 3},
    {"gelu", [](const Tensor& x) { return gelu(x); },
     [](double x) { return x / (1 + std::exp(-1.5957691216057308 * (x + 0.044715 * x * x * x))); }, -3, 3},   // 1 + tanh u = 2 sigmoid(2u)
    {"elu1", [](const Tensor& x) { return elu1(x); }, [](double x) { return x > 0 ? x + 1 : std::exp(x); }, -3, 3},
    {"pow 3", [](const Tensor& x) { return pow(x, 3); }, [](double x) { return x * x * x; }, -2, 2},
    {"pow 2.5", [](const Tensor& x) { return pow(x, 2.5); }, [](double x) { return std::pow(x, 2.5); }, 0.5, 2},
    {"pow 0", [](const Tensor& x) { return pow(x, 0); }, [](double) { return 1.0; }, -2, 2},
    {"x + 2", [](const Tensor& x) { return x + 2; }, [](double x) { return x + 2; }, -2, 2},
    {"x - 2", [](const Tensor& x) { return x - 2; }, [](double x) { return x - 2; }, -2, 2},
    {"2 - x", [](const Tensor& x) { return 2 - x; }, [](double x) { return 2 - x; }, -2, 2},
    {"x 2", [](const Tensor& x) { return x * 2; }, [](double x) { return x * 2; }, -2, 2},
    {"x / 3", [](const Tensor& x) { return x / 3; }, [](double x) { return x / 3; }, -2, 2},
    {"3 / x", [](const Tensor& x) { return 3 / x; }, [](double x) { return 3 / x; }, 0.5, 2},
    {"max 0.3", [](const Tensor& x) { return maximum(x, 0.3); }, [](double x) { return std::fmax(x, 0.3); }, 0.4, 2},
    {"min 0.3", [](const Tensor& x) { return minimum(x, 0.3); }, [](double x) { return std::fmin(x, 0.3); }, 0.4, 2},
};

double grad_at(const std::function<Tensor(const Tensor&)>& f, double x) {
  const Tensor v = variable(f64({x}, {}));
  return grad(f(v), v).item();
}

}   // namespace

TEST_SUITE("ops_elementwise") {
  TEST_CASE("functions of one tensor equal the standard library and have derivatives to order 2") {
    for (const Function& f : functions) {
      CAPTURE(f.name);
      const Tensor x = noise({3, 5}, 1, f.low, f.high);
      const auto xs = x.to_vector<double>(), ys = f.op(x).to_vector<double>();
      for (size_t i = 0; i < xs.size(); ++i) CHECK(ys[i] == doctest::Approx(f.value(xs[i])).epsilon(1e-13));
      const GradCheck check = check_grad([&](const Tensors& in) { return Tensors{f.op(in[0])}; }, {x}, 2);
      CAPTURE(check.where);
      CHECK(check.within(1e-8));
      CHECK(f.op(empty({0, 4}, kF64)).shape() == Shape{0, 4});
      CHECK(f.op(f64({f.high}, {})).item() == doctest::Approx(f.value(f.high)));
    }
  }

  TEST_CASE("f32 functions are within 3e-7 of f64 and keep their limits") {
    const Shape shape{200001};   // not a multiple of any vector, and enough for two threads
    for (const Function& f : functions) {
      CAPTURE(f.name);
      for (const double reach : {1e-3, 1.0, 12.0, 80.0}) {
        const double low = f.low > 0 ? 1e-3 * reach : (f.low == -0.5 ? -0.5 : -reach);
        const Tensor x = uniform(shape, 3, 5, low, reach);
        const auto xs = x.to_vector<double>(), ys = f.op(x).to_vector<double>();
        double worst = 0, at = 0;
        for (size_t i = 0; i < xs.size(); ++i) {
          const double want = f.value(xs[i]);
          if (std::fabs(want) < 1e-36 || std::fabs(want) > 3e38) continue;
          // The argument of gelu's tanh, the sum x + 2, ... are rounded too: relative to the larger of value and rounding of what enters.
          const double scale = std::fabs(want) + (f.name == "gelu" && xs[i] < -1 ? std::fabs(want) * 4 * xs[i] * xs[i] : 0);
          const double error = std::fabs(ys[i] - want) / std::fmax(scale, f.name.find(' ') != std::string::npos ? std::fabs(xs[i]) : 0);
          if (error > worst) worst = error, at = xs[i];
        }
        CAPTURE(reach);
        CAPTURE(at);
        CHECK(worst < 3e-7);
      }
    }
    const float inf = float(kInfinity), nan = std::numeric_limits<float>::quiet_NaN();
    const Tensor ends = from_vector(std::vector<float>{-inf, inf, nan, 0}, {4});
    const auto check = [&](const Tensor& y, const std::vector<float>& want) {
      const auto got = y.to_vector<float>();
      for (size_t i = 0; i < want.size(); ++i) {
        CAPTURE(got[i]);
        CAPTURE(want[i]);
        CHECK((std::isnan(want[i]) ? std::isnan(got[i]) : got[i] == want[i] || std::fabs(got[i] - want[i]) < 3e-7f * std::fabs(want[i])));
      }
    };
    check(exp(ends), {0, inf, nan, 1});
    check(expm1(ends), {-1, inf, nan, 0});
    check(log(ends), {nan, inf, nan, -inf});
    check(log1p(ends), {nan, inf, nan, 0});
    check(tanh(ends), {-1, 1, nan, 0});
    check(sigmoid(ends), {0, 1, nan, 0.5});
    check(softplus(ends), {0, inf, nan, 0.6931472f});
    check(logsigmoid(ends), {-inf, 0, nan, -0.6931472f});
    check(relu(ends), {0, inf, nan, 0});
    check(elu1(ends), {0, inf, nan, 1});
    check(log(from_vector(std::vector<float>{1e-40f, 1, -1}, {3})), {float(std::log(1e-40)), 0, nan});
    CHECK(std::signbit(tanh(from_vector(std::vector<float>{-0.0f}, {1})).to_vector<float>()[0]));
  }

  TEST_CASE("f32 backward of silu and gelu") {
    for (const auto op : {silu, gelu}) {
      const Tensor x = uniform({100003}, 1, 2, -9, 9), dy = uniform({100003}, 1, 3, -1, 1);
      const Tensor v = variable(x), w = variable(cast(x, Dtype::f64));
      const auto got = grad({op(v)}, {dy}, {v})[0].to_vector<double>(),
                 want = grad({op(w)}, {cast(dy, Dtype::f64)}, {w})[0].to_vector<double>();
      double worst = 0;
      for (size_t i = 0; i < got.size(); ++i) worst = std::fmax(worst, std::fabs(got[i] - want[i]));
      CHECK(worst < 3e-6);   // of terms up to 9 that cancel
    }
  }

  TEST_CASE("silu, gelu and elu1 equal their definitions") {
    const Tensor x = noise({4, 7}, 2, -6, 6);
    const auto same = [](const Tensor& a, const Tensor& b) {
      const auto p = a.to_vector<double>(), q = b.to_vector<double>();
      for (size_t i = 0; i < p.size(); ++i) CHECK(p[i] == doctest::Approx(q[i]).epsilon(1e-12));
    };
    const auto silu_definition = [](const Tensor& v) { return v * sigmoid(v); };
    const auto gelu_definition = [](const Tensor& v) { return v * 0.5 * (1 + tanh((v + pow(v, 3) * 0.044715) * std::sqrt(2 / M_PI))); };
    const Tensor v = variable(x);
    same(silu(x), silu_definition(x));
    same(grad(sum(silu(v)), v), grad(sum(silu_definition(v)), v));
    same(grad(sum(silu(v)), v, {.create_graph = true}), grad(sum(silu_definition(v)), v));
    const auto elu1_definition = [](const Tensor& v) { return where(less(zeros(v.shape(), like(v)), v), v + 1.0, exp(minimum(v, 0.0))); };
    same(elu1(x), elu1_definition(x));
    same(grad(sum(square(elu1(v))), v), grad(sum(square(elu1_definition(v))), v));
    same(grad(sum(square(grad(sum(square(elu1(v))), v, {.create_graph = true}))), v),
         grad(sum(square(grad(sum(square(elu1_definition(v))), v, {.create_graph = true}))), v));
    same(gelu(x), gelu_definition(x));
    same(grad(sum(gelu(v)), v), grad(sum(gelu_definition(v)), v));
    same(grad(sum(gelu(v)), v, {.create_graph = true}), grad(sum(gelu_definition(v)), v));
  }

  TEST_CASE("functions of two tensors broadcast, forward and backward") {
    using Op = Tensor (*)(const Tensor&, const Tensor&);
    const std::pair<Op, double (*)(double, double)> ops[] = {
        {[](const Tensor& a, const Tensor& b) { return a + b; }, [](double a, double b) { return a + b; }},
        {[](const Tensor& a, const Tensor& b) { return a - b; }, [](double a, double b) { return a - b; }},
        {[](const Tensor& a, const Tensor& b) { return a * b; }, [](double a, double b) { return a * b; }},
        {[](const Tensor& a, const Tensor& b) { return a / b; }, [](double a, double b) { return a / b; }},
        {[](const Tensor& a, const Tensor& b) { return maximum(a, b); }, [](double a, double b) { return std::fmax(a, b); }},
        {[](const Tensor& a, const Tensor& b) { return minimum(a, b); }, [](double a, double b) { return std::fmin(a, b); }},
        {[](const Tensor& a, const Tensor& b) { return less(a, b); }, [](double a, double b) { return double(a < b); }},
        {[](const Tensor& a, const Tensor& b) { return less_equal(a, b); }, [](double a, double b) { return double(a <= b); }},
        {[](const Tensor& a, const Tensor& b) { return equal(a, b); }, [](double a, double b) { return double(a == b); }},
    };
    const std::pair<Shape, Shape> shapes[] = {
        {{2, 3, 4}, {2, 3, 4}}, {{2, 3, 4}, {4}}, {{2, 3, 4}, {2, 3, 1}},    {{3, 1}, {1, 5}}, {{}, {2, 3}},  {{2, 3}, {}},
        {{2, 1, 4}, {3, 1}},    {{1}, {1}},       {{2, 3, 4, 5}, {3, 1, 5}}, {{1, 1, 3}, {3}}, {{0, 3}, {3}}, {{5, 1}, {5, 0}}};
    for (size_t k = 0; k < std::size(ops); ++k)
      for (const auto& [sa, sb] : shapes) {
        CAPTURE(k);
        CAPTURE(to_string(sa));
        CAPTURE(to_string(sb));
        const Tensor a = noise(sa, 10, 0.5, 2), b = noise(sb, 11, 0.5, 2);
        const Tensor y = ops[k].first(a, b);
        const auto va = broadcast_to(a, y.shape()).to_vector<double>(), vb = broadcast_to(b, y.shape()).to_vector<double>(),
                   vy = y.to_vector<double>();
        const auto narrow = ops[k].first(cast(a, Dtype::f32), cast(b, Dtype::f32)).to_vector<double>();
        for (size_t i = 0; i < vy.size(); ++i) {
          CHECK(vy[i] == doctest::Approx(ops[k].second(va[i], vb[i])).epsilon(1e-14));
          CHECK(narrow[i] == doctest::Approx(vy[i]).epsilon(1e-6));
        }
        const GradCheck check = check_grad([&](const Tensors& in) { return Tensors{ops[k].first(in[0], in[1])}; }, {a, b}, 2);
        CAPTURE(check.where);
        CHECK(check.within(1e-8));
      }
  }

  TEST_CASE("large broadcasts agree with small ones, whatever the number of threads") {
    const Tensor a = uniform({300, 257}, 1, 1), row = uniform({257}, 1, 2), column = uniform({300, 1}, 1, 3);
    const auto expected = [&](int64_t i, int64_t j) {
      return (a.data<float>()[i * 257 + j] - row.data<float>()[j]) * column.data<float>()[i];
    };
    const int before = thread_count();
    for (const int threads : {1, 2, 3}) {
      set_thread_count(threads);
      const auto y = ((a - row) * column).to_vector<float>();
      bool same = true;
      for (int64_t i = 0; i < 300; ++i)
        for (int64_t j = 0; j < 257; ++j) same = same && y[size_t(i * 257 + j)] == expected(i, j);
      CHECK(same);
    }
    set_thread_count(before);
  }

  TEST_CASE("one side alone is differentiated where one side alone is tracked") {
    const Tensor a = variable(f64({2, 3}, {2})), b = f64({0, kInfinity}, {2});
    CHECK(grad(sum(a + b), a).to_vector<double>() == std::vector<double>{1, 1});
    CHECK(grad({a * b}, {ones({2}, kF64)}, {a})[0].to_vector<double>() == std::vector<double>{0, kInfinity});
  }

  TEST_CASE("ties and kinks: maximum gives all to the first, relu nothing at 0, abs nothing at 0") {
    const Tensor a = variable(f64({1, 2, 3}, {3})), b = variable(f64({1, 3, 2}, {3}));
    auto d = grad({sum(maximum(a, b))}, {}, {a, b});
    CHECK(d[0].to_vector<double>() == std::vector<double>{1, 0, 1});
    CHECK(d[1].to_vector<double>() == std::vector<double>{0, 1, 0});
    d = grad({sum(minimum(a, b))}, {}, {a, b});
    CHECK(d[0].to_vector<double>() == std::vector<double>{1, 1, 0});
    CHECK(d[1].to_vector<double>() == std::vector<double>{0, 0, 1});
    CHECK(grad_at([](const Tensor& x) { return relu(x); }, 0) == 0);
    CHECK(grad_at([](const Tensor& x) { return relu(x); }, -1) == 0);
    CHECK(grad_at([](const Tensor& x) { return abs(x); }, 0) == 0);
    CHECK(grad_at([](const Tensor& x) { return abs(x); }, -3) == -1);
    CHECK(grad_at([](const Tensor& x) { return maximum(x, 1); }, 1) == 1);
    CHECK(grad_at([](const Tensor& x) { return maximum(x, 1); }, 0.5) == 0);
    CHECK(grad_at([](const Tensor& x) { return minimum(x, 1); }, 1) == 1);
    CHECK(grad_at([](const Tensor& x) { return minimum(x, 1); }, 1.5) == 0);
    CHECK(grad_at([](const Tensor& x) { return pow(x, 0); }, 0) == 0);
    CHECK(grad_at([](const Tensor& x) { return sign(x) * x; }, -2) == -1);
  }

  TEST_CASE("where lets nothing through from the branch not taken") {
    const double nan = std::nan("");
    const Tensor mask = f64({1, 0, 1}, {3}), a = variable(f64({1, nan, 3}, {3})), b = variable(f64({nan, 5, kInfinity}, {3}));
    const Tensor y = where(mask, a, b);
    CHECK(y.to_vector<double>() == std::vector<double>{1, 5, 3});
    const auto d = grad({y}, {f64({2, nan, 4}, {3})}, {a, b});
    CHECK(d[0].to_vector<double>() == std::vector<double>{2, 0, 4});
    const auto db = d[1].to_vector<double>();
    CHECK(db[0] == 0);
    CHECK(std::isnan(db[1]));
    CHECK(db[2] == 0);
    const Shape shapes[][3] = {{{2, 3}, {2, 3}, {}}, {{3}, {2, 1}, {2, 3}}, {{2, 1}, {3}, {1}},
                               {{}, {2, 3}, {3}},    {{2, 3}, {}, {}},      {{2, 3}, {}, {2, 3}}};
    for (const auto& [sm, sa, sb] : shapes) {
      const Tensor m = less(noise(sm, 1), zeros({}, kF64)), p = noise(sa, 2), q = noise(sb, 3);
      const Tensor z = where(m, p, q);
      const auto vm = broadcast_to(m, z.shape()).to_vector<double>(), vp = broadcast_to(p, z.shape()).to_vector<double>(),
                 vq = broadcast_to(q, z.shape()).to_vector<double>();
      for (size_t i = 0; i < vm.size(); ++i) CHECK(z.to_vector<double>()[i] == (vm[i] != 0 ? vp[i] : vq[i]));
      CHECK(check_grad([m](const Tensors& in) { return Tensors{where(m, in[0], in[1]) * in[0]}; }, {p, q}, 2).within(1e-8));
    }
  }

  TEST_CASE("errors say both values and what to do") {
    const Tensor a = zeros({2, 3}), b = zeros({4});
    CHECK_THROWS_WITH(a + b,
                      "[add] shape of the second operand is [4], needs one that broadcasts with [2, 3]; sizes are aligned at the last axis "
                      "and must be equal or 1");
    CHECK_THROWS_WITH(a * zeros({3}, kF64), "[mul] dtypes are f32 and f64, needs one dtype; cast one of them");
    CHECK_THROWS_WITH(exp(zeros({2}, {Dtype::i32, cpu_device})), "[exp] dtype is i32, needs a floating one; cast first");
    CHECK_THROWS_WITH(a / Tensor(), "[div] the second operand is undefined, needs a tensor");
    CHECK_THROWS_WITH(tanh(Tensor()), "[tanh] x is undefined, needs a tensor");
  }
}
