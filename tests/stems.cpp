// The stems as operations of a graph: second derivatives through their definitions, decode, split sequences, states exchanged with fold,
// causality, and a plan that can be forced and says why it refuses. tests/parity.cpp holds them against fold; here they are held against
// themselves.
#include "parity.hpp"

#include <cstdlib>
#include <cstring>

#include <ttr/layers/vocabulary.hpp>

using namespace ttr;
using parity::Call;
using parity::draw;
using parity::Parts;
using parity::Scenario;

namespace {

struct Stem {
  const char* route;
  const char* recipe;
};
constexpr Stem kStems[] = {{"delta/cpu-chunk", "delta_net"},
                           {"delta/cpu-chunk", "gated_delta_net"},
                           {"delta/cpu-chunk", "l2_sgd"},
                           {"delta/cpu-chunk", "longhorn"},
                           {"scan/cpu-tiles", "hgrn"},
                           {"scan/cpu-tiles", "lru"},
                           {"scan/cpu-tiles", "mamba"},
                           {"scan/cpu-tiles", "longhorn_diagonal"},
                           {"diagonal_decay/cpu-block", "linear_attention"},
                           {"diagonal_decay/cpu-block", "normalised_linear_attention"},
                           {"diagonal_decay/cpu-block", "simple_gla"},
                           {"diagonal_decay/cpu-block", "gla"},
                           {"diagonal_decay/cpu-block", "hgrn2"},
                           {"diagonal_decay/cpu-block", "rwkv6"},
                           {"diagonal_decay/cpu-block", "mlstm"},
                           {"softmax_attention/cpu-blocked", "softmax_attention"},
                           {"softmax_attention/cpu-blocked", "qknorm_attention"},
                           {"softmax_attention/cpu-blocked", "rms_qknorm_attention"},
                           {"softmax_attention/cpu-blocked", "nadaraya_watson"},
                           {"softmax_attention/cpu-blocked", "forgetting_attention"},
                           {"softmax_attention/cpu-local-linear", "local_linear_attention"},
                           {"normal_equations/cpu-factorised", "mesa"},
                           {"normal_equations/cpu-factorised", "mesa_net"},
                           {"normal_equations/cpu-factorised", "decaying_least_squares"},
                           {"normal_equations/cpu-factorised", "refreshed_least_squares"},
                           {"normal_equations/cpu-iterative", "mesa_net_cg"}};

// The call as a function of its floating tensors, slots first, for check_grad.
struct Flat {
  Call call;
  std::vector<std::pair<bool, std::string>> names;   // (of the state, name)
  Tensors xs;

  explicit Flat(Call c) : call(std::move(c)) {
    for (const auto& [name, x] : call.slots) names.emplace_back(false, name), xs.push_back(x);
    for (const auto& [name, x] : call.state)
      if (is_floating(x.dtype())) names.emplace_back(true, name), xs.push_back(x);
  }
  Arguments with(const Tensors& points) const {
    Arguments a{.slots = call.slots, .state = call.state, .segments = call.segments, .want_state = call.want_state};
    for (size_t i = 0; i < names.size(); ++i) (names[i].first ? a.state : a.slots)[names[i].second] = points[i];
    return a;
  }
};
Tensors everything(const Answer& answer) {
  Tensors ys{answer.y};
  for (const auto& [name, x] : answer.state)
    if (is_floating(x.dtype())) ys.push_back(x);
  return ys;
}

double difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  const std::vector<double> x = a.to_vector<double>(), y = b.to_vector<double>();
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double e = std::abs(x[i] - y[i]);
    worst = e <= worst ? worst : e;   // NaN is worst
  }
  return worst;
}

// Tokens [begin, end) of every slot that has tokens.
Slots cut(const Recipe& recipe, const Slots& slots, int64_t begin, int64_t end) {
  Slots part = slots;
  for (const Slot& s : recipe.slots())
    if (s.per == Per::token || s.per == Per::write) part[s.name] = slice(slots.at(s.name), 1, begin, end);
  return part;
}

template <class F> std::string refusal(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

struct Environment {   // TTR_ROUTE for one scope
  explicit Environment(const char* route) { setenv("TTR_ROUTE", route, 1); }
  ~Environment() { unsetenv("TTR_ROUTE"); }
};

const Scenario kSmall{.batch = 2, .tokens = 4, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 3, .value_dim = 2, .carried = 2};

}  // namespace

TEST_SUITE("stems") {
  TEST_CASE("derivatives to order 2: the kernel's first, its definition's second") {
    for (const auto& [route, name] : kStems) {
      const Recipe& recipe = published(name).recipe;
      std::vector<Scenario> cases{kSmall};
      cases.push_back({.batch = 1,
                       .tokens = 6,
                       .heads = 2,
                       .key_heads = 2,
                       .value_heads = 1,
                       .key_dim = 3,
                       .value_dim = 2,
                       .segments = true,
                       .want_state = false});
      for (const Scenario& s : cases) {
        CAPTURE(name);
        CAPTURE(s.text());
        const Flat flat(draw(recipe, s, 21));
        const GradCheck check = check_grad([&](const Tensors& points) { return everything(remember(recipe, flat.with(points), route)); }, flat.xs, 2);
        CAPTURE(check.where);
        CHECK(check.within(1e-7));
      }
    }
    const Recipe strict = recipes::softmax_attention.with({.scale = Scale::rsqrt_key(), .read = Read::strict});
    const Flat flat(draw(strict, {.batch = 1, .tokens = 5, .heads = 2, .key_heads = 1, .value_heads = 1, .key_dim = 3, .value_dim = 2}, 22));
    const GradCheck check =
        check_grad([&](const Tensors& points) { return everything(remember(strict, flat.with(points), "softmax_attention/cpu-blocked")); },
                   flat.xs, 2);
    CAPTURE(check.where);
    CHECK(check.within(1e-7));
  }

  TEST_CASE("the definition is the kernel: the same gradients, and by linearity in values and memory the same answer") {
    for (const auto& [route, name] : kStems)
      for (const bool segments : {false, true}) {
        CAPTURE(name);
        CAPTURE(segments);
        const Recipe& recipe = published(name).recipe;
        Scenario s{.batch = 2, .tokens = 67, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 6, .value_dim = 5, .carried = 3};
        s.segments = segments, s.want_state = !segments;
        Flat flat(draw(recipe, s, 31));
        for (Tensor& x : flat.xs) x = variable(x);
        const Tensors ys = everything(remember(recipe, flat.with(flat.xs), route));
        Tensors dys;
        for (const Tensor& y : ys) dys.push_back(normal(y.shape(), 32, dys.size(), 0, 1, like(y)));
        const Tensors kernel = grad(ys, dys, flat.xs), definition = grad(ys, dys, flat.xs, {.create_graph = true});
        for (size_t i = 0; i < flat.xs.size(); ++i) {
          CAPTURE(flat.names[i].second);
          CHECK(difference(kernel[i], definition[i]) < 1e-11);
        }
        const Tensors of_answer = grad({ys[0]}, {dys[0]}, flat.xs, {.create_graph = true});
        double linear = 0;
        for (size_t i = 0; i < flat.xs.size(); ++i)
          for (const char* enters : {"v", "values", "memory", "value"})
            if (flat.names[i].second == enters) linear += sum(flat.xs[i] * of_answer[i]).item();
        CHECK(linear == doctest::Approx(sum(ys[0] * dys[0]).item()).epsilon(1e-11));
      }
  }

  TEST_CASE("decode: one token at a time with a carried state equals the whole, and leaves the same state") {
    for (const auto& [route, name] : kStems)
      for (const char* stepper : {route, "fold"}) {
        CAPTURE(name);
        CAPTURE(stepper);
        const Recipe& recipe = published(name).recipe;
        const Call call = draw(recipe, {.batch = 2, .tokens = 67, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 6, .value_dim = 5}, 41);
        const Answer whole = remember(recipe, {.slots = call.slots, .want_state = true}, route);
        Tensors ys;
        Slots state;
        for (int64_t t = 0; t < 67; ++t) {
          const Answer step = remember(recipe, {.slots = cut(recipe, call.slots, t, t + 1), .state = state, .want_state = true}, stepper);
          ys.push_back(step.y);
          state = step.state;
        }
        CHECK(difference(concat(ys, 1), whole.y) < 1e-12);
        REQUIRE(state.size() == whole.state.size());
        for (const auto& [part, x] : whole.state) {
          CAPTURE(part);
          CHECK(difference(state.at(part), x) < 1e-12);
        }
      }
  }

  TEST_CASE("a sequence cut anywhere, its state carried, is the sequence: values and gradients, whoever does which half") {
    for (const auto& [route, name] : kStems)
      for (const auto& [first, second] : {std::pair{route, route}, {route, "fold"}, {"fold", route}})
        for (const int64_t at : {1, 63, 64, 69}) {
          CAPTURE(name);
          CAPTURE(first);
          CAPTURE(second);
          CAPTURE(at);
          const Recipe& recipe = published(name).recipe;
          const int64_t tokens = 70;
          Call call = draw(recipe, {.batch = 1, .tokens = tokens, .heads = 2, .key_heads = 2, .value_heads = 1, .key_dim = 6, .value_dim = 5}, 51);
          Tensors xs;
          for (auto& [slot, x] : call.slots) xs.push_back(x = variable(x));
          const auto loss = [](const Answer& answer, const Tensor& y) {
            Tensor total = sum(y * normal(y.shape(), 52, 0, 0, 1, like(y)));
            uint64_t stream = 1;
            for (const auto& [part, x] : answer.state)
              if (is_floating(x.dtype())) total = total + sum(x * normal(x.shape(), 52, stream++, 0, 1, like(x)));
            return total;
          };
          const Answer whole = remember(recipe, {.slots = call.slots, .want_state = true}, route);
          const Answer left = remember(recipe, {.slots = cut(recipe, call.slots, 0, at), .want_state = true}, first);
          const Answer right = remember(recipe, {.slots = cut(recipe, call.slots, at, tokens), .state = left.state, .want_state = true}, second);
          const Tensor joined = concat({left.y, right.y}, 1);
          CHECK(difference(joined, whole.y) < 1e-12);
          for (const auto& [part, x] : whole.state) CHECK(difference(right.state.at(part), x) < 1e-12);
          const Tensors want = grad({loss(whole, whole.y)}, {}, xs), got = grad({loss(right, joined)}, {}, xs);
          for (size_t i = 0; i < xs.size(); ++i) CHECK(difference(got[i], want[i]) < 1e-11);
        }
  }

  TEST_CASE("what comes later does not change what came before, bit for bit; documents do not see each other") {
    for (const auto& [route, name] : kStems)
      for (const Dtype dtype : {Dtype::f32, Dtype::f64}) {
        CAPTURE(name);
        CAPTURE(name_of(dtype));
        const Recipe& recipe = published(name).recipe;
        const Scenario s{.batch = 1, .tokens = 130, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 20, .value_dim = 12, .want_state = false};
        Arguments a = parity::arguments_of(draw(recipe, s, 61), dtype, cpu_device), b = parity::arguments_of(draw(recipe, s, 62), dtype, cpu_device);
        const int64_t t = 70;
        Arguments mixed = a;   // a before t, b from t on
        for (const Slot& slot : recipe.slots())
          if (slot.per != Per::head)
            mixed.slots[slot.name] = concat({slice(a.slots[slot.name], 1, 0, t), slice(b.slots[slot.name], 1, t, 130)}, 1);
        const std::vector<double> before = remember(recipe, a, route).y.to_vector<double>(), after = remember(recipe, mixed, route).y.to_vector<double>();
        CHECK(std::memcmp(before.data(), after.data(), size_t(t * 24) * sizeof(double)) == 0);
        CHECK(before[size_t(t * 24)] != after[size_t(t * 24)]);

        // The other way round: a new document at t does not see what came before, up to the order of sums.
        std::vector<int32_t> ids(130, 7);
        std::fill(ids.begin() + t, ids.end(), 3);
        Arguments other = b;   // b before t, a from t on
        for (const Slot& slot : recipe.slots())
          if (slot.per != Per::head)
            other.slots[slot.name] = concat({slice(b.slots[slot.name], 1, 0, t), slice(a.slots[slot.name], 1, t, 130)}, 1);
        for (const Slot& slot : recipe.slots())
          if (slot.per == Per::head) other.slots[slot.name] = a.slots[slot.name];
        for (const Slot& slot : recipe.slots()) if (slot.per == Per::head) other.slots[slot.name] = a.slots[slot.name];
        a.segments = other.segments = from_vector(ids, {1, 130}, {Dtype::i32, cpu_device});
        const Tensor one = slice(remember(recipe, a, route).y, 1, t, 130), two = slice(remember(recipe, other, route).y, 1, t, 130);
        // A bias of keys is rounded against that of a key that may lie in the other document.
        const bool biased = std::string_view(name) == "forgetting_attention" || std::string_view(name) == "nadaraya_watson";
        CHECK(difference(one, two) <= (!biased ? 0 : dtype == Dtype::f32 ? 4e-6 : 1e-13));
      }
  }

  TEST_CASE("the same bits for the same call, whatever was in memory before") {
    for (const auto& [route, name] : kStems) {
      CAPTURE(name);
      const Recipe& recipe = published(name).recipe;
      const Call call = draw(recipe, {.batch = 2, .tokens = 65, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 8, .value_dim = 12, .carried = 2}, 71);
      const auto once = [&] { return parity::evaluate(call, Dtype::f32, cpu_device, [&](const Arguments& a) { return remember(recipe, a, route); }); };
      const Parts plain = once();
      const parity::FreshMemoryNan nan;
      CHECK(parity::mismatch(once(), plain, name, [](const std::string&) { return 0.0; }) == "");
    }
  }

  TEST_CASE("the plan can be forced, and a forced route that refuses is an error with its reason") {
    const Call call = draw(recipes::delta_net, {.batch = 1, .tokens = 3, .heads = 1, .key_heads = 1, .value_heads = 1, .key_dim = 4, .value_dim = 4}, 81);
    const Arguments a{.slots = call.slots};
    const Problem problem = examine(recipes::delta_net, a);
    CHECK(std::string(choose(recipes::delta_net, problem).route->name) == "delta/cpu-chunk");
    CHECK(std::string(choose(recipes::delta_net, problem, "fold").route->name) == "fold");
    CHECK(difference(remember(recipes::delta_net, a).y, remember(recipes::delta_net, a, "fold").y) < 1e-14);
    const std::string unknown = refusal([&] { choose(recipes::delta_net, problem, "delta/cpu-chonk"); });
    CHECK(unknown.find("[plan] route 'delta/cpu-chonk' is unknown, needs one of: delta/cpu-chunk, ") == 0);
    CHECK(unknown.find("did you mean 'delta/cpu-chunk'?") != std::string::npos);
    CHECK(refusal([&] { choose(recipes::delta_net, problem, "softmax_attention/cpu-blocked"); }) ==
          "[plan] route softmax_attention/cpu-blocked is asked for and refuses: weights are even, needs kernel");
    CHECK(refusal([&] {
            remember(recipes::softmax_attention,
                     {.slots = {{"q", call.slots.at("q")}, {"k", call.slots.at("k")}, {"v", call.slots.at("v")}}}, "delta/cpu-chunk");
          }) == "[plan] route delta/cpu-chunk is asked for and refuses: function class is constant, needs linear");
    {
      const Environment set("fold");
      CHECK(std::string(choose(recipes::delta_net, problem).route->name) == "fold");
      CHECK(std::string(choose(recipes::delta_net, problem, "delta/cpu-chunk").route->name) == "delta/cpu-chunk");   // the argument wins
    }
    {
      const Environment set("softmax_attention/cpu-blocked");
      CHECK(refusal([&] { choose(recipes::delta_net, problem); }).find("is asked for and refuses") != std::string::npos);
    }
    CHECK(std::string(choose(recipes::delta_net, problem).route->name) == "delta/cpu-chunk");
    CHECK(std::string(choose(recipes::titans, Problem{}).route->name) == "fold");
    CHECK(choose(recipes::titans, Problem{}).refused.size() == routes().size() - 1);
    CHECK(std::string(routes().back().name) == "fold");
  }

  TEST_CASE("each route refuses every option it does not honour, by name") {
    const auto reason = [](const char* route, const std::string& recipe, Problem p = {}) -> std::string {
      for (const Route& r : routes())
        if (std::string_view(r.name) == route) return r.accepts(parse_recipe(recipe), p);
      return "no such route";
    };
    struct Case { const char *route, *recipe, *why; };
    const char *delta = "delta/cpu-chunk",
               *attention = "softmax_attention/cpu-blocked",
               *scan = "scan/cpu-tiles",
               *line = "softmax_attention/cpu-local-linear",
               *decay = "diagonal_decay/cpu-block",
               *factorised = "normal_equations/cpu-factorised",
               *iterative = "normal_equations/cpu-iterative";
    for (const Case& c : std::vector<Case>{
             {delta, "even / linear / descend[at=previous] / reading[read=strict]", "option read=strict of reading is not honoured"},
             {delta, "even / linear / descend[at=previous] / reading[writes=2]", "option writes=2 of reading is not honoured"},
             {delta, "even / linear[normaliser=sum] / descend[at=previous]", "option normaliser=sum of linear is not honoured"},
             {delta, "even / linear[eps=0.001] / descend[at=previous]", "option eps=0.001 of linear is not honoured"},
             {delta, "even / linear[erase=separate] / descend[at=previous]", "option erase=separate of linear is not honoured"},
             {delta, "even / linear[bonus=true] / descend[at=previous]", "option bonus=true of linear is not honoured"},
             {delta, "even / linear[feature=taylor2] / descend[at=previous]", "option feature=taylor2 of linear is not honoured"},
             {delta, "even / linear / descend[at=previous,steps=2]", "option steps=2 of descend is not honoured"},
             {delta, "even / linear / descend[at=previous,rate=unit]", "option rate=unit of descend is not honoured"},
             {delta, "even / linear / descend[at=initial]", "descend steps at a fixed point, needs previous or decayed"},
             {delta, "even / linear / exact", "optimizer is exact, needs descend or proximal"},
             {delta, "even / mlp / descend[at=previous]", "function class is mlp, needs linear"},
             {delta, "geometric[per=channel] / linear / descend[at=decayed]", "option per=channel of geometric is not honoured"},
             {delta, "geometric[write=gate] / linear / descend[at=decayed]", "option write=gate of geometric is not honoured"},
             {delta, "geometric / linear / proximal", "weights are geometric, needs even under proximal"},
             {delta, "longhorn_diagonal", "option diagonal=true of proximal is not honoured"},
             {delta, "weight_decay / linear / descend[at=decayed]", "weight_decay erases before the decay, needs at=previous"},
             {scan, "hgrn2", "option tied=true of linear is not honoured"},
             {scan, "gla", "the decay is the same along a row or a column of the memory, needs per=entry or per=product"},
             {scan, "longhorn", "option diagonal=false of proximal turns the whole memory, needs diagonal=true"},
             {scan, "delta_net", "descend steps where the memory is, needs at=initial"},
             {scan, "linear_attention", "weights are even, needs geometric"},
             {scan, "softmax_attention", "optimizer is exact, needs descend or proximal"},
             {scan, "titans", "function class is mlp, needs constant or linear"},
             {scan, "geometric[per=value,phase=true] / constant / descend[at=initial]", "phase and fixed differ, needs both (lru) or neither (hgrn)"},
             {scan, "geometric / constant / descend[at=initial]", "the decay of a constant is not one a value, needs per=value"},
             {scan, "geometric[per=value,write=gate] / constant / descend[at=initial]", "option write=gate of geometric is not honoured"},
             {scan, "geometric[per=value,phase=true,fixed=true,write=log] / constant / descend[at=initial]", "option write=log of geometric is not honoured"},
             {scan, "geometric[per=entry,write=gate] / linear / descend[at=initial]", "option write=gate of geometric is not honoured"},
             {scan, "geometric[per=entry] / linear[normaliser=sum] / descend[at=initial]", "option normaliser=sum of linear is not honoured"},
             {scan, "geometric[per=entry] / linear[learned=true] / descend[at=initial]", "option learned=true of linear is not honoured"},
             {scan, "geometric[per=entry] / linear / descend[at=initial,rate=slot]", "option rate=slot of descend is not honoured"},
             {scan, "geometric[per=entry] / linear / descend[at=initial] / reading[read=strict]", "option read=strict of reading is not honoured"},
             {scan, "even / linear[feature=elu1] / proximal[diagonal=true]", "option feature=elu1 of linear is not honoured"},
             {scan, "geometric / linear / proximal[diagonal=true]", "weights are geometric, needs even under proximal"},
             {decay, "even / linear / descend[at=previous]", "descend steps at the memory of the moment, needs at=initial"},
             {decay, "even / linear / descend[at=initial,steps=2]", "option steps=2 of descend is not honoured"},
             {decay, "even / linear / descend[rule=momentum,at=initial]", "needs descend"},
             {decay, "even / linear / exact", "optimizer is exact, needs descend"},
             {decay, "even / mlp / descend[at=initial]", "function class is mlp, needs linear"},
             {decay, "even / linear[erase=separate] / descend[at=initial]", "option erase=separate of linear is not honoured"},
             {decay, "even / linear[tied=true] / descend[at=initial]", "the key is tied to a decay a channel, needs per=channel"},
             {decay, "even / linear[bonus=true,normaliser=sum] / descend[at=initial]", "option bonus=true of linear is not honoured beside"},
             {decay, "even / linear[learned=true,feature=elu1] / descend[at=initial]", "option learned=true of linear is not honoured beside feature"},
             {decay, "even / linear / descend[at=initial] / reading[writes=2]", "option writes=2 of reading is not honoured"},
             {decay, "even / linear / descend[at=initial] / reading[read=chunk]", "option read=chunk of reading is not honoured"},
             {decay, "weight_decay / linear / descend[at=initial]", "weights are weight_decay, needs even, geometric or moving_average"},
             {decay, "gateloop", "option phase=true of geometric is not honoured"},
             {decay, "mamba", "option per=product of geometric is not honoured"},
             {decay, "mamba3", "needs descend"},
             {decay, "geometric[per=channel,write=log] / linear / descend[at=initial]", "option write=log of geometric is not honoured"},
             {decay, "geometric[per=channel] / linear[feature=elu1] / descend[at=initial]", "option feature=elu1 of linear is not honoured beside per=channel"},
             {attention, "kernel / constant / exact / reading[writes=2]", "option writes=2 of reading is not honoured"},
             {attention, "kernel / constant / exact / reading[visible=everything]", "option visible=everything of reading is not honoured"},
             {attention, "kernel / constant / exact[ridge=constant]", "option ridge=constant of exact is not honoured"},
             {attention, "kernel / polynomial / exact", "function class is polynomial, needs constant"},
             {attention, "even / constant / exact", "weights are even, needs kernel"},
             {line, "even / polynomial / exact[ridge=constant]", "weights are even, needs kernel"},
             {line, "kernel / constant / exact", "function class is constant, needs polynomial"},
             {line, "kernel / polynomial[degree=2] / exact[ridge=relative]", "option degree=2 of polynomial is not honoured"},
             {line, "kernel / polynomial / exact", "ridge is none, needs relative or constant"},
             {line, "kernel / polynomial / exact[ridge=decaying]", "ridge is decaying, needs relative or constant"},
             {line, "kernel[forget=true] / polynomial / exact[ridge=constant]", "needs relative where the weights forget or are gaussian"},
             {line, "kernel[norm_weights=true] / polynomial / exact[ridge=relative]", "option norm_weights=true of kernel is not honoured"},
             {line, "parallax", "optimizer is amortized, needs exact"},
             {factorised, "even / linear / exact", "ridge is none, needs one: fewer than K pairs leave the system singular"},
             {factorised, "even / linear / exact[ridge=constant,per=degree]", "ridge is per degree, needs per head or per channel"},
             {factorised, "even / linear / exact[ridge=constant] / reading[read=strict]", "option read=strict of reading is not honoured"},
             {factorised, "intention", "option visible=everything of reading is not honoured"},
             {factorised, "even / linear[feature=taylor2] / exact[ridge=constant]", "option feature=taylor2 of linear is not honoured"},
             {factorised, "kernel / linear / exact[ridge=constant]", "weights are kernel, needs even or geometric"},
             {factorised, "kernel_regression", "function class is kernel_expansion, needs linear"},
             {factorised, "mesa_net_cg", "optimizer is conjugate_gradient, needs exact"},
             {iterative, "mesa_net", "needs conjugate_gradient"},
             {iterative, "even / linear / conjugate_gradient[ridge=none]", "ridge is none, needs one"},
         }) {
      CAPTURE(c.recipe);
      CHECK(reason(c.route, c.recipe).find(c.why) != std::string::npos);
    }
    CHECK(reason(delta, "delta_net", {.dtype = Dtype::bf16}) == "dtype is bf16, needs f32 or f64 on the cpu");
    CHECK(reason(delta, "delta_net", {.device = cuda_device}) == "the tensors are on cuda, needs cpu");
    CHECK(reason(delta, "even / linear[learned=true] / descend[at=previous]", {.segments = true}) == "documents begin with a learned memory, needs a zero one");
    CHECK(reason(scan, "lru", {.value_dim = 5}) == "value_dim is 5, needs an even size for complex numbers");
    CHECK(reason(scan, "hgrn", {.heads = 2, .key_heads = 2}) == "value_heads is 1, needs heads 2 for a memory that is not asked by key");
    CHECK(reason(scan, "even / linear[learned=true] / proximal[diagonal=true]", {.segments = true}) ==
          "documents begin with a learned memory, needs a zero one");
    CHECK(reason(attention, "softmax_attention", {.segments = true, .want_state = true}) ==
          "a state of packed documents keeps only the last of them, needs fold");
    CHECK(reason(decay, "even / linear[learned=true] / descend[at=initial]", {.segments = true}) == "documents begin with a learned memory, needs a zero one");
    CHECK(reason(decay, "cosformer", {.segments = true}) == "documents begin at position 0 and the feature map asks for positions, needs fold");
    CHECK(reason(factorised, "mesa", {.segments = true, .want_state = true}) == "a state of packed documents keeps only the last of them, needs fold");
    for (const auto& [route, recipe] : {std::pair{"delta/cuda-recurrent", "delta_net"},
                                        {"diagonal_decay/cuda-recurrent", "gla"},
                                        {"normal_equations/cuda-factorised", "mesa"},
                                        {"normal_equations/cuda-iterative", "mesa_net_cg"},
                                        {"scan/cuda-recurrent", "mamba"},
                                        {"softmax_attention/cuda-local-linear", "local_linear_attention"},
                                        {"softmax_attention/cuda-streaming", "softmax_attention"}}) {
      const std::string why = reason(route, recipe);
      CHECK((why == "built without CUDA" || why == "the tensors are on cpu, needs cuda"));
    }
  }

  TEST_CASE("the plan as text names sizes, cost, the choice and every refusal before it") {
    const Problem p{.batch = 2, .tokens = 128, .heads = 4, .key_heads = 4, .value_heads = 4, .key_dim = 64, .value_dim = 32, .training = true};
    const std::string chosen = describe_plan(recipes::gated_delta_net, p);
    CHECK(chosen.find("geometric / linear / descend") == 0);
    CHECK(chosen.find("\n  training B2 T128 H4 K64 V32 f32 on cpu: delta/cpu-chunk\n") != std::string::npos);
    CHECK(chosen.find(" Mflop, ") != std::string::npos);
    CHECK(chosen.find("not ") == std::string::npos);
    const std::string fallen = describe_plan(recipes::oja, p);
    CHECK(fallen.find(": fold\n") != std::string::npos);
    CHECK(fallen.find("  not delta/cpu-chunk: option erase=transposed of linear is not honoured\n") != std::string::npos);
    CHECK(fallen.find("  not diagonal_decay/cpu-block: option erase=transposed of linear is not honoured\n") != std::string::npos);
    CHECK(fallen.find("  not softmax_attention/cpu-blocked: weights are geometric, needs kernel\n") != std::string::npos);
    CHECK(describe_plan(recipes::linear_attention, p).find(": diagonal_decay/cpu-block\n") != std::string::npos);
    CHECK(describe_plan(recipes::gated_delta_net, p, "fold").find(": fold\n") != std::string::npos);
  }

  TEST_CASE("calls that cannot be are refused with the tensor's name") {
    const Call call = draw(recipes::delta_net, {.batch = 1, .tokens = 3, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 4, .value_dim = 5}, 91);
    const auto with = [&](const char* name, const Tensor& x) {
      Slots slots = call.slots;
      slots[name] = x;
      return refusal([&] { remember(recipes::delta_net, {.slots = slots}); });
    };
    const Options f64{Dtype::f64, cpu_device};
    CHECK(with("k", zeros({1, 3, 3, 4}, f64)) == "[memory] k has shape [1, 3, 3, 4], needs [1, 3, 4, 4]");
    CHECK(with("v", zeros({1, 3, 3, 5}, f64)) == "[memory] v has 3 heads, needs a divisor of q's 4");
    CHECK(with("step_size", zeros({1, 3, 2}, f64)) == "[memory] step_size has shape [1, 3, 2], needs [1, 3, 4]");
    CHECK(with("step_size", zeros({1, 3, 4})) == "[memory] step_size is f32, needs f64; cast it");
    CHECK(with("stepsize", zeros({1, 3, 4}, f64)).find("did you mean step_size?") != std::string::npos);
    Slots missing = call.slots;
    missing.erase("step_size");
    CHECK(refusal([&] { remember(recipes::delta_net, {.slots = missing}); }).find("[memory] step_size is missing, needs it with shape [1, 3, 4]") == 0);
    CHECK(refusal([&] {
            remember(recipes::delta_net,
                     {.slots = call.slots, .state = {{"memory", zeros({1, 4, 4, 5}, f64)}, {"position", position_state(3)}}});
          }) == "[memory] state memory has shape [1, 4, 4, 5], needs [1, 4, 5, 4]");
    CHECK(refusal([&] {
            remember(recipes::delta_net, {.slots = call.slots, .state = {{"position", position_state(3)}}});
          }).find("state memory is missing") != std::string::npos);
    CHECK(refusal([&] {
            remember(recipes::delta_net, {.slots = call.slots, .segments = zeros({1, 3}, f64)});
          }) == "[memory] segments is f64 [1, 3], needs i32 [1, 3]");
  }
}
