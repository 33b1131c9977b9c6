// BlockLinear: one product a piece, all pieces as one batch. Products of 4 x 4 are slow on every machine, so where there are many rows some pieces
// stand together in one larger matrix with zeros between them: more operations in less time.
#include <algorithm>
#include <numeric>
#include <ttr/core/ops.hpp>
#include <ttr/layers/block_linear.hpp>

namespace ttr {
namespace {

constexpr int64_t kTogether = 64;   // channels of the pieces that share a matrix, at most; fewer rows than this go piece by piece

int64_t pieces_together(int64_t n, int64_t channels) {   // the largest divisor of n that fits
  int64_t g = std::max<int64_t>(1, std::min(n, kTogether / channels));
  while (n % g) --g;
  return g;
}

// [n, o, i] -> [n / g, g o, g i]: g matrices along the diagonal
Tensor along_diagonal(const Tensor& w, int64_t g) {
  const int64_t n = w.size(0), o = w.size(1), i = w.size(2);
  const Tensor own = reshape(identity(g, like(w)), {1, g, 1, g, 1});
  return reshape(reshape(w, {n / g, g, o, 1, i}) * own, {n / g, g * o, g * i});
}

}  // namespace

BlockLinear::BlockLinear(const BlockLinearOptions& o, Init& init) {
  if (o.in < 1 || o.out < 1 || o.size < 1) throw refuse("block_linear", "in is {}, out is {} and size is {}, needs all at least 1", o.in, o.out, o.size);
  const int64_t pieces = std::gcd(o.in / std::gcd(o.in, o.size), o.out);
  weight = init.normal({pieces, o.out / pieces, o.in / pieces}, o.deviation);
}

Tensor BlockLinear::operator()(const Tensor& x) const {
  const int64_t n = weight->size(0), out = weight->size(1), in = weight->size(2), rows = x.size(0) * x.size(1);
  const int64_t g = rows < kTogether ? 1 : pieces_together(n, std::max(in, out));
  const Tensor w = g == 1 ? *weight : along_diagonal(*weight, g);
  const Tensor y = matmul(transpose(reshape(x, {rows, n / g, g * in}), 0, 1), w, false, true);   // [n / g, B T, g out / n]
  return reshape(transpose(y, 0, 1), {x.size(0), x.size(1), n * out});
}

}  // namespace ttr
