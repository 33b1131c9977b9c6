// Sums, dot products and maxima of one row as 16 running ones that are joined in a fixed order: vector code without reassociation by the compiler,
// and the same bits on every run. For use inside functions marked TTR_SIMD_CLONES.
#pragma once
#include <limits>
#include <ttr/core/simd.hpp>

namespace ttr {

constexpr int64_t kLanes = kSimdLanes;

template <class T> TTR_SIMD_INLINE T join_sum(T* s) {   // s [kLanes]
  for (int64_t width = kLanes / 2; width > 0; width /= 2)
    for (int64_t l = 0; l < width; ++l) s[l] += s[l + width];
  return s[0];
}

template <class T> TTR_SIMD_INLINE T row_sum(int64_t n, const T* x) {   // x [n]
  T s[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) s[l] += x[i + l];
  for (; i < n; ++i) s[i % kLanes] += x[i];
  return join_sum(s);
}

template <class T> TTR_SIMD_INLINE T row_dot(int64_t n, const T* x, const T* y) {   // x, y [n]
  T s[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) s[l] += x[i + l] * y[i + l];
  for (; i < n; ++i) s[i % kLanes] += x[i] * y[i];
  return join_sum(s);
}

// sum x y w; w null: 1
template <class T> TTR_SIMD_INLINE T row_dot(int64_t n, const T* x, const T* y, const T* w) {   // x, y, w [n]
  if (!w) return row_dot(n, x, y);
  T s[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) s[l] += x[i + l] * y[i + l] * w[i + l];
  for (; i < n; ++i) s[i % kLanes] += x[i] * y[i] * w[i];
  return join_sum(s);
}

// sum (x - center)^2
template <class T> TTR_SIMD_INLINE T row_square(int64_t n, const T* x, T center) {   // x [n]
  T s[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) s[l] += (x[i + l] - center) * (x[i + l] - center);
  for (; i < n; ++i) s[i % kLanes] += (x[i] - center) * (x[i] - center);
  return join_sum(s);
}

template <class T> TTR_SIMD_INLINE T row_max(int64_t n, const T* x) {   // x [n]; -inf for an empty row; a NaN may be passed over
  T s[kLanes];
  for (T& lane : s) lane = -std::numeric_limits<T>::infinity();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) s[l] = x[i + l] > s[l] ? x[i + l] : s[l];
  for (; i < n; ++i) s[i % kLanes] = x[i] > s[i % kLanes] ? x[i] : s[i % kLanes];
  for (int64_t l = 1; l < kLanes; ++l) s[0] = s[l] > s[0] ? s[l] : s[0];
  return s[0];
}

// sum e^{x - shift} without storing the terms
template <class T> TTR_SIMD_INLINE T row_sum_exp(int64_t n, const T* x, T shift) {   // x [n]
  T s[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) s[l] += fast_exp(x[i + l] - shift);
  for (; i < n; ++i) s[i % kLanes] += fast_exp(x[i] - shift);
  return join_sum(s);
}

}  // namespace ttr
