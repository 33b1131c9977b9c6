// Memories in the space of a kernel: the solved coefficients are where the objective stands still, and landmarks at every key approximate nothing.
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/recipes.hpp>
#include <ttr/layers/vocabulary.hpp>

namespace {

using namespace ttr;
const Options f64{Dtype::f64, cpu_device};
constexpr int64_t tokens = 6, K = 3, V = 2;

Slots slots_of(const Recipe& recipe) {
  Slots given;
  uint64_t stream = 0;
  for (const Slot& s : recipe.slots()) {
    Shape shape{1};
    if (s.per == Per::token || s.per == Per::write) shape = {1, tokens, 1};
    for (const Extent& e : s.shape) shape.push_back(e.at(K, V));
    given[s.name] = s.name == "log_decay" ? uniform(shape, 5, ++stream, -0.5, -0.05, f64)
                  : s.range == positive   ? uniform(shape, 5, ++stream, 0.3, 1, f64)
                                          : normal(shape, 5, ++stream, 0, 1, f64);
  }
  return given;
}
double difference(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  REQUIRE(x.size() == y.size());
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = x[i] == x[i] && y[i] == y[i] ? std::max(worst, std::abs(x[i] - y[i])) : 1e300;
  return worst;
}

// The view of the last token of one sequence of one head.
Timeline timeline(const Slots& slots) {
  Timeline line;
  line.rows = 1, line.tokens = tokens, line.key_dim = K, line.value_dim = V, line.options = f64;
  for (const auto& [name, x] : slots) {
    Timeline::Track track{Per::token, {}, {}};
    if (x.rank() < 3) track.per = Per::head, track.head = x;
    else
      for (int64_t t = 0; t < tokens; ++t) {
        const Tensor now = slice(x, 1, t, t + 1);
        track.at.push_back(reshape(now, x.rank() == 4 ? Shape{1, x.size(3)} : Shape{1}));
      }
    line.tracks.emplace(name, std::move(track));
  }
  return line;
}

}  // namespace

TEST_SUITE("kernel_expansion") {
  TEST_CASE("what Exact solves in the dual form is the minimum of the objective that loss and penalty declare") {
    for (const Recipe& recipe : {recipes::kernel_regression, recipes::geometric_kernel_regression}) {
      CAPTURE(recipe.text());
      const Slots slots = slots_of(recipe);
      const Timeline line = timeline(slots);
      const View view(line, tokens - 1, tokens);
      const Regression problem(recipe, view);
      State s;
      s.theta = s.initial = recipe.function()->init(View(line, 0, 0));
      const Pack theta = recipe.optimizer()->advance(s, problem).theta;
      const Tensor& a = theta["coefficients"];                                        // [1, tokens, V]
      const Tensor lambda = reshape(slots.at("ridge"), {1, 1});
      const Tensor slope = problem.gradient(theta, problem.weigh())["coefficients"] + matmul(problem.penalty(lambda), a);
      CHECK(difference(slope, zeros(slope.shape(), f64)) < 1e-12);
      CHECK(difference(a, zeros(a.shape(), f64)) > 0.1);                              // and not because everything is zero
    }
  }

  TEST_CASE("conjugate gradients arrive where Exact does, also in the dual form") {
    for (const char* weights : {"even", "geometric"}) {
      const Recipe exact = parse_recipe(std::string(weights) + " / kernel_expansion / exact[ridge=constant]");
      const Recipe steps = parse_recipe(std::string(weights) + " / kernel_expansion / conjugate_gradient[steps=20,per=head]");
      const Slots slots = slots_of(exact);
      CHECK(difference(fold(exact, {.slots = slots}).y, fold(steps, {.slots = slots}).y) < 1e-10);
    }
  }

  TEST_CASE("landmarks at every key smooth as the kernel itself does; as a regression they reach kernel regression") {
    const Recipe smoother = parse_recipe("even / landmarks[bandwidth=slot] / nystrom[jitter=0] / reading[visible=everything]");
    Slots slots = slots_of(smoother);
    slots["landmarks"] = reshape(slots.at("k"), {1, tokens, K});
    const Recipe kernel = parse_recipe("kernel[kernel=gaussian] / constant / descend[at=initial] / reading[visible=everything]");
    Slots without = slots;
    without.erase("landmarks");
    CHECK(difference(fold(smoother, {.slots = slots}).y, fold(kernel, {.slots = without}).y) < 1e-10);

    const Recipe regression = parse_recipe("even / landmarks[bandwidth=slot] / exact[ridge=constant] / reading[visible=everything]");
    const Recipe whole = parse_recipe("even / kernel_expansion / exact[ridge=constant] / reading[visible=everything]");
    slots["ridge"] = without["ridge"] = full({1}, 0.3, f64);
    CHECK(difference(fold(regression, {.slots = slots}).y, fold(whole, {.slots = without}).y) < 1e-10);
    CHECK(difference(fold(regression, {.slots = slots}).y, fold(kernel, {.slots = [&] { Slots s = without; s.erase("ridge"); return s; }()}).y) > 0.1);   // not the smoother
  }

  TEST_CASE("earlier queries are not kept, and that is said") {
    Slots slots = slots_of(recipes::skyformer);
    const Answer first = fold(recipes::skyformer, {.slots = slots, .want_state = true});
    CHECK_THROWS_WITH_AS(fold(recipes::skyformer, {.slots = slots, .state = first.state}),
                         "[token_landmarks] carries 6 tokens, needs a call of its own; earlier queries are not kept", std::exception);
  }
}
