// The switching experiment of arXiv 2501.12352, section 5: keys are a slow random walk that suddenly becomes a fast one, and without any learned
// number each memory predicts where the walk goes next. Data for docs/site/draw.cpp.
//   k_{t+1} = c_t k_t + 0.02 noise, c_t = 0.999 for t < T/4, then 0.9;   v_t = k_{t+1} / |k_{t+1}|;   prediction before the pair is seen: m_{t-1}(k_t)
// The error is 1 - cos of the angle, since linear attention knows the direction and not the length. Keys k_t are shown as unit vectors.
#include <cmath>
#include <fmt/format.h>
#include <ttr/core/ops.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/vocabulary.hpp>

using namespace ttr;

namespace {

constexpr int64_t B = 24, T = 512, D = 8, kSmooth = 8;
const Options f64{Dtype::f64, cpu_device};

struct Walk { Tensor k, v; };   // [B, T, 1, D], unit vectors
Walk walk() {
  const std::vector<double> noise = normal({B, T + 1, D}, 1, 0, 0, 0.02, f64).to_vector<double>();
  std::vector<double> x(noise.size());
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t <= T; ++t)
      for (int64_t d = 0; d < D; ++d) {
        const size_t at = size_t((b * (T + 1) + t) * D + d);
        x[at] = noise[at] + (t == 0 ? 0.0 : (t < T / 4 ? 0.999 : 0.9) * x[at - size_t(D)]);
      }
  const Tensor unit = l2_norm(from_vector(x, {B, T + 1, 1, D}, f64), 1e-12);
  return {slice(unit, 1, 0, T), slice(unit, 1, 1, T + 1)};
}

}  // namespace

int main() {
  const auto [k, v] = walk();
  const Tensor step = ones({B, T, 1}, f64), slow = full({B, T, 1}, std::log(0.95), f64), ridge = full({1}, 1e-2, f64);
  const std::string strict = " / reading[read=strict]";
  fmt::print("title predicting a walk that turns fast at token {}\nx token\ny 1 - cos(prediction, truth), mean of {} walks\n", T / 4, B);
  const auto draw = [&](const char* name, const std::string& recipe, const Slots& more) {
    Slots slots{{"q", k}, {"k", k}, {"v", v}};
    slots.insert(more.begin(), more.end());
    const Recording off(false);
    const Tensor y = remember(parse_recipe(recipe + strict), {.slots = slots}).y;
    const Tensor cosine = sum(y * v, 3) * rsqrt(sum(square(y), 3) + 1e-30);
    const std::vector<double> error = reshape(mean(1.0 - reshape(cosine, {B, T}), 0), {T}).to_vector<double>();
    fmt::print("series {}\n", name);
    for (int64_t t = kSmooth; t + kSmooth <= T; t += kSmooth) {
      double average = 0;
      for (int64_t i = t; i < t + kSmooth; ++i) average += error[size_t(i)] / double(kSmooth);
      fmt::print("{} {:.4f}\n", t + kSmooth / 2, average);
    }
  };
  draw("linear attention", "even / linear / descend[at=initial]", {});
  draw("delta net", "even / linear / descend", {{"step_size", step}});
  draw("gated delta net, 0.95", "geometric / linear / descend[at=decayed]", {{"step_size", step}, {"log_decay", slow}});
  draw("least squares", "even / linear / exact[ridge=constant]", {{"ridge", ridge}});
  draw("least squares, 0.95", "geometric / linear / exact[ridge=constant]", {{"ridge", ridge}, {"log_decay", slow}});
  draw("softmax attention, scale 20", "kernel[scale=20] / constant / exact", {});
  return 0;
}
