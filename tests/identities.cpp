// Rows that are other rows in disguise: two recipes of fold, two paths, one answer. docs/10-map.md is the table of them and refers to the numbers.
// Values and the gradients of every shared input agree to 1e-10 in f64. Here the memories that are stepped; attention and least squares are in
// identities_solved.cpp, feature maps in identities_features.cpp.
#include <ttr/tests/identities.hpp>

using namespace ttr;
using namespace ttr::identities;

TEST_SUITE("identities") {
  TEST_CASE("1. the delta family reduces to its elders") {
    Usual in;
    const auto [q, k, v, beta, g] = std::tie(in.q, in.k, in.v, in.beta, in.g);
    const Slots delta{{"q", q}, {"k", k}, {"v", v}, {"step_size", beta}};
    const auto with = [&](Slots s, Slots more) {
      for (auto& [name, x] : more) s[name] = x;
      return s;
    };
    const Tensor none = zero({1, T, 1}), gk = wide_as(g, k);
    // without decay, Gated DeltaNet is DeltaNet
    check_same(run("gated_delta_net", with(delta, {{"log_decay", none}})), run("delta_net", delta), in);
    // one decay in all channels, KDA is Gated DeltaNet
    const Tensor gated = run("gated_delta_net", with(delta, {{"log_decay", g}}));
    const Tensor kda = run("kda", with(delta, {{"log_decay", gk}}));
    check_same(kda, gated, in);
    // both gates beta, GDN-2 is KDA
    check_same(
        run("gdn2", {{"q", q}, {"k", k}, {"v", v}, {"log_decay", gk}, {"erase_gate", wide_as(beta, k)}, {"value_gate", wide_as(beta, v)}}),
        kda, in);
    // base 1 leaves nothing of the preconditioner
    const Slots curvature{{"curvature_log_decay", g}, {"curvature_step", beta}, {"curvature_scale", zero({1})}};
    check_same(run("geometric / linear / preconditioned[base=1]", with(with(delta, curvature), {{"log_decay", g}})), gated, in);
    check_same(run("geometric[per=channel] / linear / preconditioned[base=1]", with(with(delta, curvature), {{"log_decay", gk}})), kda, in);
    // a step beyond 1 is allowed, not different
    check_same(run("delta_net_negative", delta), run("delta_net", delta), in);
    // Comba without decay that erases what it writes; and with the erase key decayed by hand
    check_same(run("comba", with(delta, {{"log_decay", none}, {"erase_key", k}})), run("delta_net", delta), in);
    check_same(run("comba", with(delta, {{"log_decay", g}, {"erase_key", exp(column(g)) * k}})), gated, in);
  }

  TEST_CASE("2. two writes a token are two tokens, the decay on the first, the answer after the second") {
    Shared in;
    const Tensor q = in.signal("q", {1, T, 1, K}), k = in.signal("k", {1, 2 * T, 1, K}, 0.6), v = in.signal("v", {1, 2 * T, 1, V});
    const Tensor beta = in.gate("beta", {1, 2 * T, 1}, 0.1, 0.9), g = in.decay("g", {1, T, 1});
    const auto first = [&](const Tensor& x) { return reshape(stack({x, zeros(x.shape(), kF64)}, 2), {1, 2 * T, 1}); };
    const Tensor twice = reshape(stack({q, q}, 2), {1, 2 * T, 1, K});
    const auto seconds = [&](const Tensor& y) { return reshape(slice(reshape(y, {1, T, 2, V}), 2, 1, 2), {1, T, 1, V}); };
    Slots writes{{"q", q}, {"k", k}, {"v", v}, {"step_size", beta}}, tokens{{"q", twice}, {"k", k}, {"v", v}, {"step_size", beta}};
    check_same(run("delta_product", writes), seconds(run("delta_net", tokens)), in);
    writes["log_decay"] = g, tokens["log_decay"] = first(g);
    check_same(run("gated_delta_product", writes), seconds(run("gated_delta_net", tokens)), in);
  }

  TEST_CASE("3. descent with an L2 penalty is Gated DeltaNet with alpha = 1 - beta lambda, beta / alpha, and the value rescaled") {
    Usual in;
    const Tensor lambda = in.gate("lambda", {1, T, 1}, 0.05, 0.5), alpha = 1.0 - in.beta * lambda;
    check_same(run("l2_sgd", {{"q", in.q}, {"k", in.k}, {"v", in.v}, {"step_size", in.beta}, {"weight_decay", lambda}}),
               run("gated_delta_net",
                   {{"q", in.q}, {"k", in.k}, {"v", column(alpha) * in.v}, {"step_size", in.beta / alpha}, {"log_decay", log(alpha)}}),
               in);
  }

  TEST_CASE("4. Longhorn is DeltaNet with the proximal step, and stationary for its objective") {
    Usual in;
    const Tensor step = in.beta / (1.0 + in.beta * sum(square(in.k), 3));
    const Slots longhorn{{"q", in.q}, {"k", in.k}, {"v", in.v}, {"step_size", in.beta}};
    check_same(run("longhorn", longhorn), run("delta_net", {{"q", in.q}, {"k", in.k}, {"v", in.v}, {"step_size", step}}), in);
    const auto memory = [&](int64_t tokens) {
      return reshape(fold(parse_recipe("longhorn"), {.slots = tokens_of(parse_recipe("longhorn"), longhorn, 0, tokens), .want_state = true})
                         .state.at("memory"),
                     {V, K});
    };
    const Tensor before = memory(T - 1), m = variable(memory(T));
    const Tensor k = reshape(slice(in.k, 1, T - 1, T), {K, 1}), v = reshape(slice(in.v, 1, T - 1, T), {V, 1}),
                 delta = slice(in.beta, 1, T - 1, T);
    const Tensor objective = 0.5 * sum(square(m - before)) + 0.5 * sum(reshape(delta, {}) * sum(square(v - matmul(m, k))));
    CHECK(difference(grad(objective, m), zero({V, K})) <= 1e-12);
    // one key: its square is its own diagonal
    Shared one_key;
    const Tensor ones_q = one({1, T, 1, 1}), key = one_key.signal("k", {1, T, 1, 1}), value = one_key.signal("v", {1, T, 1, V});
    const Tensor pace = one_key.gate("beta", {1, T, 1}, 0.1, 0.9);
    check_same(run("longhorn_diagonal", {{"q", ones_q}, {"k", key}, {"v", value}, {"step_size", wide_as(pace, value)}}),
               run("longhorn", {{"q", ones_q}, {"k", key}, {"v", value}, {"step_size", pace}}), one_key);
  }

  TEST_CASE("5. RWKV-7 holds Gated DeltaNet and GLA") {
    Usual in;
    const auto [q, k, v, beta, g] = std::tie(in.q, in.k, in.v, in.beta, in.g);
    check_same(run("rwkv7", {{"q", q},
                             {"k", k},
                             {"v", column(beta) * v},
                             {"log_decay", wide_as(g, k)},
                             {"erase_key", -k},
                             {"erase_write", column(exp(g) * beta) * k}}),
               run("gated_delta_net", {{"q", q}, {"k", k}, {"v", v}, {"log_decay", g}, {"step_size", beta}}), in);
    check_same(
        run("rwkv7", {{"q", q}, {"k", k}, {"v", v}, {"log_decay", wide_as(g, k)}, {"erase_key", zero(k.shape())}, {"erase_write", k}}),
        run("gla", {{"q", 2.0 * q}, {"k", k}, {"v", v}, {"log_decay", wide_as(g, k)}}), in);   // its scale is 1 / sqrt 4
  }

  TEST_CASE("6. Oja's memory is KDA's transposed, keys and values exchanged") {
    Shared in;
    const Tensor k = in.signal("k", {1, T, 1, K}, 0.6), v = in.signal("v", {1, T, 1, V}, 0.6), beta = in.gate("beta", {1, T, 1}, 0.1, 0.9);
    const Tensor g = in.decay("g", {1, T, 1, V});
    const auto memory = [&](const char* name, const Slots& s) {
      return fold(parse_recipe(name), {.slots = s, .want_state = true}).state.at("memory");
    };
    const Tensor oja = memory("oja", {{"q", zero(k.shape())}, {"k", k}, {"v", v}, {"step_size", beta}, {"log_decay", g}});
    const Tensor kda = memory("kda", {{"q", zero(v.shape())}, {"k", v}, {"v", k}, {"step_size", beta}, {"log_decay", g}});
    check_same(oja, transpose(kda, 2, 3), in);
  }

  TEST_CASE("7. momentum: none of it is an L2 penalty; a chunk of one is a token") {
    Usual in;
    const Tensor lambda = in.gate("lambda", {1, T, 1}, 0.05, 0.5), eta = in.gate("eta", {1, T, 1}, 0.2, 0.8);
    Slots s{{"q", in.q},
            {"k", in.k},
            {"v", in.v},
            {"step_size", in.beta},
            {"momentum", zero({1, T, 1})},
            {"log_decay", log(1.0 - in.beta * lambda)}};
    check_same(run("momentum_delta", s),
               run("l2_sgd", {{"q", in.q}, {"k", in.k}, {"v", in.v}, {"step_size", in.beta}, {"weight_decay", lambda}}), in);
    s["momentum"] = eta, s["log_decay"] = in.g;
    const Tensor y = run("momentum_delta", s);
    check_same(run("geometric / linear / descend[rule=momentum,at=chunk,chunk=1]", s), y, in);
    // a window of one token, weighing 1, without Muon; and a chunk of one applied as a chunk
    Slots window = s;
    window["window_weight"] = one({1, T, 1});
    check_same(run("window[window=1] / linear / descend[rule=momentum,over=visible]", window), y, in);
    check_same(run("geometric / linear / descend[rule=momentum,at=previous,apply=chunk,chunk=1]", s), y, in);
    // and for two layers
    Slots titans = s;
    titans["step_size"] = 0.3 * in.beta;
    titans["initial_weight_1"] = in.signal("w1", {1, 5, K}, 0.5), titans["initial_weight_2"] = in.signal("w2", {1, V, 5}, 0.5);
    check_same(run("geometric / mlp[hidden=5] / descend[rule=momentum,at=chunk,chunk=1]", titans),
               run("geometric / mlp[hidden=5] / descend[rule=momentum,at=previous]", titans), in);
    // to read a chunk of one as it entered is to read strictly
    check_same(run("geometric / mlp[hidden=5] / descend[rule=momentum,at=chunk,chunk=1] / reading[read=chunk]", titans),
               run("geometric / mlp[hidden=5] / descend[rule=momentum,at=previous] / reading[read=strict]", titans), in);
  }

  TEST_CASE("8. minibatches: of one token DeltaNet, of all tokens linear attention; row scales of 1 change nothing") {
    Usual in;
    Slots s{{"q", in.q}, {"k", in.k}, {"v", in.v}, {"step_size", in.beta}};
    check_same(run("even / linear / descend[at=chunk,chunk=1]", s), run("delta_net", s), in);
    Slots scaled = s;
    scaled["row_scale"] = one({1, T, 1});
    check_same(run("even / linear / descend[at=chunk,chunk=4,row_scale=true]", scaled), run("even / linear / descend[at=chunk,chunk=4]", s),
               in);
    s["step_size"] = one({1, T, 1});
    check_same(run("even / linear / descend[at=chunk,chunk=9]", s),
               run("even / linear / descend[at=initial]", {{"q", in.q}, {"k", in.k}, {"v", in.v}}), in);
    // a row's own scale over the whole sequence is a scale of its answer: 1 / t gives the running mean
    std::vector<double> mean;
    for (int64_t t = 1; t <= T; ++t) mean.push_back(1.0 / double(t));
    const Tensor shrink = from_vector(mean, {1, T, 1}, kF64);
    s["row_scale"] = shrink;
    check_same(run("even / linear / descend[at=chunk,chunk=9,row_scale=true]", s),
               column(shrink) * run("even / linear / descend[at=initial]", {{"q", in.q}, {"k", in.k}, {"v", in.v}}), in);
  }

  TEST_CASE("9. one decay a head: GLA, simple GLA, RetNet, Mamba-2") {
    Usual in;
    const Slots s{{"q", in.q}, {"k", in.k}, {"v", in.v}, {"log_decay", in.g}};
    Slots channels = s, unscaled = s;
    channels["log_decay"] = wide_as(in.g, in.k);
    unscaled["q"] = 0.5 * in.q;
    const Tensor y = run("simple_gla", s);
    check_same(run("gla", channels), y, in);
    Slots fixed = s, every = s;   // RetNet has one number a head
    fixed["log_decay"] = in.decay("retention", {1});
    every["log_decay"] = broadcast_to(reshape(fixed["log_decay"], {1, 1, 1}), in.g.shape());
    check_same(run("retnet", fixed), run("simple_gla", every), in);
    check_same(run("mamba2", unscaled), y, in);
  }

  TEST_CASE("10. HGRN2 is GLA with k = 1 - a, and never leaves the hull of its values; HGRN is it for one key") {
    Shared in;
    const Tensor q = in.signal("q", {1, T, 1, K}), v = in.signal("v", {1, T, 1, V}), g = in.decay("g", {1, T, 1, K});
    check_same(run("hgrn2", {{"q", q}, {"v", v}, {"log_decay", g}}),
               run("gla", {{"q", q}, {"k", 1.0 - exp(g)}, {"v", v}, {"log_decay", g}}), in);
    const Answer a = fold(parse_recipe("hgrn2"), {.slots = {{"q", q}, {"v", v}, {"log_decay", g}}, .want_state = true});
    double inside = 0, most = 0;
    for (const double x : a.state.at("memory").to_vector<double>()) inside = std::max(inside, std::abs(x));
    for (const double x : v.to_vector<double>()) most = std::max(most, std::abs(x));
    CHECK(inside <= most);
    Shared plain;
    const Tensor w = plain.signal("v", {1, T, 1, V}), f = plain.decay("f", {1, T, 1});
    check_same(run("hgrn", {{"v", w}, {"log_decay", wide_as(f, w)}}),
               run("hgrn2", {{"q", one({1, T, 1, 1})}, {"v", w}, {"log_decay", column(f)}}), plain);
    // LRU that does not turn is it again, with one decay for all tokens and what it writes not tied to it
    const Tensor even = plain.signal("x", {1, T, 1, 4}), g1 = plain.decay("g1", {1, 2});
    const Tensor every = broadcast_to(reshape(concat({g1, g1}, 1), {1, 1, 1, 4}), {1, T, 1, 4});
    check_same(run("lru", {{"v", (1.0 - exp(every)) * even}, {"log_decay", g1}, {"phase", g1 * 0.0}}), run("hgrn", {{"v", even}, {"log_decay", every}}),
               plain);
  }

  TEST_CASE("11. Mamba with one A is Mamba-2; Mamba-3 at the end of the trapezoid too") {
    Usual in;
    const Tensor delta = in.gate("delta", {1, T, 1}, 0.2, 1);
    const Slots s{{"q", in.q}, {"k", in.k}, {"v", column(delta) * in.v}, {"log_decay", in.g}};
    Slots entries = s;
    entries["log_decay"] = broadcast_to(reshape(in.g, {1, T, 1, 1, 1}), {1, T, 1, V, K});
    check_same(run("geometric[per=entry] / linear / descend[at=initial]", entries), run("mamba2", s), in);
    const Slots timed{{"q", in.q}, {"k", in.k}, {"v", in.v}, {"delta", broadcast_to(column(delta), {1, T, 1, V})},
                      {"rate", in.gate("rate", {1, V, 1}, 0.1, 2) * one({1, V, K})}};
    Slots exponents = timed;   // what the product of delta and rate is, entry by entry
    exponents["log_decay"] = -reshape(timed.at("delta"), {1, T, 1, V, 1}) * timed.at("rate");
    exponents["v"] = column(delta) * in.v;
    exponents.erase("delta"), exponents.erase("rate");
    check_same(run("mamba", timed), run("geometric[per=entry] / linear / descend[at=initial]", exponents), in);
    check_same(run("mamba3", {{"q", in.q}, {"k", in.k}, {"v", in.v}, {"log_decay", in.g}, {"delta", delta}, {"trapezoid", one({1, T, 1})}}),
               run("mamba2", s), in);
    // anywhere on it: keys scaled by what both taps write, less what the next token has not written yet
    const Tensor lambda = in.gate("lambda", {1, T, 1}, 0.2, 0.9), late = (1.0 - lambda) * delta;
    const Tensor next = pad(slice(late, 1, 1, T), 1, 0, 1), own = column(sum(in.q * in.k, 3) * next) * in.v;
    check_same(run("mamba3", {{"q", in.q}, {"k", in.k}, {"v", in.v}, {"log_decay", in.g}, {"delta", delta}, {"trapezoid", lambda}}),
               run("mamba2", {{"q", in.q}, {"k", column(lambda * delta + next) * in.k}, {"v", in.v}, {"log_decay", in.g}}) - own, in);
  }

  TEST_CASE("12. GateLoop is a real gated memory on rotated keys and queries") {
    Shared in;
    const int64_t n = K / 2;
    const Tensor q = in.signal("q", {1, T, 1, K}), k = in.signal("k", {1, T, 1, K}, 0.6), v = in.signal("v", {1, T, 1, V});
    const Tensor g = in.decay("g", {1, T, 1, n}), phase = in.gate("phase", {1, T, 1, n}, -2, 2), angle = cumsum(phase, 1);
    const auto turned = [&](const Tensor& x) {   // x e^{-i angle}
      const Tensor re = slice(x, 3, 0, n), im = slice(x, 3, n, K), c = cos(angle), s = sin(angle);
      return concat({re * c + im * s, im * c - re * s}, 3);
    };
    check_same(run("gateloop", {{"q", q}, {"k", k}, {"v", v}, {"log_decay", g}, {"phase", phase}}),
               run("gla", {{"q", 2.0 * turned(q)}, {"k", turned(k)}, {"v", v}, {"log_decay", concat({g, g}, 3)}}), in);
  }

  TEST_CASE("13. mLSTM: a sigmoid write gate scales the keys; the stabiliser is invisible") {
    Usual in;
    const Slots s{{"q", in.q}, {"k", column(in.beta) * in.k}, {"v", in.v}, {"log_decay", in.g}};
    check_same(run("mlstm_sigmoid", {{"q", in.q}, {"k", in.k}, {"v", in.v}, {"log_decay", in.g}, {"write_gate", in.beta}}),
               run("simple_gla", s), in);
    // the raw form, max(|n q|, 1) without eps, and exp gates as gates in (0, 1)
    check_same(run("geometric[write=log] / linear[normaliser=max1,eps=0] / descend[at=initial]",
                   {{"q", in.q}, {"k", in.k}, {"v", in.v}, {"log_decay", in.g}, {"log_write_gate", log(in.beta)}}),
               run("geometric[write=gate] / linear[normaliser=max1,eps=0] / descend[at=initial]",
                   {{"q", in.q}, {"k", in.k}, {"v", in.v}, {"log_decay", in.g}, {"write_gate", in.beta}}),
               in);
  }

  TEST_CASE("14. RWKV-6: nothing forgotten and a bonus of 1 is linear attention; GLA is RWKV-6 asked with a q and paid 1 / a") {
    Shared in;
    const Tensor q = in.signal("q", {1, T, 1, K}), k = in.signal("k", {1, T, 1, K}, 0.6), v = in.signal("v", {1, T, 1, V}),
                 g = in.decay("g", {1, K});
    const Tensor every = broadcast_to(reshape(g, {1, 1, 1, K}), {1, T, 1, K});
    check_same(run("rwkv6", {{"q", q}, {"k", k}, {"v", v}, {"log_decay", every * 0.0}, {"bonus", one({1, K})}}),
               run("even / linear / descend[at=initial]", {{"q", q}, {"k", k}, {"v", v}}), in);
    check_same(run("rwkv6", {{"q", exp(every) * q}, {"k", k}, {"v", v}, {"log_decay", every}, {"bonus", exp(-g)}}),
               run("gla", {{"q", 2.0 * q}, {"k", k}, {"v", v}, {"log_decay", every}}), in);
  }

  TEST_CASE("15. log-linear attention: levels of 1 are Mamba-2; only the newest level is (q.k) v") {
    Usual in;
    const Slots s{{"q", in.q}, {"k", in.k}, {"v", in.v}, {"log_decay", in.g}};
    Slots levels = s;
    levels["level_scale"] = one({1, T, 1, 5});
    const std::string recipe = "fenwick[levels=5] / linear / descend[at=initial]";
    check_same(run(recipe, levels), run("mamba2", s), in);
    levels["level_scale"] = concat({one({1, T, 1, 1}), zero({1, T, 1, 4})}, 3);
    check_same(run(recipe, levels), column(sum(in.q * in.k, 3)) * in.v, in);
    levels["level_scale"] = one({1, T, 1, 3});
    CHECK_THROWS_WITH(run("fenwick[levels=3] / linear / descend[at=initial]", levels),
                      doctest::Contains("levels is 3, needs 4 at token 4"));
  }

  TEST_CASE("30. LaCT with steps of 0 stands still, up to its renormalisation") {
    const Recipe recipe = parse_recipe(
        "even / swiglu[hidden=5,loss=dot,paces=true] / descend[rule=momentum,chunk=4,rate=unit,apply=chunk,keep_norm=true] / "
        "reading[read=strict]");
    Slots s = draw_slots(recipe, {});
    for (const char* name : {"step_size_0", "step_size_1", "step_size_2"}) s[name] = zero({1, T, 1});
    const Tensor still = fold(recipe, {.slots = s}).y;
    s["momentum"] = zero({1, T, 1});
    const Recipe bare = parse_recipe("even / swiglu[hidden=5] / descend[rate=unit,limit=1,chunk=100,apply=chunk]");
    for (const char* name : {"step_size_0", "step_size_1", "step_size_2", "momentum"}) s.erase(name);
    CHECK(difference(still, fold(bare, {.slots = s}).y) <= 1e-4);
  }
}
