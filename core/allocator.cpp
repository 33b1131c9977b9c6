// Where tensor memory comes from: blocks in size classes, kept for reuse. A fresh block costs a list operation, not a system call.
// CUDA blocks may be reused at once because everything runs on one stream; blocks of a captured graph live in a pool of their own.
#include <sys/mman.h>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <unordered_map>
#include <ttr/core/dispatch.hpp>

namespace ttr {
namespace {

// Four classes a power of two, from 64 bytes: at most a quarter is wasted.
constexpr int kClasses = 4 * 48;
int class_of(size_t bytes) {
  if (bytes <= 64) return 0;
  const int octave = std::bit_width(bytes - 1) - 1;                        // 2^octave < bytes <= 2^(octave+1)
  const int quarter = int((bytes - 1 - (size_t(1) << octave)) >> (octave - 2));
  return 4 * (octave - 6) + quarter + 1;
}
size_t bytes_of_class(int c) {
  if (c == 0) return 64;
  const int octave = 6 + (c - 1) / 4, quarter = (c - 1) % 4;
  return (size_t(1) << octave) + size_t(quarter + 1) * (size_t(1) << (octave - 2));
}

struct Pool { std::vector<detail::Buffer*> free[kClasses]; };
struct Store {   // of one kind of device
  std::mutex mutex;
  std::unordered_map<uint32_t, Pool> pools;
  Pool* general = nullptr;
  MemoryUse use;
  Store() : general(&pools[0]) {}
};
Store& store(Device device) {
  static Store* stores = new Store[2];   // never destroyed: tensors may outlive static objects
  return stores[device.is_cuda()];
}

std::atomic<bool> fresh_nan{false};
std::atomic<uint32_t> next_pool{1};
thread_local uint32_t current_pool = 0;

constexpr size_t kLargePage = size_t(1) << 21;

void* system_allocate(size_t bytes, Device device) {
  if (!device.is_cuda()) {
    void* at = nullptr;
    const bool large = bytes >= kLargePage;
    if (posix_memalign(&at, large ? kLargePage : 64, bytes) != 0) return nullptr;
    if (large) madvise(at, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);   // a wish: rows of a head lie pages apart; the end stays in small ones
    return at;
  }
  if constexpr (with_cuda) return cuda::allocate(bytes);
  return nullptr;
}
void system_release(void* at, Device device) {
  if (!device.is_cuda()) std::free(at);
  else if constexpr (with_cuda) cuda::release(at);
}

size_t release_unused(Store& s, Device device) {   // under s.mutex
  size_t freed = 0;
  for (auto& list : s.general->free) {
    for (detail::Buffer* b : list) { system_release(b->data, device); freed += b->bytes; delete b; }
    list.clear();
  }
  s.use.held_bytes -= freed;
  return freed;
}

}  // namespace

namespace detail {

Buffer* allocate(size_t bytes, Device device) {
  const int c = class_of(bytes);
  if (c >= kClasses) throw refuse("allocate", "size is {} bytes, needs less than 2^53; a shape overflowed", bytes);
  const size_t rounded = bytes_of_class(c);
  const uint32_t pool = device.is_cuda() ? current_pool : 0;
  Store& s = store(device);
  Buffer* b = nullptr;
  {
    std::lock_guard lock(s.mutex);
    auto& list = (pool ? s.pools[pool] : *s.general).free[c];
    if (!list.empty()) {
      b = list.back();
      list.pop_back();
    } else {
      void* at = system_allocate(rounded, device);
      if (!at && release_unused(s, device)) at = system_allocate(rounded, device);
      if (!at)
        throw refuse("allocate", "{} bytes on {} are not to be had, {} are in use; use a smaller batch or context", rounded, name_of(device), s.use.live_bytes);
      b = new Buffer;
      b->device = device;
      b->data = at;
      b->bytes = rounded;
      s.use.held_bytes += rounded;
    }
    s.use.live_bytes += rounded;
    s.use.peak_bytes = std::max(s.use.peak_bytes, s.use.live_bytes);
  }
  b->references.store(1, std::memory_order_relaxed);
  b->version = 0;
  b->pool = pool;
  if (fresh_nan.load(std::memory_order_relaxed)) {
    if (!device.is_cuda()) std::memset(b->data, 0xff, rounded);
    else if constexpr (with_cuda) must("allocate", cuda::set_bytes(b->data, 0xff, rounded, cuda::stream()));
  }
  return b;
}

void release(Buffer* b) noexcept {
  if (b->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Store& s = store(b->device);
  std::lock_guard lock(s.mutex);
  s.use.live_bytes -= b->bytes;
  const auto pool = s.pools.find(b->pool);
  (pool == s.pools.end() ? *s.general : pool->second).free[class_of(b->bytes)].push_back(b);
}

}  // namespace detail

void set_fresh_memory_nan(bool on) { fresh_nan = on; }

MemoryUse memory_use(Device device) {
  Store& s = store(device);
  std::lock_guard lock(s.mutex);
  return s.use;
}
void reset_peak(Device device) {
  Store& s = store(device);
  std::lock_guard lock(s.mutex);
  s.use.peak_bytes = s.use.live_bytes;
}

PrivatePool::PrivatePool() : id_(next_pool++) {
  Store& s = store(cuda_device);
  std::lock_guard lock(s.mutex);
  s.pools[id_];
}
PrivatePool::~PrivatePool() {
  Store& s = store(cuda_device);
  std::lock_guard lock(s.mutex);
  Pool& mine = s.pools[id_];
  for (int c = 0; c < kClasses; ++c) s.general->free[c].insert(s.general->free[c].end(), mine.free[c].begin(), mine.free[c].end());
  s.pools.erase(id_);
}
PrivatePool::Use::Use(PrivatePool& pool) : before(std::exchange(current_pool, pool.id_)) {}
PrivatePool::Use::~Use() { current_pool = before; }

}  // namespace ttr
