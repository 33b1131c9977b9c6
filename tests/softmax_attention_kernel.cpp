// The CPU kernel of softmax attention against the definition in softmax_attention_reference.hpp.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>
#include <ttr/layers/softmax_attention_kernel.hpp>

#include "softmax_attention_reference.hpp"

namespace {
using namespace ttr;
using namespace ttr::reference;

struct Wanted {
  bool dq = true, dk = true, dv = true, biases = true;
};

// Scratch of exactly the bytes the kernel asked for, full of NaN, with a fence behind it.
struct Scratch {
  static constexpr size_t kFence = 256;
  size_t asked;
  std::vector<unsigned char> bytes;
  explicit Scratch(size_t size) : asked(size), bytes(size + kFence, 0xff) {}
  operator Workspace() { return {bytes.data(), asked}; }
  bool intact() const { return std::all_of(bytes.begin() + int64_t(asked), bytes.end(), [](unsigned char c) { return c == 0xff; }); }
};

template <class T> bool only_nan_between(const std::vector<T>& laid, int64_t width, int64_t stride) {
  for (size_t i = 0; i < laid.size(); ++i)
    if (int64_t(i) % stride >= width && !std::isnan(laid[i])) return false;
  return true;
}

template <class T> AttentionResult run_kernel(const AttentionProblem& p, int64_t extra = 0, Wanted wanted = {}) {
  const AttentionSizes& s = p.size;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const int64_t q_width = s.heads * s.key_dim, k_width = s.key_heads * s.key_dim, v_width = s.value_heads * s.value_dim,
                y_width = s.heads * s.value_dim;
  const int64_t q_stride = q_width + extra, k_stride = k_width + extra, v_stride = v_width + extra, y_stride = y_width + extra;
  const auto q = lay_out<T>(p.q, q_width, q_stride, nan), k = lay_out<T>(p.k, k_width, k_stride, nan),
             v = lay_out<T>(p.v, v_width, v_stride, nan), dy = lay_out<T>(p.dy, y_width, y_stride, nan);
  std::vector<T> y(dy.size(), nan), dq(q.size(), nan), dk(k.size(), nan), dv(v.size(), nan), lse(size_t(s.batch * s.heads * s.tokens), nan);
  const int32_t* query_segments = p.query_segments.empty() ? nullptr : p.query_segments.data();
  const int32_t* key_segments = p.query_segments.empty() ? nullptr : p.key_segments.data();
  const bool biased = !p.key_bias.empty();
  const std::vector<T> head_scale(p.head_scale.begin(), p.head_scale.end());
  std::vector<T> d_head_scale(biased ? lse.size() : 0, nan);
  std::vector<double> d_key_bias(p.key_bias.size(), nan);

  AttentionForward<T> f{.size = s,
                        .q = {q.data(), q_stride},
                        .k = {k.data(), k_stride},
                        .v = {v.data(), v_stride},
                        .scale = T(p.scale),
                        .head_scale = biased ? head_scale.data() : nullptr,
                        .key_bias = biased ? p.key_bias.data() : nullptr,
                        .strict = p.strict,
                        .query_segments = query_segments,
                        .key_segments = key_segments,
                        .y = {y.data(), y_stride},
                        .lse = lse.data()};
  Scratch forward(cpu::softmax_attention_workspace(f));
  CHECK(cpu::softmax_attention_forward(f, forward) == Status::ok);
  CHECK(forward.intact());

  AttentionBackward<T> g{.size = s,
                         .q = f.q,
                         .k = f.k,
                         .v = f.v,
                         .scale = f.scale,
                         .head_scale = f.head_scale,
                         .key_bias = f.key_bias,
                         .strict = p.strict,
                         .query_segments = query_segments,
                         .key_segments = key_segments,
                         .y = {y.data(), y_stride},
                         .lse = lse.data(),
                         .dy = {dy.data(), y_stride},
                         .dq = {},
                         .dk = {},
                         .dv = {}};
  if (wanted.dq) g.dq = {dq.data(), q_stride};
  if (wanted.dk) g.dk = {dk.data(), k_stride};
  if (wanted.dv) g.dv = {dv.data(), v_stride};
  if (biased && wanted.biases) g.d_head_scale = d_head_scale.data(), g.d_key_bias = d_key_bias.data();
  Scratch backward(cpu::softmax_attention_workspace(g));
  CHECK(cpu::softmax_attention_backward(g, backward) == Status::ok);
  CHECK(backward.intact());
  CHECK(only_nan_between(y, y_width, y_stride));
  CHECK(only_nan_between(dq, q_width, q_stride));
  CHECK(only_nan_between(dk, k_width, k_stride));
  CHECK(only_nan_between(dv, v_width, v_stride));
  return {take_up(y, y_width, y_stride),
          {lse.begin(), lse.end()},
          take_up(dq, q_width, q_stride),
          take_up(dk, k_width, k_stride),
          take_up(dv, v_width, v_stride),
          {d_head_scale.begin(), d_head_scale.end()},
          d_key_bias};
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

double norm_error(const std::vector<double>& a, const std::vector<double>& b) {   // |a - b|_F / |b|_F
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return size == 0 ? std::sqrt(difference) : std::sqrt(difference / size);
}

AttentionProblem rounded(AttentionProblem p) {   // inputs that f32 holds exactly
  for (auto* x : {&p.q, &p.k, &p.v, &p.dy})
    for (double& value : *x) value = double(float(value));
  for (double& value : p.head_scale) value = double(float(value));
  p.scale = double(float(p.scale));
  return p;
}
}  // namespace

TEST_SUITE("softmax_attention_kernel") {
  TEST_CASE("the reference's gradients are its differences") {
    for (const AttentionCase& c :
         {AttentionCase{{1, 5, 7, 4, 2, 1, 3, 4}}, AttentionCase{{1, 6, 6, 2, 2, 2, 3, 2}, true, Documents::tangled, 2},
          AttentionCase{{2, 5, 7, 4, 2, 1, 3, 4}, false, Documents::one, 1, 0, true}}) {
      AttentionProblem p = attention_problem(c, 3);
      const AttentionResult truth = attention(p);
      auto loss = [&] {
        const std::vector<double> y = attention(p).y;
        double sum = 0;
        for (size_t i = 0; i < y.size(); ++i) sum += y[i] * p.dy[i];
        return sum;
      };
      auto check = [&](std::vector<double>& x, const std::vector<double>& gradient) {
        for (size_t i = 0; i < x.size(); i += 3) {
          const double kept = x[i], step = 1e-5;
          x[i] = kept + step;
          const double above = loss();
          x[i] = kept - step;
          const double below = loss();
          x[i] = kept;
          CHECK(gradient[i] == doctest::Approx((above - below) / (2 * step)).epsilon(1e-7));
        }
      };
      check(p.q, truth.dq);
      check(p.k, truth.dk);
      check(p.v, truth.dv);
      check(p.key_bias, truth.d_key_bias);
      std::vector<double> d_scale(p.head_scale.size(), 0);
      for (size_t i = 0; i < truth.d_head_scale.size(); ++i) d_scale[i / size_t(p.size.tokens) % size_t(p.size.heads)] += truth.d_head_scale[i];
      check(p.head_scale, d_scale);
    }
  }

  TEST_CASE("f64 agrees with the definition") {
    uint64_t seed = 1;
    for (const AttentionCase& c : attention_cases()) {
      CAPTURE(c.name());
      CAPTURE(seed);
      const AttentionProblem p = attention_problem(c, seed++);
      const AttentionResult truth = attention(p), got = run_kernel<double>(p, c.extra);
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

  TEST_CASE("f32 agrees with f64") {
    uint64_t seed = 1;
    for (const AttentionCase& c : attention_cases()) {
      CAPTURE(c.name());
      CAPTURE(seed);
      const AttentionProblem p = rounded(attention_problem(c, seed++));
      const AttentionResult truth = attention(p), got = run_kernel<float>(p, c.extra);
      const double bound = 2e-6 * std::max(c.biased ? 2.0 : 1.0, c.logits / 2);   // an error of a logit is a relative error of its weight
      CHECK(norm_error(got.y, truth.y) < bound);
      CHECK(worst(got.lse, truth.lse) < bound);
      CHECK(norm_error(got.dq, truth.dq) < bound);
      CHECK(norm_error(got.dk, truth.dk) < bound);
      CHECK(norm_error(got.dv, truth.dv) < bound);
      CHECK(worst(got.d_head_scale, truth.d_head_scale) < 8 * bound);   // each is a sum of terms of both signs, about as large as the logits
      CHECK(worst(got.d_key_bias, truth.d_key_bias) < 4 * bound);
    }
  }

  TEST_CASE("a gradient nobody needs is left alone and changes no other") {
    for (const AttentionCase& c :
         {AttentionCase{{2, 130, 135, 4, 2, 4, 16, 24}, false, Documents::packed}, AttentionCase{{1, 65, 65, 2, 2, 2, 8, 8}, true},
          AttentionCase{{1, 130, 135, 4, 2, 4, 16, 24}, false, Documents::packed, 1, 0, true}}) {
      const AttentionProblem p = attention_problem(c, 5);
      const AttentionResult all = run_kernel<double>(p);
      for (int mask = 0; mask < 16; ++mask) {
        CAPTURE(mask);
        const Wanted wanted{(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0, (mask & 8) != 0};
        const AttentionResult some = run_kernel<double>(p, 0, wanted);
        auto nothing = [](const std::vector<double>& x) {
          return std::all_of(x.begin(), x.end(), [](double value) { return std::isnan(value); });
        };
        CHECK((wanted.dq ? some.dq == all.dq : nothing(some.dq)));
        CHECK((wanted.dk ? some.dk == all.dk : nothing(some.dk)));
        CHECK((wanted.dv ? some.dv == all.dv : nothing(some.dv)));
        CHECK((wanted.biases ? some.d_head_scale == all.d_head_scale : nothing(some.d_head_scale)));
        CHECK((wanted.biases ? some.d_key_bias == all.d_key_bias : nothing(some.d_key_bias)));
      }
    }
  }

  TEST_CASE("the same bits for every number of threads") {
    const AttentionProblem p = attention_problem({{2, 200, 210, 4, 2, 1, 32, 24}, false, Documents::packed}, 7);
    const int before = thread_count();
    set_thread_count(1);
    const AttentionResult alone = run_kernel<float>(p);
    for (int threads : {2, 3}) {
      set_thread_count(threads);
      const AttentionResult together = run_kernel<float>(p);
      CHECK(alone.y == together.y);
      CHECK(alone.lse == together.lse);
      CHECK(alone.dq == together.dq);
      CHECK(alone.dk == together.dk);
      CHECK(alone.dv == together.dv);
    }
    set_thread_count(before);
  }

  TEST_CASE("no query sees the future, bit for bit") {
    const AttentionCase c{{1, 150, 160, 2, 2, 2, 16, 12}};
    const AttentionProblem p = attention_problem(c, 11);
    AttentionProblem other = p;
    const int64_t changed = 90;   // keys from here on; query t sees keys up to t + 10
    const int64_t k_width = c.size.key_heads * c.size.key_dim, v_width = c.size.value_heads * c.size.value_dim,
                  y_width = c.size.heads * c.size.value_dim;
    for (size_t i = size_t(changed * k_width); i < other.k.size(); ++i) other.k[i] = 30 - other.k[i];
    for (size_t i = size_t(changed * v_width); i < other.v.size(); ++i) other.v[i] += 1e3;
    const AttentionResult a = run_kernel<float>(p), b = run_kernel<float>(other);
    const int64_t first_touched = changed - 10;
    CHECK(std::equal(a.y.begin(), a.y.begin() + first_touched * y_width, b.y.begin()));
    CHECK(!std::equal(a.y.begin() + first_touched * y_width, a.y.begin() + (first_touched + 1) * y_width,
                      b.y.begin() + first_touched * y_width));
  }

  TEST_CASE("impossible sizes and too little scratch are said, not computed") {
    float number = 0;
    AttentionForward<float> f{.size = {1, 1, 1, 1, 1, 1, 1, 1}, .q = {&number, 1}, .k = {&number, 1}, .v = {&number, 1}, .y = {&number, 1}};
    CHECK(cpu::softmax_attention_forward(f, Workspace{}) == Status::small_workspace);
    f.size.key_heads = 2;
    CHECK(cpu::softmax_attention_forward(f, Workspace{}) == Status::bad_size);
    f.size.key_heads = 1;
    f.size.tokens = 2;
    CHECK(cpu::softmax_attention_forward(f, Workspace{}) == Status::bad_size);
    AttentionBackward<double> g;
    g.size = {1, 4, 4, 4, 2, 2, 8, 8};
    CHECK(cpu::softmax_attention_backward(g, Workspace{}) == Status::small_workspace);
    f.size = {1, 0, 0, 1, 1, 1, 1, 1};
    CHECK(cpu::softmax_attention_forward(f, Workspace{}) == Status::ok);
  }

  TEST_CASE("fast_exp is exact to 1e-7, and 0, infinite or NaN at the ends") {
    double error = 0;
    for (double x = -86.9; x < 88.7; x += 0.000371)
      error = std::max(error, std::abs(double(fast_exp(float(x))) / std::exp(double(float(x))) - 1));
    CHECK(error < 1e-7);
    CHECK(fast_exp(0.0f) == 1.0f);
    CHECK(fast_exp(-std::numeric_limits<float>::infinity()) == 0.0f);
    CHECK(fast_exp(-90.0f) == 0.0f);
    CHECK(std::isinf(fast_exp(89.0f)));
    CHECK(std::isinf(fast_exp(std::numeric_limits<float>::infinity())));
    CHECK(std::isnan(fast_exp(std::numeric_limits<float>::quiet_NaN())));
  }
}
