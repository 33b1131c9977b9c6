// Matrix products on the CPU, row-major: f32 with factors of moderate size in panels of our own (simd_gemm.hpp), all else through OpenBLAS.
// prepare_blas() mends Debian's OpenBLAS 0.3.21, which picks 2004-era SSE3 kernels on newer CPUs (OpenBLAS #4267).
#pragma once
#include <cstdint>
#include <string>

namespace ttr {

void prepare_blas();          // idempotent, called by the first gemm; must run before any other thread uses BLAS
std::string blas_core();      // the kernels in use, such as "SkylakeX"

// C[m,n] = alpha * op(A)[m,k] op(B)[k,n] + beta * C, row-major with leading dimensions lda, ldb, ldc; single-threaded, callable from any thread.
template <class T>
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b, int64_t ldb,
          T beta, T* c, int64_t ldc);

// The same over the pool's threads: for a lone large product. Serial when small or inside a parallel region.
template <class T>
void gemm_parallel(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda, const T* b,
                   int64_t ldb, T beta, T* c, int64_t ldc);

}  // namespace ttr
