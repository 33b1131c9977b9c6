// How operands of different shapes walk through one output: sizes and strides for the kernels, adjacent axes merged. Internal.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/ops/elementwise_kernel.hpp>

namespace ttr::detail {

using Strides = std::array<int64_t, kMaxRank>;   // in elements, one an axis

inline Strides contiguous_strides(const Shape& shape) {
  Strides strides{};
  int64_t step = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

// Strides of an operand of shape `from` in an output of shape `to`: 0 where it is repeated.
inline Strides broadcast_strides(const Shape& from, const Shape& to) {
  const Strides own = contiguous_strides(from);
  Strides strides{};
  const int lead = to.rank() - from.rank();
  for (int i = 0; i < from.rank(); ++i) strides[lead + i] = from[i] == 1 ? 0 : own[i];
  return strides;
}

// Axes of size 1 vanish; axes that every operand walks as one are merged. At least one axis remains.
inline Broadcast merge_axes(const Shape& sizes, std::initializer_list<Strides> operands) {
  Broadcast b;
  b.count = sizes.count();
  for (int i = 0; i < sizes.rank(); ++i) {
    if (sizes[i] == 1) continue;
    bool joins = b.rank > 0;
    int k = 0;
    for (const Strides& s : operands) joins = joins && b.stride[k++][b.rank - 1] == s[i] * sizes[i];
    if (!joins) b.size[b.rank++] = 1;
    b.size[b.rank - 1] *= sizes[i];
    k = 0;
    for (const Strides& s : operands) b.stride[k++][b.rank - 1] = s[i];
  }
  if (b.rank == 0) {
    b.rank = 1;
    b.size[0] = 1;
  }
  return b;
}

// n elements that every one of the operands walks in order.
inline Broadcast in_order(int64_t n) {
  Broadcast b;
  b.rank = 1;
  b.count = b.size[0] = n;
  b.stride[0][0] = b.stride[1][0] = b.stride[2][0] = 1;
  return b;
}

inline Shape broadcast_shape(const char* where, const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape y;
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const int64_t na = ia < 0 ? 1 : a[ia], nb = ib < 0 ? 1 : b[ib];
    if (na != nb && na != 1 && nb != 1)
      throw refuse(
          where,
          "shape of the second operand is {}, needs one that broadcasts with {}; sizes are aligned at the last axis and must be equal or 1",
          to_string(b), to_string(a));
    y.push_back(na == 1 ? nb : na);
  }
  return y;
}

inline void must_be_defined(const char* where, const char* name, const Tensor& x) {
  if (!x.defined()) throw refuse(where, "{} is undefined, needs a tensor", name);
}

inline bool records(const Tensor& x) { return x.tracked() && recording(); }
inline bool records(const Tensor& a, const Tensor& b) { return (a.tracked() || b.tracked()) && recording(); }

}   // namespace ttr::detail
