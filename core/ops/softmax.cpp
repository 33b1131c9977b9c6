// Softmax over the last axis: y_i = e^{x_i - max} / sum_j e^{x_j - max}. A row of -inf gives zeros, and its gradient is zero.
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/softmax_kernel.hpp>

namespace ttr {
namespace {

Tensors define_softmax(const Tensors& inputs) {
  const Tensor& x = inputs[0];
  const Tensor e = exp(x - maximum(stop_gradient(max(x, -1, true)), -1e30));   // not -inf - -inf
  return {e / maximum(sum(e, -1, true), 0.5)};   // the largest term is 1, so only a row of -inf meets the floor
}

struct SavedSoftmax { Tensor y; };

}  // namespace

Tensor softmax(const Tensor& x) {
  const char* const where = "softmax";
  if (x.rank() < 1) throw refuse(where, "x is a scalar, needs at least one axis");
  const int64_t n = x.size(-1), rows = n ? x.count() / n : 0;
  Tensor y = empty(x.shape(), like(x));
  dispatch(where, x, [&]<class T>(auto place) {
    if constexpr (place.cuda) must(where, cuda::softmax_forward<T>(rows, n, in<T>(x), out<T>(y), place.stream));
    else must(where, cpu::softmax_forward<T>(rows, n, in<T>(x), out<T>(y)));
  });
  SavedSoftmax saved{window(y, 0, y.shape())};
  return kernel_op(where, {y}, {x}, std::move(saved), [=](const SavedSoftmax& saved, const Sweep& s) {
    const Tensor& dy = s.dy();
    Tensor dx = empty(dy.shape(), like(dy));
    dispatch(where, dy, [&]<class T>(auto place) {
      if constexpr (place.cuda) must(where, cuda::softmax_backward<T>(rows, n, in<T>(saved.y), in<T>(dy), out<T>(dx), place.stream));
      else must(where, cpu::softmax_backward<T>(rows, n, in<T>(saved.y), in<T>(dy), out<T>(dx)));   // y = softmax(x)
    });
    return Tensors{dx};
  }, define_softmax)[0];
}

}  // namespace ttr
