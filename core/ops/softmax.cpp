// Softmax over the last axis and the log of a sum of exponentials.
//   softmax    y_i = e^{x_i - max} / sum_j e^{x_j - max}; a row of -inf gives zeros, and takes and gives no gradient
//   logsumexp  y = max + log sum_j e^{x_j - max}; a row of -inf gives -inf, with zero gradient
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/softmax_kernel.hpp>

namespace ttr {
namespace {

constexpr double kFloor = -1e30;   // stands for -inf where a difference of two would be NaN

Tensor peak(const Tensor& x, int axis) { return maximum(stop_gradient(max(x, axis, true)), kFloor); }   // finite or +inf

Tensors define_softmax(const Tensors& inputs) {
  const Tensor& x = inputs[0];
  const Tensor e = exp(x - peak(x, -1));
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

Tensor logsumexp(const Tensor& x, int axis, bool keep) {
  axis = normal_axis("logsumexp", axis, x.rank());
  const Tensor y = [&] {
    const Recording off(false);
    const Tensor most = peak(x, axis);
    return log(sum(exp(x - most), axis, true)) + most;
  }();
  const Tensor kept = primitive("logsumexp", y, {x}, keep_inputs | keep_outputs, [](const Sweep& s) {
    return Tensors{s.dy() * exp(s.x() - maximum(s.y(), kFloor))};   // y = log sum_j e^{x_j}
  });
  return keep ? kept : reshape(kept, x.shape().erase(axis));
}

}  // namespace ttr
