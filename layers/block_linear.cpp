// BlockLinear: one product a piece, all pieces as one batch.
#include <numeric>
#include <ttr/core/ops.hpp>
#include <ttr/layers/block_linear.hpp>

namespace ttr {

BlockLinear::BlockLinear(const BlockLinearOptions& o, Init& init) {
  if (o.in < 1 || o.out < 1 || o.size < 1) throw refuse("block_linear", "in is {}, out is {} and size is {}, needs all at least 1", o.in, o.out, o.size);
  const int64_t pieces = std::gcd(o.in / std::gcd(o.in, o.size), o.out);
  weight = init.normal({pieces, o.out / pieces, o.in / pieces}, o.deviation);
}

Tensor BlockLinear::operator()(const Tensor& x) const {
  const int64_t n = weight->size(0), out = weight->size(1), in = weight->size(2), rows = x.size(0) * x.size(1);
  const Tensor y = matmul(transpose(reshape(x, {rows, n, in}), 0, 1), *weight, false, true);   // [n, B T, out / n]
  return reshape(transpose(y, 0, 1), {x.size(0), x.size(1), n * out});
}

}  // namespace ttr
