// The pool behind parallel_for: std::thread workers that spin briefly, then sleep.
//
// A region is cut into a few ranges a thread. One 64-bit ticket holds (generation, ranges left); whoever decrements it owns a range.
// The caller works too and waits for ranges to end, not for workers to wake: a worker that the system keeps off its core delays nobody.
// A late worker may read the fields of a region that begins meanwhile; its decrement then fails, because the generation moved on.
#include <ttr/core/parallel.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>
#include <sched.h>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int kRangesPerThread = 4;                   // a core taken away for a moment then costs a quarter of its share, not all of it
constexpr std::chrono::microseconds kPatience{100};   // of a spin: longer than the gap between two ops of a step; a wake costs 15

thread_local bool inside_region = false;

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until done() or until patience ends; says which. Counted in time, because a pause lasts 4 to 70 ns.
template <class Done> bool spin_until(bool spinning, Done&& done) {
  if (!spinning) return done();
  const auto limit = std::chrono::steady_clock::now() + kPatience;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      pause_core();
    }
    sched_yield();   // whoever is waited for may be queued behind this very thread
  } while (std::chrono::steady_clock::now() < limit);
  return done();
}

int core_count() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return CPU_COUNT(&cores);   // honours taskset, as hardware_concurrency need not
  const int count = int(std::thread::hardware_concurrency());
  return count > 0 ? count : 1;
}

int wanted_threads() {
  const char* text = std::getenv("TTR_THREADS");
  if (text == nullptr || *text == '\0') return std::min(core_count(), kMaxThreads);
  char* end = nullptr;
  errno = 0;
  const long count = std::strtol(text, &end, 10);
  if (errno != 0 || *end != '\0' || count < 1 || count > kMaxThreads)
    throw refuse("threads", "TTR_THREADS is {}, needs a whole number from 1 to {}", text, kMaxThreads);
  return int(count);
}

struct Range {
  int64_t begin, end;
};

Range range_of(int64_t index, int64_t count, int64_t ranges) {   // sizes differ by one at most
  const int64_t size = count / ranges, longer = count % ranges;
  const int64_t begin = index * size + std::min(index, longer);
  return {begin, begin + size + (index < longer ? 1 : 0)};
}

class Pool {
 public:
  explicit Pool(int threads) { start(threads); }

  int threads() const { return threads_.load(std::memory_order_relaxed); }

  void resize(int threads) {
    std::lock_guard alone(region_);
    stop();
    start(threads);
  }

  void run(int64_t count, int64_t ranges, void (*body)(void*, int64_t, int64_t), void* context) {
    std::unique_lock alone(region_, std::try_to_lock);
    if (!alone.owns_lock()) return body(context, 0, count);   // another thread of the program uses the workers
    body_.store(body, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    count_.store(count, std::memory_order_relaxed);
    ranges_.store(ranges, std::memory_order_relaxed);
    ended_.store(0, std::memory_order_relaxed);
    failed_.store(false, std::memory_order_relaxed);
    ++generation_;
    ticket_.store(uint64_t(generation_) << 32 | uint64_t(ranges));
    if (sleepers_.load() > 0) {
      { std::lock_guard hold(sleep_); }   // a worker between its last look and its sleep holds this
      wake_.notify_all();
    }
    inside_region = true;
    take_ranges();
    inside_region = false;
    wait_for_end(ranges);
    if (failed_.load(std::memory_order_relaxed)) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  void start(int threads) {
    spinning_ = threads <= core_count();   // spinning on a core that another worker needs only slows that one
    stopping_.store(false);
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
    threads_.store(threads, std::memory_order_relaxed);
  }

  void stop() {
    {
      std::lock_guard hold(sleep_);
      stopping_.store(true);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
  }

  bool has_work() const { return uint32_t(ticket_.load()) != 0 || stopping_.load(); }

  void work() {
    inside_region = true;
    while (!stopping_.load(std::memory_order_relaxed)) {
      take_ranges();
      if (spin_until(spinning_, [this] { return has_work(); })) continue;
      std::unique_lock hold(sleep_);
      sleepers_.fetch_add(1);   // before the last look at the ticket; the caller writes the ticket, then looks here
      wake_.wait(hold, [this] { return has_work(); });
      sleepers_.fetch_sub(1);
    }
  }

  void take_ranges() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (uint32_t(ticket) != 0) {
      auto* const body = body_.load(std::memory_order_relaxed);
      void* const context = context_.load(std::memory_order_relaxed);
      const int64_t count = count_.load(std::memory_order_relaxed);
      const int64_t ranges = ranges_.load(std::memory_order_relaxed);
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      const auto [begin, end] = range_of(ranges - int64_t(uint32_t(ticket)), count, ranges);
      if (!failed_.load(std::memory_order_relaxed)) {
        try {
          body(context, begin, end);
        } catch (...) {
          std::lock_guard hold(failing_);
          if (!failed_.exchange(true)) failure_ = std::current_exception();
        }
      }
      // Counted only after the handler let go of its exception, so that the caller is the one who frees it.
      if (ended_.fetch_add(1) + 1 == ranges && caller_sleeps_.load()) {
        { std::lock_guard hold(sleep_); }
        ended_signal_.notify_one();
      }
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  void wait_for_end(int64_t ranges) {
    const auto ended = [&] { return ended_.load() == ranges; };
    if (spin_until(spinning_, ended)) return;
    std::unique_lock hold(sleep_);
    caller_sleeps_.store(true);
    ended_signal_.wait(hold, ended);
    caller_sleeps_.store(false);
  }

  std::mutex region_;   // one region at a time
  std::vector<std::thread> workers_;
  std::atomic<int> threads_{1};
  bool spinning_ = false;
  uint32_t generation_ = 0;

  alignas(64) std::atomic<uint64_t> ticket_{0};   // generation << 32 | ranges left
  std::atomic<void (*)(void*, int64_t, int64_t)> body_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int64_t> count_{0}, ranges_{0};
  alignas(64) std::atomic<int64_t> ended_{0};
  std::atomic<bool> failed_{false};
  std::mutex failing_;
  std::exception_ptr failure_;

  alignas(64) std::mutex sleep_;
  std::condition_variable wake_, ended_signal_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false}, stopping_{false};
};

Pool& pool() {
  static Pool* const pool = new Pool(wanted_threads());   // never destroyed: objects with static lifetime may still use it at exit
  return *pool;
}

}  // namespace

int thread_count() { return pool().threads(); }

void set_thread_count(int count) {
  if (count < 1 || count > kMaxThreads) throw refuse("threads", "count is {}, needs 1 to {}", count, kMaxThreads);
  if (inside_region) throw refuse("threads", "set_thread_count is called inside a parallel region, needs to be outside");
  pool().resize(count);
}

void detail::parallel_for(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t), void* context) {
  if (count <= 0) return;
  if (inside_region) return body(context, 0, count);
  Pool& workers = pool();
  const int threads = workers.threads();
  const int64_t ranges = std::min<int64_t>(count / std::max<int64_t>(grain, 1), int64_t(threads) * kRangesPerThread);
  if (threads == 1 || ranges <= 1) return body(context, 0, count);
  workers.run(count, ranges, body, context);
}

}  // namespace ttr
