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
Frozen Init::frozen_normal(const Shape& shape, double deviation) { return {placed(ttr::normal(shape, seed_, stream_++, 0, deviation))}; }

}  // namespace ttr
