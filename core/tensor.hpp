// Tensor: a handle to a contiguous row-major array on one device, and to the operation that made it.
// Copying a Tensor copies the handle. Values do not change after creation, except through mutate() (parameters, in place).
// Next: core/grad.hpp (derivatives), core/ops.hpp (operations), core/op.hpp (writing one).
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>
#include <ttr/core/border.hpp>
#include <ttr/core/error.hpp>

namespace ttr {

enum class Dtype : uint8_t { f32, f64, bf16, i32 };
size_t bytes_of(Dtype);
const char* name_of(Dtype);
bool is_floating(Dtype);
Dtype wide(Dtype);   // the dtype of states, gates and sums for operands of this one: bf16 -> f32, else itself

template <class T> constexpr Dtype dtype_of = Dtype::f32;
template <> inline constexpr Dtype dtype_of<double> = Dtype::f64;
template <> inline constexpr Dtype dtype_of<bf16> = Dtype::bf16;
template <> inline constexpr Dtype dtype_of<int32_t> = Dtype::i32;

enum class DeviceKind : uint8_t { cpu, cuda };
struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int8_t index = 0;
  bool is_cuda() const { return kind == DeviceKind::cuda; }
  bool operator==(const Device&) const = default;
};
inline constexpr Device cpu_device{};
inline constexpr Device cuda_device{DeviceKind::cuda, 0};
std::string name_of(Device);

constexpr int kMaxRank = 6;

// Up to six sizes, outermost first. Negative indices count from the back.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> sizes) : Shape(std::span<const int64_t>(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const int64_t> sizes);
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return sizes_[i < 0 ? i + rank_ : i]; }
  int64_t& operator[](int i) { return sizes_[i < 0 ? i + rank_ : i]; }
  int64_t count() const { int64_t n = 1; for (int i = 0; i < rank_; ++i) n *= sizes_[i]; return n; }
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return sizes_.data() + rank_; }
  void push_back(int64_t size);
  Shape insert(int axis, int64_t size) const;   // a new axis in front of `axis`
  Shape erase(int axis) const;
  Shape with(int axis, int64_t size) const;
  bool operator==(const Shape& o) const { return rank_ == o.rank_ && std::equal(begin(), end(), o.begin()); }

 private:
  std::array<int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};
std::string to_string(const Shape&);   // "[2, 3]"
int normal_axis(const char* where, int axis, int rank);   // -1 -> rank - 1; refuses what is out of range

struct Node;
namespace detail {

struct Buffer {   // the memory of one or more tensors
  std::atomic<int32_t> references{1};
  uint32_t version = 0;         // counts mutations, so that a backward through a modified tensor is refused
  Device device;
  void* data = nullptr;
  size_t bytes = 0;
  uint32_t pool = 0;
};
Buffer* allocate(size_t bytes, Device device);
void release(Buffer*) noexcept;

struct Body {     // one tensor
  std::atomic<int32_t> references{1};
  Buffer* buffer = nullptr;
  int64_t offset = 0;           // bytes from buffer->data
  Shape shape;
  Dtype dtype = Dtype::f32;
  Node* node = nullptr;         // the operation that made it; null when untracked
  int32_t output = 0;           // which of its outputs
};
void release(Body*) noexcept;
Body* new_body();

}  // namespace detail

class Tensor {
 public:
  Tensor() = default;
  Tensor(const Tensor& o) : body_(o.body_) { if (body_) body_->references.fetch_add(1, std::memory_order_relaxed); }
  Tensor(Tensor&& o) noexcept : body_(std::exchange(o.body_, nullptr)) {}
  Tensor& operator=(Tensor o) noexcept { std::swap(body_, o.body_); return *this; }
  ~Tensor() { if (body_ && body_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) detail::release(body_); }

  bool defined() const { return body_ != nullptr; }
  const Shape& shape() const { return body_->shape; }
  int rank() const { return body_->shape.rank(); }
  int64_t size(int axis) const { return body_->shape[axis]; }
  int64_t count() const { return body_->shape.count(); }
  Dtype dtype() const { return body_->dtype; }
  Device device() const { return body_->buffer->device; }
  bool tracked() const { return body_ && body_->node; }      // derivatives with respect to it, or through it, exist
  bool same_as(const Tensor& o) const { return body_ == o.body_; }

  // The elements. Not on temporaries: the memory would be gone. Host code reads CPU tensors only; a kernel takes device addresses.
  template <class T> const T* data() const& { check(dtype_of<T>); return static_cast<const T*>(address()); }
  template <class T> T* mutate() & { check(dtype_of<T>); ++body_->buffer->version; return static_cast<T*>(address()); }
  template <class T> const T* data() const&& = delete;
  void* address() const { return static_cast<std::byte*>(body_->buffer->data) + body_->offset; }
  uint32_t version() const { return body_->buffer->version; }

  double item() const;                              // the one element, from any device
  template <class T> std::vector<T> to_vector() const;   // a copy of the elements, converted, from any device

  detail::Body* body() const { return body_; }
  static Tensor adopt(detail::Body* body) { Tensor t; t.body_ = body; return t; }

 private:
  void check(Dtype want) const;
  detail::Body* body_ = nullptr;
};
using Tensors = std::vector<Tensor>;

struct Options { Dtype dtype = Dtype::f32; Device device = cpu_device; };
inline Options like(const Tensor& x) { return {x.dtype(), x.device()}; }

Tensor empty(const Shape&, Options = {});                    // undefined contents (all NaN under set_fresh_memory_nan)
Tensor full(const Shape&, double value, Options = {});
Tensor zeros(const Shape&, Options = {});
Tensor ones(const Shape&, Options = {});
template <class T> Tensor from_vector(const std::vector<T>& values, const Shape&, Options = {dtype_of<T>, cpu_device});   // converts
Tensor window(const Tensor& x, int64_t first, const Shape&);  // untracked view of `shape.count()` elements from element `first` of x's memory
Tensor detach(const Tensor&);                                 // the same values, untracked; shares memory
Tensor to_device(const Tensor&, Device);                      // untracked copy

// Fresh memory starts as NaN (every byte 0xff), to find reads of what nobody wrote. For tests; both devices.
void set_fresh_memory_nan(bool on);

struct MemoryUse { size_t live_bytes = 0, peak_bytes = 0, held_bytes = 0; };   // in tensors now, most ever, taken from the system
MemoryUse memory_use(Device);
void reset_peak(Device);

// While one lives, this thread's CUDA allocations come from a pool of their own, which keeps its blocks until the pool is destroyed:
// what a captured graph needs, since its replays write to the addresses seen at capture.
class PrivatePool {
 public:
  PrivatePool();
  ~PrivatePool();
  PrivatePool(const PrivatePool&) = delete;
  struct Use { explicit Use(PrivatePool&); ~Use(); Use(const Use&) = delete; uint32_t before; };

 private:
  uint32_t id_;
};

}  // namespace ttr
