// ShortConv: the whole sequence, or one token with the last W-1 carried.
#include <algorithm>
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/short_conv.hpp>

namespace ttr {
namespace {

// x_{t-j}, zeros before the first token: [B, T, D]
Tensor delayed(const Tensor& x, int64_t j) { return j == 0 ? x : slice(pad(x, 1, j, 0), 1, 0, x.size(1)); }

// The convolution with nothing read across documents: x [B, T, D], w [D, W], segments [B, T] -> [B, T, D]
Tensor within_documents(const Tensor& x, const Tensor& w, const Tensor& segments) {
  const Tensor ids = cast(reshape(segments, {x.size(0), x.size(1), 1}), Dtype::f64);
  const Tensor follows = cast(equal(ids, delayed(ids, 1)), x.dtype());   // 1 where the token before is of the same document
  Tensor y, reaches = ones(follows.shape(), like(x));                    // 1 where all of the last j tokens are
  for (int64_t j = 0; j < w.size(1); ++j) {
    if (j > 0) reaches = reaches * delayed(follows, j - 1);
    const Tensor tap = delayed(x, j) * reaches * reshape(slice(w, 1, j, j + 1), {x.size(2)});
    y = y.defined() ? y + tap : tap;
  }
  return y;
}

}  // namespace

ShortConv::ShortConv(const ShortConvOptions& o, Init& init) {
  if (o.dim < 1 || o.width < 2) throw refuse("short_conv", "dim is {} and width is {}, needs at least 1 and 2", o.dim, o.width);
  const double bound = 1 / std::sqrt(double(o.width));
  weight = init.uniform({o.dim, o.width}, -bound, bound).outer();
  if (o.bias) bias = init.uniform({o.dim}, -bound, bound, false);
}

Tensor ShortConv::operator()(const Tensor& x, const Tensor& segments) const { return (*this)(Tensors{x}, segments)[0]; }

Tensors ShortConv::operator()(const Tensors& parts, const Tensor& segments) const {
  if (!segments.defined()) return causal_conv(parts, *weight, bias.defined() ? *bias : Tensor(), {}, true);
  Tensors ys;
  int64_t row = 0;
  for (const Tensor& x : parts) {
    const int64_t end = row + x.size(2);
    const Tensor y = within_documents(x, slice(*weight, 0, row, end), segments);
    ys.push_back(silu(bias.defined() ? y + slice(*bias, 0, row, end) : y));
    row = end;
  }
  return ys;
}

Tensors ShortConv::step(const Tensors& parts, Tensor& past) const {
  const int64_t before = weight->size(1) - 1, tokens = parts[0].size(1);
  if (!past.defined()) past = zeros({parts[0].size(0), before, weight->size(0)}, like(parts[0]));
  const Tensors ys = causal_conv(parts, *weight, bias.defined() ? *bias : Tensor(), past, true);
  Tensors last;   // of each part, as many tokens as there are of the at most `before` that count on
  const int64_t fresh = std::min(tokens, before);
  for (const Tensor& part : parts) last.push_back(slice(part, 1, tokens - fresh, tokens));
  const Tensor now = last.size() == 1 ? last[0] : concat(last, 2);
  past = fresh == before ? now : concat({slice(past, 1, fresh, before), now}, 1);
  return ys;
}

}  // namespace ttr
