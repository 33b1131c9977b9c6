// Operations that move values and change none: one strided copy each, or a window of the same memory where the values already lie in order.
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/broadcast.hpp>

namespace ttr {

using detail::broadcast_strides;
using detail::contiguous_strides;
using detail::merge_axes;
using detail::must_be_defined;
using detail::records;
using detail::Strides;

namespace {

template <class F> void with_dtype(Dtype d, F&& f) {
  switch (d) {
    case Dtype::f32:
      return f.template operator()<float>();
    case Dtype::f64:
      return f.template operator()<double>();
    case Dtype::bf16:
      return f.template operator()<bf16>();
    case Dtype::i32:
      return f.template operator()<int32_t>();
  }
}

// `sizes` elements of x, from element first_x on by strides_x, go to y from first_y on by strides_y; any dtype, converted where they differ.
void move(const char* where, const Shape& sizes, const Tensor& x, int64_t first_x, const Strides& strides_x, Tensor& y, int64_t first_y,
          const Strides& strides_y) {
  if (sizes.count() == 0) return;
  const Broadcast walk = merge_axes(sizes, {strides_x, strides_y});
  const auto run = [&]<class S, class T>() {
    if (!y.device().is_cuda())
      must(where, cpu::copy<S, T>(walk, in<S>(x) + first_x, out<T>(y) + first_y));
    else if constexpr (with_cuda)
      must(where, cuda::copy<S, T>(walk, in<S>(x) + first_x, out<T>(y) + first_y, cuda::stream()));
  };
  with_dtype(x.dtype(), [&]<class S>() {
    if (x.dtype() == y.dtype())
      run.template operator()<S, S>();
    else
      with_dtype(y.dtype(), [&]<class T>() { run.template operator()<S, T>(); });
  });
}

int64_t count_before(const Shape& shape, int axis) {
  int64_t n = 1;
  for (int i = 0; i < axis; ++i) n *= shape[i];
  return n;
}
int64_t count_after(const Shape& shape, int axis) {
  int64_t n = 1;
  for (int i = axis + 1; i < shape.rank(); ++i) n *= shape[i];
  return n;
}

// Copies x into y where x starts at `begin` of y's `axis`.
void place_at(const char* where, const Tensor& x, Tensor& y, int axis, int64_t begin) {
  const Strides to = contiguous_strides(y.shape());
  move(where, x.shape(), x, 0, contiguous_strides(x.shape()), y, begin * to[axis], to);
}

// The part [begin, end) of x's axis: a window when nothing but that axis cuts x's memory, else a copy.
Tensor part(const char* where, const Tensor& x, int axis, int64_t begin, int64_t end) {
  const Shape shape = x.shape().with(axis, end - begin);
  const Strides from = contiguous_strides(x.shape());
  if (count_before(x.shape(), axis) == 1) return window(x, begin * from[axis], shape);
  Tensor y = empty(shape, like(x));
  move(where, shape, x, begin * from[axis], from, y, 0, contiguous_strides(shape));
  return y;
}

Tensors filled(const Sweep& s, const std::vector<Shape>& shapes) {   // adjoints of all outputs, zeros where nothing flows in
  Tensors dys = s.dys();
  Options options;
  for (const Tensor& d : dys)
    if (d.defined()) options = like(d);
  for (size_t i = 0; i < dys.size(); ++i)
    if (!dys[i].defined()) dys[i] = zeros(shapes[i], options);
  return dys;
}

void same_kinds(const char* where, const Tensors& xs) {
  if (xs.empty()) throw refuse(where, "the list is empty, needs at least one tensor");
  for (const Tensor& x : xs) {
    must_be_defined(where, "one of the list", x);
    same_kind(where, xs[0], x);
  }
}

int square_size(const char* where, const Tensor& x) {
  must_be_defined(where, "x", x);
  if (x.rank() < 2 || x.size(-1) != x.size(-2)) throw refuse(where, "shape is {}, needs [..., n, n]", to_string(x.shape()));
  return int(x.size(-1));
}

}   // namespace

Tensor reshape(const Tensor& x, const Shape& wanted) {
  must_be_defined("reshape", "x", x);
  Shape shape = wanted;
  int free = -1;
  int64_t known = 1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] == -1 && free < 0)
      free = i;
    else
      known *= shape[i];
  }
  if (free >= 0 && known > 0 && x.count() % known == 0) shape[free] = x.count() / known;
  if (shape.count() != x.count())
    throw refuse("reshape", "shape is {} with {} elements, needs the number of elements of {}", to_string(x.shape()), x.count(),
                 to_string(wanted));
  Tensor y = window(x, 0, shape);
  if (!records(x)) return y;
  return primitive("reshape", std::move(y), {x}, keep_nothing,
                   [](const Sweep& s) { return Tensors{reshape(s.dy(), s.shape(0))}; });   // y = x, reshaped
}

Tensor transpose(const Tensor& x, int a, int b) {
  must_be_defined("transpose", "x", x);
  a = normal_axis("transpose", a, x.rank());
  b = normal_axis("transpose", b, x.rank());
  if (a == b) return x;
  Shape shape = x.shape();
  std::swap(shape[a], shape[b]);
  Strides from = contiguous_strides(x.shape());
  std::swap(from[a], from[b]);
  Tensor y = empty(shape, like(x));
  move("transpose", shape, x, 0, from, y, 0, contiguous_strides(shape));
  if (!records(x)) return y;
  return primitive("transpose", std::move(y), {x}, keep_nothing,
                   [a, b](const Sweep& s) { return Tensors{transpose(s.dy(), a, b)}; });   // y = x, transposed
}

Tensor broadcast_to(const Tensor& x, const Shape& shape) {
  must_be_defined("broadcast_to", "x", x);
  if (x.shape() == shape) return x;
  const int lead = shape.rank() - x.rank();
  bool fits = lead >= 0;
  for (int i = 0; fits && i < x.rank(); ++i) fits = x.size(i) == 1 || x.size(i) == shape[lead + i];
  if (!fits) throw refuse("broadcast_to", "shape is {}, needs one that broadcasts to {}", to_string(x.shape()), to_string(shape));
  Tensor y = empty(shape, like(x));
  move("broadcast_to", shape, x, 0, broadcast_strides(x.shape(), shape), y, 0, contiguous_strides(shape));
  if (!records(x)) return y;
  return primitive("broadcast_to", std::move(y), {x}, keep_nothing,
                   [](const Sweep& s) { return Tensors{sum_to(s.dy(), s.shape(0))}; });   // y = x, repeated
}

Tensor concat(const Tensors& xs, int axis) {
  same_kinds("concat", xs);
  axis = normal_axis("concat", axis, xs[0].rank());
  int64_t size = 0;
  for (const Tensor& x : xs) {
    if (x.rank() != xs[0].rank() || !(x.shape().with(axis, 0) == xs[0].shape().with(axis, 0)))
      throw refuse("concat", "one shape is {}, needs {} but for axis {}", to_string(x.shape()), to_string(xs[0].shape()), axis);
    size += x.size(axis);
  }
  Tensor y = empty(xs[0].shape().with(axis, size), like(xs[0]));
  int64_t at = 0;
  for (const Tensor& x : xs) {
    place_at("concat", x, y, axis, at);
    at += x.size(axis);
  }
  if (!recording() || !detail::any_tracked(xs)) return y;
  std::vector<int64_t> sizes;
  for (const Tensor& x : xs) sizes.push_back(x.size(axis));
  return primitive("concat", std::move(y), xs, keep_nothing, [axis, sizes = std::move(sizes)](const Sweep& s) {
    Tensors dxs(sizes.size());
    int64_t at = 0;
    for (size_t i = 0; i < sizes.size(); at += sizes[i++])
      if (s.needs(int(i))) dxs[i] = slice(s.dy(), axis, at, at + sizes[i]);   // y[at : at + size] = x_i
    return dxs;
  });
}

Tensor stack(const Tensors& xs, int axis) {
  same_kinds("stack", xs);
  axis = normal_axis("stack", axis, xs[0].rank() + 1);
  for (const Tensor& x : xs)
    if (!(x.shape() == xs[0].shape()))
      throw refuse("stack", "one shape is {}, needs {} as the first", to_string(x.shape()), to_string(xs[0].shape()));
  const Shape row = xs[0].shape().insert(axis, 1);
  Tensor y = empty(row.with(axis, int64_t(xs.size())), like(xs[0]));
  for (size_t i = 0; i < xs.size(); ++i) place_at("stack", window(xs[i], 0, row), y, axis, int64_t(i));
  if (!recording() || !detail::any_tracked(xs)) return y;
  return primitive("stack", std::move(y), xs, keep_nothing, [axis](const Sweep& s) { return unstack(s.dy(), axis); });   // y[i] = x_i
}

Tensor slice(const Tensor& x, int axis, int64_t begin, int64_t end) {
  must_be_defined("slice", "x", x);
  axis = normal_axis("slice", axis, x.rank());
  const int64_t n = x.size(axis);
  if (begin < 0 || begin > end || end > n)
    throw refuse("slice", "range is [{}, {}), needs one inside [0, {}) of axis {} of {}", begin, end, n, axis, to_string(x.shape()));
  if (begin == 0 && end == n) return x;
  Tensor y = part("slice", x, axis, begin, end);
  if (!records(x)) return y;
  return primitive("slice", std::move(y), {x}, keep_nothing, [axis, begin, after = n - end](const Sweep& s) {
    return Tensors{pad(s.dy(), axis, begin, after)};   // y = x[begin : end]
  });
}

Tensors split(const Tensor& x, int axis, const std::vector<int64_t>& sizes) {
  must_be_defined("split", "x", x);
  axis = normal_axis("split", axis, x.rank());
  int64_t total = 0;
  bool fits = true;
  for (const int64_t n : sizes) {
    fits = fits && n >= 0;
    total += n;
  }
  if (!fits || total != x.size(axis))
    throw refuse("split", "sizes add up to {}, needs {}, the size of axis {} of {}", total, x.size(axis), axis, to_string(x.shape()));
  Tensors ys;
  int64_t at = 0;
  for (const int64_t n : sizes) {
    ys.push_back(part("split", x, axis, at, at + n));
    at += n;
  }
  if (!records(x)) return ys;
  std::vector<Shape> shapes;
  for (const Tensor& y : ys) shapes.push_back(y.shape());
  return primitives("split", std::move(ys), {x}, keep_nothing, [axis, shapes = std::move(shapes)](const Sweep& s) {
    return Tensors{concat(filled(s, shapes), axis)};   // y_i = x[at_i : at_i + size_i]
  });
}

Tensors unstack(const Tensor& x, int axis) {
  must_be_defined("unstack", "x", x);
  axis = normal_axis("unstack", axis, x.rank());
  const int64_t n = x.size(axis), row = count_before(x.shape(), axis) * count_after(x.shape(), axis);
  const Shape shape = x.shape().erase(axis);
  Tensor rows = detach(x);   // [n, outer, inner]
  if (count_before(x.shape(), axis) != 1) {
    const int64_t outer = count_before(x.shape(), axis), inner = count_after(x.shape(), axis);
    const Shape sizes{n, outer, inner};
    rows = empty(sizes, like(x));
    Strides from{};
    from[0] = inner, from[1] = n * inner, from[2] = 1;
    move("unstack", sizes, x, 0, from, rows, 0, contiguous_strides(sizes));
  }
  Tensors ys;
  ys.reserve(size_t(n));
  for (int64_t i = 0; i < n; ++i) ys.push_back(window(rows, i * row, shape));
  if (n == 0 || !records(x)) return ys;
  return primitives("unstack", std::move(ys), {x}, keep_nothing, [axis, n, shape](const Sweep& s) {
    return Tensors{stack(filled(s, std::vector<Shape>(size_t(n), shape)), axis)};   // y_i = x[i]
  });
}

Tensor pad(const Tensor& x, int axis, int64_t before, int64_t after) {
  must_be_defined("pad", "x", x);
  axis = normal_axis("pad", axis, x.rank());
  if (before < 0 || after < 0) throw refuse("pad", "padding is {} and {}, needs at least 0; slice cuts", before, after);
  if (before == 0 && after == 0) return x;
  const int64_t n = x.size(axis);
  Tensor y = zeros(x.shape().with(axis, before + n + after), like(x));
  place_at("pad", x, y, axis, before);
  if (!records(x)) return y;
  return primitive("pad", std::move(y), {x}, keep_nothing, [axis, before, n](const Sweep& s) {
    return Tensors{slice(s.dy(), axis, before, before + n)};   // y[before : before + n] = x
  });
}

Tensor roll(const Tensor& x, int axis, int64_t shift) {
  must_be_defined("roll", "x", x);
  axis = normal_axis("roll", axis, x.rank());
  const int64_t n = x.size(axis);
  if (n == 0 || shift % n == 0) return x;
  const int64_t by = (shift % n + n) % n;   // y[(i + by) mod n] = x[i]
  Tensor y = empty(x.shape(), like(x));
  const Strides strides = contiguous_strides(x.shape());
  move("roll", x.shape().with(axis, n - by), x, 0, strides, y, by * strides[axis], strides);
  move("roll", x.shape().with(axis, by), x, (n - by) * strides[axis], strides, y, 0, strides);
  if (!records(x)) return y;
  return primitive("roll", std::move(y), {x}, keep_nothing,
                   [axis, by](const Sweep& s) { return Tensors{roll(s.dy(), axis, -by)}; });   // y[i + by] = x[i]
}

Tensor reverse(const Tensor& x, int axis) {
  must_be_defined("reverse", "x", x);
  axis = normal_axis("reverse", axis, x.rank());
  const Strides to = contiguous_strides(x.shape());
  Strides from = to;
  from[axis] = -from[axis];
  Tensor y = empty(x.shape(), like(x));
  move("reverse", x.shape(), x, (x.size(axis) - 1) * to[axis], from, y, 0, to);
  if (!records(x)) return y;
  return primitive("reverse", std::move(y), {x}, keep_nothing,
                   [axis](const Sweep& s) { return Tensors{reverse(s.dy(), axis)}; });   // y[n - 1 - i] = x[i]
}

Tensor cast(const Tensor& x, Dtype dtype) {
  must_be_defined("cast", "x", x);
  if (x.dtype() == dtype) return x;
  Tensor y = empty(x.shape(), {dtype, x.device()});
  const Strides strides = contiguous_strides(x.shape());
  move("cast", x.shape(), x, 0, strides, y, 0, strides);
  if (!records(x) || !is_floating(dtype)) return y;
  return primitive("cast", std::move(y), {x}, keep_nothing,
                   [from = x.dtype()](const Sweep& s) { return Tensors{cast(s.dy(), from)}; });   // y = x, rounded
}

Tensor alias(const Tensor& x) {
  must_be_defined("alias", "x", x);
  if (!records(x)) return variable(x);
  return primitive("alias", detach(x), {x}, keep_nothing, [](const Sweep& s) { return Tensors{s.dy()}; });   // y = x
}

Tensor stop_gradient(const Tensor& x) {
  must_be_defined("stop_gradient", "x", x);
  return detach(x);
}

Tensor tril(const Tensor& x, int64_t diagonal) {
  must_be_defined("tril", "x", x);
  if (x.rank() < 2) throw refuse("tril", "shape is {}, needs [..., n, m]", to_string(x.shape()));
  const int64_t n = x.size(-2), m = x.size(-1);
  Tensor y = empty(x.shape(), like(x));
  if (y.count() > 0) {
    // The mask [j - i <= diagonal] depends on i - j alone: one line of zeros and ones, walked forwards by i and backwards by j.
    const int64_t zeros_in_line = std::clamp<int64_t>(m - 1 - diagonal, 0, n + m - 1);
    Tensor line = pad(ones({n + m - 1 - zeros_in_line}, like(x)), 0, zeros_in_line, 0);
    Strides of_mask{};
    of_mask[x.rank() - 2] = 1, of_mask[x.rank() - 1] = -1;
    const Tensor none = zeros(Shape(), like(x));
    const Broadcast walk = merge_axes(x.shape(), {of_mask, contiguous_strides(x.shape()), Strides{}});
    dispatch("tril", x, [&]<class T>(auto place) {
      if constexpr (place.cuda)
        must("tril", cuda::select<T>(walk, in<T>(line) + m - 1, in<T>(x), in<T>(none), out<T>(y), place.stream));
      else
        must("tril", cpu::select<T>(walk, in<T>(line) + m - 1, in<T>(x), in<T>(none), out<T>(y)));
    });
  }
  if (!records(x)) return y;
  return primitive("tril", std::move(y), {x}, keep_nothing,
                   [diagonal](const Sweep& s) { return Tensors{tril(s.dy(), diagonal)}; });   // y_ij = [j - i <= diagonal] x_ij
}

Tensor diagonal(const Tensor& x) {
  const int64_t n = square_size("diagonal", x);
  const Shape shape = x.shape().erase(x.rank() - 1);
  Strides from{};
  const Strides own = contiguous_strides(x.shape());
  for (int i = 0; i < shape.rank(); ++i) from[i] = own[i];
  from[shape.rank() - 1] = n + 1;
  Tensor y = empty(shape, like(x));
  move("diagonal", shape, x, 0, from, y, 0, contiguous_strides(shape));
  if (!records(x)) return y;
  return primitive("diagonal", std::move(y), {x}, keep_nothing,
                   [](const Sweep& s) { return Tensors{diagonal_matrix(s.dy())}; });   // y_i = x_ii
}

Tensor diagonal_matrix(const Tensor& x) {
  must_be_defined("diagonal_matrix", "x", x);
  if (x.rank() < 1) throw refuse("diagonal_matrix", "shape is {}, needs [..., n]", to_string(x.shape()));
  const int64_t n = x.size(-1);
  Shape shape = x.shape();
  shape.push_back(n);
  Strides to{};
  const Strides own = contiguous_strides(shape);
  for (int i = 0; i < x.rank(); ++i) to[i] = own[i];
  to[x.rank() - 1] = n + 1;
  Tensor y = zeros(shape, like(x));
  move("diagonal_matrix", x.shape(), x, 0, contiguous_strides(x.shape()), y, 0, to);
  if (!records(x)) return y;
  return primitive("diagonal_matrix", std::move(y), {x}, keep_nothing,
                   [](const Sweep& s) { return Tensors{diagonal(s.dy())}; });   // y_ii = x_i
}

Tensor identity(int64_t n, Options options) {
  const Recording off(false);
  return diagonal_matrix(ones({n}, options));
}

}   // namespace ttr
