// Tasks over a kernel's workspace: as many workers as the workspace has slabs for, each with a slab of its own, taking the next task when free.
// Internal to the CPU kernels.
#pragma once
#include <algorithm>
#include <atomic>
#include <ttr/core/border.hpp>
#include <ttr/core/parallel.hpp>

namespace ttr {

constexpr size_t kSlabAlign = 64;   // bytes

// Hands out pieces of a slab, each on a cache line of 16 elements; over a null start it only counts.
template <class T> struct Pieces {
  T* at;
  size_t used = 0;   // elements
  T* take(int64_t count) {
    T* piece = at ? at + used : nullptr;
    used += size_t(count + 15) / 16 * 16;
    return piece;
  }
};

// Bytes of a workspace for `tasks` tasks with slabs of `slab` elements.
template <class T> size_t slabs_bytes(int64_t tasks, size_t slab) {
  return size_t(std::min<int64_t>(thread_count(), std::max<int64_t>(tasks, 1))) * slab * sizeof(T) + kSlabAlign;
}

// Calls task(index, slab) for every index below `tasks`.
template <class T, class F> Status share_tasks(int64_t tasks, size_t slab, Workspace work, F&& task) {
  if (tasks == 0) return Status::ok;
  const size_t skip = (kSlabAlign - reinterpret_cast<uintptr_t>(work.at) % kSlabAlign) % kSlabAlign;
  if (!work.at || work.bytes < skip + slab * sizeof(T)) return Status::small_workspace;
  T* const at = reinterpret_cast<T*>(static_cast<char*>(work.at) + skip);
  const int64_t workers = std::min<int64_t>({int64_t(thread_count()), tasks, int64_t((work.bytes - skip) / (slab * sizeof(T)))});
  std::atomic<int64_t> next{0};
  parallel_for(workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(index, at + size_t(worker) * slab);
  });
  return Status::ok;
}

}  // namespace ttr
