// Elementwise operations, CUDA. CPU twin: core/ops/elementwise_cpu.cpp; both apply the functions of elementwise_kernel.hpp.
//   flat     operands are contiguous, one number on the device, or a number of the host: a thread owns 16 bytes of y at a time
//   strided  anything that broadcasts: a thread owns one element of y at a time and finds its operands by dividing the index
// The operation is a template argument of the kernel; tables of kernels turn the run-time name into it.
#include <bit>
#include <utility>
#include <ttr/core/ops/elementwise_kernel.hpp>
#include <ttr/cuda/launch.hpp>

namespace ttr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMost = (int64_t(1) << 31) - 1;   // elements of one strided launch: indices are divided in 32 bits

// -- flat ----------------------------------------------------------------------------------------------------------------------------
template <class T> constexpr int kPack = 16 / int(sizeof(T));
template <class T> struct Pack { T at[kPack<T>]; };

template <class T> struct Operand {   // step 1: at[i]; step 0: at[0]; at null: value
  const T* at = nullptr;
  int64_t step = 0;
  Wide<T> value = 0;
};

template <class T> __device__ Pack<T> load_pack(const T* x, int64_t i, int64_t n, bool aligned) {
  if (aligned && i + kPack<T> <= n) return std::bit_cast<Pack<T>>(*reinterpret_cast<const uint4*>(x + i));
  Pack<T> v{};
  for (int j = 0; j < kPack<T>; ++j)
    if (i + j < n) v.at[j] = x[i + j];
  return v;
}
template <class T> __device__ void store_pack(T* y, int64_t i, int64_t n, bool aligned, const Pack<T>& v) {
  if (aligned && i + kPack<T> <= n) {
    *reinterpret_cast<uint4*>(y + i) = std::bit_cast<uint4>(v);
    return;
  }
  for (int j = 0; j < kPack<T>; ++j)
    if (i + j < n) y[i + j] = v.at[j];
}

// Pack<T> rounds a host number to T; it is kept apart so that its wide value is used.
template <class T> struct Operands {
  Pack<T> values;
  Wide<T> one;
  bool many;
  __device__ Operands(const Operand<T>& o, int64_t i, int64_t n, bool aligned) : one(o.value), many(o.step != 0) {
    if (many) values = load_pack(o.at, i, n, aligned);
    else if (o.at) one = load(o.at);
  }
  __device__ Wide<T> operator[](int j) const { return many ? Wide<T>(values.at[j]) : one; }
};

__device__ inline int64_t thread_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t thread_count() { return int64_t(gridDim.x) * blockDim.x; }

template <class T, Unary op> __global__ void __launch_bounds__(kThreads) unary_flat(int64_t n, const T* x, T* y, bool aligned) {
  for (int64_t i = thread_index() * kPack<T>; i < n; i += thread_count() * kPack<T>) {
    Pack<T> v = load_pack(x, i, n, aligned);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) v.at[j] = T(element::apply(op, Wide<T>(v.at[j])));
    store_pack(y, i, n, aligned, v);
  }
}

template <class T, Binary op> __global__ void __launch_bounds__(kThreads) binary_flat(int64_t n, Operand<T> a, Operand<T> b, T* y, bool aligned) {
  for (int64_t i = thread_index() * kPack<T>; i < n; i += thread_count() * kPack<T>) {
    const Operands<T> u(a, i, n, aligned), v(b, i, n, aligned);
    Pack<T> w;
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) w.at[j] = T(element::apply(op, u[j], v[j]));
    store_pack(y, i, n, aligned, w);
  }
}

template <class T> __global__ void __launch_bounds__(kThreads) select_flat(int64_t n, Operand<T> mask, Operand<T> a, Operand<T> b, T* y, bool aligned) {
  for (int64_t i = thread_index() * kPack<T>; i < n; i += thread_count() * kPack<T>) {
    const Operands<T> m(mask, i, n, aligned), u(a, i, n, aligned), v(b, i, n, aligned);
    Pack<T> w;
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) w.at[j] = T(m[j] != 0 ? u[j] : v[j]);
    store_pack(y, i, n, aligned, w);
  }
}

template <class T> __global__ void __launch_bounds__(kThreads) fill_flat(int64_t n, T value, T* y, bool aligned) {
  Pack<T> v;
  for (int j = 0; j < kPack<T>; ++j) v.at[j] = value;
  for (int64_t i = thread_index() * kPack<T>; i < n; i += thread_count() * kPack<T>) store_pack(y, i, n, aligned, v);
}

template <class S, class T> __device__ T convert(S x) {
  if constexpr (std::is_same_v<S, T>) return x;
  else if constexpr (std::is_same_v<S, double> || std::is_same_v<T, double>) return T(double(x));
  else if constexpr (std::is_same_v<S, bf16> || std::is_same_v<T, bf16>) return T(float(x));
  else return T(x);
}

template <class S, class T> __global__ void __launch_bounds__(kThreads) copy_flat(int64_t n, const S* x, T* y) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) y[i] = convert<S, T>(x[i]);
}

// -- strided -------------------------------------------------------------------------------------------------------------------------
template <int kOperands> __device__ void find(const Broadcast& s, uint32_t i, int64_t (&at)[kOperands]) {
  for (int k = 0; k < kOperands; ++k) at[k] = 0;
  for (int axis = s.rank - 1; axis >= 0; --axis) {
    uint32_t along = i;
    if (axis > 0) {   // what is left at the outermost axis is its index
      const uint32_t size = uint32_t(s.size[axis]);
      i /= size;
      along -= i * size;
    }
    for (int k = 0; k < kOperands; ++k) at[k] += int64_t(along) * s.stride[k][axis];
  }
}

template <class T, Binary op> __global__ void __launch_bounds__(kThreads) binary_strided(const __grid_constant__ Broadcast s, const T* a, const T* b, T* y) {
  for (int64_t i = thread_index(); i < s.count; i += thread_count()) {
    int64_t at[2];
    find(s, uint32_t(i), at);
    store(y + i, element::apply(op, load(a + at[0]), load(b + at[1])));
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    select_strided(const __grid_constant__ Broadcast s, const T* mask, const T* a, const T* b, T* y) {
  for (int64_t i = thread_index(); i < s.count; i += thread_count()) {
    int64_t at[3];
    find(s, uint32_t(i), at);
    y[i] = load(mask + at[0]) != 0 ? a[at[1]] : b[at[2]];
  }
}

template <class S, class T> __global__ void __launch_bounds__(kThreads) copy_strided(const __grid_constant__ Broadcast s, const S* x, T* y) {
  for (int64_t i = thread_index(); i < s.count; i += thread_count()) {
    int64_t at[2];
    find(s, uint32_t(i), at);
    y[at[1]] = convert<S, T>(x[at[0]]);
  }
}

// -- host ----------------------------------------------------------------------------------------------------------------------------
unsigned flat_grid(int64_t n, int64_t each) { return grid_for(n, kThreads * each, 1 << 16); }

template <class... P> bool aligned16(const P*... at) { return ((reinterpret_cast<uintptr_t>(at) % 16 == 0) && ...); }

// 1: operand k is contiguous like the output; 0: one element; -1: neither.
int step_of(const Broadcast& s, int k) {
  bool one = true, contiguous = true;
  int64_t stride = 1;
  for (int axis = s.rank - 1; axis >= 0; --axis) {
    if (s.size[axis] == 1) continue;
    one = one && s.stride[k][axis] == 0;
    contiguous = contiguous && s.stride[k][axis] == stride;
    stride *= s.size[axis];
  }
  return contiguous ? 1 : one ? 0 : -1;
}

bool valid(const Broadcast& s) {
  if (s.rank < 0 || s.rank > 6 || s.count < 0) return false;
  int64_t count = 1;
  for (int axis = 0; axis < s.rank; ++axis) count *= s.size[axis];
  return count == s.count;
}

// f(part, offset of y, offsets of the operands) over parts of at most kMost elements, cut at the outermost axes.
template <class F> Status in_parts(const Broadcast& s, F&& f, int64_t y = 0, int64_t p = 0, int64_t q = 0, int64_t r = 0) {
  if (s.count <= kMost) return f(s, y, p, q, r);
  int axis = 0;
  while (s.size[axis] == 1) ++axis;
  const int64_t inner = s.count / s.size[axis], half = s.size[axis] / 2;
  Broadcast part = s;
  part.size[axis] = half;
  part.count = half * inner;
  if (const Status first = in_parts(part, f, y, p, q, r); first != Status::ok) return first;
  part.size[axis] = s.size[axis] - half;
  part.count = s.count - half * inner;
  return in_parts(part, f, y + half * inner, p + half * s.stride[0][axis], q + half * s.stride[1][axis], r + half * s.stride[2][axis]);
}

constexpr int kUnaries = int(Unary::elu1) + 1, kBinaries = int(Binary::elu1_backward) + 1;

template <class T, int... ops> auto unary_kernel(Unary op, std::integer_sequence<int, ops...>) {
  static constexpr decltype(&unary_flat<T, Unary::neg>) table[] = {&unary_flat<T, Unary(ops)>...};
  return table[int(op)];
}
template <class T, int... ops> auto binary_flat_kernel(Binary op, std::integer_sequence<int, ops...>) {
  static constexpr decltype(&binary_flat<T, Binary::add>) table[] = {&binary_flat<T, Binary(ops)>...};
  return table[int(op)];
}
template <class T, int... ops> auto binary_strided_kernel(Binary op, std::integer_sequence<int, ops...>) {
  static constexpr decltype(&binary_strided<T, Binary::add>) table[] = {&binary_strided<T, Binary(ops)>...};
  return table[int(op)];
}

template <class T> Status launch_flat(Binary op, int64_t n, const Operand<T>& a, const Operand<T>& b, T* y, Stream stream) {
  const bool aligned = aligned16(y) && (a.step == 0 || aligned16(a.at)) && (b.step == 0 || aligned16(b.at));
  return launch(binary_flat_kernel<T>(op, std::make_integer_sequence<int, kBinaries>()), flat_grid(n, kPack<T>), kThreads, 0, stream, n, a, b, y, aligned);
}

bool known(Unary op) { return int(op) >= 0 && int(op) < kUnaries; }
bool known(Binary op) { return int(op) >= 0 && int(op) < kBinaries; }

}  // namespace

template <class T> Status fill(int64_t n, double value, T* y, Stream stream) {
  if (n < 0) return Status::bad_size;
  if (n == 0) return Status::ok;
  return launch(fill_flat<T>, flat_grid(n, kPack<T>), kThreads, 0, stream, n, T(value), y, aligned16(y));
}

template <class T> Status unary(Unary op, int64_t n, const T* x, T* y, Stream stream) {
  if (n < 0 || !known(op)) return Status::bad_size;
  if (n == 0) return Status::ok;
  const auto kernel = unary_kernel<T>(op, std::make_integer_sequence<int, kUnaries>());
  return launch(kernel, flat_grid(n, kPack<T>), kThreads, 0, stream, n, x, y, aligned16(x, y));
}

template <class T> Status binary(Binary op, const Broadcast& s, const T* a, const T* b, T* y, Stream stream) {
  if (!valid(s) || !known(op)) return Status::bad_size;
  if (s.count == 0) return Status::ok;
  const int step_a = step_of(s, 0), step_b = step_of(s, 1);
  if (step_a >= 0 && step_b >= 0) return launch_flat(op, s.count, Operand<T>{a, step_a}, Operand<T>{b, step_b}, y, stream);
  const auto kernel = binary_strided_kernel<T>(op, std::make_integer_sequence<int, kBinaries>());
  return in_parts(s, [&](const Broadcast& part, int64_t at_y, int64_t at_a, int64_t at_b, int64_t) {
    return launch(kernel, flat_grid(part.count, 1), kThreads, 0, stream, part, a + at_a, b + at_b, y + at_y);
  });
}

template <class T> Status binary_scalar(Binary op, int64_t n, const T* a, double b, bool scalar_first, T* y, Stream stream) {
  if (n < 0 || !known(op)) return Status::bad_size;
  if (n == 0) return Status::ok;
  const Operand<T> tensor{a, 1}, number{nullptr, 0, Wide<T>(b)};
  return scalar_first ? launch_flat(op, n, number, tensor, y, stream) : launch_flat(op, n, tensor, number, y, stream);
}

template <class T> Status select(const Broadcast& s, const T* mask, const T* a, const T* b, T* y, Stream stream) {
  if (!valid(s)) return Status::bad_size;
  if (s.count == 0) return Status::ok;
  const int step_mask = step_of(s, 0), step_a = step_of(s, 1), step_b = step_of(s, 2);
  if (step_mask >= 0 && step_a >= 0 && step_b >= 0) {
    const bool aligned = aligned16(y) && (!step_mask || aligned16(mask)) && (!step_a || aligned16(a)) && (!step_b || aligned16(b));
    return launch(select_flat<T>, flat_grid(s.count, kPack<T>), kThreads, 0, stream, s.count, Operand<T>{mask, step_mask}, Operand<T>{a, step_a},
                  Operand<T>{b, step_b}, y, aligned);
  }
  return in_parts(s, [&](const Broadcast& part, int64_t at_y, int64_t at_mask, int64_t at_a, int64_t at_b) {
    return launch(select_strided<T>, flat_grid(part.count, 1), kThreads, 0, stream, part, mask + at_mask, a + at_a, b + at_b, y + at_y);
  });
}

template <class S, class T> Status copy(const Broadcast& s, const S* x, T* y, Stream stream) {
  if (!valid(s)) return Status::bad_size;
  if (s.count == 0) return Status::ok;
  if (step_of(s, 0) == 1 && step_of(s, 1) == 1) {
    if constexpr (std::is_same_v<S, T>) return status_of(cudaMemcpyAsync(y, x, size_t(s.count) * sizeof(T), cudaMemcpyDeviceToDevice, native(stream)));
    else return launch(copy_flat<S, T>, flat_grid(s.count, 4), kThreads, 0, stream, s.count, x, y);
  }
  return in_parts(s, [&](const Broadcast& part, int64_t, int64_t at_x, int64_t at_y, int64_t) {
    return launch(copy_strided<S, T>, flat_grid(part.count, 1), kThreads, 0, stream, part, x + at_x, y + at_y);
  });
}

template Status fill<float>(int64_t, double, float*, Stream);
template Status fill<double>(int64_t, double, double*, Stream);
template Status fill<bf16>(int64_t, double, bf16*, Stream);
template Status fill<int32_t>(int64_t, double, int32_t*, Stream);
template Status unary<float>(Unary, int64_t, const float*, float*, Stream);
template Status unary<double>(Unary, int64_t, const double*, double*, Stream);
template Status unary<bf16>(Unary, int64_t, const bf16*, bf16*, Stream);
template Status binary<float>(Binary, const Broadcast&, const float*, const float*, float*, Stream);
template Status binary<double>(Binary, const Broadcast&, const double*, const double*, double*, Stream);
template Status binary<bf16>(Binary, const Broadcast&, const bf16*, const bf16*, bf16*, Stream);
template Status binary_scalar<float>(Binary, int64_t, const float*, double, bool, float*, Stream);
template Status binary_scalar<double>(Binary, int64_t, const double*, double, bool, double*, Stream);
template Status binary_scalar<bf16>(Binary, int64_t, const bf16*, double, bool, bf16*, Stream);
template Status select<float>(const Broadcast&, const float*, const float*, const float*, float*, Stream);
template Status select<double>(const Broadcast&, const double*, const double*, const double*, double*, Stream);
template Status select<bf16>(const Broadcast&, const bf16*, const bf16*, const bf16*, bf16*, Stream);
template Status copy<float, float>(const Broadcast&, const float*, float*, Stream);
template Status copy<float, double>(const Broadcast&, const float*, double*, Stream);
template Status copy<float, bf16>(const Broadcast&, const float*, bf16*, Stream);
template Status copy<float, int32_t>(const Broadcast&, const float*, int32_t*, Stream);
template Status copy<double, float>(const Broadcast&, const double*, float*, Stream);
template Status copy<double, double>(const Broadcast&, const double*, double*, Stream);
template Status copy<double, bf16>(const Broadcast&, const double*, bf16*, Stream);
template Status copy<double, int32_t>(const Broadcast&, const double*, int32_t*, Stream);
template Status copy<bf16, float>(const Broadcast&, const bf16*, float*, Stream);
template Status copy<bf16, double>(const Broadcast&, const bf16*, double*, Stream);
template Status copy<bf16, bf16>(const Broadcast&, const bf16*, bf16*, Stream);
template Status copy<bf16, int32_t>(const Broadcast&, const bf16*, int32_t*, Stream);
template Status copy<int32_t, float>(const Broadcast&, const int32_t*, float*, Stream);
template Status copy<int32_t, double>(const Broadcast&, const int32_t*, double*, Stream);
template Status copy<int32_t, bf16>(const Broadcast&, const int32_t*, bf16*, Stream);
template Status copy<int32_t, int32_t>(const Broadcast&, const int32_t*, int32_t*, Stream);

}  // namespace ttr::cuda
