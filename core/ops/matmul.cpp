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

namespace {

constexpr int64_t kNarrow = 32;   // columns: products of narrow weights cost as much with one column as with these, so such weights are joined

// The outputs of `project` in groups, each one product: of some rows of a weight, or of several whole weights that are narrow together.
struct Group {
  size_t first, count;   // outputs
  size_t weight;         // of the first output
  int64_t row;           // where its rows begin
};
std::vector<Group> grouped(const Tensors& weights, const std::vector<int64_t>& sizes, bool joins) {
  std::vector<Group> groups;
  size_t weight = 0;
  int64_t row = 0, width = 0;   // of the last group, if it may go on
  for (size_t i = 0; i < sizes.size(); ++i) {
    while (weight + 1 < weights.size() && row == weights[weight].size(0)) ++weight, row = 0;
    const bool whole = joins && sizes[i] == weights[weight].size(0) && sizes[i] <= kNarrow;
    if (whole && width > 0 && width + sizes[i] <= kNarrow) ++groups.back().count, width += sizes[i];
    else groups.push_back({i, 1, weight, row}), width = whole ? sizes[i] : 0;
    row += sizes[i];
  }
  return groups;
}

}  // namespace

Tensors project(const Tensor& x, const Tensors& weights, const std::vector<int64_t>& sizes) {
  constexpr const char* kHere = "project";
  if (x.rank() < 2) throw refuse(kHere, "x is {}, needs at least two axes [..., m, k]; reshape a vector to a row", to_string(x.shape()));
  const int64_t k = x.size(-1), n = std::accumulate(sizes.begin(), sizes.end(), int64_t(0));
  int64_t rows = 0;
  for (const Tensor& w : weights) {
    same_kind(kHere, x, w);
    if (w.rank() != 2 || w.size(1) != k)
      throw refuse(kHere, "a weight is {}, needs [rows, {}]: a column for each of x {}", to_string(w.shape()), k, to_string(x.shape()));
    rows += w.size(0);
    int64_t cut = 0;
    for (size_t i = 0; i < sizes.size() && cut < rows; ++i) cut += sizes[i];
    if (cut != rows) throw refuse(kHere, "sizes add up to {}, need {}: each weight is cut by sizes of its own, and all of it is", cut, rows);
  }
  if (n != rows) throw refuse(kHere, "sizes add up to {}, need {}: each weight is cut by sizes of its own, and all of it is", n, rows);
  if (sizes.empty()) return {};
  if (sizes.size() == 1) return {matmul(x, weights[0], false, true)};
  const std::vector<Group> groups = grouped(weights, sizes, !x.device().is_cuda());   // there a launch costs more than a narrow product
  const auto rows_of_group = [sizes](const Group& g, const Tensor& w) { return window(w, g.row * w.size(1), {sizes[g.first], w.size(1)}); };
  const auto sizes_of = [sizes](const Group& g) { return std::vector<int64_t>(sizes.begin() + long(g.first), sizes.begin() + long(g.first + g.count)); };
  const auto weight_of = [rows_of_group](const Group& g, auto&& at) {   // [its outputs' sizes, k], at(i): weight i
    if (g.count == 1) return rows_of_group(g, at(g.weight));
    Tensors narrow;
    for (size_t i = 0; i < g.count; ++i) narrow.push_back(detach(at(g.weight + i)));
    return concat(narrow, 0);
  };
  Tensors ys;
  for (const Group& g : groups) {
    const Tensor y = product(x, weight_of(g, [&](size_t i) { return weights[i]; }), false, true);
    if (g.count == 1) ys.push_back(y);
    else for (const Tensor& part : split(y, -1, sizes_of(g))) ys.push_back(part);
  }
  Tensors inputs{x};
  inputs.insert(inputs.end(), weights.begin(), weights.end());
  const size_t count = inputs.size();
  return kernel_op(
      kHere, ys, inputs, Nothing{},
      [=](const Nothing&, const Sweep& s) {
        const auto hears = [&](const Group& g) {
          return std::any_of(s.dys().begin() + long(g.first), s.dys().begin() + long(g.first + g.count), [](const Tensor& dy) { return dy.defined(); });
        };
        const auto dy_of = [&](const Group& g) {   // [..., its outputs' sizes]
          if (g.count == 1) return s.dy(int(g.first));
          Tensors narrow;
          for (size_t i = g.first; i < g.first + g.count; ++i)
            narrow.push_back(s.dy(int(i)).defined() ? s.dy(int(i)) : zeros(s.x(0).shape().with(-1, sizes[i]), like(s.x(0))));
          return concat(narrow, -1);
        };
        Tensors d(count);
        const bool all = std::all_of(s.dys().begin(), s.dys().end(), [](const Tensor& dy) { return dy.defined(); });
        bool first = true;
        for (const Group& g : groups) {
          if (!hears(g)) continue;
          const Tensor dy = dy_of(g);
          if (s.needs(0)) {
            if (first) d[0] = empty(s.x(0).shape(), like(s.x(0)));
            multiply(d[0], dy, weight_of(g, [&](size_t i) { return s.x(int(i) + 1); }), false, false, !std::exchange(first, false));   // y_i = x W_i^T
          }
          if (g.count > 1) {
            const Tensors parts = split(product(rows_of(dy), rows_of(s.x(0)), true, false), 0, sizes_of(g));                            // y_i = x W_i^T
            for (size_t i = 0; i < g.count; ++i) d[g.weight + 1 + i] = parts[i];
          } else if (s.needs(int(g.weight) + 1)) {
            Tensor& whole = d[g.weight + 1];   // zeros where no gradient reaches some of its rows
            const Tensor& w = s.x(int(g.weight) + 1);
            if (!whole.defined()) whole = all ? empty(w.shape(), like(w)) : zeros(w.shape(), like(w));
            Tensor part = rows_of_group(g, whole);
            multiply(part, rows_of(dy), rows_of(s.x(0)), true, false);                                                                  // y_i = x W_i^T
          }
        }
        return d;
      },
      [sizes](const Tensors& inputs) { return split(matmul(inputs[0], concat(Tensors(inputs.begin() + 1, inputs.end()), 0), false, true), -1, sizes); });
}

}  // namespace ttr
