// Initial values: one Philox stream a draw.
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/init.hpp>

namespace ttr {

Tensor Init::placed(const Tensor& x) const { return to_device(cast(x, place_.dtype), place_.device); }

Parameter Init::normal(const Shape& shape, double deviation, bool decays) {
  return Parameter(placed(ttr::normal(shape, seed_, stream_++, 0, deviation)), decays);
}
Parameter Init::uniform(const Shape& shape, double low, double high, bool decays) {
  return Parameter(placed(ttr::uniform(shape, seed_, stream_++, low, high)), decays);
}
Parameter Init::constant(const Shape& shape, double value, bool decays) { return Parameter(placed(full(shape, value)), decays); }
Parameter Init::log_uniform(const Shape& shape, double low, double high) {
  return Parameter(placed(log(ttr::uniform(shape, seed_, stream_++, low, high))), false);
}
Parameter Init::log_time(const Shape& shape, double low, double high) {
  const Tensor dt = exp(ttr::uniform(shape, seed_, stream_++, std::log(low), std::log(high)));
  return Parameter(placed(dt + log(-expm1(-dt))), false);
}
Parameter Init::log_ramp(const Shape& shape) {
  std::vector<double> x(size_t(shape.count()));
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::log(1 + double(i % size_t(shape[-1])));
  return Parameter(placed(from_vector(x, shape, {Dtype::f32, cpu_device})), false);
}
Parameter Init::log_ring(const Shape& shape) {
  return Parameter(placed(log(-0.5 * log(ttr::uniform(shape, seed_, stream_++, 1e-4, 1 - 1e-4)))), false);
}
Parameter Init::log_octaves(const Shape& shape) {
  std::vector<double> x(size_t(shape.count()));
  const size_t each = x.size() / size_t(shape[0]);
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::log(-std::log1p(-std::exp2(-5 - double(i / each))));
  return Parameter(placed(from_vector(x, shape, {Dtype::f32, cpu_device})), false);
}
Parameter Init::given(const Tensor& x) { return Parameter(placed(x), false); }
Frozen Init::frozen_given(const Tensor& x) { return {placed(detach(x))}; }
Frozen Init::frozen_normal(const Shape& shape, double deviation) { return {placed(ttr::normal(shape, seed_, stream_++, 0, deviation))}; }

}  // namespace ttr
