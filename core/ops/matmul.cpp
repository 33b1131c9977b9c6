// Matrix products of tensors: C = op(A) op(B) over the last two axes, leading axes equal or absent on one side.
//   A [..., m, k] (stored [..., k, m] when transpose_a), B [..., k, n] (stored [..., n, k] when transpose_b), C [..., m, n]
// No transpose is ever materialised: every derivative is again one product of stored operands.
#include <algorithm>
#include <numeric>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/linalg_kernel.hpp>

namespace ttr {
namespace {

constexpr const char* kWhere = "matmul";
struct Nothing {};

Shape leading(const Shape& s) { return Shape(std::span<const int64_t>(s.begin(), size_t(s.rank() - 2))); }

Tensor rows_of(const Tensor& x) {
  return x.rank() == 2 ? x : reshape(x, {x.count() / std::max<int64_t>(x.size(-1), 1), x.size(-1)});
}   // [..., r, c] -> [(... r), c]

Tensor sum_leading(const Tensor& x) {   // [..., r, c] -> [r, c]
  return sum(reshape(x, {leading(x.shape()).count(), x.size(-2), x.size(-1)}), 0);
}

// op(X) op(Y) summed over the leading axes, which both have: [..., p, q] x [..., q, r] -> [p, r].
// Where both are stored with the summed axis in front, the leading axes fold into it and one product does it all.
Tensor contract(const Tensor& x, const Tensor& y, bool transpose_x, bool transpose_y) {
  if (transpose_x && !transpose_y) return matmul(rows_of(x), rows_of(y), true, false);
  return sum_leading(matmul(x, y, transpose_x, transpose_y));
}

// c (+)= op(a) op(b); unrecorded; operands were checked
void multiply(Tensor& c, const Tensor& a, const Tensor& b, bool ta, bool tb, bool accumulate = false) {
  const bool shared_a = a.rank() == 2 && b.rank() > 2, shared_b = b.rank() == 2 && a.rank() > 2;
  Product p;
  p.m = a.size(ta ? -1 : -2), p.k = a.size(ta ? -2 : -1), p.n = b.size(tb ? -2 : -1);
  p.transpose_a = ta, p.transpose_b = tb, p.accumulate = accumulate;
  p.batch = leading(shared_a ? b.shape() : a.shape()).count();
  if (c.count() == 0) return;
  if (shared_b && !ta) p.m *= p.batch, p.batch = 1;   // [(... m), k] x [k, n]: one product
  p.stride_a = shared_a ? 0 : p.m * p.k;
  p.stride_b = shared_b ? 0 : p.k * p.n;
  if (detail::profile) [[unlikely]] {
    detail::profile->detail(fmt::format("{}{}x{}x{}", p.batch > 1 ? fmt::format("{} of ", p.batch) : "", p.m, p.k, p.n));
    detail::profile->product(2.0 * double(p.batch) * double(p.m) * double(p.n) * double(p.k));
  }
  dispatch(kWhere, a, [&]<class T>(auto place) {
    if constexpr (place.cuda) must(kWhere, cuda::matmul<T>(p, in<T>(a), in<T>(b), out<T>(c), place.stream));
    else must(kWhere, cpu::matmul<T>(p, in<T>(a), in<T>(b), out<T>(c)));
  });
}

Tensor product(const Tensor& a, const Tensor& b, bool ta, bool tb) {
  Shape shape = leading(a.rank() == 2 && b.rank() > 2 ? b.shape() : a.shape());
  shape.push_back(a.size(ta ? -1 : -2));
  shape.push_back(b.size(tb ? -2 : -1));
  Tensor c = empty(shape, like(a));
  multiply(c, a, b, ta, tb);
  return c;
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b, bool ta, bool tb) {
  if (a.rank() < 2) throw refuse(kWhere, "a is {}, needs at least two axes [..., m, k]; reshape a vector to a row or a column", to_string(a.shape()));
  if (b.rank() < 2) throw refuse(kWhere, "b is {}, needs at least two axes [..., k, n]; reshape a vector to a row or a column", to_string(b.shape()));
  same_kind(kWhere, a, b);
  const int64_t ka = a.size(ta ? -2 : -1), kb = b.size(tb ? -1 : -2);
  if (ka != kb)
    throw refuse(kWhere, "inner size of a {}{} is {}, needs {} as in b {}{}; transpose one operand", to_string(a.shape()),
                 ta ? " transposed" : "", ka, kb, to_string(b.shape()), tb ? " transposed" : "");
  const bool shared_a = a.rank() == 2 && b.rank() > 2, shared_b = b.rank() == 2 && a.rank() > 2;
  if (!shared_a && !shared_b && !(leading(a.shape()) == leading(b.shape())))
    throw refuse(kWhere, "leading axes of a {} are {}, needs {} as in b {}; broadcast_to or drop them on one side", to_string(a.shape()),
                 to_string(leading(a.shape())), to_string(leading(b.shape())), to_string(b.shape()));

  return primitive(kWhere, product(a, b, ta, tb), {a, b}, keep_inputs, [=](const Sweep& s) {
    const Tensor& dc = s.dy();
    Tensors d(2);
    if (s.needs(0)) {
      const Tensor& b = s.x(1);
      if (shared_a) d[0] = ta ? contract(b, dc, tb, true) : contract(dc, b, false, !tb);   // c = op(a) op(b), a the same for every leading index
      else d[0] = ta ? matmul(b, dc, tb, true) : matmul(dc, b, false, !tb);                // c = op(a) op(b)
    }
    if (s.needs(1)) {
      const Tensor& a = s.x(0);
      if (shared_b) d[1] = tb ? contract(dc, a, true, ta) : contract(a, dc, !ta, false);   // c = op(a) op(b), b the same for every leading index
      else d[1] = tb ? matmul(dc, a, true, ta) : matmul(a, dc, !ta, false);                // c = op(a) op(b)
    }
    return d;
  });
}

Tensors project(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& sizes) {
  constexpr const char* kHere = "project";
  if (x.rank() < 2) throw refuse(kHere, "x is {}, needs at least two axes [..., m, k]; reshape a vector to a row", to_string(x.shape()));
  same_kind(kHere, x, weight);
  const int64_t k = x.size(-1);
  const int64_t n = std::accumulate(sizes.begin(), sizes.end(), int64_t(0));
  if (weight.rank() != 2 || weight.size(1) != k || weight.size(0) != n)
    throw refuse(kHere, "weight is {}, needs [{}, {}]: as many rows as the sizes add up to, a column for each of x {}", to_string(weight.shape()), n, k,
                 to_string(x.shape()));
  if (sizes.size() == 1) return {matmul(x, weight, false, true)};
  const auto rows_at = [sizes](const Tensor& w, size_t i) {   // [sizes[i], k] of w
    return window(w, std::accumulate(sizes.begin(), sizes.begin() + long(i), int64_t(0)) * w.size(1), {sizes[i], w.size(1)});
  };
  Tensors ys;
  for (size_t i = 0; i < sizes.size(); ++i) ys.push_back(product(x, rows_at(weight, i), false, true));
  return kernel_op(
      kHere, ys, {x, weight}, Nothing{},
      [=](const Nothing&, const Sweep& s) {
        Tensors d(2);
        if (s.needs(0)) {
          d[0] = empty(s.x(0).shape(), like(s.x(0)));
          bool first = true;
          for (size_t i = 0; i < sizes.size(); ++i)
            if (s.dy(int(i)).defined()) multiply(d[0], s.dy(int(i)), rows_at(s.x(1), i), false, false, !std::exchange(first, false));   // y_i = x W_i^T
        }
        if (s.needs(1)) {
          const bool whole = std::all_of(s.dys().begin(), s.dys().end(), [](const Tensor& dy) { return dy.defined(); });
          d[1] = whole ? empty(s.x(1).shape(), like(s.x(1))) : zeros(s.x(1).shape(), like(s.x(1)));
          for (size_t i = 0; i < sizes.size(); ++i) {
            Tensor part = rows_at(d[1], i);
            if (s.dy(int(i)).defined()) multiply(part, rows_of(s.dy(int(i))), rows_of(s.x(0)), true, false);   // y_i = x W_i^T
          }
        }
        return d;
      },
      [sizes](const Tensors& inputs) { return split(matmul(inputs[0], inputs[1], false, true), -1, sizes); });
}

}  // namespace ttr
