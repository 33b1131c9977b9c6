// The graph and its sweep: what grad promises beyond the derivative of one operation (tests/ops_*.cpp have those).
#include <atomic>
#include <cmath>
#include <numeric>
#include <pthread.h>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>

using namespace ttr;

namespace {

const Options kF64{Dtype::f64, cpu_device};
Tensor numbers(std::vector<double> values) {
  const Shape shape{int64_t(values.size())};
  return from_vector(values, shape, kF64);
}
Tensor scalar(double value) { return full({}, value, kF64); }
std::vector<double> values_of(const Tensor& x) { return x.to_vector<double>(); }

template <class F> std::string refusal(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

// f on a thread whose stack is `bytes`: recursion over a long chain would end the process.
template <class F> void with_stack_of(size_t bytes, F f) {
  pthread_attr_t attributes;
  REQUIRE(pthread_attr_init(&attributes) == 0);
  REQUIRE(pthread_attr_setstacksize(&attributes, bytes) == 0);
  pthread_t thread;
  REQUIRE(pthread_create(&thread, &attributes, [](void* g) -> void* { (*static_cast<F*>(g))(); return nullptr; }, &f) == 0);
  REQUIRE(pthread_join(thread, nullptr) == 0);
  pthread_attr_destroy(&attributes);
}

// x -> 2 x as a kernel op without a definition.
Tensor twice(const Tensor& x) {
  struct Saved { double factor; };
  return kernel_op("twice", {detach(x) * 2.0}, {x}, Saved{2}, [](const Saved& s, const Sweep& sweep) { return Tensors{sweep.dy() * s.factor}; })[0];
}

}  // namespace

TEST_SUITE("graph") {
  TEST_CASE("derivatives with respect to leaves, to what was computed from them, and to what does not matter") {
    const Tensor x = variable(numbers({1, 2, 3})), unused = variable(numbers({4, 5})), later = variable(numbers({1}));
    const Tensor square_x = x * x, y = sum(square_x * 3.0);
    const Tensors d = grad({y}, {}, {x, square_x, unused, later, y});
    CHECK(values_of(d[0]) == std::vector<double>{6, 12, 18});
    CHECK(values_of(d[1]) == std::vector<double>{3, 3, 3});
    CHECK(values_of(d[2]) == std::vector<double>{0, 0});
    CHECK(values_of(d[3]) == std::vector<double>{0});
    CHECK(d[4].item() == 1);
    CHECK(values_of(grad({y}, {}, {x, x})[1]) == std::vector<double>{6, 12, 18});   // asked for twice
    CHECK(!d[0].tracked());
    CHECK(refusal([&] { grad(y, numbers({1})); }) == "[grad] xs[0] is untracked, needs a variable() or something computed from one while recording");
    CHECK(refusal([&] { grad({square_x}, {}, {x}); }) == "[grad] ys[0] has shape [3] and no dy, needs a scalar or a dy of that shape");
    CHECK(refusal([&] { grad({square_x}, {numbers({1, 2})}, {x}); }).find("[grad] the backward of the caller gave f64 [2], needs f64 [3]") == 0);
    CHECK(refusal([&] { grad({y, y}, {scalar(1)}, {x}); }) == "[grad] there are 1 dys, needs one for each of the 2 ys");
    CHECK(refusal([&] { variable(from_vector(std::vector<int32_t>{1}, {1})); }).find("integers have no derivative") != std::string::npos);
  }

  TEST_CASE("several ys add up; an undefined dy is ones; a constant y adds nothing") {
    const Tensor x = variable(scalar(3)), a = x * x, b = x * 5.0;
    CHECK(grad({a, b}, {}, {x})[0].item() == 11);
    CHECK(grad({a, b}, {scalar(2), Tensor()}, {x})[0].item() == 17);
    CHECK(grad({a, scalar(7)}, {}, {x})[0].item() == 6);
    CHECK(grad({a, a}, {}, {x})[0].item() == 12);
  }

  TEST_CASE("operations with several outputs: each output's adjoint arrives where it belongs, absent ones are zero") {
    const Tensor x = variable(numbers({1, 2, 3, 4}));
    const Tensors parts = split(x, 0, {1, 3});
    CHECK(values_of(grad(sum(parts[1] * parts[1]), x)) == std::vector<double>{0, 4, 6, 8});
    CHECK(values_of(grad({sum(parts[0])}, {}, {x, parts[1]})[1]) == std::vector<double>{0, 0, 0});
    const Tensors rows = unstack(variable(full({3, 2}, 1, kF64)), 0);
    CHECK(values_of(grad(sum(rows[0] * rows[2]), rows[2])) == std::vector<double>{1, 1});
  }

  TEST_CASE("create_graph to third order and beyond") {
    const Tensor x = variable(scalar(0.7));
    Tensor d = sin(x) * exp(x);   // its n-th derivative is 2^(n/2) e^x sin(x + n pi / 4)
    for (int n = 1; n <= 5; ++n) {
      d = grad(d, x, {.create_graph = true});
      CHECK(d.item() == doctest::Approx(std::pow(2, n / 2.0) * std::exp(0.7) * std::sin(0.7 + n * M_PI / 4)).epsilon(1e-12));
    }
    const Tensor cube = x * x * x;
    CHECK(!grad(cube, x).tracked());
    CHECK(refusal([&] { grad(grad(cube, x), x); }).find("no dy") == std::string::npos);   // an untracked y depends on nothing: zero
    CHECK(grad(grad(cube, x), x).item() == 0);
  }

  TEST_CASE("a gradient inside a function: derivatives through an inner descent step") {
    // f(w) = l(w - r l'(w)), l(w) = w^4: f' = l'(u) (1 - r l''(w))
    const double w0 = 0.9, r = 0.05, u = w0 - r * 4 * std::pow(w0, 3);
    const Tensor w = variable(scalar(w0));
    const auto loss = [](const Tensor& p) { return square(square(p)); };
    const Tensor point = alias(w), inner = grad(loss(point), point, {.create_graph = true});
    const Tensor f = loss(w - inner * r);
    CHECK(grad(f, w).item() == doctest::Approx(4 * std::pow(u, 3) * (1 - r * 12 * w0 * w0)).epsilon(1e-13));
    CHECK(check_grad([&](const Tensors& xs) {
            const Tensor p = alias(xs[0]);
            return Tensors{loss(xs[0] - grad(loss(p), p, {.create_graph = true}) * r)};
          }, {scalar(w0)}, 2).within(1e-8));
    // The backward of this operation calls grad itself: the derivative of exp(sin) by its chain, inside another sweep.
    const auto custom = [](const Tensor& x) {
      return primitive("custom", exp(sin(detach(x))), {x}, keep_inputs, [](const Sweep& s) {
        const Recording on(true);
        const Tensor p = recording() && s.x().tracked() ? alias(s.x()) : variable(s.x());
        return Tensors{s.dy() * grad(sum(exp(sin(p))), p, {.create_graph = true})};
      });
    };
    const Tensor x = variable(scalar(0.4));
    const double slope = std::exp(std::sin(0.4)) * std::cos(0.4);
    CHECK(grad(custom(x) * 3.0, x).item() == doctest::Approx(3 * slope).epsilon(1e-13));
    CHECK(recording());
  }

  TEST_CASE("consume frees the graph, and a second sweep says so") {
    const Tensor x = variable(numbers({1, 2})), y = sum(exp(x) * x);
    const std::vector<double> kept = values_of(grad(y, x));
    CHECK(values_of(grad(y, x)) == kept);   // not consumed: as often as one likes
    const size_t before = memory_use(cpu_device).live_bytes;
    CHECK(values_of(grad(y, x, {.consume = true})) == kept);
    CHECK(memory_use(cpu_device).live_bytes < before);
    const std::string text = refusal([&] { grad(y, x); });
    CHECK(text.find(" was freed by an earlier sweep, needs a graph that was not consumed; drop .consume there") != std::string::npos);
    CHECK(text.find("[grad] ") == 0);
  }

  TEST_CASE("a backward through a tensor that was modified in place is refused") {
    Tensor w = numbers({1, 2});
    const Tensor x = variable(w), y = sum(x * x), z = sum(x * 2.0);
    CHECK(values_of(grad(y, x)) == std::vector<double>{2, 4});
    w.mutate<double>()[0] = 5;
    CHECK(refusal([&] { grad(y, x); }) == "[grad] a tensor that mul saved was modified in place since, needs its old values; take derivatives before the update");
    CHECK(values_of(grad(z, x)) == std::vector<double>{2, 2});   // what needs no old value still works
  }

  TEST_CASE("ready fires once for each x, when its derivative is final") {
    const Tensor a = variable(numbers({1})), b = variable(numbers({2})), c = variable(numbers({3})), unused = variable(numbers({4}));
    const Tensor h = a * b, k = h * c, y = sum(k * h);   // h is used twice, b last of all
    std::vector<int> fired(5, 0);
    std::vector<std::vector<double>> seen(5);
    std::vector<size_t> order;
    const Tensors d = grad({y}, {}, {a, b, c, h, unused}, {.ready = [&](size_t i, const Tensor& dx) {
      ++fired[i];
      seen[i] = values_of(dx);
      order.push_back(i);
    }});
    CHECK(fired == std::vector<int>{1, 1, 1, 1, 1});
    for (size_t i = 0; i < d.size(); ++i) CHECK(seen[i] == values_of(d[i]));   // no contribution arrived later
    const auto place = [&](size_t i) { return std::find(order.begin(), order.end(), i) - order.begin(); };
    CHECK(place(3) < place(0));   // h before what it was made from
    CHECK(place(2) < place(0));
    std::vector<size_t> twice_order;
    grad({y}, {}, {a, a}, {.ready = [&](size_t i, const Tensor&) { twice_order.push_back(i); }});
    CHECK(twice_order == std::vector<size_t>{0, 1});
  }

  TEST_CASE("checkpoint: the same values and derivatives, first order and through create_graph, with less kept") {
    const auto f = [](const Tensors& in) {
      Tensor h = in[0];
      for (int i = 0; i < 20; ++i) h = tanh(h * in[1] + in[0]);
      return Tensors{sum(h * h), h};
    };
    const Tensor x = variable(normal({64}, 1, 0, 0, 1, kF64)), w = variable(normal({64}, 1, 1, 0, 1, kF64)), dh = normal({64}, 1, 2, 0, 1, kF64);
    const Tensors plain = f({x, w}), spare = checkpoint(f, {x, w});
    CHECK(values_of(spare[1]) == values_of(plain[1]));
    for (const bool consume : {false, true}) {
      const Tensors want = grad(plain, {scalar(1.5), dh}, {x, w}, {.consume = consume}), got = grad(spare, {scalar(1.5), dh}, {x, w}, {.consume = consume});
      for (size_t i = 0; i < 2; ++i) CHECK(values_of(got[i]) == values_of(want[i]));
    }
    const auto through = [&](auto wrap) {
      return [=](const Tensors& in) { return Tensors{sum(wrap(in)[0] * 2.0), wrap(in)[1]}; };
    };
    const Tensors small{normal({5}, 1, 3, 0, 1, kF64), normal({5}, 1, 4, 0, 1, kF64)};
    const GradCheck check = check_grad(through([&](const Tensors& in) { return checkpoint(f, in); }), small, 2);
    CAPTURE(check.where);
    CHECK(check.within(1e-6));

    const Tensors a = f({x, w});
    const size_t one = memory_use(cpu_device).live_bytes;
    const Tensors b = checkpoint(f, {x, w});
    const size_t two = memory_use(cpu_device).live_bytes;
    const Tensors c = f({x, w});
    CHECK(memory_use(cpu_device).live_bytes - two > 10 * (two - one));
    // An input that needs no gradient, and an output nobody used.
    const Tensor only = grad(checkpoint(f, {x, detach(w)})[0], x);
    CHECK(values_of(only) == values_of(grad(f({x, detach(w)})[0], x)));
  }

  TEST_CASE("a chain of 100,000 nodes is recorded, swept and released without recursion") {
    const size_t before = memory_use(cpu_device).live_bytes;
    double slope = 0;
    with_stack_of(512 << 10, [&] {
      const Tensor x = variable(scalar(1));
      Tensor y = x;
      for (int i = 0; i < 100000; ++i) y = y + x;
      slope = grad(y, x).item();
    });
    CHECK(slope == 100001);
    CHECK(memory_use(cpu_device).live_bytes == before);
  }

  TEST_CASE("recording is switched by scope and thread") {
    const Tensor x = variable(scalar(2));
    CHECK(recording());
    {
      const Recording off(false);
      CHECK(!recording());
      CHECK(!(x * x).tracked());
      {
        const Recording on(true);
        CHECK((x * x).tracked());
      }
      CHECK(!recording());
      bool elsewhere = false;
      std::thread([&] { elsewhere = recording(); }).join();
      CHECK(elsewhere);
    }
    CHECK(recording());
    try {
      const Recording off(false);
      throw 1;
    } catch (int) {
    }
    CHECK(recording());
    CHECK(!stop_gradient(x).tracked());
    CHECK(!detach(x).tracked());
    CHECK(alias(x).tracked());
    CHECK(grad(x * stop_gradient(x), x).item() == 2);
  }

  TEST_CASE("threads record and sweep their own graphs, over shared leaves, at once") {
    const Tensor shared = variable(numbers({0.5, 1.5}));
    std::vector<std::vector<double>> results(4);
    std::vector<std::thread> threads;
    for (size_t n = 0; n < results.size(); ++n)
      threads.emplace_back([&, n] {
        for (int round = 0; round < 200; ++round) {
          Tensor y = shared;
          for (int i = 0; i < 20; ++i) y = sin(y) + shared * double(n);
          results[n] = values_of(grad(sum(y), shared));
        }
      });
    for (std::thread& t : threads) t.join();
    for (size_t n = 0; n < results.size(); ++n) {
      Tensor y = shared;
      for (int i = 0; i < 20; ++i) y = sin(y) + shared * double(n);
      CHECK(results[n] == values_of(grad(sum(y), shared)));
    }
  }

  TEST_CASE("a graph made in one thread is swept and released in another") {
    Tensor x = variable(scalar(3)), y = square(x);
    double slope = 0;
    std::thread([&] {
      slope = grad(y, x).item();
      y = {};
    }).join();
    CHECK(slope == 6);
  }

  TEST_CASE("fresh memory can be made to start as NaN") {
    set_fresh_memory_nan(true);
    const std::vector<double> doubles = values_of(empty({7}, kF64)), singles = values_of(empty({7})), made = values_of(zeros({7}));
    set_fresh_memory_nan(false);
    for (size_t i = 0; i < 7; ++i) CHECK((std::isnan(doubles[i]) && std::isnan(singles[i]) && made[i] == 0));
  }

  TEST_CASE("memory goes back to where it was, and the peak says how far it went") {
    const MemoryUse before = memory_use(cpu_device);
    {
      const Tensor x = variable(normal({1000}, 3, 0, 0, 1, kF64));
      reset_peak(cpu_device);
      const Tensor y = sum(exp(sin(x) * x) * x);
      const Tensor second = grad(sum(square(grad(y, x, {.create_graph = true}))), x);
      CHECK(memory_use(cpu_device).live_bytes > before.live_bytes + 8000);
      CHECK(memory_use(cpu_device).peak_bytes >= memory_use(cpu_device).live_bytes);
      CHECK(refusal([&] { grad(x * x, x); }) != "");   // an error on the way leaves nothing behind either
    }
    CHECK(memory_use(cpu_device).live_bytes == before.live_bytes);
  }

  TEST_CASE("a kernel op without a definition gives first derivatives and refuses second ones by its name") {
    const Tensor x = variable(numbers({1, 2}));
    CHECK(values_of(grad(sum(twice(x) * x), x)) == std::vector<double>{4, 8});
    CHECK(refusal([&] { grad(sum(twice(x)), x, {.create_graph = true}); }) ==
          "[twice] a second derivative is asked for, needs an operation with a definition; run this layer with route fold");
    CHECK(recording());
  }

  TEST_CASE("a rule that gives a wrong shape or dtype is named") {
    const Tensor x = variable(numbers({1, 2}));
    const Tensor y = primitive("crooked", detach(x) * 1.0, {x}, keep_nothing, [](const Sweep&) { return Tensors{scalar(1)}; });
    CHECK(refusal([&] { grad(sum(y), x); }) == "[grad] the backward of crooked gave f64 [], needs f64 [2]; its rule is wrong");
  }

  TEST_CASE("check_grad finds a wrong derivative, of first and of second order") {
    const auto wrong = [](const Tensors& in) {
      return Tensors{primitive("wrong", square(detach(in[0])), in, keep_inputs, [](const Sweep& s) { return Tensors{s.dy() * s.x() * 2.001}; })};
    };
    const auto wrong_second = [](const Tensors& in) {
      return Tensors{primitive("wrong", square(detach(in[0])), in, keep_inputs, [](const Sweep& s) { return Tensors{s.dy() * stop_gradient(s.x()) * 2.0}; })};
    };
    const Tensors at{numbers({1, -2, 3})};
    CHECK(check_grad([](const Tensors& in) { return Tensors{square(in[0])}; }, at, 2).within(1e-8));
    CHECK(!check_grad(wrong, at).within(1e-5));
    CHECK(check_grad(wrong_second, at).within(1e-8));
    const GradCheck second = check_grad(wrong_second, at, 2);
    CHECK(!second.within(1e-5));
    CHECK(second.where.find("derivative, order 1, input 0") == 0);
    CHECK(refusal([&] { check_grad(wrong, {zeros({2})}); }) == "[check_grad] input 0 is f32, needs f64: differences are useless in less");
  }
}
