// Gate: from a projection's output to the slot's range.
#include <algorithm>
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/gate.hpp>

namespace ttr {
namespace {

constexpr double kMargin = 1e-4;   // a start at the very end of a range would have no derivative

Shape tail_of(const Slot& slot, int64_t heads, int64_t key_dim, int64_t value_dim) {
  Shape s{heads};
  for (const Extent& e : slot.shape) s.push_back(e.at(key_dim, value_dim));
  return s;
}

// From 3 to 6 over the heads, for `each` entries of a head and every write: [writes heads each]
std::vector<double> graded(int64_t heads, int64_t each, int64_t writes) {
  std::vector<double> x(size_t(writes * heads * each));
  for (size_t i = 0; i < x.size(); ++i) x[i] = 3 + 3 * double(int64_t(i) / each % heads) / double(std::max<int64_t>(1, heads - 1));
  return x;
}

// How fast the channels of RWKV-6 forget: w_0 from -6 to -1, most channels slow in the first block and in the last still more. [d]
std::vector<double> speeds(int64_t d, const Depth& depth) {
  std::vector<double> x(static_cast<size_t>(d));
  for (int64_t n = 0; n < d; ++n) x[size_t(n)] = -6 + 5 * std::pow(double(n) / double(std::max<int64_t>(1, d - 1)), 0.7 + 1.3 * depth.risen());
  return x;
}

// The bonus of RWKV-6 over all channels of all heads. [d]
std::vector<double> zigzag(int64_t d, const Depth& depth) {
  std::vector<double> x(static_cast<size_t>(d));
  for (int64_t n = 0; n < d; ++n)
    x[size_t(n)] = depth.risen() * (1 - double(n) / double(std::max<int64_t>(1, d - 1))) + double((n + 1) % 3 - 1) * 0.1;
  return x;
}

double inverse_softplus(double y) { return y > 20 ? y : std::log(std::expm1(std::max(y, kMargin))); }

}  // namespace

Tensor into_range(const Range& r, const Tensor& z, double temper) {
  const bool low = std::isfinite(r.low), high = std::isfinite(r.high);
  if (low && high) {
    const Tensor s = sigmoid(z);
    return r.low == 0 && r.high == 1 ? s : s * (r.high - r.low) + r.low;
  }
  if (low) return r.low == 0 ? softplus(z) : softplus(z) + r.low;
  if (!high) return z;
  const Tensor s = temper == 1 ? logsigmoid(z) : logsigmoid(z) / temper;
  return r.high == 0 ? s : s + r.high;
}

double out_of_range(const Range& r, double value, double temper) {
  const bool low = std::isfinite(r.low), high = std::isfinite(r.high);
  if (low && high) {
    const double p = std::clamp((value - r.low) / (r.high - r.low), kMargin, 1 - kMargin);
    return std::log(p / (1 - p));
  }
  if (low) return inverse_softplus(value - r.low);
  if (high) return -inverse_softplus((r.high - value) * temper);
  return value;
}

Gate::Gate(const Slot& s, const GateOptions& o, Init& init) : slot(s), options(o), tail(tail_of(s, o.heads, o.key_dim, o.value_dim)) {
  const int64_t width = o.writes * tail.count();
  if (o.rank > 0 && tail.rank() > 1) down = o.exponential ? init.constant({o.rank, o.dim}, 0, true) : init.normal({o.rank, o.dim}, 0.02);
  const double bound = down.defined() ? 1 / std::sqrt(double(o.rank)) : 0;
  if (o.constant) weight = init.constant({width, down.defined() ? o.rank : o.dim}, 0, true);
  else if (o.exponential && down.defined()) weight = init.uniform({width, o.rank}, -0.01, 0.01);
  else if (s.start == Start::time && down.defined()) weight = init.uniform({width, o.rank}, -bound, bound);
  else weight = init.normal({width, down.defined() ? o.rank : o.dim}, 0.02);
  if (!o.bias) return;
  if (o.constant) {
    if (s.range == log_of_unit) bias = init.given(from_vector(graded(o.heads, tail.count() / o.heads, o.writes), {width}));
    else bias = o.constant_bias != 0 ? init.constant({width}, o.constant_bias) : init.normal({width}, 0.1, false);
  } else if (o.exponential) {
    bias = init.given(from_vector(speeds(width, o.depth), {width}));
  } else if (s.start == Start::time) {
    bias = init.log_time({width}, 1e-3, 1e-1);
  } else if (o.timed) {
    bias = init.log_time({width}, 1e-3, 1e-1);
    rate = init.log_uniform({o.heads}, 1, 16);
  } else {
    bias = init.constant({width}, o.even ? 0 : out_of_range(s.range, s.init, o.temper));
  }
}

Tensor Gate::operator()(const Tensor& x) const { return in_range(before_range(x)); }

Tensor Gate::before_range(const Tensor& x) const { return after_first(matmul(x, first_weight(), false, true)); }

Tensor Gate::after_first(const Tensor& y) const {
  const Dtype dtype = wide(y.dtype());
  Tensor z = cast(down.defined() ? matmul(options.exponential ? tanh(y) : y, *weight, false, true) : y, dtype);   // [B, T, n H ...]
  if (bias.defined()) z = z + cast(*bias, dtype);
  Shape shape{y.size(0), y.size(1) * options.writes};
  for (const int64_t size : tail) shape.push_back(size);
  return reshape(options.cap > 0 ? tanh(z / options.cap) * options.cap : z, shape);
}

Tensor Gate::in_range(const Tensor& z) const {
  if (options.exponential) return -exp(z);
  if (!rate.defined()) return into_range(slot.range, z, options.temper);
  const Dtype dtype = z.dtype();
  Shape per_head{options.heads};
  while (per_head.rank() < tail.rank()) per_head.push_back(1);
  return -(exp(reshape(cast(*rate, dtype), per_head)) * softplus(z));
}

HeadSlot::HeadSlot(const Slot& s, int64_t heads, int64_t key_dim, int64_t value_dim, Init& init, const Depth& depth) : slot(s) {
  const Shape shape = tail_of(s, heads, key_dim, value_dim);
  // An initial memory of several axes is a matrix that answers: it starts random, or its parts would all learn the same.
  if (s.start == Start::ramp) value = init.log_ramp(shape);
  else if (s.start == Start::ring) value = init.log_ring(shape);
  else if (s.start == Start::octaves) value = init.log_octaves(shape);
  else if (s.start == Start::zigzag) value = init.given(from_vector(zigzag(shape.count(), depth), shape));
  else if (s.start == Start::angle) value = init.log_uniform(shape, 1e-4, 2 * std::acos(-1.0));
  else if (shape.rank() > 2 && s.range == any_value) value = init.normal(shape, 1 / std::sqrt(double(shape[-1])), false);
  else value = init.constant(shape, out_of_range(s.range, s.start == Start::root ? std::sqrt(std::sqrt(double(key_dim))) : s.init));
}
Tensor HeadSlot::operator()() const {
  const Tensor z = cast(*value, wide(value->dtype()));
  if (slot.start == Start::ring || slot.start == Start::octaves) return -exp(z);
  if (slot.start == Start::ramp || slot.start == Start::angle) return exp(z);
  return into_range(slot.range, z);
}

}  // namespace ttr
