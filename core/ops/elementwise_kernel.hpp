// Border of elementwise operations: what each computes for one element (the same source on CPU and CUDA), and the loops over them.
// T: float, double on both devices, bf16 on CUDA. Arithmetic in Wide<T>, one rounding at the end. Outputs may be an operand (in place).
#pragma once
#include <cmath>
#include <ttr/core/border.hpp>

namespace ttr {

enum class Unary : int32_t {
  neg, abs, exp, expm1, log, log1p, sqrt, rsqrt, square, sin, cos, tanh, sigmoid, softplus, logsigmoid, relu, sign, silu, gelu, elu1
};
// *_backward(x, dy), of elu1 (y, dy)
enum class Binary : int32_t { add, sub, mul, div, max, min, pow, less, less_equal, equal, silu_backward, gelu_backward, elu1_backward };

// Sizes of the output (contiguous) and the operands' strides in elements, 0 where broadcast. Adjacent axes are merged where they can be.
struct Broadcast {
  int32_t rank = 0;
  int64_t count = 0;
  int64_t size[6] = {};
  int64_t stride[3][6] = {};
};

namespace element {   // on Wide<T>: float or double
template <class A> TTR_BOTH A sigmoid(A x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }
template <class A> TTR_BOTH A softplus(A x) { return (x > 0 ? x : A(0)) + std::log1p(std::exp(x > 0 ? -x : x)); }
template <class A> TTR_BOTH A gelu_inner(A x) { return A(0.7978845608028654) * (x + A(0.044715) * x * x * x); }   // sqrt(2/pi) (x + 0.044715 x^3)
template <class A> TTR_BOTH A gelu(A x) { return A(0.5) * x * (1 + std::tanh(gelu_inner(x))); }
template <class A> TTR_BOTH A silu_slope(A x) { const A s = sigmoid(x); return s * (1 + x * (1 - s)); }
template <class A> TTR_BOTH A gelu_slope(A x) {
  const A t = std::tanh(gelu_inner(x));
  return A(0.5) * (1 + t) + A(0.5) * x * (1 - t * t) * A(0.7978845608028654) * (1 + A(3 * 0.044715) * x * x);
}

template <class A> TTR_BOTH A apply(Unary op, A x) {
  switch (op) {
    case Unary::neg: return -x;
    case Unary::abs: return x < 0 ? -x : x;
    case Unary::exp: return std::exp(x);
    case Unary::expm1: return std::expm1(x);
    case Unary::log: return std::log(x);
    case Unary::log1p: return std::log1p(x);
    case Unary::sqrt: return std::sqrt(x);
    case Unary::rsqrt: return 1 / std::sqrt(x);
    case Unary::square: return x * x;
    case Unary::sin: return std::sin(x);
    case Unary::cos: return std::cos(x);
    case Unary::tanh: return std::tanh(x);
    case Unary::sigmoid: return sigmoid(x);
    case Unary::softplus: return softplus(x);
    case Unary::logsigmoid: return -softplus(-x);
    case Unary::relu: return x > 0 ? x : (x <= 0 ? A(0) : x);   // NaN stays NaN
    case Unary::sign: return x > 0 ? A(1) : (x < 0 ? A(-1) : x * 0);
    case Unary::silu: return x * sigmoid(x);
    case Unary::gelu: return gelu(x);
    case Unary::elu1: return x > 0 ? x + 1 : std::exp(x);
  }
  return x;
}

template <class A> TTR_BOTH A apply(Binary op, A a, A b) {
  switch (op) {
    case Binary::add: return a + b;
    case Binary::sub: return a - b;
    case Binary::mul: return a * b;
    case Binary::div: return a / b;
    case Binary::max: return (a >= b || a != a) ? a : b;
    case Binary::min: return (a <= b || a != a) ? a : b;
    case Binary::pow: return std::pow(a, b);
    case Binary::less: return a < b ? A(1) : A(0);
    case Binary::less_equal: return a <= b ? A(1) : A(0);
    case Binary::equal: return a == b ? A(1) : A(0);
    case Binary::silu_backward: return b * silu_slope(a);   // a = x, b = dy
    case Binary::gelu_backward: return b * gelu_slope(a);
    case Binary::elu1_backward: return b * (a >= 1 ? A(1) : a);   // a = y
  }
  return a;
}
}  // namespace element

namespace cpu {   // T: float, double; fill and convert also bf16, int32_t
template <class T> Status fill(int64_t n, double value, T* y);
template <class T> Status unary(Unary, int64_t n, const T* x, T* y);
template <class T> Status binary(Binary, const Broadcast&, const T* a, const T* b, T* y);
template <class T> Status binary_scalar(Binary, int64_t n, const T* a, double b, bool scalar_first, T* y);
template <class T> Status select(const Broadcast&, const T* mask, const T* a, const T* b, T* y);
// y at stride[1] = x at stride[0], converted; also a transpose, a slice, a padding or a broadcast copy.
template <class S, class T> Status copy(const Broadcast&, const S* x, T* y);
}  // namespace cpu

namespace cuda {  // T: float, double, bf16; fill and copy also int32_t
template <class T> Status fill(int64_t n, double value, T* y, Stream);
template <class T> Status unary(Unary, int64_t n, const T* x, T* y, Stream);
template <class T> Status binary(Binary, const Broadcast&, const T* a, const T* b, T* y, Stream);
template <class T> Status binary_scalar(Binary, int64_t n, const T* a, double b, bool scalar_first, T* y, Stream);
template <class T> Status select(const Broadcast&, const T* mask, const T* a, const T* b, T* y, Stream);
template <class S, class T> Status copy(const Broadcast&, const S* x, T* y, Stream);
}  // namespace cuda

}  // namespace ttr
