// The CUDA kernels against the definition on the CPU; tests/parity.hpp says how.
#include "parity.hpp"

#include <ttr/core/dispatch.hpp>

using namespace ttr;

TEST_SUITE("cuda_parity") {
  TEST_CASE("every CUDA route agrees with fold: outputs, final state, and the gradient of every slot and of the carried state") {
    if constexpr (with_cuda) {
      if (cuda::device_count() == 0) {
        MESSAGE("skipped: " << std::string(cuda::device_problem()));
        return;
      }
      const parity::Tally tally = parity::compare_all(cuda_device, {Dtype::f64, Dtype::f32, Dtype::bf16});
    for (const char* pair : {
             "delta/cuda-recurrent delta_net",
             "delta/cuda-recurrent gated_delta_net",
             "delta/cuda-recurrent l2_sgd",
             "delta/cuda-recurrent longhorn",
             "scan/cuda-recurrent hgrn",
             "scan/cuda-recurrent lru",
             "scan/cuda-recurrent mamba",
             "scan/cuda-recurrent longhorn_diagonal",
             "softmax_attention/cuda-streaming softmax_attention",
             "softmax_attention/cuda-streaming qknorm_attention",
             "softmax_attention/cuda-streaming rms_qknorm_attention",
             "softmax_attention/cuda-streaming nadaraya_watson",
             "softmax_attention/cuda-streaming forgetting_attention",
             "softmax_attention/cuda-local-linear local_linear_attention",
             "normal_equations/cuda-factorised mesa",
             "normal_equations/cuda-factorised mesa_net",
             "normal_equations/cuda-factorised weighted_least_squares",
             "normal_equations/cuda-factorised decaying_least_squares",
             "normal_equations/cuda-factorised refreshed_least_squares",
             "normal_equations/cuda-iterative mesa_net_cg"}) {
        CAPTURE(pair);
        REQUIRE(tally.runs.contains(pair));
        CHECK(tally.runs.at(pair) >= 45);
      }
      for (const char* name : parity::kDecayRecipes) {
        CAPTURE(name);
        REQUIRE(tally.runs.contains(fmt::format("diagonal_decay/cuda-recurrent {}", name)));
        CHECK(tally.runs.at(fmt::format("diagonal_decay/cuda-recurrent {}", name)) >= (parity::maps_features(published(name).recipe) ? 6 : 30));
      }
    } else {
      MESSAGE("skipped: built without CUDA");
    }
  }

  TEST_CASE("fold runs on the GPU and agrees with itself on the CPU") {
    if constexpr (with_cuda) {
      if (cuda::device_count() == 0) return;
      const parity::FreshMemoryNan nan;
      const parity::Scenario scenario{.batch = 2, .tokens = 9, .heads = 2, .key_heads = 1, .value_heads = 2, .key_dim = 8, .value_dim = 8};
      uint64_t seed = 500;
      for (const Published& row : published_recipes()) {
        try {
          const parity::Call call = parity::draw(row.recipe, scenario, ++seed);
          const auto by_fold = [&](const Arguments& a) { return fold(row.recipe, a); };
          const parity::Parts want = parity::evaluate(call, Dtype::f64, cpu_device, by_fold), got = parity::evaluate(call, Dtype::f64, cuda_device, by_fold);
          const std::string off = parity::mismatch(got, want, fmt::format("fold on cuda, {} seed {}", row.name, seed), [](const std::string&) { return 1e-9; });
          CHECK_MESSAGE(off.empty(), off);
        } catch (const std::exception& e) {
          FAIL_CHECK(row.name << ": " << std::string(e.what()));
        }
      }
    }
  }
}
