// TokenShift: the whole sequence, or some tokens with the last one carried.
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/token_shift.hpp>

namespace ttr {
namespace {

constexpr double kUp = 0.01;   // the low-rank part begins at zero: down is zero, and up uniform in +- this

// x_{t-1}, with `first` [B, 1, D] before the first token: [B, T, D]
Tensor behind(const Tensor& x, const Tensor& first) {
  return x.size(1) == 1 ? first : concat({first, slice(x, 1, 0, x.size(1) - 1)}, 1);
}

std::vector<double> begun(const TokenShiftOptions& o) {   // [n, D]
  std::vector<double> x;
  for (const Mixture& m : o.mixtures)
    for (int64_t c = 0; c < o.dim; ++c)
      x.push_back(1 - std::pow(double(c) / double(o.dim), m.power * o.depth.left()) - m.lift * o.depth.risen());
  return x;
}

}  // namespace

Tensor token_before(const Tensor& x, const Tensor& last, const Tensor& segments) {
  const int64_t B = x.size(0), T = x.size(1);
  const Tensor before = behind(x, last.defined() ? last : zeros({B, 1, x.size(2)}, like(x)));
  if (!segments.defined()) return before;
  const Tensor ids = cast(reshape(segments, {B, T, 1}), Dtype::f64);
  return before * cast(equal(ids, behind(ids, slice(ids, 1, 0, 1))), x.dtype());   // before the first token is no other document
}

TokenShift::TokenShift(const TokenShiftOptions& o, Init& init) {
  const int64_t n = int64_t(o.mixtures.size());
  if (o.dim < 1 || o.rank < 0 || n < 1)
    throw refuse("token_shift", "dim is {}, rank is {} and mixtures are {}, needs at least 1, 0 and 1", o.dim, o.rank, n);
  mix = init.given(from_vector(begun(o), {n, o.dim}));
  if (o.rank == 0) return;
  TokenShiftOptions one = o;
  one.mixtures = {Mixture{}};
  first = init.given(from_vector(begun(one), {o.dim}));
  down = init.constant({n * o.rank, o.dim}, 0, true);
  up = init.uniform({n, o.dim, o.rank}, -kUp, kUp);
}

Tensors TokenShift::operator()(const Tensor& x, const Tensor& segments) const { return mixed(x, token_before(x, {}, segments)); }

Tensors TokenShift::step(const Tensor& x, Tensor& last) const {
  Tensors ys = mixed(x, token_before(x, last, {}));
  last = slice(x, 1, x.size(1) - 1, x.size(1));
  return ys;
}

Tensors TokenShift::mixed(const Tensor& x, const Tensor& before) const {
  const int64_t n = mix->size(0), D = mix->size(1);
  const Tensor d = before - x;
  Tensors ys, low;
  if (down.defined()) low = split(tanh(matmul(x + d * *first, *down, false, true)), 2, std::vector<int64_t>(size_t(n), up->size(2)));
  for (int64_t i = 0; i < n; ++i) {
    Tensor share = reshape(slice(*mix, 0, i, i + 1), {D});
    if (down.defined()) share = share + matmul(low[size_t(i)], reshape(slice(*up, 0, i, i + 1), {D, up->size(2)}), false, true);
    ys.push_back(x + d * share);
  }
  return ys;
}

}  // namespace ttr
