// Every option of kernel weights on the CPU, and what local linear attention promises beside agreeing with fold.
#include "kernel_weights.hpp"

#include <ttr/core/parallel.hpp>

using namespace ttr;

namespace {

constexpr const char* kLine = "softmax_attention/cpu-local-linear";

double farthest(const Tensor& a, const Tensor& b) { return parity::error_of({a.shape(), a.to_vector<double>()}, {b.shape(), b.to_vector<double>()}); }

}  // namespace

TEST_SUITE("kernel_weights") {
  TEST_CASE("every option of kernel weights, over constants and over lines, agrees with fold") {
    CHECK(kernel_weights::compare(cpu_device, {Dtype::f64, Dtype::f32}, "softmax_attention/cpu-blocked", kLine) == 120);
  }

  TEST_CASE("a line reproduces an affine map, solved either way; a large ridge leaves attention") {
    for (const int64_t K : {7, 16, 17, 40}) {
      CAPTURE(K);
      const Options f64{.dtype = Dtype::f64};
      const int64_t T = 3 * K, V = 3;
      const Tensor q = normal({1, T, 2, K}, 5, 0, 0, 1, f64), k = normal({1, T, 2, K}, 5, 1, 0, 1, f64), map = normal({V, K}, 5, 2, 0, 1, f64);
      const auto of = [&](const Tensor& x) { return matmul(x, broadcast_to(map, {1, T, V, K}), false, true) + 0.5; };
      Slots slots{{"q", q}, {"k", k}, {"v", of(k)}, {"ridge", full({2}, 1e-9, f64)}};
      const Recipe recipe = recipes::local_linear_attention;
      // From K + 1 keys on the map is determined; some more make the solve well conditioned.
      const Tensor y = remember(recipe, {.slots = slots}, kLine).y;
      CHECK(farthest(slice(y, 1, 2 * K, T), slice(of(q), 1, 2 * K, T)) < 1e-4);
      slots["ridge"] = full({2}, 1e9, f64);
      const Slots plain{{"q", q}, {"k", k}, {"v", slots["v"]}};
      CHECK(farthest(remember(recipe, {.slots = slots}, kLine).y, remember(recipes::softmax_attention, {.slots = plain}).y) < 1e-7);
    }
  }

  TEST_CASE("the same bits for every number of threads; a gradient nobody needs changes no other") {
    const Recipe& recipe = recipes::local_linear_attention;
    const parity::Scenario scenario{.batch = 2, .tokens = 150, .heads = 4, .key_heads = 2, .value_heads = 1, .key_dim = 18, .value_dim = 6};
    const parity::Call call = parity::draw(recipe, scenario, 77);
    const auto gradients = [&](const std::vector<std::string>& of) {
      Arguments a = parity::arguments_of(call, Dtype::f32, cpu_device);
      Tensors xs;
      for (const std::string& name : of) xs.push_back(a.slots[name] = variable(a.slots[name]));
      a.want_state = false;
      const Tensor y = remember(recipe, a, kLine).y;
      std::vector<std::vector<double>> all{y.to_vector<double>()};
      for (const Tensor& d : grad(Tensors{y}, Tensors{normal(y.shape(), 78, 0)}, xs)) all.push_back(d.to_vector<double>());
      return all;
    };
    const int before = thread_count();
    set_thread_count(1);
    const auto alone = gradients({"q", "k", "v", "ridge"});
    for (const int threads : {2, 3}) {
      set_thread_count(threads);
      CHECK(gradients({"q", "k", "v", "ridge"}) == alone);
    }
    set_thread_count(before);
    size_t i = 1;
    for (const char* name : {"q", "k", "v", "ridge"}) {
      CAPTURE(name);
      CHECK(gradients({name})[1] == alone[i++]);
    }
  }
}
