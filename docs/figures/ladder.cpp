// Times the rungs of chapter 9 on this machine: one head, 1024 tokens, one thread, forward. Data for docs/site/draw.cpp: how many times faster than rung 1.
// With an argument it prints a table of the row K = V = 64 instead.
#include <chrono>
#include <fmt/format.h>
#include <ttr/core/ops.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/docs/figures/ladder.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/recipes.hpp>

using namespace ttr;

namespace {

template <class F> double least_seconds(F&& run) {   // of as many runs as fit in 40 ms
  using Clock = std::chrono::steady_clock;
  run();
  double least = 1e9;
  for (const auto begin = Clock::now(); Clock::now() - begin < std::chrono::milliseconds(40);) {
    const auto start = Clock::now();
    run();
    least = std::min(least, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return least;
}

constexpr int64_t T = 1024;
const char* const kRungs[] = {"loop", "vectors", "chunk", "blocked", "delta/cpu-chunk"};

std::vector<double> times(int64_t D) {   // of every rung, key_dim = value_dim = D
  const Tensor q = normal({1, T, 1, D}, 1, 0), k = l2_norm(normal({1, T, 1, D}, 1, 1)), v = normal({1, T, 1, D}, 1, 2), beta = uniform({1, T, 1}, 1, 3);
  std::vector<float> y(size_t(T * D));
  const ladder::Head h{T, D, D, q.data<float>(), k.data<float>(), v.data<float>(), beta.data<float>(), y.data()};
  const Recording off(false);
  const Arguments arguments{.slots = {{"q", q}, {"k", k}, {"v", v}, {"step_size", beta}}};
  std::vector<double> all(std::size(kRungs), 1e9);
  for (int round = 0; round < 5; ++round) {   // in turns, so that a busy moment of the machine meets them all
    size_t i = 0;
    const auto time = [&](auto&& run) { all[i] = std::min(all[i], least_seconds(run)), ++i; };
    for (const auto rung : {ladder::loop, ladder::vectors, ladder::chunk, ladder::blocked}) time([&] { rung(h); });
    time([&] { remember(recipes::delta_net, arguments, "delta/cpu-chunk"); });
  }
  return all;
}

}  // namespace

int main(int count, char**) {
  set_thread_count(1);
  if (count > 1) {
    const Tensor a = normal({512, 512}, 1, 0), b = normal({512, 512}, 1, 1);
    double product = 1e9;
    for (int round = 0; round < 10; ++round) product = std::min(product, least_seconds([&] { matmul(a, b); }));
    const double rate = 2 * 512.0 * 512 * 512 / product, useful = 6.0 * 64 * 64 * T;
    const std::vector<double> all = times(64);
    for (size_t i = 0; i < all.size(); ++i)
      fmt::print("{:16} {:9.1f} us {:6.1f} times {:6.1f}% of sgemm\n", kRungs[i], all[i] * 1e6, all[0] / all[i], 100 * useful / all[i] / rate);
    fmt::print("sgemm at 512: {:.0f} GFLOP/s; useful: 6 K V a token\n", rate * 1e-9);
    return 0;
  }
  std::vector<std::vector<double>> rows;
  const std::vector<int64_t> sizes{16, 32, 64, 96, 128};
  for (const int64_t D : sizes) rows.push_back(times(D));
  fmt::print("title the ladder of chapter 9: one head, {} tokens, one thread, f32\nx K = V\ny times faster than the loop\n", T);
  for (size_t rung = 0; rung < rows[0].size(); ++rung) {
    fmt::print("series {}\n", kRungs[rung]);
    for (size_t i = 0; i < sizes.size(); ++i) fmt::print("{} {:.2f}\n", sizes[i], rows[i][0] / rows[i][rung]);
  }
  return 0;
}
