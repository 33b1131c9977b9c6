// Indexing, random tensors and dropout: against plain loops, adjoint pairs, derivatives to order 2.
#include <cmath>
#include <doctest/doctest.h>
#include <ttr/core/ops.hpp>
#include <ttr/core/parallel.hpp>

using namespace ttr;

namespace {

const Options kF64{Dtype::f64, cpu_device};
Tensor noise(const Shape& shape, uint64_t stream) { return uniform(shape, 11, stream, -2, 2, kF64); }
Tensor ids_of(const std::vector<int32_t>& values, const Shape& shape) { return from_vector(values, shape); }

template <class F> void smooth(F&& f, const Tensor& x) {
  const GradCheck check = check_grad([&](const Tensors& in) { return Tensors{square(f(in[0]))}; }, {x}, 2);
  CAPTURE(check.where);
  CHECK(check.within(1e-8));
}

}   // namespace

TEST_SUITE("ops_index") {
  TEST_CASE("embedding picks rows, and its derivative adds where ids repeat") {
    const Tensor table = noise({5, 3}, 1), ids = ids_of({4, 0, 4, 2}, {2, 2});
    const Tensor y = embedding(table, ids);
    CHECK(y.shape() == Shape{2, 2, 3});
    const auto v = table.to_vector<double>(), got = y.to_vector<double>();
    const int rows[] = {4, 0, 4, 2};
    for (int i = 0; i < 4; ++i)
      for (int c = 0; c < 3; ++c) CHECK(got[size_t(i * 3 + c)] == v[size_t(rows[i] * 3 + c)]);
    const Tensor t = variable(table);
    CHECK(grad(sum(embedding(t, ids)), t).to_vector<double>() == std::vector<double>{1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 2, 2, 2});
    smooth([&](const Tensor& x) { return embedding(x, ids); }, table);
    CHECK(embedding(table, ids_of({}, {0, 2})).shape() == Shape{0, 2, 3});
    CHECK_THROWS_WITH(embedding(table, ids_of({1, 5}, {2})), "[embedding] ids[1] is 5, needs one from 0 to 4");
    CHECK_THROWS_WITH(embedding(table, zeros({2})), "[embedding] dtype of ids is f32, needs i32; cast them");
  }

  TEST_CASE("gather and scatter_add along every axis are adjoint") {
    const Tensor ids = ids_of({2, 0, 2, 1}, {4});
    const int32_t at[] = {2, 0, 2, 1};
    for (int axis = 0; axis < 3; ++axis) {
      const Tensor x = noise({3, 3, 3}, 1);
      const Tensor y = gather(x, axis, ids);
      const Tensors from = unstack(x, axis), to = unstack(y, axis);
      for (size_t i = 0; i < 4; ++i) CHECK(to[i].to_vector<double>() == from[size_t(at[i])].to_vector<double>());
      const Tensor w = noise(y.shape(), 2);
      CHECK(sum(y * w).item() == doctest::Approx(sum(x * scatter_add(w, axis, ids, 3)).item()).epsilon(1e-13));
      smooth([&](const Tensor& v) { return gather(v, axis, ids); }, x);
      smooth([&](const Tensor& v) { return scatter_add(v, axis, ids, 3); }, w);
      CHECK(scatter_add(w, axis, ids, 7).size(axis) == 7);
      CHECK(sum(slice(scatter_add(w, axis, ids, 7), axis, 3, 7)).item() == 0);
    }
    CHECK_THROWS_WITH(gather(zeros({2, 3}), 1, ids_of({0, -1}, {2})), "[gather] ids[1] is -1, needs one from 0 to 2");
    CHECK_THROWS_WITH(scatter_add(zeros({2, 3}), 1, ids_of({0, 1}, {2}), 4),
                      "[scatter_add] shape of ids is [2], needs [3], one for each along axis 1 of [2, 3]");
  }

  TEST_CASE("scatter_add has the same bits for any number of threads") {
    std::vector<int32_t> values(20000);
    for (size_t i = 0; i < values.size(); ++i) values[i] = int32_t((i * 7919) % 97);
    const Tensor ids = ids_of(values, {20000}), x = uniform({20000, 33}, 1, 1);
    const int before = thread_count();
    set_thread_count(1);
    const auto one = scatter_add(x, 0, ids, 97).to_vector<float>();
    set_thread_count(3);
    CHECK(scatter_add(x, 0, ids, 97).to_vector<float>() == one);
    set_thread_count(before);
  }

  TEST_CASE("pick one of each row") {
    const Tensor x = noise({2, 2, 3}, 1), ids = ids_of({0, 2, 1, 1}, {2, 2});
    const auto v = x.to_vector<double>();
    CHECK(pick(x, ids).to_vector<double>() == std::vector<double>{v[0], v[5], v[7], v[10]});
    smooth([&](const Tensor& t) { return pick(t, ids); }, x);
    CHECK_THROWS_WITH(pick(x, ids_of({0, 1}, {2})), "[pick] shape of ids is [2], needs [2, 2] for x of [2, 2, 3]");
    CHECK_THROWS_WITH(pick(x, ids_of({0, 1, 2, 3}, {2, 2})), "[pick] ids[3] is 3, needs one from 0 to 2");
  }

  TEST_CASE("random tensors repeat, differ by stream, and have the moments asked for") {
    const Tensor u = uniform({100000}, 1, 2, -1, 3), z = normal({100000}, 1, 2, 0.5, 2, kF64);
    CHECK(u.to_vector<float>() == uniform({100000}, 1, 2, -1, 3).to_vector<float>());
    CHECK(u.to_vector<float>() != uniform({100000}, 1, 3, -1, 3).to_vector<float>());
    CHECK(mean(u).item() == doctest::Approx(1).epsilon(0.02));
    CHECK(mean(z).item() == doctest::Approx(0.5).epsilon(0.05));
    CHECK(mean(square(z - 0.5)).item() == doctest::Approx(4).epsilon(0.03));
  }

  TEST_CASE("dropout keeps its share, scales it, and drops the same elements in the backward") {
    const Tensor x = variable(full({100000}, 2, kF64));
    const Tensor y = dropout(x, 0.25, 3, 4);
    const auto v = y.to_vector<double>();
    size_t dropped = 0;
    for (const double e : v) {
      CHECK_UNARY((e == 0 || std::fabs(e - 2 / 0.75) < 1e-6));
      dropped += e == 0;
    }
    CHECK(double(dropped) == doctest::Approx(25000).epsilon(0.03));
    const auto d = grad(sum(y), x).to_vector<double>();
    bool same = true;
    for (size_t i = 0; i < v.size(); ++i) same = same && (d[i] == 0) == (v[i] == 0);
    CHECK(same);
    CHECK(dropout(x, 0, 3, 4).same_as(x));
    smooth([](const Tensor& t) { return dropout(t, 0.5, 1, 1); }, noise({4, 5}, 1));
    const Tensor nan = full({1000}, std::nan(""));
    for (const float e : (dropout(nan, 0.5, 1, 1)).to_vector<float>()) CHECK_UNARY((e == 0 || std::isnan(e)));
    CHECK_THROWS_WITH(dropout(x, 1, 1, 1), "[dropout] rate is 1, needs one from 0 to less than 1");
  }
}
