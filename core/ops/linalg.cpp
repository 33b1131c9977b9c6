// Batched factorisations and solves over the last two axes: all primitives, their derivatives are solves and products again.
//   cholesky          a [..., n, n] -> L, a = L L^T. A function of the lower triangle alone, so its derivative lies there too.
//   solve_triangular  l [..., n, n], b [..., n, m] -> x [..., n, m], l x = b or l^T x = b
//   solve             a [..., n, n] symmetric positive definite. The derivative of a is taken among symmetric matrices, and is symmetric.
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/linalg_kernel.hpp>

namespace ttr {
namespace {

void check_square(const char* where, const char* name, const Tensor& a) {
  if (a.rank() < 2 || a.size(-1) != a.size(-2)) throw refuse(where, "{} is {}, needs square matrices [..., n, n]", name, to_string(a.shape()));
  if (a.dtype() == Dtype::bf16) throw refuse(where, "dtype of {} is bf16, needs f32 or f64: solves lose too much in bf16; cast first", name);
}

void check_pair(const char* where, const char* name, const Tensor& a, const Tensor& b) {
  check_square(where, name, a);
  same_kind(where, a, b);
  bool fits = b.rank() == a.rank() && b.size(-2) == a.size(-1);
  for (int i = 0; fits && i < a.rank() - 2; ++i) fits = a.size(i) == b.size(i);
  if (!fits)
    throw refuse(where, "b is {}, needs the leading axes of {} {} and {} rows [..., {}, m]; a vector is a matrix of one column", to_string(b.shape()), name,
                 to_string(a.shape()), a.size(-1), a.size(-1));
}

int64_t batch_of(const Tensor& a) {
  int64_t batch = 1;
  for (int i = 0; i < a.rank() - 2; ++i) batch *= a.size(i);
  return batch;
}

Tensor factor(const char* where, const Tensor& a) {   // unrecorded
  Tensor l = empty(a.shape(), like(a));
  dispatch(where, a, [&]<class T>(auto place) {
    if constexpr (std::is_same_v<T, bf16>) must(where, Status::bad_size);
    else if constexpr (place.cuda) must(where, cuda::cholesky<T>(batch_of(a), a.size(-1), in<T>(a), out<T>(l), place.stream));
    else must(where, cpu::cholesky<T>(batch_of(a), a.size(-1), in<T>(a), out<T>(l)));
  });
  return l;
}

Tensor substitute(const char* where, const Tensor& l, const Tensor& b, bool upper, bool transpose) {   // unrecorded
  Tensor x = empty(b.shape(), like(b));
  if (x.count() == 0) return x;
  dispatch(where, b, [&]<class T>(auto place) {
    if constexpr (std::is_same_v<T, bf16>) must(where, Status::bad_size);
    else if constexpr (place.cuda)
      must(where,
           cuda::solve_triangular<T>(batch_of(l), b.size(-2), b.size(-1), upper, transpose, in<T>(l), in<T>(b), out<T>(x), place.stream));
    else must(where, cpu::solve_triangular<T>(batch_of(l), b.size(-2), b.size(-1), upper, transpose, in<T>(l), in<T>(b), out<T>(x)));
  });
  return x;
}

Tensor swap_last(const Tensor& x) { return transpose(x, -1, -2); }
Tensor only_diagonal(const Tensor& x) { return diagonal_matrix(diagonal(x)); }

}  // namespace

Tensor cholesky(const Tensor& a) {
  check_square("cholesky", "a", a);
  return primitive("cholesky", factor("cholesky", a), {a}, keep_outputs, [](const Sweep& s) {
    const Tensor l = s.y();
    const Tensor m = matmul(l, s.dy(), true);
    const Tensor p = tril(m) - only_diagonal(m) * 0.5;                                          // Phi(L^T dL)
    const Tensor half = solve_triangular(l, p, false, true);                                    // L^-T P
    const Tensor full = swap_last(solve_triangular(l, swap_last(half), false, true));           // S = L^-T P L^-1
    return Tensors{tril(full + swap_last(full)) - only_diagonal(full)};                         // a = L L^T
  });
}

Tensor solve_triangular(const Tensor& l, const Tensor& b, bool upper, bool transposed) {
  check_pair("solve_triangular", "l", l, b);
  return primitive("solve_triangular", substitute("solve_triangular", l, b, upper, transposed), {l, b}, keep_inputs | keep_outputs, [=](const Sweep& s) {
    const Tensor x = s.y();
    const Tensor db = solve_triangular(s.x(0), s.dy(), upper, !transposed);                     // op(l) x = b
    Tensor dl;
    if (s.needs(0)) {
      const Tensor whole = -(transposed ? matmul(x, db, false, true) : matmul(db, x, false, true));
      dl = upper ? whole - tril(whole, -1) : tril(whole);                                       // op(l) x = b, the triangle that is read
    }
    return Tensors{dl, db};
  });
}

Tensor solve(const Tensor& a, const Tensor& b) {
  check_pair("solve", "a", a, b);
  const Tensor x = [&] {
    const Tensor l = factor("solve", a);
    return substitute("solve", l, substitute("solve", l, b, false, false), false, true);
  }();
  return primitive("solve", x, {a, b}, keep_inputs | keep_outputs, [](const Sweep& s) {
    const Tensor db = solve(s.x(0), s.dy());                                                    // a x = b
    if (!s.needs(0)) return Tensors{Tensor(), db};
    const Tensor outer = matmul(db, s.y(), false, true);
    return Tensors{(outer + swap_last(outer)) * -0.5, db};                                      // a x = b
  });
}

}  // namespace ttr
