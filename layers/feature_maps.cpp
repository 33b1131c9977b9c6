// The published feature maps, one function each; the sums of outer powers are walked, never formed.
#include <cmath>
#include <numbers>
#include <ttr/core/ops.hpp>
#include <ttr/layers/feature_maps.hpp>
#include <ttr/layers/functions.hpp>

namespace ttr {
namespace {

int64_t rows_of(const View& view, const char* slot) { return view.head(slot).size(-2); }
Tensor project(const View& view, const char* slot, const Tensor& x) { return apply_matrix(view.head(slot), x); }   // W x: [N, m]

// phi(q).phi(k) = (q.k)^degree. x [N, K]; columns of the same shape [N, 1] multiply.
Tensor monomials(const Tensor& x, int64_t degree) {
  const int64_t d = x.size(1);
  Tensors columns;
  for (int64_t i = 0; i < d; ++i) columns.push_back(slice(x, 1, i, i + 1));
  Tensors out;
  // At each level: the product so far, its squared coefficient, the last index and how often it stands.
  const std::function<void(const Tensor&, double, int64_t, int64_t, int64_t)> extend = [&](const Tensor& product, double squared,
                                                                                           int64_t last, int64_t times, int64_t left) {
    if (left == 0) {
      out.push_back(product * std::sqrt(squared));
      return;
    }
    for (int64_t i = last; i < d; ++i) {
      const int64_t n = i == last ? times + 1 : 1;
      const Tensor next = product.defined() ? product * columns[size_t(i)] : columns[size_t(i)];
      extend(next, squared * double(degree - left + 1) / double(n), i, n, left - 1);   // p! / prod n_i!, one factor a level
    }
  };
  extend({}, 1, 0, 0, degree);
  return concat(out, 1);
}

}  // namespace

int64_t LearnedRelu::size(const View& view) const { return rows_of(view, "feature_weight"); }
Tensor LearnedRelu::map(const Tensor& x, const View& view, int64_t) const {
  const Tensor y = project(view, "feature_weight", x), b = view.head("feature_bias");
  if (b.size(-1) != y.size(1)) throw refuse("learned_relu", "feature_bias has {} entries, needs {} as feature_weight has rows", b.size(-1), y.size(1));
  return relu(y + b);
}

Tensor Cosformer::map(const Tensor& x, const View& view, int64_t token) const {
  if (horizon < 1) throw refuse("cosformer", "horizon is {}, needs at least 1 token", horizon);
  const Tensor angle = (view.place(token) + 1.0) * (std::numbers::pi / double(2 * horizon)), r = relu(x);
  return concat({r * cos(angle), r * sin(angle)}, 1);
}

Tensor Dpfp::map(const Tensor& x, const View&, int64_t) const {
  if (nu < 1) throw refuse("dpfp", "nu is {}, needs at least 1", nu);
  const Tensor r = concat({relu(x), relu(-x)}, 1);
  Tensors parts;
  for (int64_t j = 1; j <= nu; ++j) parts.push_back(r * roll(r, 1, j));
  const Tensor all = concat(parts, 1);
  return all / sum(all, 1, true);
}

Tensor Silu::map(const Tensor& x, const View&, int64_t) const { return silu(x); }

int64_t Monomials::size(int64_t key_dim) const {
  int64_t n = 1;
  for (int64_t i = 1; i <= degree; ++i) n = n * (key_dim + i - 1) / i;
  return n;
}
Tensor Monomials::map(const Tensor& x, const View&, int64_t) const {
  if (degree < 1) throw refuse("monomials", "degree is {}, needs at least 1", degree);
  return monomials(x, degree);
}

Tensor Rebased::map(const Tensor& x, const View& view, int64_t) const {
  const Tensor centred = x - mean(x, 1, true);
  const Tensor normed = centred * rsqrt(mean(square(centred), 1, true) + eps) * view.head("norm_weight") + view.head("norm_bias");
  return monomials(normed * std::pow(double(x.size(1)), -0.25), 2);
}

int64_t Hedgehog::size(const View& view) const { return 2 * rows_of(view, "feature_weight"); }
Tensor Hedgehog::map(const Tensor& x, const View& view, int64_t) const {
  const Tensor y = project(view, "feature_weight", x);
  return joint ? softmax(concat({y * 2.0, y * -2.0}, 1)) : concat({softmax(y), softmax(-y)}, 1);
}

int64_t Performer::size(const View& view) const { return rows_of(view, "projection"); }
Tensor Performer::map(const Tensor& x, const View& view, int64_t) const {
  const Tensor s = x * std::pow(double(x.size(1)), -0.25);
  const Tensor y = project(view, "projection", s) - sum(square(s), 1, true) * 0.5;
  return (exp(y) + eps) * (1 / std::sqrt(double(y.size(1))));
}

int64_t RandomWaves::size(const View& view) const { return 2 * rows_of(view, "projection"); }
Tensor RandomWaves::map(const Tensor& x, const View& view, int64_t) const {
  const Tensor y = project(view, "projection", x / (sqrt(sum(square(x), 1, true)) + 1e-3));
  return concat({sin(y), cos(y)}, 1) * 0.1;
}

int64_t SoftmaxFeatures::size(const View& view) const { return rows_of(view, "projection"); }
Tensor SoftmaxFeatures::map(const Tensor& x, const View& view, int64_t) const { return softmax(project(view, "projection", x)); }

int64_t Hadamard::size(const View& view) const { return rows_of(view, "feature_weight"); }
Tensor Hadamard::map(const Tensor& x, const View& view, int64_t) const {
  const Tensor a = project(view, "feature_weight", x), b = project(view, "feature_weight_2", x);
  if (a.size(1) != b.size(1)) throw refuse("hadamard", "feature_weight_2 has {} rows, needs {} as feature_weight has", b.size(1), a.size(1));
  return a * b;
}

}  // namespace ttr
