// A small pool of threads: the one source of parallelism on the CPU (OpenBLAS runs single-threaded inside it).
#pragma once
#include <cstdint>
#include <type_traits>

namespace ttr {

int thread_count();                // workers including the caller; from TTR_THREADS, else the number of cores
void set_thread_count(int count);  // for tests and benchmarks

namespace detail {
void parallel_for(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context);
}

// body(begin, end) over disjoint ranges that cover [0, count). A range holds at least `grain` items; nested calls run serially.
// An exception thrown by body reaches the caller after all ranges ended.
template <class F>
void parallel_for(int64_t count, int64_t grain, F&& body) {
  if (count <= 0) return;
  if (count <= grain) return body(int64_t(0), count);
  using Body = std::remove_reference_t<F>;
  detail::parallel_for(
      count, grain, [](void* c, int64_t begin, int64_t end) { (*static_cast<Body*>(c))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace ttr
