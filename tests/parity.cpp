// The CPU kernels against the definition; tests/parity.hpp says how. cuda_parity.cpp runs the same body on a GPU.
#include "parity.hpp"

#include <set>

using namespace ttr;

namespace {

// The case that compares a recipe. They can run side by side: a stem each, and two that would take long are two.
std::string part_of(const Published& row) {
  if (row.stem == "normal_equations" && row.recipe.optimizer().ask<ConjugateGradient>()) return "normal_equations step by step";
  if (row.stem == "diagonal_decay" && parity::maps_features(row.recipe)) return "diagonal_decay behind a feature map";
  return row.stem;
}
parity::Tally compare(std::string_view part) {
  return parity::compare_all(cpu_device, {Dtype::f64, Dtype::f32}, [&](const Published& row) { return part_of(row) == part; });
}
// pairs: "route recipe", each of which must have run often
void compare(std::string_view part, std::initializer_list<const char*> pairs) {
  const parity::Tally tally = compare(part);
  for (const char* pair : pairs) {
    CAPTURE(pair);
    REQUIRE(tally.runs.contains(pair));
    CHECK(tally.runs.at(pair) >= 30);   // shapes, options and dtypes: a route that stops accepting is not silently untested
  }
}
void compare_decay(std::string_view part, int often) {
  const parity::Tally tally = compare(part);
  for (const char* name : parity::kDecayRecipes) {
    if (part_of(published(name)) != part) continue;
    CAPTURE(name);
    REQUIRE(tally.runs.contains(fmt::format("diagonal_decay/cpu-block {}", name)));
    CHECK(tally.runs.at(fmt::format("diagonal_decay/cpu-block {}", name)) >= often);
  }
}

}  // namespace

// Every route of a stem agrees with fold: outputs, final state, and the gradient of every slot and of the carried state.
TEST_SUITE("parity") {
  TEST_CASE("delta agrees with fold") {
    compare("delta", {"delta/cpu-chunk delta_net", "delta/cpu-chunk gated_delta_net", "delta/cpu-chunk l2_sgd", "delta/cpu-chunk longhorn"});
  }
  TEST_CASE("scan agrees with fold") {
    compare("scan", {"scan/cpu-tiles hgrn", "scan/cpu-tiles lru", "scan/cpu-tiles mamba", "scan/cpu-tiles longhorn_diagonal"});
  }
  TEST_CASE("softmax_attention agrees with fold") {
    compare("softmax_attention", {"softmax_attention/cpu-blocked softmax_attention", "softmax_attention/cpu-blocked qknorm_attention",
                                  "softmax_attention/cpu-blocked rms_qknorm_attention", "softmax_attention/cpu-blocked nadaraya_watson",
                                  "softmax_attention/cpu-blocked forgetting_attention", "softmax_attention/cpu-local-linear local_linear_attention"});
  }
  TEST_CASE("normal_equations agrees with fold") {
    compare("normal_equations", {"normal_equations/cpu-factorised mesa", "normal_equations/cpu-factorised mesa_net",
                                 "normal_equations/cpu-factorised weighted_least_squares", "normal_equations/cpu-factorised decaying_least_squares",
                                 "normal_equations/cpu-factorised refreshed_least_squares"});
  }
  TEST_CASE("normal_equations step by step agrees with fold") { compare("normal_equations step by step", {"normal_equations/cpu-iterative mesa_net_cg"}); }
  TEST_CASE("diagonal_decay agrees with fold") { compare_decay("diagonal_decay", 20); }
  TEST_CASE("diagonal_decay agrees with fold behind a feature map") { compare_decay("diagonal_decay behind a feature map", 4); }
  TEST_CASE("every recipe that a route takes has a case here") {
    const std::set<std::string> cases{"delta", "scan", "softmax_attention", "normal_equations", "normal_equations step by step", "diagonal_decay",
                                      "diagonal_decay behind a feature map"};
    const auto asked = [&](const Published& row) { return !cases.contains(part_of(row)); };
    CHECK(parity::compare_all(cpu_device, {Dtype::f64, Dtype::f32}, asked).runs.empty());
  }

  TEST_CASE("a comparison that is off says what, where, and by how much") {
    const parity::Parts want{{"y", {{2}, {1, 2}}}, {"dq", {{1}, {0}}}, {"dk", {{1}, {1}}}},
        got{{"y", {{2}, {1, 2.5}}}, {"dq", {{1}, {NAN}}}, {"extra", {{}, {1}}}};
    CHECK(parity::mismatch(got, want, "here", [](const std::string&) { return 1e-9; }) ==
          "here: dk is missing\n"
          "here: dq [1] is off by inf, needs 1e-09: worst [0] is nan, needs 0\n"
          "here: y [2] is off by 0.224, needs 1e-09: worst [1] is 2.5, needs 2\n"
          "here: extra is there, but not in fold's answer\n");
    CHECK(parity::mismatch(want, want, "here", [](const std::string&) { return 0.0; }).empty());
    CHECK(parity::error_of({{1}, {1}}, {{1, 1}, {1}}) == INFINITY);
  }
}
