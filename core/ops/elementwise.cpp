// Elementwise operations on tensors: y_i = f(x_i), y_i = f(a_i, b_i) with broadcasting, and their derivatives.
// The functions of one element stand in elementwise_kernel.hpp; here are shapes, checks and backward rules.
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/broadcast.hpp>

namespace ttr {

using detail::must_be_defined;
using detail::records;

namespace {

Tensor run(const char* where, Unary op, const Tensor& x) {
  must_be_defined(where, "x", x);
  Tensor y = empty(x.shape(), like(x));
  const int64_t n = y.count();
  if (n == 0) return y;
  dispatch(where, x, [&]<class T>(auto place) {
    if constexpr (place.cuda)
      must(where, cuda::unary<T>(op, n, in<T>(x), out<T>(y), place.stream));
    else
      must(where, cpu::unary<T>(op, n, in<T>(x), out<T>(y)));
  });
  return y;
}

Tensor run(const char* where, Binary op, const Tensor& a, const Tensor& b) {
  must_be_defined(where, "the first operand", a);
  must_be_defined(where, "the second operand", b);
  same_kind(where, a, b);
  const bool same = a.shape() == b.shape();
  const Shape shape = same ? a.shape() : detail::broadcast_shape(where, a.shape(), b.shape());
  Tensor y = empty(shape, like(a));
  const int64_t n = shape.count();
  if (n == 0) return y;
  const Broadcast walk =
      same ? detail::in_order(n)
           : detail::merge_axes(shape, {detail::broadcast_strides(a.shape(), shape), detail::broadcast_strides(b.shape(), shape)});
  dispatch(where, a, [&]<class T>(auto place) {
    if constexpr (place.cuda)
      must(where, cuda::binary<T>(op, walk, in<T>(a), in<T>(b), out<T>(y), place.stream));
    else
      must(where, cpu::binary<T>(op, walk, in<T>(a), in<T>(b), out<T>(y)));
  });
  return y;
}

// f(a, b), or f(b, a) with the number first.
Tensor run(const char* where, Binary op, const Tensor& a, double b, bool number_first = false) {
  must_be_defined(where, "the operand", a);
  Tensor y = empty(a.shape(), like(a));
  const int64_t n = y.count();
  if (n == 0) return y;
  dispatch(where, a, [&]<class T>(auto place) {
    if constexpr (place.cuda)
      must(where, cuda::binary_scalar<T>(op, n, in<T>(a), b, number_first, out<T>(y), place.stream));
    else
      must(where, cpu::binary_scalar<T>(op, n, in<T>(a), b, number_first, out<T>(y)));
  });
  return y;
}

// What flows into input i: dx(), summed over the axes along which the input was repeated; nothing when nobody asks.
template <class F> Tensor into(const Sweep& s, int i, F&& dx) {
  if (!s.needs(i)) return {};
  return sum_to(dx(), s.shape(i));
}

Tensor into(const Sweep& s, int i) { return s.needs(i) ? sum_to(s.dy(), s.shape(i)) : Tensor(); }   // dx = dy

Tensors both(Tensor first, Tensor second) {   // moved, where a list in braces would copy
  Tensors pair(2);
  pair[0] = std::move(first);
  pair[1] = std::move(second);
  return pair;
}

Tensor nothing(const Tensor& x) { return zeros(Shape(), like(x)); }

}   // namespace

Tensor operator+(const Tensor& a, const Tensor& b) {
  Tensor y = run("add", Binary::add, a, b);
  if (!records(a, b)) return y;
  return primitive("add", std::move(y), {a, b}, keep_nothing, [](const Sweep& s) {
    return both(into(s, 0),    // y = a + b
                into(s, 1));   // y = a + b
  });
}

Tensor operator-(const Tensor& a, const Tensor& b) {
  Tensor y = run("sub", Binary::sub, a, b);
  if (!records(a, b)) return y;
  return primitive("sub", std::move(y), {a, b}, keep_nothing, [](const Sweep& s) {
    return both(into(s, 0),                                             // y = a - b
                s.needs(1) ? -sum_to(s.dy(), s.shape(1)) : Tensor());   // y = a - b
  });
}

Tensor operator*(const Tensor& a, const Tensor& b) {
  Tensor y = run("mul", Binary::mul, a, b);
  if (!records(a, b)) return y;
  return primitive("mul", std::move(y), {a, b}, keep_inputs, [](const Sweep& s) {
    return both(into(s, 0, [&] { return s.dy() * s.x(1); }),    // y = a b
                into(s, 1, [&] { return s.dy() * s.x(0); }));   // y = a b
  });
}

Tensor operator/(const Tensor& a, const Tensor& b) {
  Tensor y = run("div", Binary::div, a, b);
  if (!records(a, b)) return y;
  return primitive("div", std::move(y), {a, b}, keep_inputs, [](const Sweep& s) {
    const Tensor share = s.dy() / s.x(1);                                                        // y = a / b, for a
    return both(into(s, 0, [&] { return share; }),
                s.needs(1) ? -(sum_to(share * s.x(0), s.shape(1)) / s.x(1)) : Tensor());         // y = a / b, for b
  });
}

Tensor operator-(const Tensor& x) {
  Tensor y = run("neg", Unary::neg, x);
  if (!records(x)) return y;
  return primitive("neg", std::move(y), {x}, keep_nothing, [](const Sweep& s) { return Tensors{-s.dy()}; });   // y = -x
}

Tensor operator+(const Tensor& x, double c) {
  Tensor y = run("add", Binary::add, x, c);
  if (!records(x)) return y;
  return primitive("add", std::move(y), {x}, keep_nothing, [](const Sweep& s) { return Tensors{s.dy()}; });   // y = x + c
}

Tensor operator-(const Tensor& x, double c) {
  Tensor y = run("sub", Binary::sub, x, c);
  if (!records(x)) return y;
  return primitive("sub", std::move(y), {x}, keep_nothing, [](const Sweep& s) { return Tensors{s.dy()}; });   // y = x - c
}

Tensor operator*(const Tensor& x, double c) {
  Tensor y = run("mul", Binary::mul, x, c);
  if (!records(x)) return y;
  return primitive("mul", std::move(y), {x}, keep_nothing, [c](const Sweep& s) { return Tensors{s.dy() * c}; });   // y = x c
}

Tensor operator/(const Tensor& x, double c) {
  Tensor y = run("div", Binary::div, x, c);
  if (!records(x)) return y;
  return primitive("div", std::move(y), {x}, keep_nothing, [c](const Sweep& s) { return Tensors{s.dy() / c}; });   // y = x / c
}

Tensor operator+(double c, const Tensor& x) { return x + c; }
Tensor operator*(double c, const Tensor& x) { return x * c; }

Tensor operator-(double c, const Tensor& x) {
  Tensor y = run("sub", Binary::sub, x, c, true);
  if (!records(x)) return y;
  return primitive("sub", std::move(y), {x}, keep_nothing, [](const Sweep& s) { return Tensors{-s.dy()}; });   // y = c - x
}

Tensor operator/(double c, const Tensor& x) {
  Tensor y = run("div", Binary::div, x, c, true);
  if (!records(x)) return y;
  return primitive("div", std::move(y), {x}, keep_inputs, [c](const Sweep& s) {
    return Tensors{-((s.dy() / s.x()) * (c / s.x()))};   // y = c / x
  });
}

Tensor maximum(const Tensor& a, const Tensor& b) {
  Tensor y = run("maximum", Binary::max, a, b);
  if (!records(a, b)) return y;
  return primitive("maximum", std::move(y), {a, b}, keep_inputs, [](const Sweep& s) {
    const Tensor second = less(s.x(0), s.x(1)), none = nothing(s.dy());
    return both(into(s, 0, [&] { return where(second, none, s.dy()); }),    // y = max(a, b)
                into(s, 1, [&] { return where(second, s.dy(), none); }));   // y = max(a, b)
  });
}

Tensor minimum(const Tensor& a, const Tensor& b) {
  Tensor y = run("minimum", Binary::min, a, b);
  if (!records(a, b)) return y;
  return primitive("minimum", std::move(y), {a, b}, keep_inputs, [](const Sweep& s) {
    const Tensor second = less(s.x(1), s.x(0)), none = nothing(s.dy());
    return both(into(s, 0, [&] { return where(second, none, s.dy()); }),    // y = min(a, b)
                into(s, 1, [&] { return where(second, s.dy(), none); }));   // y = min(a, b)
  });
}

Tensor maximum(const Tensor& x, double c) {
  Tensor y = run("maximum", Binary::max, x, c);
  if (!records(x)) return y;
  return primitive("maximum", std::move(y), {x}, keep_inputs, [c](const Sweep& s) {
    return Tensors{where(run("less", Binary::less, s.x(), c), nothing(s.dy()), s.dy())};   // y = max(x, c)
  });
}

Tensor minimum(const Tensor& x, double c) {
  Tensor y = run("minimum", Binary::min, x, c);
  if (!records(x)) return y;
  return primitive("minimum", std::move(y), {x}, keep_inputs, [c](const Sweep& s) {
    return Tensors{where(run("less", Binary::less, s.x(), c, true), nothing(s.dy()), s.dy())};   // y = min(x, c)
  });
}

Tensor pow(const Tensor& x, double exponent) {
  if (exponent == 1) return x;
  if (exponent == 2) return square(x);
  Tensor y = run("pow", Binary::pow, x, exponent);
  if (exponent == 0 || !records(x)) return y;   // x^0 = 1 has derivative 0, at x = 0 too
  return primitive("pow", std::move(y), {x}, keep_inputs, [exponent](const Sweep& s) {
    return Tensors{s.dy() * (pow(s.x(), exponent - 1) * exponent)};   // y = x^p
  });
}

Tensor exp(const Tensor& x) {
  Tensor y = run("exp", Unary::exp, x);
  if (!records(x)) return y;
  return primitive("exp", std::move(y), {x}, keep_outputs, [](const Sweep& s) { return Tensors{s.dy() * s.y()}; });   // y = e^x
}

Tensor log(const Tensor& x) {
  Tensor y = run("log", Unary::log, x);
  if (!records(x)) return y;
  return primitive("log", std::move(y), {x}, keep_inputs, [](const Sweep& s) { return Tensors{s.dy() / s.x()}; });   // y = log x
}

Tensor log1p(const Tensor& x) {
  Tensor y = run("log1p", Unary::log1p, x);
  if (!records(x)) return y;
  return primitive("log1p", std::move(y), {x}, keep_inputs,
                   [](const Sweep& s) { return Tensors{s.dy() / (s.x() + 1)}; });   // y = log(1 + x)
}

Tensor expm1(const Tensor& x) {
  Tensor y = run("expm1", Unary::expm1, x);
  if (!records(x)) return y;
  return primitive("expm1", std::move(y), {x}, keep_outputs, [](const Sweep& s) { return Tensors{s.dy() * (s.y() + 1)}; });   // y = e^x - 1
}

Tensor sqrt(const Tensor& x) {
  Tensor y = run("sqrt", Unary::sqrt, x);
  if (!records(x)) return y;
  return primitive("sqrt", std::move(y), {x}, keep_outputs, [](const Sweep& s) { return Tensors{s.dy() / (s.y() * 2)}; });   // y = sqrt x
}

Tensor rsqrt(const Tensor& x) {
  Tensor y = run("rsqrt", Unary::rsqrt, x);
  if (!records(x)) return y;
  return primitive("rsqrt", std::move(y), {x}, keep_outputs, [](const Sweep& s) {
    const Tensor y = s.y();
    return Tensors{s.dy() * (y * square(y) * -0.5)};   // y = 1 / sqrt x
  });
}

Tensor square(const Tensor& x) {
  Tensor y = run("square", Unary::square, x);
  if (!records(x)) return y;
  return primitive("square", std::move(y), {x}, keep_inputs, [](const Sweep& s) { return Tensors{s.dy() * (s.x() * 2)}; });   // y = x^2
}

Tensor abs(const Tensor& x) {
  Tensor y = run("abs", Unary::abs, x);
  if (!records(x)) return y;
  return primitive("abs", std::move(y), {x}, keep_inputs, [](const Sweep& s) { return Tensors{s.dy() * sign(s.x())}; });   // y = |x|
}

Tensor sin(const Tensor& x) {
  Tensor y = run("sin", Unary::sin, x);
  if (!records(x)) return y;
  return primitive("sin", std::move(y), {x}, keep_inputs, [](const Sweep& s) { return Tensors{s.dy() * cos(s.x())}; });   // y = sin x
}

Tensor cos(const Tensor& x) {
  Tensor y = run("cos", Unary::cos, x);
  if (!records(x)) return y;
  return primitive("cos", std::move(y), {x}, keep_inputs, [](const Sweep& s) { return Tensors{-(s.dy() * sin(s.x()))}; });   // y = cos x
}

Tensor tanh(const Tensor& x) {
  Tensor y = run("tanh", Unary::tanh, x);
  if (!records(x)) return y;
  return primitive("tanh", std::move(y), {x}, keep_outputs,
                   [](const Sweep& s) { return Tensors{s.dy() * (1 - square(s.y()))}; });   // y = tanh x
}

Tensor sigmoid(const Tensor& x) {
  Tensor y = run("sigmoid", Unary::sigmoid, x);
  if (!records(x)) return y;
  return primitive("sigmoid", std::move(y), {x}, keep_outputs, [](const Sweep& s) {
    const Tensor y = s.y();
    return Tensors{s.dy() * (y * (1 - y))};   // y = sigmoid x
  });
}

Tensor softplus(const Tensor& x) {
  Tensor y = run("softplus", Unary::softplus, x);
  if (!records(x)) return y;
  return primitive("softplus", std::move(y), {x}, keep_inputs,
                   [](const Sweep& s) { return Tensors{s.dy() * sigmoid(s.x())}; });   // y = log(1 + e^x)
}

Tensor logsigmoid(const Tensor& x) {
  Tensor y = run("logsigmoid", Unary::logsigmoid, x);
  if (!records(x)) return y;
  return primitive("logsigmoid", std::move(y), {x}, keep_inputs,
                   [](const Sweep& s) { return Tensors{s.dy() * sigmoid(-s.x())}; });   // y = -log(1 + e^-x)
}

Tensor relu(const Tensor& x) {
  Tensor y = run("relu", Unary::relu, x);
  if (!records(x)) return y;
  return primitive("relu", std::move(y), {x}, keep_outputs, [](const Sweep& s) {
    return Tensors{where(run("less_equal", Binary::less_equal, s.y(), 0.0), nothing(s.dy()), s.dy())};   // y = max(x, 0)
  });
}

namespace {
struct SavedInput {
  Tensor x;
};   // what the backward of silu and gelu reads, of elu1 its answer
}   // namespace

Tensor silu(const Tensor& x) {
  Tensor y = run("silu", Unary::silu, x);
  if (!records(x)) return y;
  return kernel_op(
      "silu", {std::move(y)}, {x}, SavedInput{x},
      [](const SavedInput& saved, const Sweep& s) {
        return Tensors{run("silu_backward", Binary::silu_backward, saved.x, s.dy())};   // y = x sigmoid(x)
      },
      [](const Tensors& inputs) { return Tensors{inputs[0] * sigmoid(inputs[0])}; })[0];
}

Tensor gelu(const Tensor& x) {
  Tensor y = run("gelu", Unary::gelu, x);
  if (!records(x)) return y;
  return kernel_op(
      "gelu", {std::move(y)}, {x}, SavedInput{x},
      [](const SavedInput& saved, const Sweep& s) {
        return Tensors{
            run("gelu_backward", Binary::gelu_backward, saved.x, s.dy())};   // y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
      },
      [](const Tensors& inputs) {
        const Tensor& x = inputs[0];
        return Tensors{x * 0.5 * (1 + tanh((x + x * square(x) * 0.044715) * 0.7978845608028654))};   // sqrt(2 / pi)
      })[0];
}

Tensor elu1(const Tensor& x) {
  Tensor y = run("elu1", Unary::elu1, x);
  if (!records(x)) return y;
  const Tensor kept = detach(y);
  return kernel_op(
      "elu1", {std::move(y)}, {x}, SavedInput{kept},
      [](const SavedInput& saved, const Sweep& s) {
        return Tensors{run("elu1_backward", Binary::elu1_backward, saved.x, s.dy())};   // y = x + 1, or e^x where x <= 0
      },
      [](const Tensors& inputs) { return Tensors{maximum(inputs[0], 0.0) + exp(minimum(inputs[0], 0.0))}; })[0];
}

// Piecewise constant: derivative zero everywhere it exists, so nothing is recorded.
Tensor sign(const Tensor& x) { return run("sign", Unary::sign, x); }
Tensor less(const Tensor& a, const Tensor& b) { return run("less", Binary::less, a, b); }
Tensor less_equal(const Tensor& a, const Tensor& b) { return run("less_equal", Binary::less_equal, a, b); }
Tensor equal(const Tensor& a, const Tensor& b) { return run("equal", Binary::equal, a, b); }

Tensor where(const Tensor& mask, const Tensor& a, const Tensor& b) {
  must_be_defined("where", "mask", mask);
  must_be_defined("where", "the first branch", a);
  must_be_defined("where", "the second branch", b);
  same_kind("where", a, b);
  same_kind("where", mask, a);
  const Shape branches = detail::broadcast_shape("where", a.shape(), b.shape());
  const Shape shape = detail::broadcast_shape("where", branches, mask.shape());
  Tensor y = empty(shape, like(a));
  if (y.count() > 0) {
    const bool same = mask.shape() == shape && a.shape() == shape && b.shape() == shape;
    const Broadcast walk =
        same ? detail::in_order(y.count())
             : detail::merge_axes(shape, {detail::broadcast_strides(mask.shape(), shape), detail::broadcast_strides(a.shape(), shape),
                                          detail::broadcast_strides(b.shape(), shape)});
    dispatch("where", a, [&]<class T>(auto place) {
      if constexpr (place.cuda)
        must("where", cuda::select<T>(walk, in<T>(mask), in<T>(a), in<T>(b), out<T>(y), place.stream));
      else
        must("where", cpu::select<T>(walk, in<T>(mask), in<T>(a), in<T>(b), out<T>(y)));
    });
  }
  if (!records(a, b)) return y;
  return primitive("where", std::move(y), {a, b}, keep_nothing, [mask = detach(mask)](const Sweep& s) {
    const Tensor none = nothing(s.dy());
    return both(into(s, 0, [&] { return where(mask, s.dy(), none); }),    // y = mask ? a : b
                into(s, 1, [&] { return where(mask, none, s.dy()); }));   // y = mask ? a : b
  });
}

}   // namespace ttr
