// The CPU kernels against the definition; tests/parity.hpp says how. cuda_parity.cpp runs the same body on a GPU.
#include "parity.hpp"

using namespace ttr;

TEST_SUITE("parity") {
  TEST_CASE("every CPU route agrees with fold: outputs, final state, and the gradient of every slot and of the carried state") {
    const parity::Tally tally = parity::compare_all(cpu_device, {Dtype::f64, Dtype::f32});
    for (const char* pair : {
             "delta/cpu-chunk delta_net",
             "delta/cpu-chunk gated_delta_net",
             "delta/cpu-chunk l2_sgd",
             "delta/cpu-chunk longhorn",
             "scan/cpu-tiles hgrn",
             "scan/cpu-tiles lru",
             "scan/cpu-tiles mamba",
             "scan/cpu-tiles longhorn_diagonal",
             "softmax_attention/cpu-blocked softmax_attention",
             "softmax_attention/cpu-blocked qknorm_attention",
             "softmax_attention/cpu-blocked rms_qknorm_attention",
             "softmax_attention/cpu-blocked nadaraya_watson",
             "softmax_attention/cpu-blocked forgetting_attention",
             "softmax_attention/cpu-local-linear local_linear_attention",
             "normal_equations/cpu-factorised mesa",
             "normal_equations/cpu-factorised mesa_net",
             "normal_equations/cpu-factorised weighted_least_squares",
             "normal_equations/cpu-factorised decaying_least_squares",
             "normal_equations/cpu-factorised refreshed_least_squares",
             "normal_equations/cpu-iterative mesa_net_cg"}) {
      CAPTURE(pair);
      REQUIRE(tally.runs.contains(pair));
      CHECK(tally.runs.at(pair) >= 30);   // shapes, options and dtypes: a route that stops accepting is not silently untested
    }
    for (const char* name : parity::kDecayRecipes) {
      CAPTURE(name);
      REQUIRE(tally.runs.contains(fmt::format("diagonal_decay/cpu-block {}", name)));
      CHECK(tally.runs.at(fmt::format("diagonal_decay/cpu-block {}", name)) >= (parity::maps_features(published(name).recipe) ? 4 : 20));
    }
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
