// Border of indexing: gather rows, scatter-add rows (deterministic: in the order of ids), pick one of each row and its adjoint.
// Ids outside [0, n) read as zero and scatter nowhere; the host refuses them where it can see them (CPU).
#pragma once
#include <ttr/core/ops/reduce_kernel.hpp>

namespace ttr {

namespace cpu {   // T: float, double
template <class T> Status gather(Middle, int64_t count, const int32_t* ids, const T* x, T* y);        // [outer, n, inner] -> [outer, count, inner]
template <class T> Status scatter_add(Middle, int64_t count, const int32_t* ids, const T* x, T* y);   // [outer, count, inner] -> [outer, n, inner], overwritten
template <class T> Status pick(int64_t rows, int64_t n, const int32_t* ids, const T* x, T* y);        // [rows, n] -> [rows]
template <class T> Status put(int64_t rows, int64_t n, const int32_t* ids, const T* x, T* y);         // [rows] -> [rows, n], zeros elsewhere
Status count_labels(int64_t n, const int32_t* labels, float* y);                                      // how many are >= 0
}  // namespace cpu
namespace cuda {  // T: float, double, bf16
template <class T> Status gather(Middle, int64_t count, const int32_t* ids, const T* x, T* y, Stream);
template <class T> Status scatter_add(Middle, int64_t count, const int32_t* ids, const T* x, T* y, Stream);
template <class T> Status pick(int64_t rows, int64_t n, const int32_t* ids, const T* x, T* y, Stream);
template <class T> Status put(int64_t rows, int64_t n, const int32_t* ids, const T* x, T* y, Stream);
Status count_labels(int64_t n, const int32_t* labels, float* y, Stream);
}  // namespace cuda

}  // namespace ttr
