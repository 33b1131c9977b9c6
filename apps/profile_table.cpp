// The table of ttr train --profile.
#include <algorithm>
#include <ttr/apps/profile_table.hpp>
#include <ttr/core/ops.hpp>

namespace ttr {

ProductRate::ProductRate(Options place) {
  const int64_t n = place.device.is_cuda() ? 4096 : 512;
  const Dtype drawn = place.dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  const Recording off(false);
  const auto operand = [&](uint64_t stream) { return cast(normal({n, n}, 1, stream, 0, 1, {drawn, place.device}), place.dtype); };
  product_ = {.amount = 2 * double(n) * double(n) * double(n), .run = [a = operand(1), b = operand(2)] { matmul(a, b); }, .device = place.device};
  take();
  rates_.clear();   // the first fills the memory pool
}

void ProductRate::take() {
  const Recording off(false);
  rates_.push_back(product_.rate());
}

double ProductRate::median() const {
  std::vector<double> sorted = rates_;
  std::sort(sorted.begin(), sorted.end());
  return sorted.at(sorted.size() / 2);
}

std::string profile_table(Profile& profile, int64_t steps, double rate) {
  constexpr size_t kMost = 20;   // rows of a phase
  const double step = profile.seconds() / double(steps), to_ms = 1e3 / double(steps);
  const std::vector<Profile::Row> rows = profile.rows();
  const auto share = [&](double seconds) { return 100 * seconds / profile.seconds(); };
  std::string text = fmt::format("profile of {} steps, {:.3f} ms each; products of this machine, taken between them: {:.4g} GFLOP/s\n", steps, step * 1e3,
                                 rate * 1e-9);
  text += fmt::format("  {:<44} {:>10} {:>10} {:>7} {:>10} {:>8}\n", "", "calls/step", "ms/step", "share", "GFLOP/s", "of rate");
  double inside = 0, flops = 0, products = 0;
  for (const char* phase : {"forward", "backward", "update"}) {
    Profile::Row all{phase, phase}, rest;
    size_t shown = 0, left_out = 0;
    std::string lines;
    const auto line = [&](const std::string& name, const Profile::Row& r) {
      lines += fmt::format("  {:<44} {:>10.1f} {:>10.3f} {:>6.1f}%", name, double(r.calls) / double(steps), r.seconds * to_ms, share(r.seconds));
      if (r.flops > 0 && r.seconds > 0)
        lines += fmt::format(" {:>10.4g} {:>7.1f}%", r.flops / r.seconds * 1e-9, 100 * r.flops / r.seconds / rate);
      lines += '\n';
    };
    const auto add = [](Profile::Row& to, const Profile::Row& r) {
      to.calls += r.calls, to.seconds += r.seconds, to.flops += r.flops, to.product_seconds += r.product_seconds;
    };
    for (const Profile::Row& r : rows) {
      if (r.phase != phase) continue;
      add(all, r);
      if (++shown <= kMost) line("  " + r.name, r);
      else ++left_out, add(rest, r);
    }
    if (left_out > 0) line(fmt::format("  {} more", left_out), rest);
    const std::string below = std::exchange(lines, {});
    line(phase, all);
    text += lines + below;
    inside += all.seconds, flops += all.flops, products += all.product_seconds;
  }
  const double outside = profile.seconds() - inside;
  text += fmt::format("  {:<44} {:>10} {:>10.3f} {:>6.1f}%\n", "between operations", "", outside * to_ms, share(outside));
  text += fmt::format("matrix products, also those inside kernels: {:.1f}% of the step", share(products));
  if (products > 0)
    text += fmt::format(", at {:.1f}% of the measured rate; at that rate they alone would take {:.1f}% of it", 100 * flops / products / rate,
                        share(flops / rate));
  return text + '\n';
}

}  // namespace ttr
