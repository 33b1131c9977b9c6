// The CUDA kernels of softmax attention against the definition in softmax_attention_reference.hpp, in f64, f32 and bf16.
#include <doctest/doctest.h>

#if TTR_WITH_CUDA
#include <algorithm>
#include <ttr/tests/device_buffers.hpp>
#include <ttr/tests/softmax_attention_reference.hpp>

using namespace ttr;
using namespace ttr::reference;

namespace {

template <class T> AttentionResult run(const AttentionProblem& p, int64_t extra = 0, int only = -1) {   // only: 0 dq, 1 dk, 2 dv, 3, 4 the biases'
  const AttentionSizes& s = p.size;
  const T nan = T(std::numeric_limits<double>::quiet_NaN());
  const int64_t q_width = s.heads * s.key_dim, k_width = s.key_heads * s.key_dim, v_width = s.value_heads * s.value_dim, y_width = s.heads * s.value_dim;
  const int64_t q_stride = q_width + extra, k_stride = k_width + extra, v_stride = v_width + extra, y_stride = y_width + extra;
  auto q = lay_out<T>(p.q, q_width, q_stride, nan), k = lay_out<T>(p.k, k_width, k_stride, nan), v = lay_out<T>(p.v, v_width, v_stride, nan),
       dy = lay_out<T>(p.dy, y_width, y_stride, nan);
  std::vector<T> y(dy.size(), nan), dq(q.size(), nan), dk(k.size(), nan), dv(v.size(), nan);
  std::vector<Wide<T>> lse(size_t(s.batch * s.heads * s.tokens), std::numeric_limits<Wide<T>>::quiet_NaN());
  auto query_segments = p.query_segments, key_segments = p.key_segments;
  const bool biased = !p.key_bias.empty();
  std::vector<Wide<T>> head_scale(p.head_scale.begin(), p.head_scale.end()), d_head_scale(biased ? lse.size() : 0, std::numeric_limits<Wide<T>>::quiet_NaN());
  std::vector<double> key_bias = p.key_bias, d_key_bias(p.key_bias.size(), std::numeric_limits<double>::quiet_NaN());

  DeviceBuffers device;
  AttentionForward<T> f{.size = s,
                        .q = {device(q), q_stride},
                        .k = {device(k), k_stride},
                        .v = {device(v), v_stride},
                        .scale = Wide<T>(p.scale),
                        .head_scale = biased ? device(head_scale) : nullptr,
                        .key_bias = biased ? device(key_bias) : nullptr,
                        .strict = p.strict,
                        .query_segments = query_segments.empty() ? nullptr : device(query_segments),
                        .key_segments = query_segments.empty() ? nullptr : device(key_segments),
                        .y = {device(y), y_stride},
                        .lse = device(lse)};
  REQUIRE(cuda::softmax_attention_forward(f, device.scratch(cuda::softmax_attention_workspace(f)), cuda::stream()) == Status::ok);
  AttentionBackward<T> g{.size = s, .q = f.q, .k = f.k, .v = f.v, .scale = f.scale, .head_scale = f.head_scale, .key_bias = f.key_bias,
                         .strict = p.strict, .query_segments = f.query_segments,
                         .key_segments = f.key_segments, .y = {f.y.at, y_stride}, .lse = f.lse, .dy = {device(dy), y_stride}, .dq = {}, .dk = {}, .dv = {}};
  T *const to_q = device(dq), *const to_k = device(dk), *const to_v = device(dv);
  if (only < 0 || only == 0) g.dq = {to_q, q_stride};
  if (only < 0 || only == 1) g.dk = {to_k, k_stride};
  if (only < 0 || only == 2) g.dv = {to_v, v_stride};
  if (biased && (only < 0 || only == 3)) g.d_head_scale = device(d_head_scale);
  if (biased && (only < 0 || only == 4)) g.d_key_bias = device(d_key_bias);
  REQUIRE(cuda::softmax_attention_backward(g, device.scratch(cuda::softmax_attention_workspace(g)), cuda::stream()) == Status::ok);
  CHECK(device.download());
  return {take_up(y, y_width, y_stride),
          {lse.begin(), lse.end()},
          take_up(dq, q_width, q_stride),
          take_up(dk, k_width, k_stride),
          take_up(dv, v_width, v_stride),
          {d_head_scale.begin(), d_head_scale.end()},
          d_key_bias};
}

template <class T> AttentionProblem rounded_to(AttentionProblem p) {
  for (auto* x : {&p.q, &p.k, &p.v, &p.dy})
    for (double& value : *x) value = double(T(value));
  for (double& value : p.head_scale) value = double(Wide<T>(value));
  p.scale = double(Wide<T>(p.scale));
  return p;
}

// The largest |a - b| over the larger of 1 and |b|; infinite where one is NaN or only one is infinite.
double worst(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    const double error = std::abs(a[i] - b[i]) / std::max(1.0, std::abs(b[i]));
    worst = error >= 0 ? std::max(worst, error) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

// |a - b|_F / |b|_F; entries smaller than `size` on average are measured against it.
double norm_error(const std::vector<double>& a, const std::vector<double>& b, double size = 0) {
  double difference = 0, square = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    square += b[i] * b[i];
  }
  const double against = std::max(std::sqrt(square), size * std::sqrt(double(b.size())));
  return against == 0 ? std::sqrt(difference) : std::sqrt(difference) / against;
}

}  // namespace

TEST_SUITE("cuda_softmax_attention_kernel") {
  TEST_CASE("f64 agrees with the definition") {
    if (no_gpu()) return;
    uint64_t seed = 1;
    for (const AttentionCase& c : attention_cases()) {
      CAPTURE(c.name());
      CAPTURE(seed);
      const AttentionProblem p = attention_problem(c, seed++);
      const AttentionResult truth = attention(p), got = run<double>(p, c.extra);
      const double grown = std::max(1.0, c.logits / 10);   // rounding of the logits themselves
      CHECK(worst(got.y, truth.y) < 1e-12 * grown);
      CHECK(worst(got.lse, truth.lse) < 1e-12 * grown);
      CHECK(worst(got.dq, truth.dq) < 1e-10);
      CHECK(worst(got.dk, truth.dk) < 1e-10);
      CHECK(worst(got.dv, truth.dv) < 1e-10);
      CHECK(worst(got.d_head_scale, truth.d_head_scale) < 1e-10);
      CHECK(worst(got.d_key_bias, truth.d_key_bias) < 1e-10);
    }
  }

  TEST_CASE("f32 agrees with f64 as the CPU's does") {
    if (no_gpu()) return;
    uint64_t seed = 1;
    for (const AttentionCase& c : attention_cases()) {
      CAPTURE(c.name());
      CAPTURE(seed);
      const AttentionProblem p = rounded_to<float>(attention_problem(c, seed++));
      const AttentionResult truth = attention(p), got = run<float>(p, c.extra);
      const double bound = 2e-6 * std::max(c.biased ? 2.0 : 1.0, c.logits / 2);   // an error of a logit is a relative error of its weight
      CHECK(norm_error(got.y, truth.y) < bound);
      CHECK(worst(got.lse, truth.lse) < bound);
      CHECK(norm_error(got.dq, truth.dq, 0.1) < bound);
      CHECK(norm_error(got.dk, truth.dk, 0.1) < bound);
      CHECK(norm_error(got.dv, truth.dv) < bound);
      CHECK(worst(got.d_head_scale, truth.d_head_scale) < 8 * bound);   // each is a sum of terms of both signs, about as large as the logits
      CHECK(worst(got.d_key_bias, truth.d_key_bias) < 4 * bound);
    }
  }

  TEST_CASE("bf16 agrees with f64 of the rounded inputs within 4 x 2^-8") {
    if (no_gpu()) return;
    uint64_t seed = 1;
    for (const AttentionCase& c : attention_cases()) {
      CAPTURE(c.name());
      CAPTURE(seed);
      const AttentionProblem p = rounded_to<bf16>(attention_problem(c, seed++));
      const AttentionResult truth = attention(p), got = run<bf16>(p, c.extra);
      const double bound = 4.0 / 256;
      CHECK(norm_error(got.y, truth.y) < bound);
      CHECK(worst(got.lse, truth.lse) < 1e-5 * std::max(1.0, c.logits / 2));
      // dq and dk are differences of dy.v and dy.y; the backward reads y rounded to bf16, so where they cancel the rounding of y remains.
      CHECK(norm_error(got.dq, truth.dq, 0.5) < bound);
      CHECK(norm_error(got.dk, truth.dk, 0.5) < bound);
      CHECK(norm_error(got.dv, truth.dv) < bound);
      CHECK(norm_error(got.d_head_scale, truth.d_head_scale, 0.5) < bound);
      CHECK(norm_error(got.d_key_bias, truth.d_key_bias, 0.5) < bound);
    }
  }

  TEST_CASE("a gradient asked for alone is the one asked for together; the same bits twice") {
    if (no_gpu()) return;
    const AttentionProblem p = attention_problem({{2, 130, 135, 4, 2, 4, 16, 24}, false, Documents::packed, 1, 0, true}, 5);
    const AttentionResult all = run<double>(p), again = run<double>(p);
    CHECK((all.y == again.y && all.dq == again.dq && all.dk == again.dk && all.dv == again.dv && all.d_key_bias == again.d_key_bias));
    const auto nothing = [](const std::vector<double>& x) { return std::all_of(x.begin(), x.end(), [](double value) { return std::isnan(value); }); };
    for (int only = 0; only < 5; ++only) {
      CAPTURE(only);
      const AttentionResult one = run<double>(p, 0, only);
      CHECK((only == 0 ? one.dq == all.dq : nothing(one.dq)));
      CHECK((only == 1 ? one.dk == all.dk : nothing(one.dk)));
      CHECK((only == 2 ? one.dv == all.dv : nothing(one.dv)));
      CHECK((only == 3 ? one.d_head_scale == all.d_head_scale : nothing(one.d_head_scale)));
      CHECK((only == 4 ? one.d_key_bias == all.d_key_bias : nothing(one.d_key_bias)));
    }
  }

  TEST_CASE("no query sees the future, bit for bit") {
    if (no_gpu()) return;
    const AttentionCase c{{1, 150, 160, 2, 2, 2, 16, 12}};
    const AttentionProblem p = attention_problem(c, 11);
    AttentionProblem other = p;
    const int64_t changed = 90;   // keys from here on; query t sees keys up to t + 10
    for (size_t i = size_t(changed * 32); i < other.k.size(); ++i) other.k[i] = 30 - other.k[i];
    for (size_t i = size_t(changed * 24); i < other.v.size(); ++i) other.v[i] += 1e3;
    const AttentionResult a = run<float>(p), b = run<float>(other);
    const int64_t touched = (changed - 10) * 24;
    CHECK(std::equal(a.y.begin(), a.y.begin() + touched, b.y.begin()));
    CHECK(!std::equal(a.y.begin() + touched, a.y.begin() + touched + 24, b.y.begin() + touched));
  }
}
#else
TEST_SUITE("cuda_softmax_attention_kernel") {
  TEST_CASE("skipped") { MESSAGE("skipped: built without CUDA"); }
}
#endif
