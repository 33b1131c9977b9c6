// Registers of one instruction set. Included by what simd_sets.hpp compiles; the guard lasts for one set.
#ifndef TTR_SIMD_VECTOR
#define TTR_SIMD_VECTOR
namespace ttr::TTR_SIMD_SET {
namespace {

template <class T> struct Register {
  typedef T type __attribute__((vector_size(TTR_SIMD_BYTES), aligned(sizeof(T)), may_alias));
  static constexpr int64_t lanes = TTR_SIMD_BYTES / sizeof(T);
};
template <class T> using Vec = typename Register<T>::type;
template <class T> TTR_SIMD_INLINE Vec<T>& vec(T* at) { return *reinterpret_cast<Vec<T>*>(at); }
template <class T> TTR_SIMD_INLINE const Vec<T>& vec(const T* at) { return *reinterpret_cast<const Vec<T>*>(at); }

// Lane l of the answer is lane at[l] of a, then counted on of b.
template <class V, class I> TTR_SIMD_INLINE V pick_lanes(const V& a, const V& b, const I& at) {
#ifdef __clang__   // its own shuffle takes numbers, not a register
  constexpr int kLanes = int(sizeof(V) / sizeof(a[0]));
  V picked{};
  for (int l = 0; l < kLanes; ++l) picked[l] = at[l] < kLanes ? a[at[l]] : b[at[l] - kLanes];
  return picked;
#else
  return __builtin_shuffle(a, b, at);
#endif
}

template <class V, class I> TTR_SIMD_INLINE V pick_lanes(const V& a, const I& at) {   // of one register; `at` counts modulo its lanes
#ifdef __clang__
  constexpr int kLanes = int(sizeof(V) / sizeof(a[0]));
  V picked{};
  for (int l = 0; l < kLanes; ++l) picked[l] = a[at[l] & (kLanes - 1)];
  return picked;
#else
  return __builtin_shuffle(a, at);
#endif
}

// Lanes of two registers swapped at distance D: with lane l counted on into the second register,
//   low takes lanes with bit D clear from both, high those with bit D set.
template <class T> struct IndexOf { typedef int32_t type; };
template <> struct IndexOf<double> { typedef int64_t type; };
template <class T> struct IndexRegister { typedef typename IndexOf<T>::type type __attribute__((vector_size(TTR_SIMD_BYTES))); };
template <class T, int D, class> struct Swap;
template <class T, int D, int... L> struct Swap<T, D, std::integer_sequence<int, L...>> {
  typedef typename IndexRegister<T>::type Lanes;
  static constexpr int kLanes = int(Register<T>::lanes);
  static constexpr Lanes low = {((L & D) ? kLanes + L - D : L)...};
  static constexpr Lanes high = {((L & D) ? kLanes + L : L + D)...};
};
template <class T, int D> using SwapAt = Swap<T, D, std::make_integer_sequence<int, int(Register<T>::lanes)>>;

template <int D, class T> TTR_SIMD_INLINE void swap_lanes(Vec<T>* x) {   // of `lanes` registers: D, D / 2, ... 1 transpose the square
  if constexpr (D > 0) {
    for (int i = 0; i < int(Register<T>::lanes); ++i) {
      if (i & D) continue;
      const Vec<T> a = x[i], b = x[i + D];
      x[i] = pick_lanes(a, b, SwapAt<T, D>::low);
      x[i + D] = pick_lanes(a, b, SwapAt<T, D>::high);
    }
    swap_lanes<D / 2, T>(x);
  }
}

// to [S, S] <- the transpose of from [S, S], S a multiple of the lanes
template <int S, class T> TTR_SIMD_INLINE void transpose_square(const T* from, int64_t from_row, T* to, int64_t to_row) {
  constexpr int L = int(Register<T>::lanes);
  for (int r = 0; r < S; r += L)
    for (int c = 0; c < S; c += L) {
      Vec<T> x[L];
      for (int i = 0; i < L; ++i) x[i] = vec(from + (r + i) * from_row + c);
      swap_lanes<L / 2, T>(x);
      for (int i = 0; i < L; ++i) vec(to + (c + i) * to_row + r) = x[i];
    }
}

template <int D, class T> TTR_SIMD_INLINE void add_halves(Vec<T>* x) {
  if constexpr (D > 0) {
    for (int i = 0; i < D; ++i)
      x[i] = pick_lanes(x[i], x[i + D], SwapAt<T, D>::low) + pick_lanes(x[i], x[i + D], SwapAt<T, D>::high);
    add_halves<D / 2, T>(x);
  }
}
// sums[i] <- the sum of the lanes of x[i], S of them, a multiple of the lanes
template <int S, class T> TTR_SIMD_INLINE void sum_lanes(Vec<T>* x, T* sums) {
  constexpr int L = int(Register<T>::lanes);
  for (int i = 0; i < S; i += L) {
    add_halves<L / 2, T>(x + i);
    vec(sums + i) = x[i];
  }
}

}  // namespace
}  // namespace ttr::TTR_SIMD_SET
#endif
