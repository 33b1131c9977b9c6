// A factorisation a token, as many tokens at once as a vector register has lanes: A_r = L L^T, L z = x, L^T x = z (normal_equations_span.hpp).
//
// Entry (i, j) of the lanes' matrices is one register, so the Cholesky below is the scalar one on tiles of 4 x 4 entries, left-looking: a tile
// is filled from H as it enters the group of lanes and from the group's own keys, loses what the columns to its left explain, and is solved
// against the diagonal tile above it. K is padded to a multiple of 4 with an identity. CUDA twin: solve_kernel of cuda/normal_equations.cu.
#include <ttr/layers/normal_equations_span.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#define TTR_SIMD_EACH <ttr/layers/normal_equations_token_lanes.hpp>
#include <ttr/core/simd_sets.hpp>

namespace ttr::least_squares {

int64_t by_token_slab(int64_t key_dim, bool wide) {
  static auto* const narrow_slab = TTR_SIMD_BEST(slab_f32);
  static auto* const wide_slab = TTR_SIMD_BEST(slab_f64);
  return wide ? wide_slab(key_dim) : narrow_slab(key_dim);
}
void solve_by_token(const Span<float>& span, float* x, int64_t sets, float* slab) {
  static auto* const solve = TTR_SIMD_BEST(solve_f32);
  solve(span, x, sets, slab);
}
void solve_by_token(const Span<double>& span, double* x, int64_t sets, double* slab) {
  static auto* const solve = TTR_SIMD_BEST(solve_f64);
  solve(span, x, sets, slab);
}

}  // namespace ttr::least_squares
