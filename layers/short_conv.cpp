// ShortConv: the whole sequence, or one token with the last W-1 carried.
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/short_conv.hpp>

namespace ttr {
namespace {

// x_{t-j}, zeros before the first token: [B, T, D]
Tensor delayed(const Tensor& x, int64_t j) { return j == 0 ? x : slice(pad(x, 1, j, 0), 1, 0, x.size(1)); }

}  // namespace

ShortConv::ShortConv(const ShortConvOptions& o, Init& init) {
  if (o.dim < 1 || o.width < 2) throw refuse("short_conv", "dim is {} and width is {}, needs at least 1 and 2", o.dim, o.width);
  const double bound = 1 / std::sqrt(double(o.width));
  weight = init.uniform({o.dim, o.width}, -bound, bound);
}

Tensor ShortConv::operator()(const Tensor& x, const Tensor& segments) const {
  if (!segments.defined()) return silu(causal_conv(x, *weight));
  const Tensor ids = cast(reshape(segments, {x.size(0), x.size(1), 1}), Dtype::f64);
  const Tensor follows = cast(equal(ids, delayed(ids, 1)), x.dtype());   // 1 where the token before is of the same document
  Tensor y, reaches = ones(follows.shape(), like(x));                    // 1 where all of the last j tokens are
  for (int64_t j = 0; j < weight->size(1); ++j) {
    if (j > 0) reaches = reaches * delayed(follows, j - 1);
    const Tensor tap = delayed(x, j) * reaches * reshape(slice(*weight, 1, j, j + 1), {x.size(2)});
    y = y.defined() ? y + tap : tap;
  }
  return silu(y);
}

Tensor ShortConv::step(const Tensor& x, Tensor& past) const {
  const int64_t before = weight->size(1) - 1;
  if (!past.defined()) past = zeros({x.size(0), before, x.size(2)}, like(x));
  const Tensor y = silu(causal_conv(x, *weight, {}, past));
  past = x.size(1) >= before ? slice(x, 1, x.size(1) - before, x.size(1)) : concat({slice(past, 1, x.size(1), before), x}, 1);
  return y;
}

}  // namespace ttr
