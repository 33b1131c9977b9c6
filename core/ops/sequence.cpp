// Short causal convolution and rotary embedding (arXiv 2104.09864). Equations: sequence_kernel.hpp.
//   causal_conv  x [B, T, D], weight [D, W], bias [D], past [B, W-1, D] -> [B, T, D]
//   rotary       x [B, T, H, D] -> [B, T, H, D]
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/sequence_kernel.hpp>

namespace ttr {
namespace {

struct SavedConv {};   // its backward reads the inputs alone

Tensor rotate(const Tensor& x, RotarySizes p) {
  const char* const where = "rotary";
  Tensor y = empty(x.shape(), like(x));
  dispatch(where, x, [&]<class T>(auto place) {
    if constexpr (place.cuda) must(where, cuda::rotary<T>(p, in<T>(x), out<T>(y), place.stream));
    else must(where, cpu::rotary<T>(p, in<T>(x), out<T>(y)));
  });
  RotarySizes back = p;
  back.sign = -p.sign;
  return primitive(where, y, {x}, keep_nothing, [back](const Sweep& s) { return Tensors{rotate(s.dy(), back)}; });   // y = R x, R orthogonal
}

}  // namespace

Tensor rotary(const Tensor& x, int64_t first, double base) {
  if (x.rank() != 4) throw refuse("rotary", "x is {}, needs four axes [B, T, H, D]; reshape it", to_string(x.shape()));
  if (x.size(3) % 2) throw refuse("rotary", "last axis of x {} is {}, needs an even size, for it is rotated in pairs", to_string(x.shape()), x.size(3));
  if (!(base > 0)) throw refuse("rotary", "base is {}, needs more than 0; 10000 is usual", base);
  return rotate(x, {x.size(0), x.size(1), x.size(2), x.size(3), first, base, 1});
}

Tensor causal_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& past) {
  const char* const where = "causal_conv";
  if (x.rank() != 3) throw refuse(where, "x is {}, needs three axes [B, T, D]; reshape it", to_string(x.shape()));
  const int64_t B = x.size(0), T1 = x.size(1), D = x.size(2);
  same_kind(where, x, weight);
  if (weight.rank() != 2 || weight.size(0) != D || weight.size(1) < 1)
    throw refuse(where, "weight is {}, needs [{}, W] with W at least 1, one row a channel of x {}", to_string(weight.shape()), D, to_string(x.shape()));
  const int64_t W = weight.size(1);
  if (bias.defined()) {
    same_kind(where, x, bias);
    if (!(bias.shape() == Shape{D})) throw refuse(where, "bias is {}, needs [{}], one a channel of x {}", to_string(bias.shape()), D, to_string(x.shape()));
  }
  if (past.defined()) {
    same_kind(where, x, past);
    if (!(past.shape() == Shape{B, W - 1, D}))
      throw refuse(where, "past is {}, needs {}, the tokens before x {} that weight {} reaches", to_string(past.shape()),
                   to_string(Shape{B, W - 1, D}), to_string(x.shape()), to_string(weight.shape()));
  }
  Tensor y = empty(x.shape(), like(x));
  dispatch(where, x, [&]<class T>(auto place) {
    const ConvForward<T> p{B, T1, D, W, in<T>(x), in<T>(weight), in<T>(bias), in<T>(past), out<T>(y)};
    if constexpr (place.cuda) must(where, cuda::conv_forward<T>(p, place.stream));
    else must(where, cpu::conv_forward<T>(p));
  });

  Tensors inputs{x, weight};
  const int at_bias = bias.defined() ? 2 : -1, at_past = past.defined() ? (bias.defined() ? 3 : 2) : -1;   // where they stand among the inputs
  if (bias.defined()) inputs.push_back(bias);
  if (past.defined()) inputs.push_back(past);
  auto backward = [=](const SavedConv&, const Sweep& s) {
    const Tensor past = at_past > 0 ? s.x(at_past) : Tensor();
    const auto fresh = [&](int i) { return i >= 0 && s.needs(i) ? empty(s.shape(i), like(s.x())) : Tensor(); };
    Tensor dx = fresh(0), d_weight = fresh(1), d_bias = fresh(at_bias), d_past = fresh(at_past);
    dispatch(where, s.x(), [&]<class T>(auto place) {
      const ConvBackward<T> p{B,
                              T1,
                              D,
                              W,
                              in<T>(s.x()),
                              in<T>(s.x(1)),
                              in<T>(past),
                              in<T>(s.dy()),
                              out<T>(dx),
                              out<T>(d_weight),
                              out<T>(d_bias),
                              out<T>(d_past)};
      if constexpr (place.cuda)
        must(where, cuda::conv_backward<T>(p, place.stream));
      else
        must(where, cpu::conv_backward<T>(p));   // y_t = sum_j w[:, j] x_{t-j} + b
    });
    Tensors d{dx, d_weight};
    if (at_bias > 0) d.push_back(d_bias);
    if (at_past > 0) d.push_back(d_past);
    return d;
  };
  auto define = [=](const Tensors& inputs) {
    const Tensor& x = inputs[0];
    const Tensor before = W == 1 ? x : at_past > 0 ? concat({inputs[at_past], x}, 1) : pad(x, 1, W - 1, 0);   // [B, W-1+T, D]
    Tensor y;
    for (int64_t j = 0; j < W; ++j) {
      const Tensor tap = slice(before, 1, W - 1 - j, W - 1 - j + T1) * reshape(slice(inputs[1], 1, j, j + 1), {D});
      y = y.defined() ? y + tap : tap;
    }
    return Tensors{at_bias > 0 ? y + inputs[at_bias] : y};
  };
  return kernel_op(where, {y}, inputs, SavedConv{}, backward, define)[0];
}

}  // namespace ttr
