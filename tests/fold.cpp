// fold as a definition must not depend on how it is run: batched or one head at a time, with or without checkpoints, in one call or in two with
// carried state, packed or apart. And what it refuses, it refuses with a sentence.
#include <doctest/doctest.h>
#include <ttr/tests/recipe_slots.hpp>
#include <ttr/tests/row_recipe.hpp>

namespace {

using namespace ttr;

// Every published recipe, with chunks, windows and hidden layers that nine tokens can exercise.
std::vector<std::pair<std::string, Recipe>> small_recipes() {
  std::vector<std::pair<std::string, Recipe>> all;
  for (const Published& p : published_recipes()) {
    std::string text = p.recipe.text();
    if (const size_t at = text.find("chunk="); at != text.npos) {
      size_t digits = at + 6;
      while (digits < text.size() && std::isdigit(text[digits])) ++digits;
      if (digits > at + 6) text = text.substr(0, at) + "chunk=4" + text.substr(digits);
    }
    if (text.find("/ mlp") != text.npos) text = with_option(text, "mlp", "hidden", "5");
    if (text.find("/ swiglu") != text.npos) text = with_option(text, "swiglu", "hidden", "5");
    if (text.find("fenwick") != text.npos) text = with_option(text, "fenwick", "levels", "5");
    if (text.find("window /") != text.npos) text = with_option(text, "window", "window", "3");
    all.emplace_back(p.name, parse_recipe(text));
  }
  return all;
}
bool causal(const std::string& name) { return reference::row(name).causal; }

Tensor run(const Recipe& recipe, const Slots& slots, FoldOptions options = {}) { return fold(recipe, {.slots = slots}, options).y; }

void check_same(const Tensor& y, const Tensor& z, const Slots& slots, double tolerance) {
  CHECK(difference(y, z) <= tolerance);
  const Tensors dy = gradients(y, leaves(slots)), dz = gradients(z, leaves(slots));
  size_t i = 0;
  for (const auto& [name, x] : slots) {
    CAPTURE(name);
    CHECK(difference(dy[i], dz[i]) <= tolerance);
    ++i;
  }
}

}   // namespace

TEST_SUITE("fold") {
  TEST_CASE("a batch of sequences with grouped heads is each head alone") {
    for (const char* name : {"softmax_attention", "mesa", "mlstm", "gated_delta_net", "titans"}) {
      CAPTURE(name);
      Recipe recipe = published(name).recipe;
      if (std::string(name) == "titans") recipe = parse_recipe("geometric / mlp[hidden=5] / descend[rule=momentum,at=chunk,chunk=4]");
      const Sizes n{.batch = 2, .tokens = 6, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 3, .value_dim = 2};
      const Slots slots = draw_slots(recipe, n);
      Tensors rows;
      for (int64_t b = 0; b < n.batch; ++b) {
        Tensors heads;
        for (int64_t h = 0; h < n.heads; ++h) {
          Slots one;
          for (const Slot& s : recipe.slots()) {
            const Tensor& x = slots.at(s.name);
            if (s.per == Per::head || s.per == Per::frozen) {
              one[s.name] = slice(x, 0, h, h + 1);
              continue;
            }
            const int64_t g = h / (n.heads / x.size(2));
            one[s.name] = slice(slice(x, 0, b, b + 1), 2, g, g + 1);
          }
          heads.push_back(run(recipe, one));
        }
        rows.push_back(concat(heads, 2));
      }
      check_same(run(recipe, slots), concat(rows, 0), slots, 1e-12);
    }
  }

  TEST_CASE("checkpoints change nothing, values and gradients") {
    for (const auto& [name, recipe] : small_recipes()) {
      CAPTURE(name);
      const Slots slots = draw_slots(recipe, {});
      const Tensor plain = run(recipe, slots, {.checkpoint_every = -1});
      const Tensor checked = run(recipe, slots, {.checkpoint_every = 2});
      // Bit for bit, but for memories with gelu or silu: inside a checkpoint the first pass is unrecorded and takes the inner gradient by the
      // activation's kernel, the recorded one by its definition.
      if (recipe.text().find("mlp") == std::string::npos && recipe.text().find("swiglu") == std::string::npos)
        CHECK(plain.to_vector<double>() == checked.to_vector<double>());
      check_same(plain, checked, slots, 1e-13);   // gradients: sums over pieces in another order
    }
  }

  TEST_CASE("causality, bit for bit: a later token changes no earlier answer") {
    const Recording off(false);
    for (const auto& [name, recipe] : small_recipes()) {
      if (!causal(name)) continue;
      CAPTURE(name);
      const Slots slots = draw_slots(recipe, {});
      const int64_t moved = 5;
      Slots other = slots;
      for (const Slot& s : recipe.slots()) {
        if (s.per == Per::head || s.per == Per::frozen) continue;
        const int64_t n = s.per == Per::write ? recipe.reading().writes : 1;
        const Tensor& x = slots.at(s.name);
        const Tensor late = slice(x, 1, moved * n, x.size(1));
        other[s.name] = concat({slice(x, 1, 0, moved * n), late * 0.7}, 1);
      }
      const Tensor y = run(recipe, slots), z = run(recipe, other);
      CHECK(slice(y, 1, 0, moved).to_vector<double>() == slice(z, 1, 0, moved).to_vector<double>());
      CHECK(difference(slice(y, 1, moved, 9), slice(z, 1, moved, 9)) > 1e-6);   // or the test tests nothing
    }
  }

  TEST_CASE("two calls with carried state are one call, values and gradients") {
    for (const auto& [name, recipe] : small_recipes()) {
      if (!causal(name)) continue;
      for (const int64_t cut : {3, 8}) {
        CAPTURE(name);
        CAPTURE(cut);
        const Slots slots = draw_slots(recipe, {.batch = 2, .heads = 2});
        const Answer first = fold(recipe, {.slots = tokens_of(recipe, slots, 0, cut), .want_state = true});
        const Answer second = fold(recipe, {.slots = tokens_of(recipe, slots, cut, 9), .state = first.state});
        check_same(concat({first.y, second.y}, 1), run(recipe, slots), slots, 1e-11);
      }
    }
  }

  TEST_CASE("a window's state is the window, not the whole past") {
    const Recipe recipe = parse_recipe("window[window=3] / linear / descend[rule=momentum,over=visible]");
    const Answer answer = fold(recipe, {.slots = draw_slots(recipe, {}), .want_state = true});
    CHECK(answer.state.at("keys").size(1) == 2);
    CHECK(answer.state.at("memory").shape() == Shape{1, 1, 4, 4});
  }

  TEST_CASE("packed documents are each on their own") {
    const std::vector<int32_t> ids{0, 0, 0, 1, 1, 1, 1, 4, 4, 5, 5, 5, 5, 5, 5, 6, 6, 6};   // [2, 9]
    const Tensor segments = from_vector(ids, {2, 9}, {Dtype::i32, cpu_device});
    for (const auto& [name, recipe] : small_recipes()) {
      CAPTURE(name);
      const Slots slots = draw_slots(recipe, {.batch = 2});
      const auto part = [&](int64_t row, int64_t begin, int64_t end) {
        Slots one = tokens_of(recipe, slots, begin, end);
        for (const Slot& s : recipe.slots())
          if (s.per != Per::head && s.per != Per::frozen) one[s.name] = slice(one[s.name], 0, row, row + 1);
        return run(recipe, one);
      };
      const Tensor apart = concat({concat({part(0, 0, 3), part(0, 3, 7), part(0, 7, 9)}, 1), concat({part(1, 0, 6), part(1, 6, 9)}, 1)}, 0);
      check_same(fold(recipe, {.slots = slots, .segments = segments}).y, apart, slots, 1e-13);
    }
  }

  TEST_CASE("derivatives through the learner, to second order") {
    for (const char* text : {"softmax_attention", "gated_delta_net", "mesa", "mlstm", "longhorn",
                             "geometric / mlp[hidden=5] / descend[rule=momentum,at=chunk,chunk=3]"}) {
      CAPTURE(text);
      const Recipe recipe = parse_recipe(text);
      const Slots slots = draw_slots(recipe, {.tokens = 4, .key_dim = 3, .value_dim = 2});
      std::vector<std::string> names;
      Tensors inputs;
      for (const auto& [name, x] : slots) names.push_back(name), inputs.push_back(detach(x));
      const auto layer = [&](const Tensors& xs) {
        Slots given;
        for (size_t i = 0; i < xs.size(); ++i) given[names[i]] = xs[i];
        return Tensors{run(recipe, given)};
      };
      const GradCheck check = check_grad(layer, inputs, 2);
      CAPTURE(check.where);
      CHECK(check.within(1e-6));
    }
  }

  TEST_CASE("what a call lacks, it is told") {
    const Recipe recipe = published("gated_delta_net").recipe;
    const Slots good = draw_slots(recipe, {.batch = 2, .tokens = 5, .heads = 3});
    const auto with = [&](const std::string& name, const Tensor& x) {
      Slots s = good;
      if (x.defined())
        s[name] = x;
      else
        s.erase(name);
      return Arguments{.slots = s};
    };
    const Options f64{Dtype::f64, cpu_device};
    CHECK_NOTHROW(fold(recipe, {.slots = good}));
    CHECK_THROWS_WITH(fold(recipe, with("k", {})),
                      "[memory] k is missing, needs it with shape [2, 5, 3, 4] for geometric / linear / descend[at=decayed]");
    CHECK_THROWS_WITH(fold(recipe, with("v", {})), "[memory] v is missing, needs it for geometric / linear / descend[at=decayed]");
    CHECK_THROWS_WITH(fold(recipe, with("log_decay", {})),
                      "[memory] log_decay is missing, needs it with shape [2, 5, 3] for geometric / linear / descend[at=decayed]");
    CHECK_THROWS_WITH(fold(recipe, with("log_dekay", ones({2, 5, 3}, f64))),
                      "[memory] log_dekay is no slot of geometric / linear / descend[at=decayed]; did you mean log_decay?");
    CHECK_THROWS_WITH(fold(recipe, with("step_size", ones({2, 5}, f64))), "[memory] step_size has shape [2, 5], needs [2, 5, 3]");
    CHECK_THROWS_WITH(fold(recipe, with("k", ones({2, 5, 2, 4}, f64))), "[memory] k has shape [2, 5, 2, 4], needs [2, 5, 3, 4]");
    CHECK_THROWS_WITH(fold(recipe, with("v", ones({2, 5, 3, 4}))), "[memory] v is f32, needs f64; cast it");
    CHECK_THROWS_WITH(fold(recipe, with("step_size", ones({2, 5, 3}))), "[memory] step_size is f32, needs f64; cast it");
    CHECK_THROWS_WITH(fold(recipe, with("q", ones({2, 5, 3}, f64))), "[memory] q has shape [2, 5, 3], needs [B, T, H, D]");
    Arguments carried{.slots = good};
    carried.state["memory"] = zeros({2, 3, 4, 4}, f64);
    CHECK_THROWS_WITH(fold(recipe, carried), doctest::Contains("state has no position"));
    carried.state["position"] = from_vector(std::vector<int32_t>{1}, {}, {Dtype::i32, cpu_device});
    carried.state["memory"] = zeros({2, 3, 4, 5}, f64);
    CHECK_THROWS_WITH(fold(recipe, carried), doctest::Contains("state memory has shape [2, 3, 4, 5], needs [2, 3, 4, 4]"));
  }

  TEST_CASE("a memory that is never asked by key takes no q and no k") {
    const Recipe average = parse_recipe("geometric[per=value,write=tied] / constant / descend[at=initial]");
    const Slots slots = draw_slots(average, {});
    CHECK(slots.size() == 2);
    Slots more = slots;
    more["k"] = ones({1, 9, 1, 4}, {Dtype::f64, cpu_device});
    CHECK_THROWS_WITH(fold(average, {.slots = more}), doctest::Contains("k is no slot of geometric"));
    CHECK_THROWS_WITH(fold(parse_recipe("geometric / linear / descend[at=initial] / reading[read=chunk]"),
                           {.slots = draw_slots(published("simple_gla").recipe, {})}),
                      doctest::Contains("needs an optimizer with at=chunk"));
  }
}
