// From a recipe with kernel weights to the logits that the kernels of attention take: one product, a number a head, a number a key.
//   l_ti = scale head_scale q_t.k_i + bias_i, up to what depends on the query alone
//     exponential   exp(k.q)                   scale = the reading's times the kernel's
//     gaussian      exp(-|k - q|^2 / 2h^2)     head_scale /= h^2, bias = -head_scale |k|^2 / 2
//     temperature   head_scale *= temperature (arXiv 2010.04245)
//     norm_weights  q *= w_q w_k (arXiv 2302.05442): (q w_q).(k w_k) = (q w_q w_k).k
//     forget        prod a: bias -= the sum of log a up to the key (arXiv 2503.02130)
#pragma once
#include <ttr/layers/match.hpp>

namespace ttr {

// What the kernels are told beside their tensors.
struct LogitSetting {
  double scale = 1;
  bool strict = false;
  Tensor query_segments, key_segments;   // i32 [B, T], [B, keys]; undefined: one document

  Tensor visible(int64_t tokens, int64_t keys, Options) const;   // 1 where query t may see key i: [B or 1, 1, T, keys]
};

struct KernelLogits {
  Tensor q, k, v;       // [B, T, H, K], [B, keys, Hk, K], [B, keys, Hv, V]: carried pairs in front
  Tensor head_scale;    // [H], or undefined: 1
  Tensor key_bias;      // f64 [B, keys, H], or undefined: 0
  LogitSetting setting;
  Slots state;          // what the call leaves behind, when wanted
};

// Of the weights, the reading and the problem: "" or the first unmet need.
std::string unmet_logits(const Recipe&, const Problem&, DeviceKind);
// scaled_query: q itself times the reading's scale, where the function class sees it too; else the product has that scale.
KernelLogits kernel_logits(const Recipe&, const Arguments&, const Problem&, bool scaled_query = false);

}  // namespace ttr
