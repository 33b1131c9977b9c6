// CPU gated unit over rows of n. Equations: gated_kernel.hpp. Outputs never overlap inputs.
#include <algorithm>
#include <cmath>
#include <utility>
#include <ttr/core/ops/gated_kernel.hpp>
#include <ttr/core/parallel.hpp>
#define TTR_SIMD_EACH <ttr/core/ops/gated_lanes.hpp>
#include <ttr/core/simd_sets.hpp>

namespace ttr::cpu {
namespace {

constexpr int64_t kGrain = 16384;   // elements below which a second thread costs more than it gives

void run(const GatedForward<float>& p, int64_t begin, int64_t end) {
  static auto* const rows = TTR_SIMD_BEST(forward_f32);
  rows(p, begin, end);
}
void run(const GatedForward<double>& p, int64_t begin, int64_t end) {
  static auto* const rows = TTR_SIMD_BEST(forward_f64);
  rows(p, begin, end);
}
void run(const GatedBackward<float>& p, int64_t begin, int64_t end) {
  static auto* const rows = TTR_SIMD_BEST(backward_f32);
  rows(p, begin, end);
}
void run(const GatedBackward<double>& p, int64_t begin, int64_t end) {
  static auto* const rows = TTR_SIMD_BEST(backward_f64);
  rows(p, begin, end);
}

int64_t rows_of_grain(int64_t n) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(n, 1)); }

}  // namespace

template <class T> Status gated_forward(const GatedForward<T>& p) {
  if (p.rows < 0 || p.n < 0) return Status::bad_size;
  parallel_for(p.rows, rows_of_grain(p.n), [&](int64_t begin, int64_t end) { run(p, begin, end); });
  return Status::ok;
}
template <class T> Status gated_backward(const GatedBackward<T>& p) {
  if (p.rows < 0 || p.n < 0) return Status::bad_size;
  parallel_for(p.rows, rows_of_grain(p.n), [&](int64_t begin, int64_t end) { run(p, begin, end); });
  return Status::ok;
}

template Status gated_forward<float>(const GatedForward<float>&);
template Status gated_forward<double>(const GatedForward<double>&);
template Status gated_backward<float>(const GatedBackward<float>&);
template Status gated_backward<double>(const GatedBackward<double>&);

}  // namespace ttr::cpu
