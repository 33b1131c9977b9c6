// Gated units: one pass where split, silu and a product would be three, and one pass back. Equations: gated_kernel.hpp.
//   swiglu  gate_up [..., 2n] -> [..., n]      silu of the first half times the second
//   gated   x, gate [..., n] -> [..., n]       x silu(gate)
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/gated_kernel.hpp>

namespace ttr {
namespace {

struct Nothing {};

template <class T> void forward(const char* where, auto place, const GatedForward<T>& p) {
  if constexpr (place.cuda) must(where, cuda::gated_forward<T>(p, place.stream));
  else must(where, cpu::gated_forward<T>(p));
}
template <class T> void backward(const char* where, auto place, const GatedBackward<T>& p) {
  if constexpr (place.cuda) must(where, cuda::gated_backward<T>(p, place.stream));
  else must(where, cpu::gated_backward<T>(p));
}

}  // namespace

Tensor swiglu(const Tensor& gate_up) {
  constexpr const char* kWhere = "swiglu";
  if (gate_up.rank() < 1 || gate_up.size(-1) % 2)
    throw refuse(kWhere, "gate_up is {}, needs an even last axis: gate and up, side by side", to_string(gate_up.shape()));
  const int64_t n = gate_up.size(-1) / 2, rows = n ? gate_up.count() / (2 * n) : 0;
  Tensor y = empty(gate_up.shape().with(-1, n), like(gate_up));
  dispatch(kWhere, gate_up, [&]<class T>(auto place) {
    const T* at = in<T>(gate_up);   // [rows, gate n | up n]
    forward<T>(kWhere, place, {rows, n, {at + n, 2 * n}, {at, 2 * n}, out<T>(y)});
  });
  return kernel_op(
      kWhere, {y}, {gate_up}, Nothing{},
      [=](const Nothing&, const Sweep& s) {
        Tensor d = empty(s.x().shape(), like(s.x()));
        dispatch(kWhere, d, [&]<class T>(auto place) {
          const T* at = in<T>(s.x());
          T* const to = out<T>(d);
          backward<T>(kWhere, place, {rows, n, {at + n, 2 * n}, {at, 2 * n}, in<T>(s.dy()), {to + n, 2 * n}, {to, 2 * n}});   // y = up silu(gate)
        });
        return Tensors{d};
      },
      [n](const Tensors& x) {
        const Tensors parts = split(x[0], -1, {n, n});
        return Tensors{parts[1] * (parts[0] * sigmoid(parts[0]))};
      })[0];
}

Tensor gated(const Tensor& x, const Tensor& gate) {
  constexpr const char* kWhere = "gated";
  same_kind(kWhere, x, gate);
  if (x.shape() != gate.shape()) throw refuse(kWhere, "gate is {}, needs the shape of x {}; reshape it", to_string(gate.shape()), to_string(x.shape()));
  const int64_t n = x.rank() ? x.size(-1) : 1, rows = n ? x.count() / n : 0;
  Tensor y = empty(x.shape(), like(x));
  dispatch(kWhere, x, [&]<class T>(auto place) { forward<T>(kWhere, place, {rows, n, {in<T>(x), n}, {in<T>(gate), n}, out<T>(y)}); });
  return kernel_op(
      kWhere, {y}, {x, gate}, Nothing{},
      [=](const Nothing&, const Sweep& s) {
        Tensors d(2);
        for (int i = 0; i < 2; ++i)
          if (s.needs(i)) d[size_t(i)] = empty(s.x(i).shape(), like(s.x(i)));
        dispatch(kWhere, s.dy(), [&]<class T>(auto place) {
          const Rows<const T> x{in<T>(s.x(0)), n}, gate{in<T>(s.x(1)), n};
          backward<T>(kWhere, place, {rows, n, x, gate, in<T>(s.dy()), {out<T>(d[0]), n}, {out<T>(d[1]), n}});   // y = x silu(gate)
        });
        return d;
      },
      [](const Tensors& x) { return Tensors{x[0] * (x[1] * sigmoid(x[1]))}; })[0];
}

}  // namespace ttr
