// Short causal convolution and rotary embedding (arXiv 2104.09864). Equations: sequence_kernel.hpp.
//   causal_conv  x [B, T, D], its channels in one tensor or in several, weight [D, W], bias [D], past [B, W-1, D] -> as x
//   rotary       x [B, T, H, D] -> [B, T, H, D]
#include <algorithm>
#include <type_traits>
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

Tensors causal_conv(const Tensors& parts, const Tensor& weight, const Tensor& bias, const Tensor& past, bool active) {
  const char* const where = "causal_conv";
  if (parts.empty()) throw refuse(where, "parts has 0 tensors, needs at least one [B, T, D]");
  const Tensor& x = parts[0];
  if (x.rank() != 3) throw refuse(where, "x is {}, needs three axes [B, T, D]; reshape it", to_string(x.shape()));
  const int64_t B = x.size(0), T1 = x.size(1);
  int64_t D = 0;
  for (const Tensor& part : parts) {
    same_kind(where, x, part);
    if (part.rank() != 3 || part.size(0) != B || part.size(1) != T1)
      throw refuse(where, "a part is {}, needs [{}, {}, its channels] like the first {}", to_string(part.shape()), B, T1, to_string(x.shape()));
    D += part.size(2);
  }
  const std::string of = parts.size() == 1 ? fmt::format("x {}", to_string(x.shape())) : fmt::format("{} parts like {}", parts.size(), to_string(x.shape()));
  same_kind(where, x, weight);
  if (weight.rank() != 2 || weight.size(0) != D || weight.size(1) < 1)
    throw refuse(where, "weight is {}, needs [{}, W] with W at least 1, one row a channel of {}", to_string(weight.shape()), D, of);
  const int64_t W = weight.size(1);
  if (bias.defined()) {
    same_kind(where, x, bias);
    if (!(bias.shape() == Shape{D})) throw refuse(where, "bias is {}, needs [{}], one a channel of {}", to_string(bias.shape()), D, of);
  }
  if (past.defined()) {
    same_kind(where, x, past);
    if (!(past.shape() == Shape{B, W - 1, D}))
      throw refuse(where, "past is {}, needs {}, the tokens before {} that weight {} reaches", to_string(past.shape()), to_string(Shape{B, W - 1, D}), of,
                   to_string(weight.shape()));
  }

  const size_t n = parts.size(), at_bias = n + 1, at_past = n + (bias.defined() ? 2 : 1);   // where they stand among the inputs
  const bool biased = bias.defined(), continued = past.defined();
  Tensors inputs = parts;
  inputs.push_back(weight);
  if (biased) inputs.push_back(bias);
  if (continued) inputs.push_back(past);
  // Part i, the channels from `channel` on, as a kernel sees it.
  const auto arguments = [=]<class T>(std::type_identity<T>, const Tensor& x, int64_t channel, const Tensor& weight, const Tensor& bias, const Tensor& past) {
    return ConvInputs<T>{B, T1, x.size(2), W, active, in<T>(x), in<T>(weight) + channel * W, biased ? in<T>(bias) + channel : nullptr,
                         {continued ? in<T>(past) + channel : nullptr, D}};
  };
  Tensors ys;
  int64_t channel = 0;
  for (const Tensor& part : parts) {
    Tensor y = empty(part.shape(), like(part));
    dispatch(where, part, [&]<class T>(auto place) {
      const ConvForward<T> p{arguments(std::type_identity<T>{}, part, channel, weight, bias, past), out<T>(y)};
      if constexpr (place.cuda) must(where, cuda::conv_forward<T>(p, place.stream));
      else must(where, cpu::conv_forward<T>(p, Scratch(cpu::conv_workspace<T>(p), part.device())));
    });
    ys.push_back(std::move(y));
    channel += part.size(2);
  }

  auto backward = [=](const SavedConv&, const Sweep& s) {
    const bool whole = std::all_of(s.dys().begin(), s.dys().end(), [](const Tensor& dy) { return dy.defined(); });
    const auto fresh = [&](bool given, size_t i) {   // the parts write their channels of it
      return !given || !s.needs(int(i)) ? Tensor() : whole ? empty(s.shape(int(i)), like(s.x())) : zeros(s.shape(int(i)), like(s.x()));
    };
    Tensors d(n);
    Tensor d_weight = fresh(true, n), d_bias = fresh(biased, at_bias), d_past = fresh(continued, at_past);
    int64_t channel = 0;
    for (size_t i = 0; i < n; ++i) {
      const Tensor &x = s.x(int(i)), &dy = s.dy(int(i));
      if (dy.defined()) {
        if (s.needs(int(i))) d[i] = empty(x.shape(), like(x));
        dispatch(where, x, [&]<class T>(auto place) {
          const ConvBackward<T> p{arguments(std::type_identity<T>{}, x, channel, s.x(int(n)), biased ? s.x(int(at_bias)) : Tensor(),
                                            continued ? s.x(int(at_past)) : Tensor()),
                                  in<T>(dy),
                                  out<T>(d[i]),
                                  d_weight.defined() ? out<T>(d_weight) + channel * W : nullptr,
                                  d_bias.defined() ? out<T>(d_bias) + channel : nullptr,
                                  {d_past.defined() ? out<T>(d_past) + channel : nullptr, D}};
          if constexpr (place.cuda)
            must(where, cuda::conv_backward<T>(p, Scratch(cuda::conv_workspace<T>(p), x.device()), place.stream));
          else
            must(where, cpu::conv_backward<T>(p, Scratch(cpu::conv_workspace<T>(p), x.device())));   // y_t = silu(sum_j w[:, j] x_{t-j} + b)
        });
      }
      channel += x.size(2);
    }
    d.push_back(d_weight);
    if (biased) d.push_back(d_bias);
    if (continued) d.push_back(d_past);
    return d;
  };
  auto define = [=](const Tensors& inputs) {
    Tensors ys;
    int64_t channel = 0;
    for (size_t i = 0; i < n; ++i) {
      const Tensor& x = inputs[i];
      const int64_t end = channel + x.size(2);
      const Tensor before = W == 1 ? x : continued ? concat({slice(inputs[at_past], 2, channel, end), x}, 1) : pad(x, 1, W - 1, 0);   // [B, W-1+T, ..]
      const Tensor w = slice(inputs[n], 0, channel, end);
      Tensor y;
      for (int64_t j = 0; j < W; ++j) {
        const Tensor tap = slice(before, 1, W - 1 - j, W - 1 - j + T1) * reshape(slice(w, 1, j, j + 1), {x.size(2)});
        y = y.defined() ? y + tap : tap;
      }
      if (biased) y = y + slice(inputs[at_bias], 0, channel, end);
      ys.push_back(active ? silu(y) : y);
      channel = end;
    }
    return ys;
  };
  return kernel_op(where, ys, inputs, SavedConv{}, backward, define);
}

Tensor causal_conv(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& past, bool active) {
  return causal_conv(Tensors{x}, weight, bias, past, active)[0];
}

}  // namespace ttr
