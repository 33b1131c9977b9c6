// Norms over the last axis of x [..., D], weight and bias [D] or undefined.
//   rms_norm    (arXiv 1910.07467)  y = x / sqrt(mean x^2 + eps) * weight
//   layer_norm  (arXiv 1607.06450)  y = (x - mean) / sqrt(var + eps) * weight + bias
//   l2_norm                         y = x / sqrt(sum x^2 + eps)
//   add_rms_norm                    {x + y, rms_norm(x + y)}: the residual stream and what the next layer reads of it
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/norm_kernel.hpp>

namespace ttr {
namespace {

struct SavedNorm { Tensor mean, rstd; };   // [rows] each, in the wide dtype; mean undefined for rms_norm

struct SavedSum { Tensor sum, rstd; };     // [..., n], [rows]

void check_scale(const char* where, const char* name, const Tensor& x, const Tensor& w) {
  if (!w.defined()) return;
  same_kind(where, x, w);
  if (w.rank() != 1 || w.size(0) != x.size(-1))
    throw refuse(where, "{} is {}, needs [{}], the last axis of x {}", name, to_string(w.shape()), x.size(-1), to_string(x.shape()));
}

enum class Kind { rms, layer, l2 };

// One body for the norms: they differ in whether the mean is taken out and in what the squares are divided by.
Tensor norm(const char* where, Kind kind, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  if (x.rank() < 1) throw refuse(where, "x is a scalar, needs at least one axis");
  const bool centred = kind == Kind::layer, whole = kind == Kind::l2;
  check_scale(where, "weight", x, weight);
  check_scale(where, "bias", x, bias);
  const int64_t n = x.size(-1), rows = n ? x.count() / n : 0;
  const Options wide_like{wide(x.dtype()), x.device()};
  Tensor y = empty(x.shape(), like(x)), mean, rstd = empty({rows}, wide_like);
  if (centred) mean = empty({rows}, wide_like);
  dispatch(where, x, [&]<class T>(auto place) {
    const NormForward<T> p{rows,      n,         in<T>(x),           in<T>(weight),      in<T>(bias), Wide<T>(eps),
                           out<T>(y), out<Wide<T>>(mean), out<Wide<T>>(rstd), nullptr,            nullptr,     whole};
    if constexpr (place.cuda) must(where, centred ? cuda::layer_norm_forward<T>(p, place.stream) : cuda::rms_norm_forward<T>(p, place.stream));
    else must(where, centred ? cpu::layer_norm_forward<T>(p) : cpu::rms_norm_forward<T>(p));
  });

  Tensors inputs{x};
  const int at_weight = weight.defined() ? 1 : -1, at_bias = bias.defined() ? (weight.defined() ? 2 : 1) : -1;   // where they stand among the inputs
  if (weight.defined()) inputs.push_back(weight);
  if (bias.defined()) inputs.push_back(bias);
  auto backward = [=](const SavedNorm& saved, const Sweep& s) {
    const Tensor& x = s.x();
    const Tensor w = at_weight > 0 ? s.x(at_weight) : Tensor();
    const auto fresh = [&](int i, const Shape& shape) { return i >= 0 && s.needs(i) ? empty(shape, like(x)) : Tensor(); };
    Tensor dx = fresh(0, x.shape()), d_weight = fresh(at_weight, {n}), d_bias = fresh(at_bias, {n});
    dispatch(where, x, [&]<class T>(auto place) {
      const NormBackward<T> p{rows,          n,          in<T>(x),         in<T>(w),      in<Wide<T>>(saved.mean), in<Wide<T>>(saved.rstd),
                              in<T>(s.dy()), out<T>(dx), out<T>(d_weight), out<T>(d_bias), nullptr, whole};
      if constexpr (place.cuda) {
        const Scratch scratch(cuda::norm_workspace<T>(p), x.device());
        must(where, centred ? cuda::layer_norm_backward<T>(p, scratch, place.stream) : cuda::rms_norm_backward<T>(p, scratch, place.stream));
      } else {
        const Scratch scratch(cpu::norm_workspace<T>(p), x.device());
        must(where, centred ? cpu::layer_norm_backward<T>(p, scratch) : cpu::rms_norm_backward<T>(p, scratch));   // y = norm(x) w + b
      }
    });
    Tensors d{dx};
    if (at_weight > 0) d.push_back(d_weight);
    if (at_bias > 0) d.push_back(d_bias);
    return d;
  };
  auto define = [=](const Tensors& inputs) {
    const Tensor h = centred ? inputs[0] - ttr::mean(inputs[0], -1, true) : inputs[0];
    Tensor y = h * rsqrt((whole ? ttr::sum(square(h), -1, true) : ttr::mean(square(h), -1, true)) + eps);
    if (at_weight > 0) y = y * inputs[at_weight];
    if (at_bias > 0) y = y + inputs[at_bias];
    return Tensors{y};
  };
  return kernel_op(where, {y}, inputs, SavedNorm{mean, rstd}, backward, define)[0];
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) { return norm("rms_norm", Kind::rms, x, weight, {}, eps); }
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) { return norm("layer_norm", Kind::layer, x, weight, bias, eps); }
Tensors add_rms_norm(const Tensor& x, const Tensor& y, const Tensor& weight, double eps) {
  constexpr const char* kWhere = "add_rms_norm";
  same_kind(kWhere, x, y);
  if (x.rank() < 1 || x.shape() != y.shape())
    throw refuse(kWhere, "y is {}, needs the shape of x {}, at least one axis", to_string(y.shape()), to_string(x.shape()));
  if (!weight.defined()) throw refuse(kWhere, "weight is undefined, needs [{}]; give ones for no scale", x.size(-1));
  check_scale(kWhere, "weight", x, weight);
  const int64_t n = x.size(-1), rows = n ? x.count() / n : 0;
  Tensor sum = empty(x.shape(), like(x)), normed = empty(x.shape(), like(x)), rstd = empty({rows}, {wide(x.dtype()), x.device()});
  dispatch(kWhere, x, [&]<class T>(auto place) {
    const NormForward<T> p{rows,     n, in<T>(x), in<T>(weight), nullptr, Wide<T>(eps), out<T>(normed), nullptr, out<Wide<T>>(rstd), in<T>(y),
                           out<T>(sum)};
    if constexpr (place.cuda) must(kWhere, cuda::rms_norm_forward<T>(p, place.stream));
    else must(kWhere, cpu::rms_norm_forward<T>(p));
  });
  const Tensor kept = detach(sum);
  return kernel_op(
      kWhere, {sum, normed}, {x, y, weight}, SavedSum{kept, rstd},
      [=](const SavedSum& saved, const Sweep& s) {
        if (!s.dy(1).defined()) return Tensors{s.dy(0), s.dy(0), Tensor()};                                                     // sum = x + y
        const Tensor w = s.x(2);
        Tensor d = s.needs(0) || s.needs(1) ? empty(saved.sum.shape(), like(w)) : Tensor();
        Tensor d_weight = s.needs(2) ? empty({n}, like(w)) : Tensor();
        dispatch(kWhere, w, [&]<class T>(auto place) {
          const NormBackward<T> p{rows,          n,        in<T>(saved.sum), in<T>(w), nullptr,        in<Wide<T>>(saved.rstd),
                                  in<T>(s.dy(1)), out<T>(d), out<T>(d_weight), nullptr,  in<T>(s.dy(0))};
          if constexpr (place.cuda) must(kWhere, cuda::rms_norm_backward<T>(p, Scratch(cuda::norm_workspace<T>(p), w.device()), place.stream));
          else must(kWhere, cpu::rms_norm_backward<T>(p, Scratch(cpu::norm_workspace<T>(p), w.device())));                      // normed = rms_norm(sum) w
        });
        return Tensors{d, d, d_weight};                                                                                         // sum = x + y
      },
      [eps](const Tensors& x) {
        const Tensor sum = x[0] + x[1];
        return Tensors{sum, sum * rsqrt(ttr::mean(square(sum), -1, true) + eps) * x[2]};
      });
}

Tensor l2_norm(const Tensor& x, double eps) { return norm("l2_norm", Kind::l2, x, {}, {}, eps); }

}  // namespace ttr
