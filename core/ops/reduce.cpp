// Reductions over one axis, all axes, or the axes a broadcast repeated; running sums. Their derivatives repeat what was summed.
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/broadcast.hpp>
#include <ttr/core/ops/reduce_kernel.hpp>

namespace ttr {

using detail::must_be_defined;
using detail::records;

namespace {

Middle middle(const Shape& shape, int axis) {
  Middle m{1, shape[axis], 1};
  for (int i = 0; i < axis; ++i) m.outer *= shape[i];
  for (int i = axis + 1; i < shape.rank(); ++i) m.inner *= shape[i];
  return m;
}

Tensor run(const char* where, Reduce op, const Tensor& x, Middle m, const Shape& shape) {
  Tensor y = empty(shape, like(x));
  if (m.outer * m.inner == 0) return y;
  dispatch(where, x, [&]<class T>(auto place) {
    if constexpr (place.cuda)
      must(where, cuda::reduce<T>(op, m, in<T>(x), out<T>(y), place.stream));
    else
      must(where, cpu::reduce<T>(op, m, in<T>(x), out<T>(y)));
  });
  return y;
}

// dy with the reduced axis back, of size 1.
Tensor kept(const Tensor& dy, int axis, bool keep) { return keep ? dy : reshape(dy, dy.shape().insert(axis, 1)); }

Shape reduced(const Shape& shape, int axis, bool keep) { return keep ? shape.with(axis, 1) : shape.erase(axis); }

}   // namespace

Tensor sum(const Tensor& x) {
  must_be_defined("sum", "x", x);
  Tensor y = run("sum", Reduce::sum, x, {1, x.count(), 1}, Shape());
  if (!records(x)) return y;
  return primitive("sum", std::move(y), {x}, keep_nothing,
                   [](const Sweep& s) { return Tensors{broadcast_to(s.dy(), s.shape(0))}; });   // y = sum_i x_i
}

Tensor sum(const Tensor& x, int axis, bool keep) {
  must_be_defined("sum", "x", x);
  axis = normal_axis("sum", axis, x.rank());
  Tensor y = run("sum", Reduce::sum, x, middle(x.shape(), axis), reduced(x.shape(), axis, keep));
  if (!records(x)) return y;
  return primitive("sum", std::move(y), {x}, keep_nothing, [axis, keep](const Sweep& s) {
    return Tensors{broadcast_to(kept(s.dy(), axis, keep), s.shape(0))};   // y = sum_i x_i
  });
}

Tensor mean(const Tensor& x) {
  must_be_defined("mean", "x", x);
  return sum(x) / double(x.count());
}

Tensor mean(const Tensor& x, int axis, bool keep) {
  must_be_defined("mean", "x", x);
  axis = normal_axis("mean", axis, x.rank());
  return sum(x, axis, keep) / double(x.size(axis));
}

Tensor max(const Tensor& x, int axis, bool keep) {
  must_be_defined("max", "x", x);
  axis = normal_axis("max", axis, x.rank());
  Tensor y = run("max", Reduce::max, x, middle(x.shape(), axis), reduced(x.shape(), axis, keep));
  if (!records(x)) return y;
  return primitive("max", std::move(y), {x}, keep_inputs | keep_outputs, [axis, keep](const Sweep& s) {
    const Tensor chosen = equal(s.x(), kept(detach(s.y()), axis, keep));
    return Tensors{kept(s.dy(), axis, keep) * (chosen / sum(chosen, axis, true))};   // y = max_i x_i
  });
}

Tensor logsumexp(const Tensor& x, int axis, bool keep) {
  must_be_defined("logsumexp", "x", x);
  axis = normal_axis("logsumexp", axis, x.rank());
  constexpr double kFinite = 1e30;   // an infinite maximum must not be subtracted from itself
  Tensor y;
  {
    const Recording off(false);
    const Tensor top = minimum(maximum(max(x, axis, true), -kFinite), kFinite);
    y = log(sum(exp(x - top), axis, true)) + top;
    if (!keep) y = reshape(y, y.shape().erase(axis));
  }
  if (!records(x)) return y;
  return primitive("logsumexp", std::move(y), {x}, keep_inputs | keep_outputs, [axis, keep](const Sweep& s) {
    return Tensors{kept(s.dy(), axis, keep) * exp(s.x() - maximum(kept(s.y(), axis, keep), -kFinite))};   // y = log sum_i e^x_i
  });
}

Tensor sum_to(const Tensor& x, const Shape& shape) {
  must_be_defined("sum_to", "x", x);
  if (x.shape() == shape) return x;
  const int lead = x.rank() - shape.rank();
  bool fits = lead >= 0;
  for (int i = 0; fits && i < shape.rank(); ++i) fits = shape[i] == x.size(lead + i) || shape[i] == 1;
  if (!fits) throw refuse("sum_to", "shape is {}, needs one that {} broadcasts to", to_string(x.shape()), to_string(shape));
  const auto repeated = [&](int i) { return i < lead || (shape[i - lead] == 1 && x.size(i) != 1); };

  Tensor y = detach(x);   // neighbouring repeated axes are summed as one
  for (int i = 0; i < x.rank();) {
    int end = i;
    while (end < x.rank() && repeated(end)) ++end;
    if (end == i) {
      ++i;
      continue;
    }
    Middle m;
    Shape rest = y.shape();
    for (int d = 0; d < i; ++d) m.outer *= rest[d];
    for (int d = end; d < x.rank(); ++d) m.inner *= rest[d];
    for (int d = i; d < end; ++d) m.n *= rest[d], rest[d] = 1;
    y = run("sum_to", Reduce::sum, y, m, rest);
    i = end;
  }
  y = window(y, 0, shape);
  if (!records(x)) return y;
  return primitive("sum_to", std::move(y), {x}, keep_nothing,
                   [](const Sweep& s) { return Tensors{broadcast_to(s.dy(), s.shape(0))}; });   // y = sum over repeats of x
}

Tensor cumsum(const Tensor& x, int axis, bool reverse) {
  must_be_defined("cumsum", "x", x);
  axis = normal_axis("cumsum", axis, x.rank());
  Tensor y = empty(x.shape(), like(x));
  if (y.count() > 0) {
    const Middle m = middle(x.shape(), axis);
    dispatch("cumsum", x, [&]<class T>(auto place) {
      if constexpr (place.cuda)
        must("cumsum", cuda::cumsum<T>(m, reverse, in<T>(x), out<T>(y), place.stream));
      else
        must("cumsum", cpu::cumsum<T>(m, reverse, in<T>(x), out<T>(y)));
    });
  }
  if (!records(x)) return y;
  return primitive("cumsum", std::move(y), {x}, keep_nothing, [axis, reverse](const Sweep& s) {
    return Tensors{cumsum(s.dy(), axis, !reverse)};   // y_t = sum_{i <= t} x_i
  });
}

}   // namespace ttr
