// The gated unit in registers. Equations: gated_kernel.hpp. Included by what simd_sets.hpp compiles, once a set, hence without a guard.
#include <ttr/core/simd_exp.hpp>

namespace ttr::TTR_SIMD_SET {
namespace {

// f(i, load, store) for every register of a row of n; what is left of the row goes through registers padded with zeros.
template <class T, class F> TTR_SIMD_INLINE void each_register(int64_t n, F f) {
  constexpr int64_t L = Register<T>::lanes;
  int64_t i = 0;
  for (; i + L <= n; i += L)
    f([&](const T* x) __attribute__((always_inline)) { return vec(x + i); }, [&](T* y, Vec<T> v) __attribute__((always_inline)) { vec(y + i) = v; });
  if (i == n) return;
  f([&](const T* x) __attribute__((always_inline)) {
      Vec<T> v = {};
      for (int64_t l = 0; i + l < n; ++l) v[l] = x[i + l];
      return v;
    },
    [&](T* y, Vec<T> v) __attribute__((always_inline)) {
      for (int64_t l = 0; i + l < n; ++l) y[i + l] = v[l];
    });
}

template <class T> TTR_SIMD_INLINE void forward_row(int64_t n, const T* x, const T* gate, T* y) {   // all [n]
  each_register<T>(n, [&](auto load, auto store) __attribute__((always_inline)) {
    const Vec<T> g = load(gate);
    store(y, load(x) * g * sigmoid_lanes<T>(g).at_x);
  });
}
template <class T> TTR_SIMD_INLINE void backward_row(int64_t n, const T* x, const T* gate, const T* dy, T* dx, T* d_gate) {   // all [n]
  if (!d_gate) return forward_row(n, dy, gate, dx);                                               // y = x g s
  each_register<T>(n, [&](auto load, auto store) __attribute__((always_inline)) {
    const Vec<T> g = load(gate), d = load(dy);
    const Sigmoid<T> s = sigmoid_lanes<T>(g);
    const Vec<T> dg = d * load(x) * s.at_x * (T(1) + g * s.at_minus_x);                           // y = x g s, s = sigmoid(g)
    if (dx) store(dx, d * g * s.at_x);                                                            // y = x g s
    store(d_gate, dg);
  });
}

template <class T> TTR_SIMD_INLINE void forward_rows(const GatedForward<T>& p, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) forward_row(p.n, p.x.at + r * p.x.token_stride, p.gate.at + r * p.gate.token_stride, p.y + r * p.n);
}
template <class T> TTR_SIMD_INLINE void backward_rows(const GatedBackward<T>& p, int64_t begin, int64_t end) {
  if (!p.dx.at && !p.d_gate.at) return;
  for (int64_t r = begin; r < end; ++r)
    backward_row(p.n, p.x.at + r * p.x.token_stride, p.gate.at + r * p.gate.token_stride, p.dy + r * p.n,
                 p.dx.at ? p.dx.at + r * p.dx.token_stride : nullptr, p.d_gate.at ? p.d_gate.at + r * p.d_gate.token_stride : nullptr);
}
void forward_f32(const GatedForward<float>& p, int64_t begin, int64_t end) { forward_rows(p, begin, end); }
void forward_f64(const GatedForward<double>& p, int64_t begin, int64_t end) { forward_rows(p, begin, end); }
void backward_f32(const GatedBackward<float>& p, int64_t begin, int64_t end) { backward_rows(p, begin, end); }
void backward_f64(const GatedBackward<double>& p, int64_t begin, int64_t end) { backward_rows(p, begin, end); }

}  // namespace
}  // namespace ttr::TTR_SIMD_SET
