// Exponentials one after another at the register width of an instruction set: the rate that bounds a scan with decays of its entries.
#include <ttr/core/simd_exp.hpp>

namespace ttr::TTR_SIMD_SET {
namespace {

void exponentials(const float* from, float* to, int64_t count) {   // of a multiple of the lanes
  constexpr int64_t L = Register<float>::lanes;
  for (int64_t i = 0; i < count; i += L) vec(to + i) = exp2_lanes(vec(from + i));
}

}  // namespace
}  // namespace ttr::TTR_SIMD_SET
