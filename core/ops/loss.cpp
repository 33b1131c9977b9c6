// Fused cross-entropy of logits [..., N] against labels i32 [...]: mean or sum over labels >= 0 of lse - x_label. See loss_kernel.hpp.
// The count of labels stays on the device, so the host never waits and the whole step can be captured.
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/index_kernel.hpp>
#include <ttr/core/ops/loss_kernel.hpp>

namespace ttr {
namespace {

struct SavedLoss { Tensor lse, inverse_count; };   // [rows], and [] (undefined for the sum), in the wide dtype

void check_labels(const char* where, const Tensor& labels) {
  if (labels.dtype() != Dtype::i32) throw refuse(where, "dtype of labels is {}, needs i32; make them with from_vector<int32_t>", name_of(labels.dtype()));
}

Tensors define_cross_entropy(const Tensors& inputs, const Tensor& labels, bool mean) {
  const Tensor x = cast(inputs[0], wide(inputs[0].dtype()));
  const Tensor at = cast(labels, x.dtype());
  const Tensor counted = less_equal(zeros(at.shape(), like(at)), at);                                        // [...]
  const Tensor loss = logsumexp(x, -1) - pick(x, cast(maximum(at, 0.0), Dtype::i32));                        // [...]
  const Tensor total = sum(where(counted, loss, zeros(at.shape(), like(at))));
  return {mean ? total / maximum(sum(counted), 1.0) : total};
}

}  // namespace

Tensor label_count(const Tensor& labels) {
  const char* const where = "label_count";
  check_labels(where, labels);
  Tensor y = empty({}, {Dtype::f32, labels.device()});
  dispatch(where, y, [&]<class T>(auto place) {
    if constexpr (place.cuda) must(where, cuda::count_labels(labels.count(), in<int32_t>(labels), out<float>(y), place.stream));
    else must(where, cpu::count_labels(labels.count(), in<int32_t>(labels), out<float>(y)));
  });
  return y;
}

Tensor cross_entropy(const Tensor& logits, const Tensor& labels, bool mean) {
  const char* const where = "cross_entropy";
  if (logits.rank() < 1) throw refuse(where, "logits is a scalar, needs [..., classes]");
  check_labels(where, labels);
  const Shape row_shape = logits.shape().erase(logits.rank() - 1);
  if (!(labels.shape() == row_shape))
    throw refuse(where, "labels is {}, needs {}, the shape of logits {} without its last axis", to_string(labels.shape()), to_string(row_shape),
                 to_string(logits.shape()));
  if (!(labels.device() == logits.device()))
    throw refuse(where, "device of labels is {}, needs {} as of logits; move one with to_device", name_of(labels.device()), name_of(logits.device()));
  const int64_t n = logits.size(-1), rows = labels.count();
  if (!labels.device().is_cuda()) {   // where the host can read them without waiting
    const int32_t* const label = labels.data<int32_t>();
    for (int64_t r = 0; r < rows; ++r)
      if (label[r] >= n)
        throw refuse(where, "label {} of {} is {}, needs less than {}, the number of classes; a negative label is ignored", r, rows,
                     label[r], n);
  }

  const Options wide_like{wide(logits.dtype()), logits.device()};
  Tensor row_loss = empty({rows}, wide_like), lse = empty({rows}, wide_like);
  dispatch(where, logits, [&]<class T>(auto place) {
    if constexpr (place.cuda)
      must(where, cuda::cross_entropy_forward<T>(rows, n, in<T>(logits), in<int32_t>(labels), out<Wide<T>>(row_loss), out<Wide<T>>(lse),
                                                 place.stream));
    else
      must(where, cpu::cross_entropy_forward<T>(rows, n, in<T>(logits), in<int32_t>(labels), out<Wide<T>>(row_loss), out<Wide<T>>(lse)));
  });
  Tensor loss = sum(row_loss), inverse_count;
  if (mean) {
    inverse_count = 1.0 / maximum(cast(label_count(labels), wide_like.dtype), 1.0);   // no labels: the sum is 0, and so is every gradient
    loss = loss * inverse_count;
  }

  auto backward = [=](const SavedLoss& saved, const Sweep& s) {
    const Tensor& x = s.x();
    const Tensor g = saved.inverse_count.defined() ? s.dy() * saved.inverse_count : s.dy();   // loss = sum_r loss_r / count
    Tensor dx = empty(x.shape(), like(x));
    dispatch(where, x, [&]<class T>(auto place) {
      if constexpr (place.cuda)
        must(where, cuda::cross_entropy_backward<T>(rows, n, in<T>(x), in<int32_t>(labels), in<Wide<T>>(saved.lse), in<Wide<T>>(g),
                                                    out<T>(dx), place.stream));
      else
        must(where, cpu::cross_entropy_backward<T>(rows, n, in<T>(x), in<int32_t>(labels), in<Wide<T>>(saved.lse), in<Wide<T>>(g),
                                                   out<T>(dx)));   // loss_r = lse_r - x_r,label
    });
    return Tensors{dx};
  };
  return kernel_op(where, {loss}, {logits}, SavedLoss{lse, inverse_count}, backward,
                   [=](const Tensors& inputs) { return define_cross_entropy(inputs, labels, mean); })[0];
}

}  // namespace ttr
