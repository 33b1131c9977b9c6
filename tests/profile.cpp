// The timer of operations: what it counts, under which phase, and that nothing is counted without one.
#include <algorithm>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>
#include <ttr/core/profile.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/recipes.hpp>

using namespace ttr;

namespace {

const Profile::Row* find(const std::vector<Profile::Row>& rows, const std::string& name, const std::string& phase) {
  for (const Profile::Row& r : rows)
    if (r.name == name && r.phase == phase) return &r;
  return nullptr;
}

}  // namespace

TEST_SUITE("profile") {

TEST_CASE("operations are counted by name and phase, products with their shape and flops") {
  const Tensor a = variable(normal({30, 20}, 1, 1)), b = variable(normal({20, 10}, 1, 2));
  Profile profile(cpu_device);
  const Tensor y = sum(square(matmul(a, b)));
  {
    const Profile::Phase phase("backward");
    grad({y}, {}, {a, b});
  }
  profile.pause();
  matmul(a, b);   // not timed
  const double ran = profile.seconds();
  CHECK(profile.seconds() == ran);
  const auto rows = profile.rows();
  const auto* forward = find(rows, "matmul 30x20x10", "forward");
  REQUIRE(forward);
  CHECK(forward->calls == 1);
  CHECK(forward->flops == 2.0 * 30 * 20 * 10);
  CHECK(forward->product_seconds == forward->seconds);
  REQUIRE(find(rows, "matmul 30x10x20", "backward"));
  REQUIRE(find(rows, "matmul 20x30x10", "backward"));
  CHECK(find(rows, "square", "forward")->calls == 1);
  CHECK(find(rows, "square", "forward")->flops == 0);
  CHECK_FALSE(find(rows, "matmul 30x20x10", "backward"));
  double total = 0;
  for (const auto& r : rows) total += r.seconds;
  CHECK(total > 0);
  CHECK(total <= ran);
  CHECK(std::is_sorted(rows.begin(), rows.end(), [](const auto& x, const auto& y) { return x.seconds > y.seconds; }));
}

TEST_CASE("products inside a kernel are counted from every thread") {
  const Tensor q = normal({2, 128, 4, 32}, 1, 0), k = l2_norm(normal({2, 128, 4, 32}, 1, 1)), v = normal({2, 128, 4, 32}, 1, 2);
  const Tensor step = uniform({2, 128, 4}, 1, 3);
  Profile profile(cpu_device);
  remember(recipes::delta_net, {.slots = {{"q", q}, {"k", k}, {"v", v}, {"step_size", step}}}, "delta/cpu-chunk");
  const auto rows = profile.rows();
  const auto* delta = find(rows, "delta", "forward");
  REQUIRE(delta);
  CHECK(delta->flops > 2.0 * 2 * 128 * 4 * 32 * 32);   // at least the read of every token
  CHECK(delta->product_seconds > 0);
}

TEST_CASE("profiles nest: the inner one takes over") {
  const Tensor a = normal({8}, 1, 1);
  Profile outer(cpu_device);
  {
    Profile inner(cpu_device);
    square(a);
    CHECK(inner.rows().size() == 1);
  }
  CHECK(outer.rows().empty());
  exp(a);
  CHECK(outer.rows().size() == 1);
}

}
