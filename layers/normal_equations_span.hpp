// A run of tokens of one head as small matrices, and the ways to solve for all of its tokens. Internal to normal_equations*_cpu.cpp.
//
// Rows r, s of a span of c <= 64 tokens inside one document; H0, F0 as they enter. D_rs = a_r ... a_{s+1} (D_ss = 1), since_r = a_r ... a_0:
//   H_r = since_r H0 + sum_{s <= r} D_rs w_s k_s k_s^T,   F_r likewise with v_s k_s^T,   A_r = H_r + rho_r diag(ridge)
#pragma once
#include <ttr/core/simd.hpp>
#include <ttr/core/task_slabs.hpp>
#include <ttr/layers/normal_equations_kernel.hpp>

namespace ttr::least_squares {

constexpr int64_t C = kNormalChunk;

template <class T> struct Span {
  int64_t count = 0, K = 0, V = 0;   // tokens, key and value sizes
  int64_t skip = 0;                  // leading tokens that are not asked
  const T* kv = nullptr;             // [c, K + V]: key beside value
  const T* moments = nullptr;        // [K + V, K]: H0 over F0
  const T* ridge = nullptr;          // [K]
  const T* rho = nullptr;            // [c]
  T rho_before = 0;                  // what rho_0 is a_0 times, of the policies that decay with the memory
  const T* write = nullptr;          // [c] w
  const T* since = nullptr;          // [c]
  const T* between = nullptr;        // [c, C] D, zero above the diagonal
  int64_t width() const { return K + V; }
};

// y [c - skip, V] of the asked tokens, and x_r over s_r [2c, K]; q [c - skip, K], dy [c, V] with zero rows for those that are not asked.
int64_t by_chunk_slab(int64_t key_dim, int64_t value_dim);
void answer_by_chunk(const Span<float>&, const float* q, int64_t q_stride, float scale, float* y, int64_t y_stride, float* slab);
void answer_by_chunk(const Span<double>&, const double* q, int64_t q_stride, double scale, double* y, int64_t y_stride, double* slab);
void adjoint_by_chunk(const Span<float>&, const float* q, int64_t q_stride, float scale, const float* dy, int64_t dy_stride, float* x, float* slab);
void adjoint_by_chunk(const Span<double>&, const double* q, int64_t q_stride, double scale, const double* dy, int64_t dy_stride, double* x, double* slab);

// x [sets c, K] <- A_r^{-1} x, row r of each set, in place. Each has a slab of its own, as large as *_slab says.
int64_t by_token_slab(int64_t key_dim, bool wide);   // in elements; wide: f64
void solve_by_token(const Span<float>&, float* x, int64_t sets, float* slab);
void solve_by_token(const Span<double>&, double* x, int64_t sets, double* slab);

int64_t by_iteration_slab(int64_t key_dim);
void solve_by_iteration(const Span<float>&, float* x, int64_t sets, int64_t steps, float tolerance, float* slab);
void solve_by_iteration(const Span<double>&, double* x, int64_t sets, int64_t steps, double tolerance, double* slab);

}  // namespace ttr::least_squares
