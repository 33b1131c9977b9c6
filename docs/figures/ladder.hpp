// The rungs of chapter 9: one memory of the delta rule in f32, from the equation to matrix products. All compute, from an empty memory,
//   u_t = beta_t (v_t - M_{t-1} k_t),   M_t = M_{t-1} + u_t k_t^T,   y_t = M_t q_t          M [V, K]
// They are for reading; the kernel that the program runs is layers/delta_cpu.cpp.
#pragma once
#include <algorithm>
#include <vector>
#include <ttr/core/blas.hpp>
#include <ttr/core/simd.hpp>

namespace ladder {

struct Head {
  int64_t tokens, key_dim, value_dim;
  const float *q, *k, *v;   // [T, K], [T, K], [T, V]
  const float* beta;        // [T]
  float* y;                 // [T, V]
};

// Rung 1: the equation, a row of the memory after the other.
inline void loop(const Head& h) {
  const int64_t K = h.key_dim, V = h.value_dim;
  std::vector<float> memory(size_t(V * K), 0.0f);   // [V, K]
  for (int64_t t = 0; t < h.tokens; ++t) {
    const float *q = h.q + t * K, *k = h.k + t * K;
    for (int64_t i = 0; i < V; ++i) {
      float* row = memory.data() + i * K;
      float read = 0, y = 0;
      for (int64_t j = 0; j < K; ++j) read += row[j] * k[j];
      const float u = h.beta[t] * (h.v[t * V + i] - read);
      for (int64_t j = 0; j < K; ++j) row[j] += u * k[j];
      for (int64_t j = 0; j < K; ++j) y += row[j] * q[j];
      h.y[t * V + i] = y;
    }
  }
}

// to += by * from. Restrict, a unit stride and no sum across the loop: all that a compiler needs to use vectors.
TTR_SIMD_INLINE void add_scaled(float* __restrict to, const float* __restrict from, float by, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += by * from[i];
}

// Rung 2: the same sums in another order, with the memory transposed.
TTR_SIMD_CLONES inline void vectors(const Head& h) {
  const int64_t K = h.key_dim, V = h.value_dim;
  std::vector<float> memory(size_t(K * V), 0.0f), u(size_t(V), 0.0f);   // [K, V], [V]
  for (int64_t t = 0; t < h.tokens; ++t) {
    const float *q = h.q + t * K, *k = h.k + t * K;
    float* y = h.y + t * V;
    std::fill_n(u.data(), V, 0.0f);
    for (int64_t j = 0; j < K; ++j) add_scaled(u.data(), memory.data() + j * V, k[j], V);         // M k
    for (int64_t i = 0; i < V; ++i) u[size_t(i)] = h.beta[t] * (h.v[t * V + i] - u[size_t(i)]);
    std::fill_n(y, V, 0.0f);
    for (int64_t j = 0; j < K; ++j) {
      float* column = memory.data() + j * V;
      add_scaled(column, u.data(), k[j], V);
      add_scaled(y, column, q[j], V);
    }
  }
}

constexpr int64_t C = 64;   // tokens of a chunk

// c [m, n] += a [m, p] b [p, n], row-major.
TTR_SIMD_INLINE void add_product(float* c, const float* a, const float* b, int64_t m, int64_t p, int64_t n) {
  for (int64_t i = 0; i < m; ++i)
    for (int64_t l = 0; l < p; ++l) add_scaled(c + i * n, b + l * n, a[i * p + l], n);
}

TTR_SIMD_INLINE void transpose(float* to, const float* from, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
}

// Rung 3: a chunk at a time. N_rs = beta_r k_r.k_s (s < r), A_rs = q_r.k_s (s <= r), M transposed as above:
//   (I + N) U = beta (V - K M),   Y = Q M + A U,   M <- M + K^T U
TTR_SIMD_CLONES inline void chunk(const Head& h) {
  const int64_t K = h.key_dim, V = h.value_dim;
  std::vector<float> memory(size_t(K * V), 0.0f), u(size_t(C * V)), n(size_t(C * C)), a(size_t(C * C)), keys(size_t(K * C));
  for (int64_t t = 0; t < h.tokens; t += C) {
    const int64_t c = std::min(C, h.tokens - t);
    const float *q = h.q + t * K, *k = h.k + t * K;
    float* y = h.y + t * V;
    transpose(keys.data(), k, c, K);
    std::fill_n(n.data(), c * c, 0.0f);
    std::fill_n(a.data(), c * c, 0.0f);
    add_product(n.data(), k, keys.data(), c, K, c);                                    // K K^T
    add_product(a.data(), q, keys.data(), c, K, c);                                    // Q K^T
    std::fill_n(u.data(), c * V, 0.0f);
    std::fill_n(y, c * V, 0.0f);
    add_product(u.data(), k, memory.data(), c, K, V);                                  // K M
    add_product(y, q, memory.data(), c, K, V);                                         // Q M
    for (int64_t r = 0; r < c; ++r) {
      float* ur = u.data() + r * V;
      for (int64_t i = 0; i < V; ++i) ur[i] = h.beta[t + r] * (h.v[(t + r) * V + i] - ur[i]);
      for (int64_t s = 0; s < r; ++s) add_scaled(ur, u.data() + s * V, -h.beta[t + r] * n[size_t(r * c + s)], V);
      for (int64_t s = 0; s <= r; ++s) add_scaled(y + r * V, u.data() + s * V, a[size_t(r * c + s)], V);
    }
    add_product(memory.data(), keys.data(), u.data(), K, c, V);                        // K^T U
  }
}

constexpr int64_t kBlock = 16;   // rows that are solved one after the other

// Rung 4: the same chunk, its products by BLAS, and the triangle in blocks so that most of it is a product too.
TTR_SIMD_CLONES inline void blocked(const Head& h) {
  using ttr::gemm;
  const int64_t K = h.key_dim, V = h.value_dim;
  std::vector<float> memory(size_t(K * V), 0.0f), u(size_t(C * V)), n(size_t(C * C)), a(size_t(C * C));
  for (int64_t t = 0; t < h.tokens; t += C) {
    const int64_t c = std::min(C, h.tokens - t);
    const float *q = h.q + t * K, *k = h.k + t * K;
    float* y = h.y + t * V;
    gemm<float>(false, true, c, c, K, 1, k, K, k, K, 0, n.data(), C);
    gemm<float>(false, true, c, c, K, 1, q, K, k, K, 0, a.data(), C);
    gemm<float>(false, false, c, V, K, 1, k, K, memory.data(), V, 0, u.data(), V);
    gemm<float>(false, false, c, V, K, 1, q, K, memory.data(), V, 0, y, V);
    for (int64_t r = 0; r < c; ++r) {
      for (int64_t s = 0; s < c; ++s) n[size_t(r * C + s)] *= s < r ? h.beta[t + r] : 0.0f;
      for (int64_t s = r + 1; s < c; ++s) a[size_t(r * C + s)] = 0;
      for (int64_t i = 0; i < V; ++i) u[size_t(r * V + i)] = h.beta[t + r] * (h.v[(t + r) * V + i] - u[size_t(r * V + i)]);
    }
    for (int64_t begin = 0; begin < c; begin += kBlock) {
      const int64_t end = std::min(c, begin + kBlock);
      if (begin > 0) gemm<float>(false, false, end - begin, V, begin, -1, n.data() + begin * C, C, u.data(), V, 1, u.data() + begin * V, V);
      for (int64_t r = begin + 1; r < end; ++r)
        for (int64_t s = begin; s < r; ++s) add_scaled(u.data() + r * V, u.data() + s * V, -n[size_t(r * C + s)], V);
    }
    gemm<float>(false, false, c, V, c, 1, a.data(), C, u.data(), V, 1, y, V);
    gemm<float>(true, false, K, V, c, 1, k, K, u.data(), V, 1, memory.data(), V);
  }
}

// The gradients of rung 1, from the memories that it passed through: memories [T, V, K] holds M_{t-1}. dq, dk [T, K], dv [T, V], d_beta [T] are overwritten.
struct Gradients {
  float *dq, *dk, *dv, *d_beta;
};
inline void backward(const Head& h, const float* memories, const float* dy, const Gradients& d) {
  const int64_t K = h.key_dim, V = h.value_dim;
  std::vector<float> adjoint(size_t(V * K), 0.0f);   // of M_t, [V, K]
  for (int64_t t = h.tokens - 1; t >= 0; --t) {
    const float *q = h.q + t * K, *k = h.k + t * K, *before = memories + t * V * K;
    std::fill_n(d.dq + t * K, K, 0.0f);
    std::fill_n(d.dk + t * K, K, 0.0f);
    d.d_beta[t] = 0;
    for (int64_t i = 0; i < V; ++i) {
      const float *m = before + i * K, g = dy[t * V + i];
      float* dm = adjoint.data() + i * K;
      float read = 0, du = 0;
      for (int64_t j = 0; j < K; ++j) read += m[j] * k[j];
      const float error = h.v[t * V + i] - read, u = h.beta[t] * error;
      for (int64_t j = 0; j < K; ++j) {
        d.dq[t * K + j] += g * (m[j] + u * k[j]);                                      // y_t = M_t q_t
        dm[j] += g * q[j];                                                             // y_t = M_t q_t
        du += dm[j] * k[j];                                                            // M_t = M_{t-1} + u_t k_t^T
      }
      for (int64_t j = 0; j < K; ++j) d.dk[t * K + j] += dm[j] * u;                    // M_t = M_{t-1} + u_t k_t^T
      d.d_beta[t] += du * error;                                                       // u_t = beta_t (v_t - M_{t-1} k_t)
      d.dv[t * V + i] = du * h.beta[t];                                                // u_t = beta_t (v_t - M_{t-1} k_t)
      for (int64_t j = 0; j < K; ++j) {
        d.dk[t * K + j] -= du * h.beta[t] * m[j];                                      // u_t = beta_t (v_t - M_{t-1} k_t)
        dm[j] -= du * h.beta[t] * k[j];                                                // u_t = beta_t (v_t - M_{t-1} k_t)
      }
    }
  }
}

}  // namespace ladder
