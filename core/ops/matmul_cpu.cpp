// CPU matrix products: a lone or large one is cut over the threads, many small ones are shared out whole.
#include <algorithm>
#include <ttr/core/blas.hpp>
#include <ttr/core/ops/linalg_kernel.hpp>
#include <ttr/core/parallel.hpp>

namespace ttr::cpu {

template <class T> Status matmul(const Product& p, const T* a, const T* b, T* c) {
  if (p.batch < 0 || p.m < 0 || p.n < 0 || p.k < 0) return Status::bad_size;
  if (p.batch == 0 || p.m == 0 || p.n == 0) return Status::ok;
  const int64_t lda = std::max<int64_t>(p.transpose_a ? p.m : p.k, 1);   // a [batch, m, k] or [batch, k, m]
  const int64_t ldb = std::max<int64_t>(p.transpose_b ? p.k : p.n, 1);   // b [batch, k, n] or [batch, n, k]
  const double work = 2.0 * double(p.m) * double(p.n) * double(p.k);     // operations of one product
  const T keep = p.accumulate ? T(1) : T(0);                             // of what stands in c
  constexpr double kLarge = 2.0 * 256 * 256 * 256;
  if (p.batch == 1 || (work >= kLarge && p.batch < 2 * thread_count())) {   // few and large: sharing whole products would leave threads idle
    for (int64_t i = 0; i < p.batch; ++i)
      gemm_parallel(p.transpose_a, p.transpose_b, p.m, p.n, p.k, T(1), a + i * p.stride_a, lda, b + i * p.stride_b, ldb, keep, c + i * p.m * p.n, p.n);
    return Status::ok;
  }
  constexpr double kGrainWork = 1e5;   // operations worth waking a thread for
  const auto grain = int64_t(std::max(1.0, kGrainWork / std::max(work, 100.0)));
  parallel_for(p.batch, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      gemm(p.transpose_a, p.transpose_b, p.m, p.n, p.k, T(1), a + i * p.stride_a, lda, b + i * p.stride_b, ldb, keep, c + i * p.m * p.n, p.n);
  });
  return Status::ok;
}

template Status matmul<float>(const Product&, const float*, const float*, float*);
template Status matmul<double>(const Product&, const double*, const double*, double*);

}  // namespace ttr::cpu
