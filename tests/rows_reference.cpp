// What every reference has in common: finite, repeatable, reading every slot, causal or declared not to be.
#include <algorithm>

#include "rows_reference_checks.hpp"

namespace reference {

TEST_SUITE("rows_reference") {

TEST_CASE("every row draws the same numbers twice, answers finite values of the right shape, and depends on every slot") {
  for (const Row& r : rows()) {
    CAPTURE(r.name);
    const Inputs in = r.draw(T, K, V, 3);
    const Array y = r.run(in);
    CHECK(y.data == r.run(r.draw(T, K, V, 3)).data);
    CHECK(y.shape == std::vector<int64_t>{T, slot(in, "v").size(1)});
    for (double value : y.data) CHECK(std::isfinite(value));
    for (const auto& [name, value] : in) {
      CAPTURE(name);
      Array moved = value;
      for (double& entry : moved.data) entry *= 1.01;
      double change = 0;
      const Array other = r.run(with(in, name, moved));
      for (size_t i = 0; i < y.data.size(); ++i) change = std::max(change, std::abs(other.data[i] - y.data[i]));
      CHECK(change > 0);
    }
  }
  CHECK_THROWS_AS(row("no_such_row"), std::out_of_range);
}

TEST_CASE("causal rows give a prefix the same bits; the others do not") {
  for (const Row& r : rows()) {
    CAPTURE(r.name);
    const Inputs in = r.draw(T, K, V, 5);
    const int64_t keep = 6;
    Inputs prefix = in;
    for (auto& [name, a] : prefix) {
      if (a.shape.empty() || a.shape[0] % T != 0 || a.shape[0] > 2 * T) continue;
      const int64_t writes = a.shape[0] / T;
      a.data.resize(a.data.size() / static_cast<size_t>(T) * static_cast<size_t>(keep));
      a.shape[0] = writes * keep;
    }
    const Array whole = r.run(in), part = r.run(prefix);
    CHECK(part.size(0) == keep);
    const bool same = std::equal(part.data.begin(), part.data.end(), whole.data.begin());
    CHECK(same == r.causal);
  }
}

}  // TEST_SUITE

}  // namespace reference
