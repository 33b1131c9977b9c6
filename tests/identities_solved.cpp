// Attention, kernels and least squares in disguise (identities.cpp says how): each solves its problem at every token, and they meet where their
// kernels, ridges or keys say the same. Limits are checked by their rate: ten times nearer must be ten times as near.
#include <ttr/tests/identities.hpp>

using namespace ttr;
using namespace ttr::identities;

namespace {

struct Triple : Shared {   // q, k, v
  Tensor q = signal("q", {1, T, 1, K}), k = signal("k", {1, T, 1, K}, 0.6), v = signal("v", {1, T, 1, V});
  Slots with(const Slots& more = {}) const {
    Slots s{{"q", q}, {"k", k}, {"v", v}};
    s.insert(more.begin(), more.end());
    return s;
  }
};

Tensor number(double x) { return full({1}, x, kF64); }
Tensor flat(const Tensor& x) { return reshape(x, {x.size(1), x.size(3)}); }                    // [1, n, 1, D] -> [n, D]
Tensor lifted(const Tensor& x) { return reshape(x, {1, x.size(0), 1, x.size(1)}); }            // back
Tensor last(const Tensor& y) { return slice(y, 1, y.size(1) - 1, y.size(1)); }

// K keys of length 1 at right angles: I - 2 u u' / |u|^2.
Tensor orthonormal() {
  const Tensor u = normal({K, 1}, 6, 0, 0, 1, kF64);
  return identity(K, kF64) - matmul(u, u, false, true) * (2 / sum(square(u)).item());
}

// |wrong(1) - right| / |wrong(10) - right| for an approximation whose error falls as 1 / x.
template <class F> double gain(F&& at, double x, const Tensor& right) { return difference(at(x), right) / difference(at(10 * x), right); }

}  // namespace

TEST_SUITE("identities") {
  TEST_CASE("16. attention that forgets nothing, reflects nothing, corrects nothing or has no slope is attention") {
    Usual in;
    const Slots s{{"q", in.q}, {"k", in.k}, {"v", in.v}};
    const Tensor y = run("softmax_attention", s), none = zero({1, T, 1});
    const auto with = [&](Slots more) {
      more.insert(s.begin(), s.end());
      return more;
    };
    check_same(run("forgetting_attention", with({{"log_decay", none}})), y, in);
    check_same(run("path_attention", with({{"path_key", in.k}, {"path_step", none}})), y, in);
    check_same(run("deltaformer", with({{"step_size", none}})), y, in);
    check_same(run("parallax", with({{"slope", zero(in.k.shape())}})), y, in);
  }

  TEST_CASE("17. kernels: unit keys make the exponential Gaussian, one more coordinate makes any keys of one length, division makes a step a mean") {
    Triple in;
    const Tensor temperature = in.gate("temperature", {1}, 2, 3);
    check_same(run("kernel[temperature=true] / constant / exact / reading[key_norm=l2,key_eps=0]", in.with({{"temperature", temperature}})),
               run("kernel[kernel=gaussian] / constant / exact / reading[key_norm=l2,key_eps=0]", in.with({{"bandwidth", rsqrt(temperature)}})), in);
    // |[q, 0] - [k, r]|^2 = |q|^2 + R^2 - 2 q.k where r^2 = R^2 - |k|^2
    const Tensor nothing = zero({1, T, 1, 1}), rest = sqrt(20.0 - sum(square(in.k), 3, true));
    const Tensor y = run("softmax_attention", in.with());
    check_same(run("nadaraya_watson", {{"q", concat({in.q, nothing}, 3)}, {"k", concat({in.k, rest}, 3)}, {"v", in.v}, {"bandwidth", number(std::sqrt(2.0))}}),
               y, in);
    Slots ones = in.with();
    ones["v"] = one({1, T, 1, 1});
    check_same(run("unnormalised_softmax_attention", in.with()) / run("unnormalised_softmax_attention", ones), y, in);
    const Tensor w = in.gate("w", {1, K}, 0.5, 1.5), u = in.gate("u", {1, K}, 0.5, 1.5);
    const auto normed = [](const Tensor& x, const Tensor& weight) {
      return x * rsqrt(mean(square(x), 3, true) + 1e-6) * reshape(weight, {1, 1, 1, K});
    };
    check_same(run("rms_qknorm_attention", in.with({{"q_norm_weight", w}, {"k_norm_weight", u}})),
               run("softmax_attention", {{"q", normed(in.q, w)}, {"k", normed(in.k, u)}, {"v", in.v}}), in);
  }

  TEST_CASE("18. a line around the query: stiff it is attention, solved by hand it is Parallax with that slope") {
    Triple in;
    const Tensor y = run("softmax_attention", in.with());
    const auto stiff = [&](double ridge) { return run("local_linear_attention", in.with({{"ridge", number(ridge)}})); };
    CHECK(gain(stiff, 1e4, y) == doctest::Approx(10).epsilon(0.01));
    const Tensor ridge = in.gate("ridge", {1}, 0.3, 0.9), q = flat(in.q), k = flat(in.k);
    const Tensor hidden = tril(one({T, T}));
    const Tensor p = softmax(where(hidden, matmul(q, k, false, true) * 0.5, full({T, T}, -INFINITY, kF64))), mean_key = matmul(p, k);
    Tensors slopes;   // r_t = C_t^{-1} (mean key - q), C_t = sum p (k - mean)(k - mean)' + ridge
    for (int64_t t = 0; t < T; ++t) {
      const Tensor weight = reshape(slice(p, 0, t, t + 1), {T, 1}), m = slice(mean_key, 0, t, t + 1), away = k - m;
      const Tensor covariance = matmul(weight * away, away, true) + ridge * identity(K, kF64);
      slopes.push_back(reshape(solve(covariance, reshape(m - slice(q, 0, t, t + 1), {K, 1})), {1, 1, 1, K}));
    }
    check_same(run("parallax", in.with({{"slope", concat(slopes, 1)}})), run("local_linear_attention", in.with({{"ridge", ridge}})), in);
  }

  TEST_CASE("19. polynomials: degree 0 is attention, a stiff quadratic is a line, and each reproduces its own kind") {
    Triple in;
    check_same(run("kernel[scale=rsqrt] / polynomial[degree=0] / exact[ridge=relative]", in.with({{"ridge", number(0.5)}})),
               run("softmax_attention", in.with()), in);
    const Tensor line = run("local_linear_attention", in.with({{"ridge", number(0.3)}}));
    const auto stiff = [&](double ridge) {
      return run("local_quadratic_attention", in.with({{"ridge", from_vector<double>({0.3, ridge}, {1, 2}, kF64)}}));
    };
    CHECK(gain(stiff, 1e4, line) == doctest::Approx(10).epsilon(0.02));
    // v = A k + b, once there are more pairs than unknowns
    const Tensor a = normal({K, V}, 6, 1, 0, 1, kF64), b = normal({1, V}, 6, 2, 0, 1, kF64);
    Slots affine = in.with({{"ridge", number(1e-10)}});
    affine["v"] = lifted(matmul(flat(in.k), a) + b);
    CHECK(difference(last(run("local_linear_attention", affine)), last(lifted(matmul(flat(in.q), a) + b))) < 1e-6);
    CHECK(difference(last(run("softmax_attention", {{"q", in.q}, {"k", in.k}, {"v", affine["v"]}})), last(lifted(matmul(flat(in.q), a) + b))) > 1e-2);
  }

  TEST_CASE("20. least squares: without forgetting all ridges are one, MesaNet is it with gates, and a large ridge leaves linear attention") {
    Triple in;
    const Tensor ridge = in.gate("ridge", {1}, 0.3, 0.9), none = zero({1, T, 1}), g = in.decay("g", {1, T, 1}), write = one({1, T, 1});
    const Tensor y = run("mesa", in.with({{"ridge", ridge}})), each = broadcast_to(reshape(ridge, {1, 1}), {1, K});
    for (const char* name : {"weighted_least_squares", "decaying_least_squares", "refreshed_least_squares"})
      check_same(run(name, in.with({{"ridge", ridge}, {"log_decay", none}})), y, in);
    check_same(run("mesa_net", in.with({{"ridge", each}, {"log_decay", none}, {"write_gate", write}})), y, in);
    check_same(run("mesa_net", in.with({{"ridge", each}, {"log_decay", g}, {"write_gate", write}})),
               run("weighted_least_squares", in.with({{"ridge", ridge}, {"log_decay", g}})), in);
    const auto times = [&](double l) { return l * run("mesa", in.with({{"ridge", number(l)}})); };
    CHECK(gain(times, 1e4, run("linear_attention", in.with())) == doctest::Approx(10).epsilon(0.02));
    // all at once, asked at the end
    check_same(last(run("intention", in.with({{"ridge", ridge}}))), last(y), in);
  }

  TEST_CASE("21. conjugate gradients: one step is linear attention with a step a query, K steps arrive") {
    Triple in;
    const Tensor ridge = in.gate("ridge", {1, K}, 0.5, 1.5), g = in.decay("g", {1, T, 1}), write = in.gate("write", {1, T, 1}, 0.2, 0.9);
    const Slots s = in.with({{"ridge", ridge}, {"log_decay", g}, {"write_gate", write}});
    check_same(run("geometric[write=gate] / linear / conjugate_gradient[steps=4]", s), run("mesa_net", s), in);
    // y = (|q|^2 / q'(H + Lambda) q) F q, and H q = F q with the keys as values
    const Slots keys{{"q", in.q}, {"k", in.k}, {"v", in.k}, {"log_decay", g}, {"write_gate", write}};
    const Slots values{{"q", in.q}, {"k", in.k}, {"v", in.v}, {"log_decay", g}, {"write_gate", write}};
    const std::string gated = "geometric[write=gate] / linear / descend[at=initial]";
    const Tensor bent = run(gated, keys) + reshape(ridge, {1, 1, 1, K}) * in.q;
    const Tensor step = sum(square(in.q), 3, true) / sum(in.q * bent, 3, true);
    check_same(run("geometric[write=gate] / linear / conjugate_gradient[steps=1]", s), step * run(gated, values), in);
  }

  TEST_CASE("22. gradient steps: one is linear attention times the step, more of them a Neumann sum") {
    Triple in;
    const Tensor step = in.gate("step", {1}, 0.05, 0.1);
    const Tensor scaled = reshape(step, {1, 1, 1, 1});
    check_same(run("even / linear / gradient_steps", in.with({{"step_size", step}})), scaled * run("linear_attention", in.with()), in);
    // F sum_j beta (I - beta H)^j q, with H q = F q of the keys as values
    Tensor q = in.q, y;
    for (int j = 0; j < 3; ++j) {
      const Tensor term = scaled * run("linear_attention", {{"q", q}, {"k", in.k}, {"v", in.v}});
      y = y.defined() ? y + term : term;
      q = q - scaled * run("linear_attention", {{"q", q}, {"k", in.k}, {"v", in.k}});
    }
    check_same(run("mesa_sgd_steps", in.with({{"step_size", step}})), y, in);
  }

  TEST_CASE("23. keys at right angles: one step, one step a token and the solution remember the same") {
    Shared in;
    const Tensor q = in.signal("q", {1, K, 1, K}), v = in.signal("v", {1, K, 1, V}), ridge = in.gate("ridge", {1}, 0.3, 0.9);
    const Tensor k = lifted(orthonormal());
    const Slots s{{"q", q}, {"k", k}, {"v", v}};
    const auto with = [&](Slots more) {
      more.insert(s.begin(), s.end());
      return more;
    };
    const Tensor y = run("linear_attention", s);
    check_same(run("delta_net", with({{"step_size", one({1, K, 1})}})), y, in);
    check_same((1.0 + reshape(ridge, {1, 1, 1, 1})) * run("mesa", with({{"ridge", ridge}})), y, in);
    check_same(run("even / linear / gradient_steps[steps=3]", with({{"step_size", number(0.5)}})), 0.875 * y, in);   // 1 - 0.5^3
    // and what was stored comes back: the query is each key in turn
    CHECK(difference(last(run("linear_attention", {{"q", k}, {"k", k}, {"v", v}})), last(v)) < 1e-12);
  }

  TEST_CASE("24. kernel regression: without forgetting it has one form, and a large ridge leaves the sum of kernels") {
    Triple in;
    const Tensor ridge = in.gate("ridge", {1}, 0.3, 0.9), h = in.gate("h", {1}, 0.8, 1.4);
    check_same(run("geometric_kernel_regression", in.with({{"ridge", ridge}, {"bandwidth", h}, {"log_decay", zero({1, T, 1})}})),
               run("kernel_regression", in.with({{"ridge", ridge}, {"bandwidth", h}})), in);
    const auto times = [&](double l) { return l * run("kernel_regression", in.with({{"ridge", number(l)}, {"bandwidth", h}})); };
    CHECK(gain(times, 1e4, run("kernel[kernel=gaussian] / constant / descend[at=initial]", in.with({{"bandwidth", h}}))) ==
          doctest::Approx(10).epsilon(0.02));
    // one pair: v kappa(k, q) / (1 + ridge)
    const Slots first = tokens_of(parse_recipe("kernel_regression"), in.with({{"ridge", ridge}, {"bandwidth", h}}), 0, 1);
    const Tensor near = exp(sum(square(in.q - in.k), 3, true) * -0.5 / reshape(square(h), {1, 1, 1, 1}));
    check_same(run("kernel_regression", first), slice(near * in.v, 1, 0, 1) / (1.0 + reshape(ridge, {1, 1, 1, 1})), in);
  }

  TEST_CASE("26. landmarks at every key smooth as the kernel does; iterated inverses arrive at exact ones") {
    Triple in;
    const Tensor h = in.gate("h", {1}, 0.8, 1.4);
    Slots s = in.with({{"bandwidth", h}});
    const Tensor y = run("kernel[kernel=gaussian] / constant / descend[at=initial] / reading[visible=everything]", s);
    s["landmarks"] = reshape(in.k, {1, T, K});
    CHECK(difference(run("even / landmarks[bandwidth=slot] / nystrom[jitter=0] / reading[visible=everything]", s), y) < 1e-9);
    const std::string whole = " / reading[visible=everything]";
    const auto arrives = [&](const std::string& iterated, const std::string& exact) {
      const Slots drawn = draw_slots(parse_recipe(exact + whole), {});
      CHECK(difference(run(iterated + whole, drawn), run(exact + whole, drawn)) < 1e-9);
    };
    arrives("even / landmarks[shared=true] / nystrom[inverse=newton,steps=60]", "even / landmarks[shared=true] / nystrom");
    arrives("even / token_landmarks / nystrom[jitter=0.1,inverse=third_order,steps=30]", "even / token_landmarks / nystrom[jitter=0.1]");
  }
}
