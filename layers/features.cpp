// The feature maps that need no file of their own.
#include <cmath>
#include <ttr/core/ops.hpp>
#include <ttr/layers/features.hpp>

namespace ttr {

Tensor Taylor2::map(const Tensor& x, const View& view, int64_t) const {
  const int64_t d = x.size(-1);
  const Tensor s = x * std::pow(double(d), -0.25);
  Tensors parts{ones({view.rows(), 1}, view.options()), s};
  for (int64_t i = 0; i < d; ++i) {
    const Tensor xi = slice(s, 1, i, i + 1);
    parts.push_back(square(xi) * std::sqrt(0.5));
    if (i + 1 < d) parts.push_back(xi * slice(s, 1, i + 1, d));
  }
  return concat(parts, 1);
}

Tensor Elu1::map(const Tensor& x, const View&, int64_t) const { return elu1(x); }

Tensor features_of(const AnyFeature& feature, const Tensor& x, const Slots& slots, int64_t first) {
  const int64_t B = x.size(0), T = x.size(1), h = x.size(2), K = x.size(3);
  const Tensor place = reshape(cumsum(ones({T}, like(x)), 0) + double(first - 1), {1, T, 1, 1});
  Timeline line;
  line.tokens = T, line.key_dim = K, line.options = like(x);
  const auto map = [&](const Tensor& some, int64_t heads) {   // [B, T, heads, K] -> [B, T, heads, size]
    line.rows = B * T * heads;
    line.places = reshape(broadcast_to(place, {B, T, heads, 1}), {line.rows, 1});
    const Tensor all = feature->map(reshape(some, {line.rows, K}), View(line, 0, 1), 0);
    return reshape(all, {B, T, heads, all.size(1)});
  };
  if (feature.slots().empty()) return map(x, h);
  Tensors heads;
  for (const Tensor& one : split(x, 2, std::vector<int64_t>(size_t(h), 1))) {
    const int64_t i = int64_t(heads.size());
    for (const Slot& s : feature.slots()) {
      const Tensor value = cast(slots.at(s.name), x.dtype());
      Shape of_head;
      for (int axis = 1; axis < value.rank(); ++axis) of_head.push_back(value.size(axis));
      line.tracks[s.name] = {s.per, {}, reshape(slice(value, 0, i, i + 1), of_head)};
    }
    heads.push_back(map(one, 1));
  }
  return concat(heads, 2);
}

int64_t feature_count(const AnyFeature& feature, int64_t key_dim) {
  Timeline line;
  line.key_dim = key_dim;
  for (const Slot& s : feature.slots()) {
    Shape shape;
    for (const Extent& e : s.shape) shape.push_back(e.at(key_dim, key_dim));
    line.tracks[s.name] = {s.per, {}, zeros(shape)};
  }
  return feature->size(View(line, 0, 1));
}

double feature_flops(const AnyFeature& feature, int64_t key_dim, bool training) {
  double flops = 0;
  for (const Slot& s : feature.slots()) {
    if (s.shape.size() != 2) continue;
    const double forward = 2.0 * double(s.shape[0].at(key_dim, key_dim)) * double(s.shape[1].at(key_dim, key_dim));
    flops += forward * (!training ? 1 : s.per == Per::frozen ? 2 : 3);   // W x;  for x;  for W
  }
  return flops;
}

namespace detail {
template class Handle<FeatureModel>;
template const FeatureModel* hold<FeatureHolder<Identity>>(Identity);
template const FeatureModel* hold<FeatureHolder<Taylor2>>(Taylor2);
template const FeatureModel* hold<FeatureHolder<Elu1>>(Elu1);
}  // namespace detail

}  // namespace ttr
