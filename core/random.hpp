// Random fills on the CPU, over the pool. out[i] is element offset + i of the key's sequence (random_kernel.hpp), so a fill may be
// split anywhere. Uniforms lie in [low, high), high itself only by rounding; fill_keep writes `kept` where dropout keeps, else 0.
#pragma once
#include <ttr/core/random_kernel.hpp>

namespace ttr {   // T: float, double

template <class T> void fill_uniform(Key key, int64_t offset, T* out, int64_t n, T low = 0, T high = 1);
template <class T> void fill_normal(Key key, int64_t offset, T* out, int64_t n, T mean = 0, T deviation = 1);
template <class T> void fill_keep(Key key, int64_t offset, T* out, int64_t n, float probability, T kept);

}  // namespace ttr
