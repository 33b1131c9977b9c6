// Border of matrix products and batched factorisations, row-major.
#pragma once
#include <ttr/core/border.hpp>

namespace ttr {

// C_i[m, n] = op(A_i)[m, k] op(B_i)[k, n] for i < batch; operand i starts at i * batch_stride (0: shared).
struct Product {
  int64_t batch = 1, m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  int64_t stride_a = 0, stride_b = 0;
  bool accumulate = false;   // C += instead
};

namespace cpu {   // T: float, double
template <class T> Status matmul(const Product&, const T* a, const T* b, T* c);
template <class T> Status cholesky(int64_t batch, int64_t n, const T* a, T* l);                       // zeros above the diagonal
template <class T> Status solve_triangular(int64_t batch, int64_t n, int64_t m, bool upper, bool transpose, const T* l, const T* b, T* x);
}  // namespace cpu
namespace cuda {  // matmul T: float, double, bf16 (f32 sums); the others float, double
template <class T> Status matmul(const Product&, const T* a, const T* b, T* c, Stream);
template <class T> Status cholesky(int64_t batch, int64_t n, const T* a, T* l, Stream);
template <class T> Status solve_triangular(int64_t batch, int64_t n, int64_t m, bool upper, bool transpose, const T* l, const T* b, T* x, Stream);
}  // namespace cuda

}  // namespace ttr
