// Compiles one file once for each instruction set, at that set's own register width:
//
//   #define TTR_SIMD_EACH <ttr/layers/diagonal_decay_block.hpp>
//   #include <ttr/core/simd_sets.hpp>
//   static auto* const run = TTR_SIMD_BEST(run_heads_f32);     // the best version that this machine can run
//
// The file puts its code into namespace ttr::TTR_SIMD_SET, there into one without a name: v4 (AVX-512), v3 (AVX2 and FMA), plain (what the build
// asks for), and includes <ttr/core/simd_vector.hpp> for registers. Headers of others are included before, so that none of their functions is
// compiled for one set and kept for all. Target clones (simd.hpp) do for loops; code that holds vectors in registers needs this: a vector type wider
// than the build's own registers is cut into pieces before a function is cloned, which costs a factor of ten on AVX2.
// Internal to the CPU kernels; once in a translation unit.
#pragma once
#include <ttr/core/simd.hpp>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#ifdef TTR_SIMD_CLONED   // where functions can have versions at all

namespace ttr {
template <class F> F* best_of(F* v4, F* v3, F* plain) {
  return __builtin_cpu_supports("x86-64-v4") ? v4 : __builtin_cpu_supports("x86-64-v3") ? v3 : plain;
}
}  // namespace ttr
#define TTR_SIMD_BEST(function) ::ttr::best_of(v4::function, v3::function, plain::function)

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,tune=icelake-server")   // else general registers spill into vectors, and come back through a port of the products
#define TTR_SIMD_SET v4
#define TTR_SIMD_BYTES 64
#include TTR_SIMD_EACH
#undef TTR_SIMD_SET
#undef TTR_SIMD_BYTES
#undef TTR_SIMD_VECTOR
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define TTR_SIMD_SET v3
#define TTR_SIMD_BYTES 32
#include TTR_SIMD_EACH
#undef TTR_SIMD_SET
#undef TTR_SIMD_BYTES
#undef TTR_SIMD_VECTOR
#pragma GCC pop_options

#else
#define TTR_SIMD_BEST(function) plain::function
#endif

#define TTR_SIMD_SET plain
#define TTR_SIMD_BYTES 16
#include TTR_SIMD_EACH
#undef TTR_SIMD_SET
#undef TTR_SIMD_BYTES
#undef TTR_SIMD_VECTOR
