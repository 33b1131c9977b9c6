// What host code and device code both see: the plain types that cross the border between them.
// Border headers (this one and every *_kernel.hpp) include nothing else of the project; kernels never allocate, throw or synchronise.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define TTR_BOTH inline __host__ __device__
#elif defined(__GNUC__)   // in the caller's instructions: a call from whole AVX-512 registers into code of the build's own SSE took 300 cycles
#define TTR_BOTH inline __attribute__((always_inline))
#else
#define TTR_BOTH inline
#endif

namespace ttr {

// The upper half of an f32: 8 bits of exponent, 8 significant bits. Storage only; arithmetic happens in float.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  TTR_BOTH explicit bf16(float x) {   // round to nearest, ties to even; NaN stays NaN
    const uint32_t u = std::bit_cast<uint32_t>(x);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? uint16_t((u >> 16) | 0x40u) : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  TTR_BOTH explicit bf16(double x) : bf16(float(x)) {}
  TTR_BOTH explicit bf16(int32_t x) : bf16(float(x)) {}
  TTR_BOTH explicit operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
  TTR_BOTH explicit operator double() const { return double(float(*this)); }
  TTR_BOTH explicit operator int32_t() const { return int32_t(float(*this)); }
};

// The type that sums, states, gates and solves use for operands of type T.
template <class T> struct WideOf { using type = T; };
template <> struct WideOf<bf16> { using type = float; };
template <class T> using Wide = typename WideOf<T>::type;

// [B, T, H, D] as a kernel sees it: element (b, t, h, d) lies at at[(b * T + t) * token_stride + h * D + d],
// so that q, k and v may be columns of one fused projection. token_stride is H * D when they are not.
template <class T> struct Rows {
  T* at = nullptr;
  int64_t token_stride = 0;
};

struct Stream { void* handle = nullptr; };                    // a cudaStream_t
struct Workspace { void* at = nullptr; size_t bytes = 0; };   // scratch that the host allocated; contents undefined

// What a kernel says back; the host turns it into a sentence.
enum class Status : int32_t { ok = 0, bad_size, small_workspace, launch_failed, not_built };

}  // namespace ttr
