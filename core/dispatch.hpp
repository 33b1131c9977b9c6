// From a tensor's device and dtype to the kernel for them. Internal: never included by a public header.
#pragma once
#include <ttr/core/device_kernel.hpp>
#include <ttr/core/profile.hpp>
#include <ttr/core/tensor.hpp>

namespace ttr {

inline constexpr bool with_cuda = TTR_WITH_CUDA;

struct OnCpu { static constexpr bool cuda = false; };
struct OnCuda { static constexpr bool cuda = true; Stream stream; };

// Turns a kernel's status into a sentence.
void must(const char* where, Status);

// Calls f.template operator()<T>(place) for the floating dtype and the device of x:
//   dispatch("softmax", x, [&]<class T>(auto place) {
//     if constexpr (place.cuda) must("softmax", cuda::softmax_forward<T>(rows, n, in<T>(x), out<T>(y), place.stream));
//     else must("softmax", cpu::softmax_forward<T>(rows, n, in<T>(x), out<T>(y)));
//   });
// T is float, double, and on CUDA bf16.
template <class F> void dispatch(const char* where, const Tensor& x, F&& f) {
  const Dtype dtype = x.dtype();
  if (!is_floating(dtype)) throw refuse(where, "dtype is {}, needs a floating one; cast first", name_of(dtype));
  const detail::Timed timed(where);
  if (x.device().is_cuda()) {
    if constexpr (with_cuda) {
      const OnCuda place{cuda::stream()};
      if (dtype == Dtype::f32) f.template operator()<float>(place);
      else if (dtype == Dtype::f64) f.template operator()<double>(place);
      else f.template operator()<bf16>(place);
    } else {
      throw refuse(where, "device is cuda, needs a build with CUDA; configure with -DTTR_CUDA=ON");
    }
  } else {
    if (dtype == Dtype::f32) f.template operator()<float>(OnCpu{});
    else if (dtype == Dtype::f64) f.template operator()<double>(OnCpu{});
    else throw refuse(where, "dtype is bf16 on the cpu, needs f32 or f64; bf16 is computed on cuda, cast first");
  }
}

// Addresses for kernels. out is for a tensor that was just made and nobody else has seen.
template <class T> const T* in(const Tensor& x) { return x.defined() ? static_cast<const T*>(x.address()) : nullptr; }
template <class T> T* out(Tensor& y) { return y.defined() ? static_cast<T*>(y.address()) : nullptr; }

// Operands of one operation: same device, same dtype.
void same_kind(const char* where, const Tensor& a, const Tensor& b);

// Scratch for a kernel, from the tensor allocator.
class Scratch {
 public:
  Scratch(size_t bytes, Device device) : bytes_(bytes), buffer_(bytes ? detail::allocate(bytes, device) : nullptr) {}
  ~Scratch() { if (buffer_) detail::release(buffer_); }
  Scratch(const Scratch&) = delete;
  operator Workspace() const { return {buffer_ ? buffer_->data : nullptr, bytes_}; }

 private:
  size_t bytes_;
  detail::Buffer* buffer_;
};

}  // namespace ttr
