// Operations that move values: against index loops, derivatives to order 2, shared memory where promised.
#include <cmath>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>

using namespace ttr;

namespace {

const Options kF64{Dtype::f64, cpu_device};
Tensor noise(const Shape& shape, uint64_t stream) { return uniform(shape, 9, stream, -2, 2, kF64); }

Tensor count_up(const Shape& shape) {
  std::vector<double> v(size_t(shape.count()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = double(i);
  return from_vector(v, shape);
}

// y[index] = x[from(index)] for all indices of y; from gives false where y is 0.
template <class F> void moved(const Tensor& y, const Tensor& x, F&& from) {
  const auto vy = y.to_vector<double>(), vx = x.to_vector<double>();
  std::array<int64_t, kMaxRank> index{};
  int64_t wrong = 0;
  for (int64_t flat = 0; flat < y.count(); ++flat) {
    int64_t rest = flat;
    for (int d = y.rank() - 1; d >= 0; --d) index[size_t(d)] = rest % y.size(d), rest /= y.size(d);
    auto source = index;
    double want = 0;
    if (from(source)) {
      int64_t at = 0;
      for (int d = 0; d < x.rank(); ++d) at = at * x.size(d) + source[size_t(d)];
      want = vx[size_t(at)];
    }
    wrong += vy[size_t(flat)] != want;
  }
  CHECK(wrong == 0);
}

template <class F> void smooth(F&& f, const Tensors& inputs) {
  const GradCheck check = check_grad(
      [&](const Tensors& in) {
        Tensors ys = f(in);
        for (Tensor& y : ys) y = y * square(y);   // so that there is a second derivative
        return ys;
      },
      inputs, 2);
  CAPTURE(check.where);
  CHECK(check.within(1e-8));
}

using Index = std::array<int64_t, kMaxRank>;

}   // namespace

TEST_SUITE("ops_shape") {
  TEST_CASE("reshape shares memory and finds one size") {
    const Tensor x = count_up({2, 3, 4});
    const Tensor y = reshape(x, {6, -1});
    CHECK(y.shape() == Shape{6, 4});
    CHECK(y.address() == x.address());
    CHECK(reshape(zeros({0, 3}), {3, 0}).shape() == Shape{3, 0});
    CHECK(reshape(ones({1}), {}).shape() == Shape());
    smooth([](const Tensors& in) { return Tensors{reshape(in[0], {3, -1})}; }, {noise({2, 3, 2}, 1)});
    CHECK_THROWS_WITH(reshape(x, {5, -1}), "[reshape] shape is [2, 3, 4] with 24 elements, needs the number of elements of [5, -1]");
    CHECK_THROWS_WITH(reshape(x, {5, 5}), "[reshape] shape is [2, 3, 4] with 24 elements, needs the number of elements of [5, 5]");
  }

  TEST_CASE("transpose of any two axes, small and large, every dtype") {
    for (const Shape& shape : {Shape{2, 3}, Shape{2, 3, 4}, Shape{3, 1, 4}, Shape{2, 3, 2, 5}, Shape{70, 130}, Shape{3, 65, 4, 33},
                               Shape{5, 300, 200}, Shape{0, 3}, Shape{2, 3, 2, 2, 2, 3}})
      for (int a = 0; a < shape.rank(); ++a)
        for (int b = 0; b < shape.rank(); ++b) {
          CAPTURE(to_string(shape));
          const Tensor x = count_up(shape);
          const auto swapped = [&](Index& i) {
            std::swap(i[size_t(a)], i[size_t(b)]);
            return true;
          };
          moved(transpose(x, a, b), x, swapped);
          moved(transpose(cast(x, Dtype::f32), a, b - shape.rank()), x, swapped);
          moved(transpose(cast(x, Dtype::i32), a, b), x, swapped);
        }
    smooth([](const Tensors& in) { return Tensors{transpose(in[0], 0, 2)}; }, {noise({2, 3, 2}, 1)});
  }

  TEST_CASE("broadcast_to") {
    const Tensor x = count_up({3, 1});
    moved(broadcast_to(x, {2, 3, 4}), x, [](Index& i) {
      i = {i[1], 0};
      return true;
    });
    moved(broadcast_to(cast(x, Dtype::i32), {2, 3, 4}), x, [](Index& i) {
      i = {i[1], 0};
      return true;
    });
    smooth([](const Tensors& in) { return Tensors{broadcast_to(in[0], {2, 3, 4})}; }, {noise({3, 1}, 1)});
    smooth([](const Tensors& in) { return Tensors{broadcast_to(in[0], {2, 3})}; }, {noise({}, 1)});
    CHECK_THROWS_WITH(broadcast_to(x, {3}), "[broadcast_to] shape is [3, 1], needs one that broadcasts to [3]");
  }

  TEST_CASE("concat and stack") {
    for (int axis = 0; axis < 3; ++axis) {
      const Shape shape{2, 3, 4};
      const Tensor a = count_up(shape), b = count_up(shape.with(axis, 2)), none = zeros(shape.with(axis, 0), kF64);
      const Tensor y = concat({a, none, b}, axis - 3);
      CHECK(y.size(axis) == shape[axis] + 2);
      moved(slice(y, axis, 0, shape[axis]), a, [](Index&) { return true; });
      moved(slice(y, axis, shape[axis], shape[axis] + 2), b, [](Index&) { return true; });
      smooth([axis](const Tensors& in) { return Tensors{concat(in, axis)}; }, {noise({2, 2, 2}, 1), noise({2, 2, 2}, 2)});
    }
    for (int axis = 0; axis < 3; ++axis) {
      const Tensor a = count_up({2, 3}), b = a * 10;
      const Tensor y = stack({a, b}, axis);
      const auto both = unstack(y, axis);
      CHECK(both[0].to_vector<double>() == a.to_vector<double>());
      CHECK(both[1].to_vector<double>() == b.to_vector<double>());
      smooth([axis](const Tensors& in) { return Tensors{stack(in, axis)}; }, {noise({2, 3}, 1), noise({2, 3}, 2)});
    }
    CHECK_THROWS_WITH(concat({}, 0), "[concat] the list is empty, needs at least one tensor");
    CHECK_THROWS_WITH(concat({zeros({2, 3}), zeros({3, 3})}, 1), "[concat] one shape is [3, 3], needs [2, 3] but for axis 1");
    CHECK_THROWS_WITH(concat({zeros({2}), zeros({2}, kF64)}, 0), "[concat] dtypes are f32 and f64, needs one dtype; cast one of them");
    CHECK_THROWS_WITH(stack({zeros({2}), zeros({3})}, 0), "[stack] one shape is [3], needs [2] as the first");
  }

  TEST_CASE("slice, split, pad, roll, reverse along every axis") {
    for (int axis = 0; axis < 3; ++axis) {
      const Shape shape = Shape{3, 3, 3}.with(axis, 5);
      const Tensor x = count_up(shape);
      const auto d = size_t(axis);
      moved(slice(x, axis, 1, 4), x, [&](Index& i) { return i[d] += 1, true; });
      CHECK(slice(x, axis, 2, 2).count() == 0);
      moved(pad(x, axis, 2, 1), x, [&](Index& i) { return i[d] -= 2, i[d] >= 0 && i[d] < 5; });
      moved(roll(x, axis, 2), x, [&](Index& i) { return i[d] = (i[d] + 3) % 5, true; });
      moved(roll(x, axis, -7), x, [&](Index& i) { return i[d] = (i[d] + 7) % 5, true; });
      moved(reverse(x, axis), x, [&](Index& i) { return i[d] = 4 - i[d], true; });
      const Tensors parts = split(x, axis, {1, 0, 4});
      moved(parts[0], x, [](Index&) { return true; });
      moved(parts[2], x, [&](Index& i) { return i[d] += 1, true; });
      const Tensor point = noise(Shape{2, 2, 2}.with(axis, 3), 1);
      smooth([&](const Tensors& in) { return Tensors{slice(in[0], axis, 1, 3)}; }, {point});
      smooth([&](const Tensors& in) { return Tensors{pad(in[0], axis, 1, 2)}; }, {point});
      smooth([&](const Tensors& in) { return Tensors{roll(in[0], axis, 1)}; }, {point});
      smooth([&](const Tensors& in) { return Tensors{reverse(in[0], axis)}; }, {point});
      smooth([&](const Tensors& in) { return split(in[0], axis, {1, 2}); }, {point});
      smooth([&](const Tensors& in) { return Tensors{split(in[0], axis, {1, 2})[1]}; }, {point});   // nothing flows into the other part
    }
    const Tensor x = zeros({2, 3});
    CHECK_THROWS_WITH(slice(x, 1, 2, 4), "[slice] range is [2, 4), needs one inside [0, 3) of axis 1 of [2, 3]");
    CHECK_THROWS_WITH(split(x, 1, {1, 1}), "[split] sizes add up to 2, needs 3, the size of axis 1 of [2, 3]");
    CHECK_THROWS_WITH(pad(x, 0, -1, 0), "[pad] padding is -1 and 0, needs at least 0; slice cuts");
  }

  TEST_CASE("unstack: windows of the same memory on the leading axis, one node, zeros where nothing flows in") {
    const Tensor x = count_up({3, 2, 2});
    const Tensors rows = unstack(x, 0);
    REQUIRE(rows.size() == 3);
    CHECK(rows[1].address() == x.data<double>() + 4);
    for (int axis = 0; axis < 3; ++axis) {
      const Tensors parts = unstack(x, axis);
      for (int64_t i = 0; i < x.size(axis); ++i)
        moved(parts[size_t(i)], x, [&](Index& j) {
          for (int d = 5; d > axis; --d) j[size_t(d)] = j[size_t(d) - 1];
          return j[size_t(axis)] = i, true;
        });
      smooth([axis](const Tensors& in) { return unstack(in[0], axis); }, {noise({2, 2, 2}, 1)});
      smooth([axis](const Tensors& in) { return Tensors{unstack(in[0], axis)[1]}; }, {noise({2, 2, 2}, 1)});
    }
    CHECK(unstack(zeros({0, 3}), 0).empty());
  }

  TEST_CASE("cast rounds, and its derivative is cast back") {
    const Tensor x = from_vector(std::vector<double>{1.0 / 3, -2.7, 300}, {3});
    CHECK(cast(x, Dtype::f32).to_vector<double>()[0] == double(1.0f / 3));
    CHECK(cast(x, Dtype::i32).to_vector<int32_t>() == std::vector<int32_t>{0, -2, 300});
    CHECK(cast(cast(x, Dtype::bf16), Dtype::f32).to_vector<float>()[0] == float(bf16(1.0f / 3)));
    CHECK(cast(cast(x, Dtype::i32), Dtype::f64).to_vector<double>() == std::vector<double>{0, -2, 300});
    const Tensor v = variable(x);
    CHECK(grad(sum(cast(v, Dtype::f32) * 2), v).dtype() == Dtype::f64);
    CHECK_FALSE(cast(v, Dtype::i32).tracked());
  }

  TEST_CASE("alias is tracked, stop_gradient is not") {
    const Tensor x = from_vector(std::vector<double>{1, 2}, {2});
    const Tensor v = variable(x), a = alias(v);
    CHECK(alias(x).tracked());
    CHECK(a.tracked());
    CHECK(a.address() == x.address());
    CHECK_FALSE(a.same_as(v));
    const auto d = grad({sum(square(a))}, {}, {v, a});
    CHECK(d[0].to_vector<double>() == std::vector<double>{2, 4});
    CHECK(d[1].to_vector<double>() == std::vector<double>{2, 4});
    CHECK_FALSE(stop_gradient(v).tracked());
    CHECK(grad(sum(v * stop_gradient(v)), v).to_vector<double>() == std::vector<double>{1, 2});
    {
      const Recording off(false);
      CHECK(alias(v).tracked());
    }
  }

  TEST_CASE("tril, diagonal, diagonal_matrix, identity") {
    for (const Shape& shape : {Shape{4, 4}, Shape{2, 3, 5}, Shape{2, 5, 3}, Shape{1, 1}, Shape{1, 4}, Shape{70, 300}})
      for (const int64_t diagonal : {0, 1, -1, 3, -3, 400, -400}) {
        CAPTURE(to_string(shape));
        CAPTURE(diagonal);
        const Tensor x = count_up(shape) + 1;
        const auto r = size_t(shape.rank());
        moved(tril(x, diagonal), x, [&](Index& i) { return i[r - 1] - i[r - 2] <= diagonal; });
        moved(tril(cast(x, Dtype::f32), diagonal), x, [&](Index& i) { return i[r - 1] - i[r - 2] <= diagonal; });
      }
    const Tensor x = count_up({2, 3, 3});
    moved(diagonal(x), x, [](Index& i) { return i[2] = i[1], true; });
    moved(diagonal_matrix(count_up({2, 3})), count_up({2, 3}), [](Index& i) { return i[1] == i[2]; });
    CHECK(identity(2, kF64).to_vector<double>() == std::vector<double>{1, 0, 0, 1});
    smooth([](const Tensors& in) { return Tensors{tril(in[0]), diagonal(in[0]), diagonal_matrix(in[0])}; }, {noise({2, 3, 3}, 1)});
    CHECK_THROWS_WITH(diagonal(zeros({2, 3})), "[diagonal] shape is [2, 3], needs [..., n, n]");
    CHECK(std::isnan(tril(from_vector(std::vector<double>{NAN, NAN, 1, 1}, {2, 2})).to_vector<double>()[0]));
    CHECK(tril(from_vector(std::vector<double>{NAN, NAN, 1, 1}, {2, 2})).to_vector<double>()[1] == 0);
  }
}
