// Softmax attention by its definition, in f64, with the softmax's Jacobian written out; and the shapes that every kernel of the stem is
// tried on.
// Plain vectors, dense: q [B, T, H, K], k [B, keys, Hk, K], v [B, keys, Hv, V], y [B, T, H, V], lse [B, H, T].
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <ttr/layers/softmax_attention_kernel.hpp>

namespace ttr::reference {

enum class Documents {
  one,
  packed,
  tangled
};   // packed: one after the other, as a data loader lays them; tangled: any order, some queries alone

struct AttentionCase {
  AttentionSizes size;
  bool strict = false;
  Documents documents = Documents::one;
  double logits = 1;      // how large the logits are, roughly
  int64_t extra = 0;      // columns of a token beside the ones it owns: token_stride = heads * dim + extra
  bool biased = false;    // a scale a head, and a bias a key that rises by about 0.3 a token, as forgetting makes it

  std::string name() const {
    auto n = [](int64_t x) { return std::to_string(x); };
    return "B" + n(size.batch) + " T" + n(size.tokens) + " keys" + n(size.keys) + " H" + n(size.heads) + " Hk" + n(size.key_heads) + " Hv" +
           n(size.value_heads) + " K" + n(size.key_dim) + " V" + n(size.value_dim) + (strict ? " strict" : "") +
           (documents == Documents::one      ? ""
            : documents == Documents::packed ? " packed"
                                             : " tangled") +
           " logits " + std::to_string(int(logits)) + " extra " + n(extra) + (biased ? " biased" : "");
  }
};

inline std::vector<AttentionCase> attention_cases() {
  std::vector<AttentionCase> cases;
  for (int64_t tokens : {1, 2, 63, 64, 65, 130}) cases.push_back({{2, tokens, tokens, 2, 2, 2, 8, 12}});
  for (int64_t key_dim : {8, 60, 64, 128}) cases.push_back({{1, 65, 65, 2, 2, 2, key_dim, 64}});
  cases.push_back({{1, 130, 130, 3, 3, 3, 128, 60}});
  cases.push_back({{1, 65, 65, 2, 1, 1, 128, 128}});
  cases.push_back({{1, 70, 70, 1, 1, 1, 1, 1}});
  for (int64_t carried : {1, 64, 200}) cases.push_back({{2, 65, 65 + carried, 2, 2, 2, 16, 8}});   // keys in front of the first query
  cases.push_back({{3, 1, 150, 2, 1, 2, 60, 64}});                                                 // one decoded token
  cases.push_back({{2, 65, 65, 6, 3, 2, 8, 12}});                                                  // grouped, key and value heads apart
  cases.push_back({{2, 130, 140, 4, 1, 1, 64, 32}});
  cases.push_back({{1, 65, 65, 4, 2, 4, 60, 8}, true});
  cases.push_back({{2, 64, 64, 2, 2, 2, 8, 8}, true});
  cases.push_back({{1, 130, 131, 2, 2, 2, 8, 8}, true});   // strict, one carried key: every query sees one
  cases.push_back({{2, 65, 64, 2, 2, 2, 8, 8}, true});     // fewer keys than queries
  cases.push_back({{1, 3, 0, 2, 2, 2, 8, 8}, true});       // nothing to see at all
  cases.push_back({{2, 130, 130, 2, 1, 2, 16, 24}, false, Documents::packed});
  cases.push_back({{1, 400, 430, 2, 2, 2, 16, 16}, false, Documents::packed});
  cases.push_back({{2, 130, 135, 4, 2, 2, 16, 24}, false, Documents::tangled});
  cases.push_back({{2, 130, 130, 2, 2, 2, 16, 24}, true, Documents::packed});
  cases.push_back({{2, 130, 140, 2, 2, 2, 64, 64}, false, Documents::one, 50});
  cases.push_back({{1, 130, 130, 2, 2, 2, 60, 64}, true, Documents::tangled, 50});
  cases.push_back({{2, 65, 70, 4, 2, 1, 60, 12}, false, Documents::one, 1, 37});
  cases.push_back({{2, 130, 130, 3, 3, 3, 64, 64}, false, Documents::packed, 4, 192});
  for (int64_t tokens : {1, 63, 130}) cases.push_back({{2, tokens, tokens, 2, 2, 2, 8, 12}, false, Documents::one, 1, 0, true});
  cases.push_back({{2, 65, 200, 6, 3, 2, 20, 12}, false, Documents::one, 3, 5, true});
  cases.push_back({{1, 400, 430, 2, 2, 2, 16, 16}, false, Documents::packed, 1, 0, true});
  cases.push_back({{1, 130, 130, 4, 1, 2, 60, 8}, true, Documents::tangled, 1, 0, true});
  cases.push_back({{2, 65, 64, 2, 2, 2, 8, 8}, true, Documents::one, 1, 0, true});
  cases.push_back({{3, 1, 150, 2, 1, 2, 60, 64}, false, Documents::one, 1, 0, true});
  cases.push_back({{1, 600, 610, 2, 1, 2, 8, 8}, false, Documents::one, 1, 0, true});   // the oldest keys are forgotten altogether
  return cases;
}

struct AttentionProblem {
  AttentionSizes size;
  double scale = 1;
  bool strict = false;
  std::vector<int32_t> query_segments, key_segments;   // [B, T], [B, keys]; empty: one document
  std::vector<double> q, k, v, dy;
  std::vector<double> head_scale, key_bias;            // [H], [B, keys, H]; empty: none
};

struct AttentionResult {
  std::vector<double> y, lse, dq, dk, dv;
  std::vector<double> d_head_scale = {}, d_key_bias = {};   // [B, H, T], [B, keys, H]; empty without
};

struct Numbers {   // a fixed sequence of numbers, the same on every machine
  uint64_t state;
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return double(next() >> 11) * 0x1p-53; }
  std::vector<double> spread(int64_t count) {   // mean 0, variance 1
    std::vector<double> x(static_cast<size_t>(count));
    for (double& value : x) value = (uniform() + uniform() + uniform() + uniform() - 2) * std::sqrt(3.0);
    return x;
  }
};

inline AttentionProblem attention_problem(const AttentionCase& from, uint64_t seed) {
  const AttentionSizes& s = from.size;
  Numbers numbers{seed};
  AttentionProblem p;
  p.size = s;
  p.strict = from.strict;
  p.scale = from.logits / std::sqrt(double(s.key_dim));
  p.q = numbers.spread(s.batch * s.tokens * s.heads * s.key_dim);
  p.k = numbers.spread(s.batch * s.keys * s.key_heads * s.key_dim);
  p.v = numbers.spread(s.batch * s.keys * s.value_heads * s.value_dim);
  p.dy = numbers.spread(s.batch * s.tokens * s.heads * s.value_dim);
  if (from.biased) {
    for (int64_t h = 0; h < s.heads; ++h) p.head_scale.push_back(0.5 + numbers.uniform());
    for (int64_t i = 0; i < s.batch * s.keys * s.heads; ++i)
      p.key_bias.push_back(0.3 * double(i / s.heads % s.keys) + numbers.uniform());
  }
  if (from.documents == Documents::one) return p;
  for (int64_t b = 0; b < s.batch; ++b) {
    std::vector<int32_t> at_key;
    for (int64_t i = 0; i < s.keys; ++i)
      at_key.push_back(from.documents == Documents::packed ? int32_t((i + 11 * b) / 47) - 1 : int32_t(numbers.next() % 5) - 2);
    for (int64_t t = 0; t < s.tokens; ++t) {
      const bool alone = from.documents == Documents::tangled && t % 17 == 3;   // a document without keys
      p.query_segments.push_back(alone ? 1000 : at_key[size_t(t + s.keys - s.tokens)]);
    }
    p.key_segments.insert(p.key_segments.end(), at_key.begin(), at_key.end());
  }
  return p;
}

inline bool is_visible(const AttentionProblem& p, int64_t b, int64_t t, int64_t i) {
  const int64_t newest = t + (p.size.keys - p.size.tokens);
  if (p.strict ? i >= newest : i > newest) return false;
  return p.query_segments.empty() || p.query_segments[size_t(b * p.size.tokens + t)] == p.key_segments[size_t(b * p.size.keys + i)];
}

inline AttentionResult attention(const AttentionProblem& p) {
  const AttentionSizes& s = p.size;
  AttentionResult r;
  r.y.assign(p.dy.size(), 0);
  r.dq.assign(p.q.size(), 0);
  r.dk.assign(p.k.size(), 0);
  r.dv.assign(p.v.size(), 0);
  r.lse.assign(size_t(s.batch * s.heads * s.tokens), -std::numeric_limits<double>::infinity());
  const bool biased = !p.key_bias.empty();
  if (biased) r.d_key_bias.assign(p.key_bias.size(), 0), r.d_head_scale.assign(r.lse.size(), 0);
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t h = 0; h < s.heads; ++h)
      for (int64_t t = 0; t < s.tokens; ++t) {
        const size_t query = size_t((b * s.tokens + t) * s.heads + h);
        auto key_row = [&](int64_t i) { return size_t((b * s.keys + i) * s.key_heads + h * s.key_heads / s.heads) * size_t(s.key_dim); };
        auto value_row = [&](int64_t i) {
          return size_t((b * s.keys + i) * s.value_heads + h * s.value_heads / s.heads) * size_t(s.value_dim);
        };
        const double* q = p.q.data() + query * size_t(s.key_dim);
        const double* dy = p.dy.data() + query * size_t(s.value_dim);
        const double scale = p.scale * (biased ? p.head_scale[size_t(h)] : 1);
        auto bias_at = [&](int64_t i) { return size_t((b * s.keys + i) * s.heads + h); };
        const int64_t newest = std::clamp<int64_t>(t + s.keys - s.tokens - (p.strict ? 1 : 0), 0, s.keys - 1);
        std::vector<int64_t> seen;
        std::vector<double> logit, product;
        double largest = -std::numeric_limits<double>::infinity();
        for (int64_t i = 0; i < s.keys; ++i)
          if (is_visible(p, b, t, i)) {
            double l = 0;
            for (int64_t d = 0; d < s.key_dim; ++d) l += q[d] * p.k[key_row(i) + size_t(d)];
            seen.push_back(i);
            product.push_back(p.scale * l);
            logit.push_back(scale * l + (biased ? p.key_bias[bias_at(i)] - p.key_bias[bias_at(newest)] : 0));
            largest = std::max(largest, logit.back());
          }
        if (seen.empty()) continue;
        double total = 0;
        for (double l : logit) total += std::exp(l - largest);
        r.lse[size_t((b * s.heads + h) * s.tokens + t)] = largest + std::log(total);
        std::vector<double> probability, d_probability;
        double mean = 0;   // of d_probability under p
        for (size_t j = 0; j < seen.size(); ++j) {
          const double weight = std::exp(logit[j] - largest) / total;
          double d_weight = 0;
          for (int64_t d = 0; d < s.value_dim; ++d) {
            const double value = p.v[value_row(seen[j]) + size_t(d)];
            r.y[query * size_t(s.value_dim) + size_t(d)] += weight * value;
            d_weight += dy[d] * value;
            r.dv[value_row(seen[j]) + size_t(d)] += weight * dy[d];
          }
          probability.push_back(weight);
          d_probability.push_back(d_weight);
          mean += weight * d_weight;
        }
        for (size_t j = 0; j < seen.size(); ++j) {
          const double d_logit = probability[j] * (d_probability[j] - mean);
          for (int64_t d = 0; d < s.key_dim; ++d) {
            r.dq[query * size_t(s.key_dim) + size_t(d)] += scale * d_logit * p.k[key_row(seen[j]) + size_t(d)];
            r.dk[key_row(seen[j]) + size_t(d)] += scale * d_logit * q[d];
          }
          if (!biased) continue;
          r.d_head_scale[size_t((b * s.heads + h) * s.tokens + t)] += d_logit * product[j];
          r.d_key_bias[bias_at(seen[j])] += d_logit;
        }
      }
  return r;
}

// dense [rows, width] <-> rows `stride` apart, as a kernel sees columns of a fused projection
template <class T> std::vector<T> lay_out(const std::vector<double>& dense, int64_t width, int64_t stride, T between) {
  const int64_t rows = width == 0 ? 0 : int64_t(dense.size()) / width;
  std::vector<T> out(size_t(rows * stride), between);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c) out[size_t(r * stride + c)] = T(dense[size_t(r * width + c)]);
  return out;
}

template <class T> std::vector<double> take_up(const std::vector<T>& laid, int64_t width, int64_t stride) {
  std::vector<double> out;
  for (size_t start = 0; start < laid.size(); start += size_t(stride))
    for (int64_t c = 0; c < width; ++c) out.push_back(double(laid[start + size_t(c)]));
  return out;
}

}  // namespace ttr::reference
