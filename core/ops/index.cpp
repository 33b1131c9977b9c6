// Indexing by i32 ids: gather and scatter_add are adjoint to each other, so are pick and its inverse. Ids on the CPU are checked; on CUDA
// reading them would stop the stream, so there the kernels read zeros and write nothing for an id outside.
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/broadcast.hpp>
#include <ttr/core/ops/index_kernel.hpp>

namespace ttr {

using detail::must_be_defined;
using detail::records;

namespace {

void check_ids(const char* where, const Tensor& x, const Tensor& ids, int64_t n) {
  must_be_defined(where, "x", x);
  must_be_defined(where, "ids", ids);
  if (ids.dtype() != Dtype::i32) throw refuse(where, "dtype of ids is {}, needs i32; cast them", name_of(ids.dtype()));
  if (ids.device() != x.device())
    throw refuse(where, "devices are {} and {}, needs one device; use to_device", name_of(x.device()), name_of(ids.device()));
  if (ids.device().is_cuda()) return;
  const int32_t* at = in<int32_t>(ids);
  for (int64_t i = 0, count = ids.count(); i < count; ++i)
    if (at[i] < 0 || at[i] >= n) throw refuse(where, "ids[{}] is {}, needs one from 0 to {}", i, at[i], n - 1);
}

Middle middle(const Shape& shape, int axis) {
  Middle m{1, shape[axis], 1};
  for (int i = 0; i < axis; ++i) m.outer *= shape[i];
  for (int i = axis + 1; i < shape.rank(); ++i) m.inner *= shape[i];
  return m;
}

Tensor run_gather(const char* where, const Tensor& x, Middle m, const Tensor& ids, const Shape& shape) {
  Tensor y = empty(shape, like(x));
  if (y.count() == 0) return y;
  dispatch(where, x, [&]<class T>(auto place) {
    if constexpr (place.cuda)
      must(where, cuda::gather<T>(m, ids.count(), in<int32_t>(ids), in<T>(x), out<T>(y), place.stream));
    else
      must(where, cpu::gather<T>(m, ids.count(), in<int32_t>(ids), in<T>(x), out<T>(y)));
  });
  return y;
}

// The adjoint of pick: [...] -> [..., n] with x at its id and zeros elsewhere.
Tensor put(const Tensor& x, const Tensor& ids, int64_t n) {
  Shape shape = x.shape();
  shape.push_back(n);
  Tensor y = empty(shape, like(x));
  if (y.count() > 0)
    dispatch("put", x, [&]<class T>(auto place) {
      if constexpr (place.cuda)
        must("put", cuda::put<T>(x.count(), n, in<int32_t>(ids), in<T>(x), out<T>(y), place.stream));
      else
        must("put", cpu::put<T>(x.count(), n, in<int32_t>(ids), in<T>(x), out<T>(y)));
    });
  if (!records(x)) return y;
  return primitive("put", std::move(y), {x}, keep_nothing, [ids](const Sweep& s) { return Tensors{pick(s.dy(), ids)}; });   // y_r,id = x_r
}

}   // namespace

Tensor embedding(const Tensor& table, const Tensor& ids) {
  must_be_defined("embedding", "table", table);
  if (table.rank() != 2) throw refuse("embedding", "shape of the table is {}, needs [N, D]", to_string(table.shape()));
  const int64_t n = table.size(0), dim = table.size(1);
  check_ids("embedding", table, ids, n);
  Shape shape = ids.shape();
  shape.push_back(dim);
  Tensor y = run_gather("embedding", table, {1, n, dim}, ids, shape);
  if (!records(table)) return y;
  return primitive("embedding", std::move(y), {table}, keep_nothing, [ids = detach(ids), n, dim](const Sweep& s) {
    return Tensors{scatter_add(reshape(s.dy(), {ids.count(), dim}), 0, reshape(ids, {ids.count()}), n)};   // y_i = table[ids_i]
  });
}

Tensor gather(const Tensor& x, int axis, const Tensor& ids) {
  must_be_defined("gather", "x", x);
  axis = normal_axis("gather", axis, x.rank());
  const int64_t n = x.size(axis);
  check_ids("gather", x, ids, n);
  if (ids.rank() != 1) throw refuse("gather", "shape of ids is {}, needs [M]; reshape them", to_string(ids.shape()));
  Tensor y = run_gather("gather", x, middle(x.shape(), axis), ids, x.shape().with(axis, ids.count()));
  if (!records(x)) return y;
  return primitive("gather", std::move(y), {x}, keep_nothing, [axis, ids = detach(ids), n](const Sweep& s) {
    return Tensors{scatter_add(s.dy(), axis, ids, n)};   // y_i = x[ids_i]
  });
}

Tensor scatter_add(const Tensor& x, int axis, const Tensor& ids, int64_t size) {
  must_be_defined("scatter_add", "x", x);
  axis = normal_axis("scatter_add", axis, x.rank());
  if (size < 0) throw refuse("scatter_add", "size is {}, needs at least 0", size);
  check_ids("scatter_add", x, ids, size);
  if (ids.rank() != 1 || ids.count() != x.size(axis))
    throw refuse("scatter_add", "shape of ids is {}, needs [{}], one for each along axis {} of {}", to_string(ids.shape()), x.size(axis),
                 axis, to_string(x.shape()));
  Middle m = middle(x.shape(), axis);
  m.n = size;
  Tensor y = empty(x.shape().with(axis, size), like(x));
  if (y.count() > 0)
    dispatch("scatter_add", x, [&]<class T>(auto place) {
      if constexpr (place.cuda)
        must("scatter_add", cuda::scatter_add<T>(m, ids.count(), in<int32_t>(ids), in<T>(x), out<T>(y), place.stream));
      else
        must("scatter_add", cpu::scatter_add<T>(m, ids.count(), in<int32_t>(ids), in<T>(x), out<T>(y)));
    });
  if (!records(x)) return y;
  return primitive("scatter_add", std::move(y), {x}, keep_nothing, [axis, ids = detach(ids)](const Sweep& s) {
    return Tensors{gather(s.dy(), axis, ids)};   // y[ids_i] += x_i
  });
}

Tensor pick(const Tensor& x, const Tensor& ids) {
  must_be_defined("pick", "x", x);
  if (x.rank() < 1) throw refuse("pick", "shape is {}, needs [..., N]", to_string(x.shape()));
  const int64_t n = x.size(-1);
  check_ids("pick", x, ids, n);
  const Shape shape = x.shape().erase(x.rank() - 1);
  if (!(ids.shape() == shape))
    throw refuse("pick", "shape of ids is {}, needs {} for x of {}", to_string(ids.shape()), to_string(shape), to_string(x.shape()));
  Tensor y = empty(shape, like(x));
  if (y.count() > 0)
    dispatch("pick", x, [&]<class T>(auto place) {
      if constexpr (place.cuda)
        must("pick", cuda::pick<T>(ids.count(), n, in<int32_t>(ids), in<T>(x), out<T>(y), place.stream));
      else
        must("pick", cpu::pick<T>(ids.count(), n, in<int32_t>(ids), in<T>(x), out<T>(y)));
    });
  if (!records(x)) return y;
  return primitive("pick", std::move(y), {x}, keep_nothing,
                   [ids = detach(ids), n](const Sweep& s) { return Tensors{put(s.dy(), ids, n)}; });   // y_r = x_r,id
}

}   // namespace ttr
