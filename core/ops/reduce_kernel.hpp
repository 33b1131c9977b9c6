// Border of reductions and running sums over the middle of [outer, n, inner]. Sums in Wide<T>; a fixed order, so results repeat bit for bit.
#pragma once
#include <ttr/core/border.hpp>

namespace ttr {

enum class Reduce : int32_t { sum, max };
struct Middle { int64_t outer = 1, n = 1, inner = 1; };

namespace cpu {   // T: float, double
template <class T> Status reduce(Reduce, Middle, const T* x, T* y);                   // y [outer, inner]; max of nothing: -inf
template <class T> Status cumsum(Middle, bool reverse, const T* x, T* y);             // y [outer, n, inner]
}  // namespace cpu
namespace cuda {  // T: float, double, bf16
template <class T> Status reduce(Reduce, Middle, const T* x, T* y, Stream);
template <class T> Status cumsum(Middle, bool reverse, const T* x, T* y, Stream);
}  // namespace cuda

}  // namespace ttr
