// The pool: ranges cover the count once, nesting is serial, exceptions arrive, other threads may call.
#include <doctest/doctest.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
#include <ttr/core/error.hpp>
#include <ttr/core/parallel.hpp>

using namespace ttr;

namespace {
struct Threads {   // restores the pool, whatever a case does
  int before = thread_count();
  explicit Threads(int count) { set_thread_count(count); }
  ~Threads() { set_thread_count(before); }
};
}  // namespace

TEST_SUITE("parallel") {
  TEST_CASE("every item once, in ranges of at least grain items") {
    for (const int threads : {1, 2, 3, 8}) {
      Threads pool(threads);
      for (const int64_t count : {0, 1, 2, 7, 64, 1000, 4097})
        for (const int64_t grain : {1, 3, 64, 5000}) {
          std::vector<std::atomic<int>> seen(size_t(count) + 1);
          std::atomic<int64_t> shortest{count};
          parallel_for(count, grain, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) ++seen[size_t(i)];
            int64_t known = shortest;
            while (end - begin < known && !shortest.compare_exchange_weak(known, end - begin)) {}
          });
          bool once = true;
          for (int64_t i = 0; i < count; ++i) once = once && seen[size_t(i)] == 1;
          CAPTURE(threads);
          CAPTURE(count);
          CAPTURE(grain);
          CHECK(once);
          CHECK(shortest >= std::min(count, grain));
        }
    }
  }

  TEST_CASE("a second thread takes part while the first is busy") {
    Threads pool(2);
    std::mutex hold;
    std::set<std::thread::id> who;
    std::atomic<int> inside{0};
    parallel_for(2, 1, [&](int64_t, int64_t) {
      {
        std::lock_guard lock(hold);
        who.insert(std::this_thread::get_id());
      }
      ++inside;
      const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (inside < 2 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
    });
    CHECK(who.size() == 2);
  }

  TEST_CASE("nested calls are one serial range on the same thread") {
    Threads pool(4);
    std::atomic<int> wrong{0};
    std::atomic<int64_t> items{0};
    parallel_for(16, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const auto me = std::this_thread::get_id();
        int calls = 0;
        parallel_for(100, 1, [&](int64_t b, int64_t e) {
          ++calls;
          items += e - b;
          if (std::this_thread::get_id() != me) ++wrong;
        });
        if (calls != 1) ++wrong;
      }
    });
    CHECK(wrong == 0);
    CHECK(items == 1600);
  }

  TEST_CASE("an exception of any range reaches the caller, and the pool lives on") {
    Threads pool(3);
    for (int64_t bad = 0; bad < 12; ++bad) {
      std::string text;
      try {
        parallel_for(12, 1, [&](int64_t begin, int64_t end) {
          if (begin <= bad && bad < end) throw std::runtime_error("range of " + std::to_string(bad));
        });
      } catch (const std::runtime_error& e) { text = e.what(); }
      CHECK(text == "range of " + std::to_string(bad));
    }
    std::atomic<int64_t> sum{0};
    parallel_for(1000, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
    CHECK(sum == 1000);
  }

  TEST_CASE("what ranges wrote is seen after the call, over many short regions") {
    Threads pool(2);
    std::vector<int64_t> plain(64, 0);
    for (int round = 0; round < 3000; ++round)
      parallel_for(64, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) plain[size_t(i)] += i;
      });
    bool right = true;
    for (int64_t i = 0; i < 64; ++i) right = right && plain[size_t(i)] == 3000 * i;
    CHECK(right);
  }

  TEST_CASE("several threads of the program may call at once") {
    Threads pool(3);
    std::atomic<int64_t> sum{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 4; ++c)
      callers.emplace_back([&] {
        for (int round = 0; round < 200; ++round) parallel_for(50, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
      });
    for (auto& caller : callers) caller.join();
    CHECK(sum == 4 * 200 * 50);
  }

  TEST_CASE("set_thread_count refuses nonsense by name") {
    CHECK_THROWS_WITH_AS(set_thread_count(0), "[threads] count is 0, needs 1 to 1024", Error);
    Threads pool(2);
    CHECK_THROWS_AS(parallel_for(4, 1, [](int64_t, int64_t) { set_thread_count(3); }), Error);
    CHECK(thread_count() == 2);
  }
}
