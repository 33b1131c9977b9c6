// Causal convolution and rotary embedding: plain loops, identities, kernels against definitions, derivatives to order 2.
#include "ops_numbers.hpp"
#include <ttr/core/parallel.hpp>

using namespace ttr;
using namespace ttr::test;

namespace {

std::vector<double> plain_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& past, bool active) {
  const int64_t B = x.size(0), T = x.size(1), D = x.size(2), W = weight.size(1);
  const std::vector<double> v = x.to_vector<double>(), w = weight.to_vector<double>();
  const std::vector<double> b = bias.defined() ? bias.to_vector<double>() : std::vector<double>(size_t(D), 0.0);
  const std::vector<double> p = past.defined() ? past.to_vector<double>() : std::vector<double>(size_t(B * (W - 1) * D), 0.0);
  std::vector<double> y;
  for (int64_t i = 0; i < B; ++i)
    for (int64_t t = 0; t < T; ++t)
      for (int64_t d = 0; d < D; ++d) {
        double total = b[size_t(d)];
        for (int64_t j = 0; j < W; ++j)
          total += w[size_t(d * W + j)] * (t >= j ? v[size_t((i * T + t - j) * D + d)] : p[size_t((i * (W - 1) + W - 1 + t - j) * D + d)]);
        y.push_back(active ? total / (1 + std::exp(-total)) : total);
      }
  return y;
}

}  // namespace

TEST_SUITE("ops_sequence") {
  TEST_CASE("causal_conv equals a plain loop; its kernel equals its definition") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32})
      for (const auto& [B, T, D, W] : {std::tuple<int64_t, int64_t, int64_t, int64_t>{2, 5, 3, 4},
                                       {1, 1, 2, 4},
                                       {2, 2, 3, 5},
                                       {2, 3, 65, 1},
                                       {1, 130, 70, 4},
                                       {1, 65, 4, 70},
                                       {2, 3, 260, 3}})
        for (const int given : {0, 1, 2, 3, 4, 5, 6, 7}) {   // bit 0: bias, bit 1: past, bit 2: activation
          const bool active = given & 4;
          CAPTURE(B); CAPTURE(T); CAPTURE(D); CAPTURE(W); CAPTURE(given); CAPTURE(std::string(name_of(dtype)));
          const Tensor x = random_tensor({B, T, D}, 1, dtype), w = random_tensor({D, W}, 2, dtype);
          const Tensor b = random_tensor({D}, 3, dtype), past = random_tensor({B, W - 1, D}, 4, dtype);
          Tensors inputs{x, w};
          if (given & 1) inputs.push_back(b);
          if (given & 2) inputs.push_back(past);
          const Function f = [=](const Tensors& in) {
            return causal_conv(in[0], in[1], given & 1 ? in[2] : Tensor(), given & 2 ? in.back() : Tensor(), active);
          };
          CHECK(worst(f(inputs), plain_conv(x, w, given & 1 ? b : Tensor(), given & 2 ? past : Tensor(), active)) < tolerance(dtype, 1e-13, 1e-5));
          CHECK(kernel_against_define(f, inputs) < tolerance(dtype, 1e-13, 1e-5));
          if (dtype != Dtype::f64 || T * D > 20) continue;
          const GradCheck g = check(f, inputs);
          CAPTURE(g.where);
          CHECK(g.within(1e-8));
        }
  }

  TEST_CASE("channels in parts: the values and derivatives of the joined one, also where nothing flows into a part") {
    const Tensor x = random_tensor({2, 70, 100}, 1), w = random_tensor({100, 4}, 2), b = random_tensor({100}, 3), past = random_tensor({2, 3, 100}, 4);
    const std::vector<int64_t> sizes{3, 65, 32};
    for (const bool hears_all : {true, false}) {
      const auto weighed = [=](const Tensors& ys) {
        return hears_all ? concat({ys[0], ys[1], ys[2]}, 2) : concat({ys[0], ys[2]}, 2);
      };
      const Function joined = [=](const Tensors& in) { return weighed(split(causal_conv(in[0], in[1], in[2], in[3], true), 2, sizes)); };
      const Function parted = [=](const Tensors& in) { return weighed(causal_conv(split(in[0], 2, sizes), in[1], in[2], in[3], true)); };
      CHECK(parted({x, w, b, past}).to_vector<double>() == joined({x, w, b, past}).to_vector<double>());
      const Tensors a = gradients(joined, {x, w, b, past}), c = gradients(parted, {x, w, b, past});
      for (size_t i = 0; i < 4; ++i) CHECK(worst(c[i], a[i]) < 1e-13);
    }
  }

  TEST_CASE("an activation's ends: silu(z) is z far above 0 and 0 far below, and so are its derivatives 1 and 0") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
      const Options kind{dtype, cpu_device};
      const Tensor x = from_vector(std::vector<double>{-1e4, -200, -90, -20, 0, 20, 90, 200, 1e30}, {1, 9, 1}, kind), w = ones({1, 1}, kind);
      const Tensor at = variable(x), y = causal_conv(at, w, {}, {}, true);
      const std::vector<double> values = y.to_vector<double>(), slopes = grad(sum(y), at).to_vector<double>();
      const std::vector<double> want{0, 0, 0, -20 * std::exp(-20.0), 0, 20, 90, 200, 1e30}, want_slopes{0, 0, 0, -19 * std::exp(-20.0), 0.5, 1, 1, 1, 1};
      for (size_t i = 0; i < want.size(); ++i) {
        CAPTURE(i);
        CHECK(std::abs(values[i] - want[i]) <= 3e-6 * std::abs(want[i]) + 1e-30);
        CHECK(std::abs(slopes[i] - want_slopes[i]) <= 3e-6 * std::abs(want_slopes[i]) + 1e-30);
      }
    }
  }

  TEST_CASE("a convolution cut in two, with the past carried over, equals the whole bit for bit") {
    for (const int64_t W : {1, 2, 4, 7})
      for (const int64_t cut : {1, 5, 9}) {
        const Tensor x = random_tensor({2, 12, 70}, 1, Dtype::f32), w = random_tensor({70, W}, 2, Dtype::f32), b = random_tensor({70}, 3, Dtype::f32);
        const Tensor before = concat({zeros({2, W - 1, 70}), slice(x, 1, 0, cut)}, 1);
        const Tensor past = slice(before, 1, cut, cut + W - 1);
        const Tensor joined = concat({causal_conv(slice(x, 1, 0, cut), w, b), causal_conv(slice(x, 1, cut, 12), w, b, past)}, 1);
        CHECK(joined.to_vector<float>() == causal_conv(x, w, b).to_vector<float>());
      }
  }

  TEST_CASE("the future does not reach the past, and d_weight has the same bits for any number of threads") {
    const int before = thread_count();
    const Tensor x = random_tensor({3, 200, 130}, 1, Dtype::f32), w = random_tensor({130, 4}, 2, Dtype::f32), b = random_tensor({130}, 3, Dtype::f32);
    const Tensor late = concat({slice(x, 1, 0, 100), random_tensor({3, 100, 130}, 9, Dtype::f32)}, 1);
    CHECK(slice(causal_conv(x, w, b), 1, 0, 100).to_vector<float>() == slice(causal_conv(late, w, b), 1, 0, 100).to_vector<float>());
    std::vector<Tensors> found;
    for (const int threads : {1, 2, 7}) {
      set_thread_count(threads);
      found.push_back(gradients([](const Tensors& in) { return causal_conv(in[0], in[1], in[2]); }, {x, w, b}));
    }
    set_thread_count(before);
    for (size_t i = 0; i < 3; ++i)
      for (const Tensors& f : found) CHECK(f[i].to_vector<float>() == found[0][i].to_vector<float>());
  }

  TEST_CASE("rotary turns pairs: values, length kept, only distances matter, exact derivatives") {
    for (const Dtype dtype : {Dtype::f64, Dtype::f32}) {
      const Tensor x = random_tensor({2, 5, 3, 8}, 1, dtype);
      const Tensor y = rotary(x, 7, 100);
      const std::vector<double> v = x.to_vector<double>(), r = y.to_vector<double>();
      std::vector<double> want(v.size());
      for (size_t row = 0; row < v.size() / 8; ++row)
        for (size_t i = 0; i < 4; ++i) {
          const double angle = double(7 + row / 3 % 5) * std::pow(100.0, -2.0 * double(i) / 8);
          want[row * 8 + i] = v[row * 8 + i] * std::cos(angle) - v[row * 8 + i + 4] * std::sin(angle);
          want[row * 8 + i + 4] = v[row * 8 + i] * std::sin(angle) + v[row * 8 + i + 4] * std::cos(angle);
        }
      CHECK(worst(r, want) < tolerance(dtype, 1e-14, 3e-7));
      CHECK(worst(sum(square(y), -1), sum(square(x), -1)) < tolerance(dtype, 1e-14, 1e-6));
    }
    // the same key and query at every position: their product depends on the distance alone
    const Tensor q = broadcast_to(random_tensor({1, 1, 1, 6}, 2), {1, 9, 1, 6}), k = broadcast_to(random_tensor({1, 1, 1, 6}, 3), {1, 9, 1, 6});
    const std::vector<double> s = matmul(reshape(rotary(q, 100), {9, 6}), reshape(rotary(k, 100), {9, 6}), false, true).to_vector<double>();
    for (size_t i = 1; i < 9; ++i)
      for (size_t j = 1; j < 9; ++j) CHECK(s[i * 9 + j] == doctest::Approx(s[(i - 1) * 9 + j - 1]).epsilon(1e-12));
    CHECK(std::abs(s[9] - s[1]) > 1e-3);
    const GradCheck g = check([](const Tensors& x) { return rotary(square(x[0]), 3); }, {random_tensor({1, 3, 2, 6}, 4)});
    CAPTURE(g.where);
    CHECK(g.within(1e-8));
    // a wide head passes the tile of pairs; token by token equals all at once
    const Tensor wide = random_tensor({1, 3, 1, 1030}, 5, Dtype::f32);
    CHECK(slice(rotary(wide), 1, 2, 3).to_vector<float>() == rotary(slice(wide, 1, 2, 3), 2).to_vector<float>());
  }

  TEST_CASE("errors name both shapes") {
    CHECK(message([] { rotary(zeros({1, 2, 3, 5})); }) == "[rotary] last axis of x [1, 2, 3, 5] is 5, needs an even size, for it is rotated in pairs");
    CHECK(message([] { rotary(zeros({2, 3, 4})); }) == "[rotary] x is [2, 3, 4], needs four axes [B, T, H, D]; reshape it");
    CHECK(message([] {
            causal_conv(zeros({1, 2, 3}), zeros({4, 2}));
          }) == "[causal_conv] weight is [4, 2], needs [3, W] with W at least 1, one row a channel of x [1, 2, 3]");
    CHECK(message([] { causal_conv(zeros({1, 2, 3}), zeros({3, 4}), {}, zeros({1, 4, 3})); }) ==
          "[causal_conv] past is [1, 4, 3], needs [1, 3, 3], the tokens before x [1, 2, 3] that weight [3, 4] reaches");
    CHECK(message([] { causal_conv(zeros({1, 2, 3}), zeros({3, 4}), zeros({4})); }) == "[causal_conv] bias is [4], needs [3], one a channel of x [1, 2, 3]");
  }
}
