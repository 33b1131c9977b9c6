// Tensor: shapes, handles, and the few functions that make tensors without recording.
#include <cstring>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops/elementwise_kernel.hpp>

namespace ttr {

size_t bytes_of(Dtype d) { return d == Dtype::f64 ? 8 : d == Dtype::bf16 ? 2 : 4; }
const char* name_of(Dtype d) {
  switch (d) {
    case Dtype::f32: return "f32";
    case Dtype::f64: return "f64";
    case Dtype::bf16: return "bf16";
    case Dtype::i32: return "i32";
  }
  return "?";
}
bool is_floating(Dtype d) { return d != Dtype::i32; }
Dtype wide(Dtype d) { return d == Dtype::bf16 ? Dtype::f32 : d; }
std::string name_of(Device d) { return d.is_cuda() ? "cuda" : "cpu"; }

// -- shapes ----------------------------------------------------------------------------------------------------------------------------
Shape::Shape(std::span<const int64_t> sizes) {
  for (const int64_t n : sizes) push_back(n);
}
void Shape::push_back(int64_t size) {
  if (rank_ == kMaxRank) throw refuse("shape", "rank is {}, needs at most {}; merge axes with reshape", rank_ + 1, kMaxRank);
  sizes_[rank_++] = size;
}
Shape Shape::insert(int axis, int64_t size) const {
  if (axis < 0) axis += rank_ + 1;
  Shape s;
  for (int i = 0; i <= rank_; ++i) {
    if (i == axis) s.push_back(size);
    if (i < rank_) s.push_back(sizes_[i]);
  }
  return s;
}
Shape Shape::erase(int axis) const {
  if (axis < 0) axis += rank_;
  Shape s;
  for (int i = 0; i < rank_; ++i) if (i != axis) s.push_back(sizes_[i]);
  return s;
}
Shape Shape::with(int axis, int64_t size) const {
  Shape s = *this;
  s[axis] = size;
  return s;
}
std::string to_string(const Shape& s) {
  std::string text = "[";
  for (int i = 0; i < s.rank(); ++i) text += (i ? ", " : "") + std::to_string(s[i]);
  return text + "]";
}
int normal_axis(const char* where, int axis, int rank) {
  if (axis < -rank || axis >= rank) throw refuse(where, "axis is {}, needs one of a tensor of rank {}", axis, rank);
  return axis < 0 ? axis + rank : axis;
}

// -- handles ---------------------------------------------------------------------------------------------------------------------------
namespace detail {

Body* new_body() { return new Body; }

void release(Body* b) noexcept {
  if (b->node) release(b->node);
  if (b->buffer) release(b->buffer);
  delete b;
}

}  // namespace detail

namespace {

// Another tensor over the same memory.
Tensor view(const Tensor& x, int64_t offset, const Shape& shape) {
  detail::Body* b = detail::new_body();
  b->buffer = x.body()->buffer;
  b->buffer->references.fetch_add(1, std::memory_order_relaxed);
  b->offset = offset;
  b->shape = shape;
  b->dtype = x.dtype();
  return Tensor::adopt(b);
}

}  // namespace

void Tensor::check(Dtype want) const {
  if (dtype() != want) throw refuse("data", "dtype is {}, needs {}; cast the tensor or ask for its own type", name_of(dtype()), name_of(want));
}

Tensor empty(const Shape& shape, Options options) {
  for (const int64_t n : shape) if (n < 0) throw refuse("empty", "shape is {}, needs sizes of at least 0", to_string(shape));
  detail::Body* b = detail::new_body();
  Tensor t = Tensor::adopt(b);
  b->buffer = detail::allocate(size_t(shape.count()) * bytes_of(options.dtype), options.device);
  b->shape = shape;
  b->dtype = options.dtype;
  return t;
}

Tensor full(const Shape& shape, double value, Options options) {
  Tensor y = empty(shape, options);
  if (options.dtype == Dtype::i32) {
    if (!options.device.is_cuda()) must("full", cpu::fill(y.count(), value, out<int32_t>(y)));
    else if constexpr (with_cuda) must("full", cuda::fill(y.count(), value, out<int32_t>(y), cuda::stream()));
  } else if (options.dtype == Dtype::bf16 && !options.device.is_cuda()) {
    must("full", cpu::fill(y.count(), value, out<bf16>(y)));
  } else {
    dispatch("full", y, [&]<class T>(auto place) {
      if constexpr (place.cuda) must("full", cuda::fill(y.count(), value, out<T>(y), place.stream));
      else must("full", cpu::fill(y.count(), value, out<T>(y)));
    });
  }
  return y;
}
Tensor zeros(const Shape& shape, Options options) { return full(shape, 0, options); }
Tensor ones(const Shape& shape, Options options) { return full(shape, 1, options); }

Tensor window(const Tensor& x, int64_t first, const Shape& shape) {
  if (first < 0 || first + shape.count() > x.count())
    throw refuse("window", "elements {} to {} are asked for, needs a range inside the {} there are", first, first + shape.count(), x.count());
  return view(x, x.body()->offset + first * int64_t(bytes_of(x.dtype())), shape);
}
Tensor detach(const Tensor& x) { return view(x, x.body()->offset, x.shape()); }

Tensor to_device(const Tensor& x, Device device) {
  if (x.device() == device) return detach(x);
  Tensor y = empty(x.shape(), {x.dtype(), device});
  const size_t bytes = size_t(x.count()) * bytes_of(x.dtype());
  if (bytes == 0) return y;
  if constexpr (with_cuda) {
    if (device.is_cuda()) must("to_device", cuda::copy_to_device(y.address(), x.address(), bytes));
    else must("to_device", cuda::copy_to_host(y.address(), x.address(), bytes));
  } else {
    throw refuse("to_device", "device is cuda, needs a build with CUDA; configure with -DTTR_CUDA=ON");
  }
  return y;
}

namespace {

template <class To> std::vector<To> converted(const Tensor& x) {   // x on the CPU
  std::vector<To> y(size_t(x.count()));
  const auto from = [&]<class S>(const S* at) {
    for (size_t i = 0; i < y.size(); ++i) {
      if constexpr (std::is_same_v<S, bf16>) y[i] = To(float(at[i]));
      else y[i] = To(at[i]);
    }
  };
  switch (x.dtype()) {
    case Dtype::f32: from(in<float>(x)); break;
    case Dtype::f64: from(in<double>(x)); break;
    case Dtype::bf16: from(in<bf16>(x)); break;
    case Dtype::i32: from(in<int32_t>(x)); break;
  }
  return y;
}

}  // namespace

template <class T> std::vector<T> Tensor::to_vector() const { return converted<T>(device().is_cuda() ? to_device(*this, cpu_device) : *this); }
template std::vector<float> Tensor::to_vector() const;
template std::vector<double> Tensor::to_vector() const;
template std::vector<int32_t> Tensor::to_vector() const;
template std::vector<bf16> Tensor::to_vector() const;

double Tensor::item() const {
  if (count() != 1) throw refuse("item", "shape is {}, needs one element; reduce it first", to_string(shape()));
  return to_vector<double>()[0];
}

template <class T> Tensor from_vector(const std::vector<T>& values, const Shape& shape, Options options) {
  if (int64_t(values.size()) != shape.count())
    throw refuse("from_vector", "there are {} values, needs {} for shape {}", values.size(), shape.count(), to_string(shape));
  Tensor host = empty(shape, {options.dtype, cpu_device});
  const auto to = [&]<class D>(D* at) {
    for (size_t i = 0; i < values.size(); ++i) {
      if constexpr (std::is_same_v<T, bf16>) at[i] = D(float(values[i]));
      else at[i] = D(values[i]);
    }
  };
  switch (options.dtype) {
    case Dtype::f32: to(out<float>(host)); break;
    case Dtype::f64: to(out<double>(host)); break;
    case Dtype::bf16: to(out<bf16>(host)); break;
    case Dtype::i32: to(out<int32_t>(host)); break;
  }
  return options.device.is_cuda() ? to_device(host, options.device) : host;
}
template Tensor from_vector(const std::vector<float>&, const Shape&, Options);
template Tensor from_vector(const std::vector<double>&, const Shape&, Options);
template Tensor from_vector(const std::vector<int32_t>&, const Shape&, Options);
template Tensor from_vector(const std::vector<bf16>&, const Shape&, Options);

// -- kernels -----------------------------------------------------------------------------------------------------------------------------
void must(const char* where, Status status) {
  switch (status) {
    case Status::ok: return;
    case Status::bad_size: throw refuse(where, "a size is outside what the kernel takes; see the limits in its border header");
    case Status::small_workspace: throw refuse(where, "the workspace is smaller than the kernel asked for; this is a defect of ttr");
    case Status::not_built: throw refuse(where, "the kernel is not part of this build; configure with -DTTR_CUDA=ON");
    case Status::launch_failed: {
      if constexpr (with_cuda) throw refuse(where, "the launch failed: {}", cuda::last_error());
      throw refuse(where, "the launch failed");
    }
  }
}

void same_kind(const char* where, const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) throw refuse(where, "dtypes are {} and {}, needs one dtype; cast one of them", name_of(a.dtype()), name_of(b.dtype()));
  if (a.device() != b.device()) throw refuse(where, "devices are {} and {}, needs one device; use to_device", name_of(a.device()), name_of(b.device()));
}

}  // namespace ttr
