// Every core kernel on CUDA against a plain loop in f64 on the host: f64, f32 and bf16, odd sizes, sizes 1 and 0, rank-6 broadcasts.
// Inputs are rounded to T first, outputs start as NaN (every byte 0xff), and the bytes behind each buffer must stay as they were.
// Tolerances, relative to max(|want|, the scale of what was summed): f64 1e-12 and f32 1e-5 leave room for sums of 1e5 terms in another
// order; bf16 1e-2 is the one rounding at the end (2^-9) with room for a neighbour. Copies, picks and random integers must be exact.
#include <cstring>
#include <string>
#include <vector>
#include <doctest/doctest.h>

#if TTR_WITH_CUDA
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <ttr/core/device_kernel.hpp>
#include <ttr/core/ops/elementwise_kernel.hpp>
#include <ttr/core/ops/index_kernel.hpp>
#include <ttr/core/ops/linalg_kernel.hpp>
#include <ttr/core/ops/loss_kernel.hpp>
#include <ttr/core/ops/norm_kernel.hpp>
#include <ttr/core/ops/reduce_kernel.hpp>
#include <ttr/core/ops/sequence_kernel.hpp>
#include <ttr/core/ops/softmax_kernel.hpp>
#include <ttr/core/random_kernel.hpp>

using namespace ttr;

namespace {

using Values = std::vector<double>;
using Ids = std::vector<int32_t>;

bool no_gpu() {
  if (cuda::device_count() > 0) return false;
  static const bool told = [] {
    MESSAGE("skipped: " << std::string(cuda::device_problem()));
    return true;
  }();
  return told;
}

Values random_values(int64_t n, uint64_t seed, double low = -2, double high = 2) {
  std::mt19937_64 engine(seed);
  std::uniform_real_distribution<double> draw(low, high);
  Values x(static_cast<size_t>(n));
  for (double& v : x) v = draw(engine);
  return x;
}
Values blank(int64_t n) { return Values(static_cast<size_t>(n), 0.0); }
Ids random_ids(int64_t n, uint64_t seed, int32_t low, int32_t high) {   // [low, high)
  std::mt19937_64 engine(seed);
  std::uniform_int_distribution<int32_t> draw(low, high - 1);
  Ids x(static_cast<size_t>(n));
  for (int32_t& v : x) v = draw(engine);
  return x;
}

template <class T> double as_double(T x) { return double(x); }
template <class T> T rounded_to(double x) { return T(x); }
template <class T> Values rounded(Values x) {
  for (double& v : x) v = as_double(rounded_to<T>(v));
  return x;
}

// A buffer on the device, from element `offset` (to try addresses that are not multiples of 16 bytes), with untouched bytes behind it.
template <class T> class Remote {
 public:
  explicit Remote(int64_t n, int64_t offset = 0) : n_(n), offset_(offset), base_(cuda::allocate(bytes())) {
    REQUIRE(base_ != nullptr);
    REQUIRE(cuda::set_bytes(base_, 0xff, bytes(), cuda::stream()) == Status::ok);
  }
  explicit Remote(const Values& x, int64_t offset = 0) : Remote(int64_t(x.size()), offset) {
    std::vector<T> host(x.size());
    for (size_t i = 0; i < x.size(); ++i) host[i] = rounded_to<T>(x[i]);
    upload(host);
  }
  explicit Remote(const std::vector<T>& x) requires(!std::is_same_v<T, double>) : Remote(int64_t(x.size())) { upload(x); }
  ~Remote() { cuda::release(base_); }
  Remote(const Remote&) = delete;

  T* at() const { return static_cast<T*>(base_) + offset_; }
  operator T*() const { return at(); }
  std::vector<T> raw() const {
    std::vector<unsigned char> all(bytes());
    REQUIRE(cuda::copy_to_host(all.data(), base_, bytes()) == Status::ok);
    const size_t begin = size_t(offset_) * sizeof(T), end = size_t(offset_ + n_) * sizeof(T);
    bool untouched = true;
    for (size_t i = 0; i < all.size(); ++i) untouched = untouched && (all[i] == 0xff || (i >= begin && i < end));
    CHECK_MESSAGE(untouched, "bytes outside the output were written");
    std::vector<T> x(static_cast<size_t>(n_));
    if (n_ > 0) std::memcpy(static_cast<void*>(x.data()), all.data() + begin, end - begin);
    return x;
  }
  Values values() const {
    const std::vector<T> x = raw();
    Values y(x.size());
    for (size_t i = 0; i < x.size(); ++i) y[i] = as_double(x[i]);
    return y;
  }

 private:
  static constexpr size_t kGuard = 64;
  size_t bytes() const { return size_t(offset_ + n_) * sizeof(T) + kGuard; }
  void upload(const std::vector<T>& host) {
    if (!host.empty()) REQUIRE(cuda::copy_to_device(at(), host.data(), host.size() * sizeof(T)) == Status::ok);
    REQUIRE(cuda::synchronise() == Status::ok);
  }
  int64_t n_, offset_;
  void* base_;
};

template <class T> constexpr double kTolerance = 1e-5;
template <> constexpr double kTolerance<double> = 1e-12;
template <> constexpr double kTolerance<bf16> = 1e-2;
template <class T> constexpr const char* kName = "f32";
template <> constexpr const char* kName<double> = "f64";
template <> constexpr const char* kName<bf16> = "bf16";

// |got - want| <= tolerance max(|want|, scale); NaN agrees with NaN, an infinity with itself. Says the worst place.
void agree(const std::string& what, const Values& got, const Values& want, double tolerance, double scale = 1) {
  REQUIRE_MESSAGE(got.size() == want.size(), what);
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]))) continue;
    double error = std::abs(got[i] - want[i]) / std::max(std::abs(want[i]), scale);
    if (!std::isfinite(error)) error = std::numeric_limits<double>::infinity();
    if (error > worst) worst = error, at = i;
  }
  CHECK_MESSAGE(worst <= tolerance, what << ": error " << worst << " at " << at << ", got " << (got.empty() ? 0 : got[at]) << ", want "
                                         << (want.empty() ? 0 : want[at]));
}
template <class T> void close(const std::string& what, const Values& got, const Values& want, double scale = 1) {
  agree(std::string(kName<T>) + " " + what, got, want, kTolerance<T>, scale);
}

#define OK(call) REQUIRE((call) == Status::ok)

double host_unary(Unary op, double x) {
  const double s = 1 / (1 + std::exp(-x));
  switch (op) {
    case Unary::neg: return -x;
    case Unary::abs: return std::fabs(x);
    case Unary::exp: return std::exp(x);
    case Unary::expm1: return std::expm1(x);
    case Unary::log: return std::log(x);
    case Unary::log1p: return std::log1p(x);
    case Unary::sqrt: return std::sqrt(x);
    case Unary::rsqrt: return 1 / std::sqrt(x);
    case Unary::square: return x * x;
    case Unary::sin: return std::sin(x);
    case Unary::cos: return std::cos(x);
    case Unary::tanh: return std::tanh(x);
    case Unary::sigmoid: return s;
    case Unary::softplus: return std::log1p(std::exp(x));
    case Unary::logsigmoid: return -std::log1p(std::exp(-x));
    case Unary::relu: return x > 0 ? x : 0;
    case Unary::sign: return (x > 0) - (x < 0);
    case Unary::silu: return x * s;
    case Unary::gelu: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Unary::elu1: return x > 0 ? x + 1 : std::exp(x);
  }
  return 0;
}

double host_binary(Binary op, double a, double b) {
  switch (op) {
    case Binary::add: return a + b;
    case Binary::sub: return a - b;
    case Binary::mul: return a * b;
    case Binary::div: return a / b;
    case Binary::max: return std::max(a, b);
    case Binary::min: return std::min(a, b);
    case Binary::pow: return std::pow(a, b);
    case Binary::less: return a < b;
    case Binary::less_equal: return a <= b;
    case Binary::equal: return a == b;
    case Binary::silu_backward: {
      const double s = 1 / (1 + std::exp(-a));
      return b * (s + a * s * (1 - s));
    }
    case Binary::gelu_backward: {
      const double c = std::sqrt(2 / M_PI), t = std::tanh(c * (a + 0.044715 * a * a * a));
      return b * (0.5 * (1 + t) + 0.5 * a * (1 - t * t) * c * (1 + 3 * 0.044715 * a * a));
    }
    case Binary::elu1_backward: return b * std::min(a, 1.0);
  }
  return 0;
}

constexpr int kUnaries = int(Unary::elu1) + 1, kBinaries = int(Binary::elu1_backward) + 1;

bool needs_positive(Unary op) { return op == Unary::log || op == Unary::log1p || op == Unary::sqrt || op == Unary::rsqrt; }

// Sizes of the output; of each operand 0 where it broadcasts; operands' strides follow from their own contiguous shape.
struct Shapes {
  std::vector<int64_t> y;
  std::vector<std::vector<int64_t>> operands;   // the same rank, sizes 1 or y's
};
Broadcast broadcast_of(const Shapes& shapes) {
  Broadcast s;
  s.rank = int32_t(shapes.y.size());
  s.count = 1;
  for (int a = 0; a < s.rank; ++a) s.count *= s.size[a] = shapes.y[size_t(a)];
  for (size_t k = 0; k < shapes.operands.size(); ++k) {
    int64_t stride = 1;
    for (int a = s.rank - 1; a >= 0; --a) {
      const int64_t size = shapes.operands[k][size_t(a)];
      s.stride[k][a] = size == 1 ? 0 : stride;
      stride *= size;
    }
  }
  return s;
}
int64_t count_of(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (int64_t size : shape) n *= size;
  return n;
}
// f(i, offsets of the operands) for every element of the output.
template <class F> void walk(const Broadcast& s, F f) {
  for (int64_t i = 0; i < s.count; ++i) {
    int64_t at[3] = {}, left = i;
    for (int a = s.rank - 1; a >= 0; --a) {
      for (int k = 0; k < 3; ++k) at[k] += left % s.size[a] * s.stride[k][a];
      left /= s.size[a];
    }
    f(i, at);
  }
}

const std::vector<Shapes> kShapes = {
    {{}, {{}, {}, {}}},
    {{1}, {{1}, {1}, {1}}},
    {{0}, {{0}, {0}, {0}}},
    {{4, 0, 3}, {{4, 0, 3}, {4, 1, 3}, {1, 0, 1}}},
    {{1031}, {{1031}, {1031}, {1031}}},
    {{77}, {{77}, {1}, {77}}},
    {{77}, {{1}, {77}, {1}}},
    {{33, 65}, {{33, 65}, {1, 65}, {33, 1}}},
    {{33, 65}, {{33, 1}, {33, 65}, {1, 1}}},
    {{2, 3, 1, 5, 4, 7}, {{2, 1, 1, 5, 1, 7}, {1, 3, 1, 1, 4, 1}, {2, 3, 1, 5, 4, 1}}},
    {{3, 2, 5, 2, 3, 2}, {{3, 2, 5, 2, 3, 2}, {1, 2, 1, 2, 1, 2}, {3, 1, 5, 1, 3, 1}}},
};

template <class T> void check_unary(int64_t n, int64_t offset) {
  for (int o = 0; o < kUnaries; ++o) {
    const Unary op = Unary(o);
    const Values x = rounded<T>(needs_positive(op) ? random_values(n, 7, 0.05, 4) : random_values(n, 7, -4, 4));
    Values want = x;
    for (double& v : want) v = host_unary(op, v);
    const std::string what = "unary " + std::to_string(o) + " n " + std::to_string(n);
    const Remote<T> dx(x, offset), dy(n, offset);
    OK(cuda::unary(op, n, dx.at(), dy.at(), cuda::stream()));
    close<T>(what, dy.values(), want);
    OK(cuda::unary(op, n, dx.at(), dx.at(), cuda::stream()));
    close<T>(what + " in place", dx.values(), want);
  }
}

template <class T> void check_binary(const Shapes& shapes) {
  const Broadcast s = broadcast_of(shapes);
  Values a = rounded<T>(random_values(count_of(shapes.operands[0]), 11, 0.2, 3)), b = rounded<T>(random_values(count_of(shapes.operands[1]), 12, 0.2, 3));
  for (size_t i = 0; i < std::min(a.size(), b.size()); i += 3) b[i] = a[i];   // ties
  const Remote<T> da(a), db(b);
  for (int o = 0; o < kBinaries; ++o) {
    Values want = blank(s.count);
    walk(s, [&](int64_t i, const int64_t* at) { want[size_t(i)] = host_binary(Binary(o), a[size_t(at[0])], b[size_t(at[1])]); });
    const Remote<T> dy(s.count);
    OK(cuda::binary(Binary(o), s, da.at(), db.at(), dy.at(), cuda::stream()));
    close<T>("binary " + std::to_string(o) + " rank " + std::to_string(s.rank) + " count " + std::to_string(s.count), dy.values(), want);
  }
}

template <class T> void check_binary_scalar(int64_t n, int64_t offset) {
  const Values a = rounded<T>(random_values(n, 13, 0.2, 3));
  const double b = as_double(Wide<T>(0.7));
  const Remote<T> da(a, offset);
  for (int o = 0; o < kBinaries; ++o)
    for (bool first : {false, true}) {
      Values want = a;
      for (double& v : want) v = first ? host_binary(Binary(o), b, v) : host_binary(Binary(o), v, b);
      const Remote<T> dy(n, offset);
      OK(cuda::binary_scalar(Binary(o), n, da.at(), 0.7, first, dy.at(), cuda::stream()));
      close<T>("binary_scalar " + std::to_string(o), dy.values(), want);
    }
}

template <class T> void check_select(const Shapes& shapes) {
  const Broadcast s = broadcast_of(shapes);
  Values mask = random_values(count_of(shapes.operands[0]), 14);
  for (double& v : mask) v = v > 0 ? (v > 1 ? -1.0 : 1.0) : 0.0;
  const Values a = rounded<T>(random_values(count_of(shapes.operands[1]), 15)), b = rounded<T>(random_values(count_of(shapes.operands[2]), 16));
  Values want = blank(s.count);
  walk(s, [&](int64_t i, const int64_t* at) { want[size_t(i)] = mask[size_t(at[0])] != 0 ? a[size_t(at[1])] : b[size_t(at[2])]; });
  const Remote<T> dm(mask), da(a), db(b), dy(s.count);
  OK(cuda::select(s, dm.at(), da.at(), db.at(), dy.at(), cuda::stream()));
  agree("select", dy.values(), want, 0);
}

template <class S, class T> void check_copy() {
  const auto integers = [](int64_t n) {   // exact in every dtype
    Values x = random_values(n, 17, -100, 100);
    for (double& v : x) v = std::floor(v);
    return x;
  };
  const auto run = [&](const char* what, const Broadcast& s, int64_t nx, int64_t ny, int64_t first_x = 0) {
    const Values x = integers(nx);
    const Remote<S> dx(x);
    const Remote<T> dy(Values(size_t(ny), -7.0));
    Values want(size_t(ny), -7.0);
    walk(s, [&](int64_t, const int64_t* at) { want[size_t(at[1])] = x[size_t(first_x + at[0])]; });
    OK(cuda::copy(s, dx.at() + first_x, dy.at(), cuda::stream()));
    agree(what, dy.values(), want, 0);
  };
  run("copy flat", Broadcast{1, 1029, {1029}, {{1}, {1}}}, 1029, 1029);
  run("copy of nothing", Broadcast{1, 0, {0}, {{1}, {1}}}, 0, 0);
  run("copy of a scalar", Broadcast{0, 1, {}, {}}, 1, 1);
  run("transpose", Broadcast{2, 35 * 67, {67, 35}, {{1, 67}, {35, 1}}}, 35 * 67, 35 * 67);
  run("slice", Broadcast{2, 12, {3, 4}, {{10, 1}, {4, 1}}}, 30, 12);
  run("pad", Broadcast{2, 12, {3, 4}, {{4, 1}, {10, 1}}}, 12, 30);
  run("broadcast", Broadcast{2, 15, {5, 3}, {{0, 1}, {3, 1}}}, 3, 15);
  run("reverse", Broadcast{1, 9, {9}, {{-1}, {1}}}, 9, 9, 8);
  run("rank 6", Broadcast{6, 2 * 3 * 2 * 3 * 2 * 5, {2, 3, 2, 3, 2, 5}, {{1, 2, 6, 12, 36, 72}, {180, 60, 30, 10, 5, 1}}}, 360, 360);
}

// f(o, i) over the sums of a Middle; at(k) is the index of term k.
template <class F> void each_sum(Middle s, F f) {
  for (int64_t o = 0; o < s.outer; ++o)
    for (int64_t i = 0; i < s.inner; ++i) f(size_t(o * s.inner + i), [=](int64_t k) { return size_t((o * s.n + k) * s.inner + i); });
}

const std::vector<Middle> kMiddles = {{1, 1, 1},   {1, 0, 1},    {3, 0, 4},     {0, 5, 2},      {2, 5, 0},    {1, 100003, 1}, {4, 9001, 1}, {1029, 3, 1},
                                      {700, 65, 1}, {1, 3, 1029}, {1, 20011, 37}, {2, 4100, 129}, {17, 63, 5},  {5, 1500, 2},  {300, 1, 7},  {3, 2100, 1}};

template <class T> void check_reduce(Middle s) {
  const Values x = rounded<T>(random_values(s.outer * s.n * s.inner, 21));
  const std::string what = " [" + std::to_string(s.outer) + ", " + std::to_string(s.n) + ", " + std::to_string(s.inner) + "]";
  Values sum = blank(s.outer * s.inner), top = sum, running(x.size()), backwards(x.size());
  each_sum(s, [&](size_t y, auto at) {
    double total = 0, largest = -std::numeric_limits<double>::infinity();
    for (int64_t k = 0; k < s.n; ++k) total += x[at(k)], largest = std::max(largest, x[at(k)]), running[at(k)] = total;
    sum[y] = total, top[y] = largest;
    double from_the_end = 0;
    for (int64_t k = s.n - 1; k >= 0; --k) backwards[at(k)] = from_the_end += x[at(k)];
  });
  const double scale = std::max(1.0, 2 * std::sqrt(double(s.n)));   // of the partial sums of n values in [-2, 2]
  const Remote<T> dx(x);
  const Remote<T> d_sum(int64_t(sum.size())), d_top(int64_t(sum.size())), d_again(int64_t(sum.size()));
  OK(cuda::reduce(Reduce::sum, s, dx.at(), d_sum.at(), cuda::stream()));
  OK(cuda::reduce(Reduce::max, s, dx.at(), d_top.at(), cuda::stream()));
  OK(cuda::reduce(Reduce::sum, s, dx.at(), d_again.at(), cuda::stream()));
  close<T>("sum" + what, d_sum.values(), sum, scale);
  agree("max" + what, d_top.values(), top, 0);
  agree("sum again" + what, d_again.values(), d_sum.values(), 0);
  for (bool reverse : {false, true}) {
    const Remote<T> dy(int64_t(x.size()));
    OK(cuda::cumsum(s, reverse, dx.at(), dy.at(), cuda::stream()));
    close<T>("cumsum" + what, dy.values(), reverse ? backwards : running, scale);
  }
}

template <class T> void check_index(Middle s, int64_t count) {
  const std::string what = " [" + std::to_string(s.outer) + ", " + std::to_string(s.n) + ", " + std::to_string(s.inner) + "] ids " + std::to_string(count);
  const Ids ids = random_ids(count, 31, -1, int32_t(s.n) + 1);   // some outside
  const Remote<int32_t> d_ids(ids);
  const auto inside = [&](int64_t j) { return ids[size_t(j)] >= 0 && ids[size_t(j)] < s.n; };
  const Values x = rounded<T>(random_values(s.outer * s.n * s.inner, 32)), g = rounded<T>(random_values(s.outer * count * s.inner, 33));
  Values gathered(g.size(), 0.0), scattered(x.size(), 0.0);
  for (int64_t o = 0; o < s.outer; ++o)
    for (int64_t j = 0; j < count; ++j)
      for (int64_t i = 0; i < s.inner && inside(j); ++i) {
        const size_t a = size_t((o * s.n + ids[size_t(j)]) * s.inner + i), b = size_t((o * count + j) * s.inner + i);
        gathered[b] = x[a];
        scattered[a] += g[b];
      }
  const Remote<T> dx(x), dg(g), dy(int64_t(g.size())), ds(int64_t(x.size()));
  OK(cuda::gather(s, count, d_ids.at(), dx.at(), dy.at(), cuda::stream()));
  OK(cuda::scatter_add(s, count, d_ids.at(), dg.at(), ds.at(), cuda::stream()));
  agree("gather" + what, dy.values(), gathered, 0);
  close<T>("scatter_add" + what, ds.values(), scattered, std::max(1.0, std::sqrt(double(count))));
}

template <class T> void check_pick(int64_t rows, int64_t n) {
  const Ids ids = random_ids(rows, 34, -1, int32_t(n) + 1);
  const Remote<int32_t> d_ids(ids);
  const Values x = rounded<T>(random_values(rows * n, 35)), g = rounded<T>(random_values(rows, 36));
  Values picked = blank(rows), placed(x.size(), 0.0);
  for (int64_t r = 0; r < rows; ++r)
    if (const int64_t id = ids[size_t(r)]; id >= 0 && id < n) picked[size_t(r)] = x[size_t(r * n + id)], placed[size_t(r * n + id)] = g[size_t(r)];
  const Remote<T> dx(x), dg(g), dy(rows), dp(rows * n);
  OK(cuda::pick(rows, n, d_ids.at(), dx.at(), dy.at(), cuda::stream()));
  OK(cuda::put(rows, n, d_ids.at(), dg.at(), dp.at(), cuda::stream()));
  agree("pick", dy.values(), picked, 0);
  agree("put", dp.values(), placed, 0);
}

template <class T> void check_softmax(int64_t rows, int64_t n) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  const std::string what = " [" + std::to_string(rows) + ", " + std::to_string(n) + "]";
  Values x = rounded<T>(random_values(rows * n, 41, -6, 6));
  if (rows > 1) std::fill(x.begin(), x.begin() + n, kNone);                                       // a row that sees nothing
  if (rows > 2) for (int64_t j = 0; j < n; j += 2) x[size_t(2 * n + j)] = kNone;                  // a masked row
  if (rows > 3) for (int64_t j = 0; j < n; ++j) x[size_t(3 * n + j)] = as_double(rounded_to<T>(x[size_t(3 * n + j)] + 3000));   // overflows without the maximum
  const Values dy = rounded<T>(random_values(rows * n, 42));
  Values y(x.size()), dx(x.size());
  const Values probabilities = rounded<T>(random_values(rows * n, 43, 0, 2.0 / double(std::max<int64_t>(n, 1))));
  for (int64_t r = 0; r < rows; ++r) {
    double top = kNone, sum = 0, dot = 0;
    for (int64_t j = 0; j < n; ++j) top = std::max(top, x[size_t(r * n + j)]);
    for (int64_t j = 0; j < n; ++j)
      sum += top == kNone ? 0 : std::exp(x[size_t(r * n + j)] - top), dot += probabilities[size_t(r * n + j)] * dy[size_t(r * n + j)];
    for (int64_t j = 0; j < n; ++j) {
      const size_t i = size_t(r * n + j);
      y[i] = top == kNone ? 0 : std::exp(x[i] - top) / sum;
      dx[i] = probabilities[i] * (dy[i] - dot);
    }
  }
  const Remote<T> rx(x), rp(probabilities), rdy(dy), ry(rows * n), rdx(rows * n);
  OK(cuda::softmax_forward(rows, n, rx.at(), ry.at(), cuda::stream()));
  OK(cuda::softmax_backward(rows, n, rp.at(), rdy.at(), rdx.at(), cuda::stream()));
  close<T>("softmax" + what, ry.values(), y, 1e-6);
  close<T>("softmax backward" + what, rdx.values(), dx, 1.0 / double(std::max<int64_t>(n, 1)));
}

template <class T> void check_norm(int64_t rows, int64_t n, bool centred, bool weighted) {
  using A = Wide<T>;
  const std::string what = std::string(centred ? " layer_norm [" : " rms_norm [") + std::to_string(rows) + ", " + std::to_string(n) + "]";
  const double eps = as_double(A(1e-3));
  const Values x = rounded<T>(random_values(rows * n, 51, -1, 3)), w = rounded<T>(random_values(n, 52, 0.5, 2)), b = rounded<T>(random_values(n, 53));
  const Values dy = rounded<T>(random_values(rows * n, 54));
  Values y(x.size()), dx(x.size()), means = blank(rows), rstds = means, d_w = blank(n), d_b = d_w;
  for (int64_t r = 0; r < rows; ++r) {
    const size_t at = size_t(r * n);
    double mean = 0, square = 0, d_mean = 0, d_rstd = 0;
    for (int64_t j = 0; centred && j < n; ++j) mean += x[at + size_t(j)] / double(n);
    for (int64_t j = 0; j < n; ++j) square += (x[at + size_t(j)] - mean) * (x[at + size_t(j)] - mean) / double(n);
    const double rstd = 1 / std::sqrt(square + eps);
    for (int64_t j = 0; j < n; ++j) {
      const double h = (x[at + size_t(j)] - mean) * rstd, d = dy[at + size_t(j)], weight = weighted ? w[size_t(j)] : 1;
      y[at + size_t(j)] = h * weight + (weighted && centred ? b[size_t(j)] : 0);
      d_w[size_t(j)] += d * h, d_b[size_t(j)] += d;
      if (centred) d_mean += d * weight / double(n);
      d_rstd += d * weight * h / double(n);
    }
    for (int64_t j = 0; j < n; ++j) {
      const double h = (x[at + size_t(j)] - mean) * rstd;
      dx[at + size_t(j)] = rstd * (dy[at + size_t(j)] * (weighted ? w[size_t(j)] : 1) - d_mean - h * d_rstd);
    }
    means[size_t(r)] = mean, rstds[size_t(r)] = rstd;
  }
  const Remote<T> rx(x), rw(w), rb(b), rdy(dy), ry(rows * n), rdx(rows * n), rdw(n), rdb(n);
  const Remote<A> r_mean(rows), r_rstd(rows);
  const NormForward<T> f{
      rows,  n, rx, weighted ? rw.at() : nullptr, weighted && centred ? rb.at() : nullptr, A(eps), ry, centred ? r_mean.at() : nullptr,
      r_rstd};
  OK(centred ? cuda::layer_norm_forward(f, cuda::stream()) : cuda::rms_norm_forward(f, cuda::stream()));
  close<T>("y" + what, ry.values(), y);
  if (n > 0) {
    close<A>("rstd" + what, r_rstd.values(), rstds);
    if (centred) close<A>("mean" + what, r_mean.values(), means);
  }
  const Remote<A> saved_mean(means), saved_rstd(rstds);
  NormBackward<T> g{rows, n, rx, weighted ? rw.at() : nullptr, centred ? saved_mean.at() : nullptr, saved_rstd, rdy, rdx, nullptr, nullptr};
  if (weighted) g.d_weight = rdw;
  if (weighted && centred) g.d_bias = rdb;
  const size_t bytes = cuda::norm_workspace(g);
  const Remote<char> scratch{int64_t(bytes)};
  const auto run = [&](size_t given) {
    const Workspace workspace{scratch.at(), given};
    return centred ? cuda::layer_norm_backward(g, workspace, cuda::stream()) : cuda::rms_norm_backward(g, workspace, cuda::stream());
  };
  OK(run(bytes));
  // rstd reaches 30 where a row is one number, and dx is then a difference of terms that large
  close<T>("dx" + what, rdx.values(), dx, n <= 2 ? 100 : 4);
  if (weighted) close<T>("d_weight" + what, rdw.values(), d_w, std::max(1.0, 2 * std::sqrt(double(rows))));
  if (weighted && centred) close<T>("d_bias" + what, rdb.values(), d_b, std::max(1.0, 2 * std::sqrt(double(rows))));
  if (weighted && n > 0) {
    const Values once = rdw.values();
    OK(run(bytes));
    agree("d_weight again" + what, rdw.values(), once, 0);
    CHECK(run(bytes - 1) == Status::small_workspace);
  }
}

template <class T> void check_cross_entropy(int64_t rows, int64_t n) {
  using A = Wide<T>;
  const std::string what = " [" + std::to_string(rows) + ", " + std::to_string(n) + "]";
  const Values x = rounded<T>(random_values(rows * n, 61, -8, 8));
  const Ids labels = random_ids(rows, 62, -1, int32_t(n));
  const double g = as_double(A(0.37));
  Values loss = blank(rows), lse = loss, dx(x.size());
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t j = 0; j < n; ++j) sum += std::exp(x[size_t(r * n + j)]);
    const int32_t label = labels[size_t(r)];
    lse[size_t(r)] = std::log(sum);
    loss[size_t(r)] = label < 0 ? 0 : lse[size_t(r)] - x[size_t(r * n + label)];
    for (int64_t j = 0; j < n; ++j) dx[size_t(r * n + j)] = label < 0 ? 0 : g * (std::exp(x[size_t(r * n + j)]) / sum - (j == label));
  }
  const Remote<T> rx(x), rdx(rows * n);
  const Remote<int32_t> r_labels(labels);
  const Remote<A> r_loss(rows), r_lse(rows), r_saved(lse), r_g(Values{g});
  OK(cuda::cross_entropy_forward(rows, n, rx.at(), r_labels.at(), r_loss.at(), r_lse.at(), cuda::stream()));
  OK(cuda::cross_entropy_backward(rows, n, rx.at(), r_labels.at(), r_saved.at(), r_g.at(), rdx.at(), cuda::stream()));
  close<A>("loss" + what, r_loss.values(), loss, 8);   // a difference of numbers up to 8
  close<A>("lse" + what, r_lse.values(), lse);
  // at the label dx is a difference of numbers of the size of g, and f32 rounds lse and both of them
  close<T>("dx" + what, rdx.values(), dx, std::is_same_v<T, float> ? g : 1e-3);
}

// full: with bias and past
template <class T> void check_conv(int64_t B, int64_t tokens, int64_t D, int64_t W, bool full, bool active) {
  const std::string what =
      " [" + std::to_string(B) + ", " + std::to_string(tokens) + ", " + std::to_string(D) + "] W " + std::to_string(W) + (active ? ", active" : "");
  const Values x = rounded<T>(random_values(B * tokens * D, 71)), w = rounded<T>(random_values(D * W, 72)), b = rounded<T>(random_values(D, 73));
  const Values past = rounded<T>(random_values(B * (W - 1) * D, 74)), dy = rounded<T>(random_values(B * tokens * D, 75));
  Values y(x.size()), dx(x.size(), 0.0), d_w(w.size(), 0.0), d_b(b.size(), 0.0), d_past(past.size(), 0.0);
  for (int64_t n = 0; n < B; ++n)
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t d = 0; d < D; ++d) {
        const size_t at = size_t((n * tokens + t) * D + d);
        const auto each_tap = [&](auto&& f) {
          for (int64_t j = 0; j < W; ++j) {
            if (t < j && !full) continue;
            const size_t from = t >= j ? size_t((n * tokens + t - j) * D + d) : size_t((n * (W - 1) + W - 1 + t - j) * D + d);
            f(size_t(d * W + j), from, (t >= j ? x : past)[from], t >= j ? dx : d_past);
          }
        };
        double z = full ? b[size_t(d)] : 0;
        each_tap([&](size_t tap, size_t, double value, Values&) { z += w[tap] * value; });
        const double s = 1 / (1 + std::exp(-z)), dz = active ? dy[at] * s * (1 + z * (1 - s)) : dy[at];
        y[at] = active ? z * s : z;
        d_b[size_t(d)] += dz;
        each_tap([&](size_t tap, size_t from, double value, Values& to) { to[from] += w[tap] * dz, d_w[tap] += dz * value; });
      }
  const Remote<T> rx(x), rw(w), rb(b), rp(past), rdy(dy), ry(B * tokens * D), rdx(B * tokens * D), rdw(D * W), rdb(D), rdp(B * (W - 1) * D);
  const ConvInputs<T> inputs{B, tokens, D, W, active, rx, rw, full ? rb.at() : nullptr, {full ? rp.at() : nullptr, D}};
  OK(cuda::conv_forward(ConvForward<T>{inputs, ry}, cuda::stream()));
  const ConvBackward<T> g{inputs, rdy, rdx, rdw, full ? rdb.at() : nullptr, {full ? rdp.at() : nullptr, D}};
  const Remote<char> work(int64_t(cuda::conv_workspace(g)));
  OK(cuda::conv_backward(g, {work.at(), cuda::conv_workspace(g)}, cuda::stream()));
  const double scale = std::max(1.0, 2 * std::sqrt(double(B * tokens)));
  close<T>("conv y" + what, ry.values(), y, 4);
  close<T>("conv dx" + what, rdx.values(), dx, 4);
  close<T>("conv d_weight" + what, rdw.values(), d_w, scale);
  if (!full) return;
  close<T>("conv d_bias" + what, rdb.values(), d_b, scale);
  close<T>("conv d_past" + what, rdp.values(), d_past, 4);
}

template <class T> void check_rotary(RotarySizes s) {
  const Values x = rounded<T>(random_values(s.batch * s.tokens * s.heads * s.dim, 81));
  Values y(x.size());
  const int64_t half = s.dim / 2;
  for (int64_t row = 0; row < s.batch * s.tokens * s.heads; ++row)
    for (int64_t i = 0; i < half; ++i) {
      const double angle = s.sign * double(s.first + row / s.heads % s.tokens) * std::pow(s.base, -2.0 * double(i) / double(s.dim));
      const double u = x[size_t(row * s.dim + i)], v = x[size_t(row * s.dim + i + half)];
      y[size_t(row * s.dim + i)] = u * std::cos(angle) - v * std::sin(angle);
      y[size_t(row * s.dim + i + half)] = u * std::sin(angle) + v * std::cos(angle);
    }
  const Remote<T> rx(x), ry(int64_t(x.size()));
  OK(cuda::rotary(s, rx.at(), ry.at(), cuda::stream()));
  // the angle itself is first + t times a rounded frequency: its error grows with the position
  agree(std::string(kName<T>) + " rotary", ry.values(), y, kTolerance<T> * (std::is_same_v<T, double> ? 1 + double(s.first) / 100 : 1), 2);
  OK(cuda::rotary(s, rx.at(), rx.at(), cuda::stream()));
  agree("rotary in place", rx.values(), ry.values(), 0);
}

template <class T> void check_matmul(Product p) {
  const std::string what = "matmul " + std::to_string(p.batch) + " x [" + std::to_string(p.m) + ", " + std::to_string(p.k) + "] [" +
                           std::to_string(p.k) + ", " + std::to_string(p.n) + "]" + (p.transpose_a ? " A^T" : "") +
                           (p.transpose_b ? " B^T" : "");
  const Values a = rounded<T>(random_values(p.stride_a == 0 ? p.m * p.k : p.batch * p.m * p.k, 91));
  const Values b = rounded<T>(random_values(p.stride_b == 0 ? p.k * p.n : p.batch * p.k * p.n, 92));
  Values c = blank(p.batch * p.m * p.n);
  for (int64_t s = 0; s < p.batch; ++s)
    for (int64_t i = 0; i < p.m; ++i)
      for (int64_t j = 0; j < p.n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < p.k; ++k)
          sum += a[size_t(s * p.stride_a + (p.transpose_a ? k * p.m + i : i * p.k + k))] *
                 b[size_t(s * p.stride_b + (p.transpose_b ? j * p.k + k : k * p.n + j))];
        c[size_t((s * p.m + i) * p.n + j)] = sum;
      }
  const Remote<T> ra(a), rb(b), rc(int64_t(c.size()));
  OK(cuda::matmul(p, ra.at(), rb.at(), rc.at(), cuda::stream()));
  close<T>(what, rc.values(), c, std::max(1.0, 2 * std::sqrt(double(p.k))));   // TF32 would err by 5e-4 and fail in f32
}

// A well-conditioned lower triangle; above the diagonal NaN, which nobody may read.
Values lower_triangles(int64_t batch, int64_t n, uint64_t seed, double above) {
  Values l = random_values(batch * n * n, seed, -1, 1);
  for (int64_t i = 0; i < batch * n * n; ++i) {
    const int64_t row = i / n % n, column = i % n;
    if (column > row) l[size_t(i)] = above;
    else l[size_t(i)] = column == row ? 1 + 0.5 * std::abs(l[size_t(i)]) : l[size_t(i)] / std::sqrt(double(n));
  }
  return l;
}

template <class T> void check_linalg(int64_t batch, int64_t n, int64_t m) {
  const std::string what = " " + std::to_string(batch) + " x [" + std::to_string(n) + ", " + std::to_string(n) + "]";
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double factor = 10;   // the growth of rounding errors in these triangles
  const Values l = rounded<T>(lower_triangles(batch, n, 95, 0));
  Values a(l.size(), nan);
  for (int64_t s = 0; s < batch; ++s)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (int64_t k = 0; k <= j; ++k) sum += l[size_t((s * n + i) * n + k)] * l[size_t((s * n + j) * n + k)];
        a[size_t((s * n + i) * n + j)] = sum;
      }
  const Remote<T> ra(a), rl(int64_t(l.size()));
  OK(cuda::cholesky(batch, n, ra.at(), rl.at(), cuda::stream()));
  agree(std::string(kName<T>) + " cholesky" + what, rl.values(), l, factor * kTolerance<T>);

  for (bool upper : {false, true})
    for (bool transpose : {false, true}) {
      Values t = rounded<T>(lower_triangles(batch, n, 96, nan));
      if (upper) {
        Values u(t.size());
        for (int64_t i = 0; i < batch * n * n; ++i) u[size_t(i)] = t[size_t((i / n / n * n + i % n) * n + i / n % n)];
        t = u;
      }
      const Values x = random_values(batch * n * m, 97);
      Values b(x.size(), 0.0);
      for (int64_t s = 0; s < batch; ++s)
        for (int64_t i = 0; i < n; ++i)
          for (int64_t k = 0; k < n; ++k) {
            const int64_t row = transpose ? k : i, column = transpose ? i : k;
            if (upper ? column < row : column > row) continue;
            for (int64_t j = 0; j < m; ++j) b[size_t((s * n + i) * m + j)] += t[size_t((s * n + row) * n + column)] * x[size_t((s * n + k) * m + j)];
          }
      const Remote<T> rt(t), rb(b), rx(int64_t(x.size()));
      OK(cuda::solve_triangular(batch, n, m, upper, transpose, rt.at(), rb.at(), rx.at(), cuda::stream()));
      agree(std::string(kName<T>) + " solve" + what + (upper ? " upper" : "") + (transpose ? " transposed" : ""), rx.values(), x, factor * kTolerance<T>);
      OK(cuda::solve_triangular(batch, n, m, upper, transpose, rt.at(), rb.at(), rb.at(), cuda::stream()));
      agree("solve in place", rb.values(), rx.values(), 0);
    }
}

template <class T> void check_random(int64_t offset, int64_t n) {
  using A = Wide<T>;
  const Key key{0x123456789abcdefull, 42};
  Values u = blank(n), z = u, kept = u, dropped = u;
  const Values x = rounded<T>(random_values(n, 99));
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t at = uint64_t(offset + i);
    u[size_t(i)] = as_double(T(between(A(-1.5), A(2.25), uniform<A>(key, at))));
    z[size_t(i)] = as_double(A(0.5)) + as_double(A(2)) * as_double(normal<A>(key, at));
    const bool keeps = keep(key, at, 0.7f);
    kept[size_t(i)] = keeps ? as_double(T(A(1.25))) : 0;
    dropped[size_t(i)] = keeps ? as_double(T(A(x[size_t(i)]) * A(1.25))) : 0;
  }
  const Remote<T> rx(x), ru(n), rz(n), rk(n), rd(n);
  OK(cuda::fill_uniform(key, offset, ru.at(), n, A(-1.5), A(2.25), cuda::stream()));
  OK(cuda::fill_normal(key, offset, rz.at(), n, A(0.5), A(2), cuda::stream()));
  OK(cuda::fill_keep(key, offset, rk.at(), n, 0.7f, A(1.25), cuda::stream()));
  OK(cuda::dropout(key, offset, rx.at(), rd.at(), n, 0.7f, A(1.25), cuda::stream()));
  agree("uniform", ru.values(), u, 0);
  close<T>("normal", rz.values(), z);
  agree("keep", rk.values(), kept, 0);
  agree("dropout", rd.values(), dropped, 0);
}

}  // namespace

TEST_SUITE("cuda_kernels") {

TEST_CASE("cuda kernels: the device") {
  if (no_gpu()) return;
  CHECK(std::string(cuda::device_problem()).empty());
  OK(cuda::prepare());
  CHECK(cuda::stream().handle != nullptr);
  CHECK(cuda::allocate(size_t(1) << 50) == nullptr);
  CHECK(std::string(cuda::last_error()).size() > 0);
  const Remote<float> x(Values{1, 2, 3}), y(3);
  void* from = cuda::event_record();
  OK(cuda::unary(Unary::square, 3, x.at(), y.at(), cuda::stream()));   // the failed allocation left nothing behind
  void* to = cuda::event_record();
  CHECK(cuda::event_milliseconds(from, to) >= 0);
  cuda::event_release(from);
  cuda::event_release(to);
  agree("square", y.values(), {1, 4, 9}, 0);
  OK(cuda::copy_on_device(y.at(), x.at(), 3 * sizeof(float), cuda::stream()));
  agree("copied", y.values(), {1, 2, 3}, 0);
  OK(cuda::copy_to_host(nullptr, nullptr, 0));
}

TEST_CASE_TEMPLATE("cuda kernels: elementwise", T, double, float, bf16) {
  if (no_gpu()) return;
  for (int64_t n : {0, 1, 7, 1031, 70001}) check_unary<T>(n, 0);
  check_unary<T>(1031, 1);
  for (int64_t n : {0, 1, 9, 1031}) check_binary_scalar<T>(n, n % 2);
  for (const Shapes& shapes : kShapes) check_binary<T>(shapes), check_select<T>(shapes);
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const Remote<T> edges(Values{-inf, -100, 0, 100, inf, nan}), y(6);
  OK(cuda::unary(Unary::softplus, 6, edges.at(), y.at(), cuda::stream()));
  close<T>("softplus at the edges", y.values(), {0, 0, std::log(2.0), 100, inf, nan});
  OK(cuda::unary(Unary::relu, 6, edges.at(), y.at(), cuda::stream()));
  close<T>("relu at the edges", y.values(), {0, 0, 0, 100, inf, nan});
  for (int64_t n : {0, 1, 1031}) {
    const Remote<T> filled(n, 1);
    OK(cuda::fill(n, 0.25, filled.at(), cuda::stream()));
    agree("fill", filled.values(), Values(size_t(n), 0.25), 0);
  }
}

TEST_CASE_TEMPLATE("cuda kernels: copy", S, double, float, bf16, int32_t) {
  if (no_gpu()) return;
  check_copy<S, double>();
  check_copy<S, float>();
  check_copy<S, bf16>();
  check_copy<S, int32_t>();
  const Remote<int32_t> ids(int64_t(37));
  OK(cuda::fill(37, -3, ids.at(), cuda::stream()));
  agree("fill", ids.values(), Values(37, -3.0), 0);
}

TEST_CASE_TEMPLATE("cuda kernels: reductions", T, double, float, bf16) {
  if (no_gpu()) return;
  for (const Middle& s : kMiddles) check_reduce<T>(s);
}

TEST_CASE_TEMPLATE("cuda kernels: indexing", T, double, float, bf16) {
  if (no_gpu()) return;
  check_index<T>({1, 1, 1}, 1);
  check_index<T>({1, 5, 3}, 0);
  check_index<T>({0, 5, 3}, 4);
  check_index<T>({1, 67, 33}, 1500);
  check_index<T>({1, 2, 300}, 777);
  check_index<T>({3, 9, 130}, 260);
  check_index<T>({50, 11, 1}, 40);
  for (int64_t rows : {0, 1, 300})
    for (int64_t n : {1, 7, 1500}) check_pick<T>(rows, n);
}

TEST_CASE("cuda kernels: labels") {
  if (no_gpu()) return;
  for (int64_t n : {0, 1, 5000}) {
    const Ids labels = random_ids(n, 37, -2, 3);
    const Remote<int32_t> ids(labels);
    const Remote<float> y(1);
    OK(cuda::count_labels(n, ids.at(), y.at(), cuda::stream()));
    agree("count_labels", y.values(), {double(std::count_if(labels.begin(), labels.end(), [](int32_t id) { return id >= 0; }))}, 0);
  }
}

TEST_CASE_TEMPLATE("cuda kernels: softmax", T, double, float, bf16) {
  if (no_gpu()) return;
  for (int64_t n : {0, 1, 2, 31, 257, 1030, 2047, 9000}) check_softmax<T>(n > 1000 ? 5 : 37, n);
  check_softmax<T>(0, 5);
  check_softmax<T>(1, 1);
}

TEST_CASE_TEMPLATE("cuda kernels: norms", T, double, float, bf16) {
  if (no_gpu()) return;
  for (bool centred : {false, true})
    for (bool weighted : {false, true}) {
      for (int64_t n : {0, 1, 2, 33, 128, 1030, 7001}) check_norm<T>(n > 1000 ? 5 : 37, n, centred, weighted);
      check_norm<T>(0, 5, centred, weighted);
      check_norm<T>(9001, 24, centred, weighted);   // more rows than parts hold 64 of
    }
}

TEST_CASE_TEMPLATE("cuda kernels: cross-entropy", T, double, float, bf16) {
  if (no_gpu()) return;
  for (int64_t n : {1, 2, 63, 256, 1031, 9000}) check_cross_entropy<T>(n > 1000 ? 5 : 67, n);
  check_cross_entropy<T>(0, 5);
  const Remote<T> x(Values{1, 2, 3});
  const Remote<int32_t> label(Ids{3});
  const Remote<Wide<T>> loss(1), lse(1);
  OK(cuda::cross_entropy_forward(1, 3, x.at(), label.at(), loss.at(), lse.at(), cuda::stream()));
  CHECK(std::isnan(loss.values()[0]));   // a label that is no class
}

TEST_CASE_TEMPLATE("cuda kernels: convolution and rotary", T, double, float, bf16) {
  if (no_gpu()) return;
  for (const bool full : {false, true})
    for (const bool active : {false, true}) {
      check_conv<T>(2, 65, 33, 4, full, active);
      check_conv<T>(1, 1, 1, 1, full, active);
      check_conv<T>(3, 2, 300, 4, full, active);   // fewer tokens than taps
      check_conv<T>(2, 100, 5, 3, full, active);
      check_conv<T>(2, 0, 5, 3, full, active);
      check_conv<T>(0, 7, 5, 3, full, active);
    }
  check_rotary<T>({2, 33, 3, 64, 0, 10000, 1});
  check_rotary<T>({1, 5, 1, 2, 70000, 10000, -1});
  check_rotary<T>({2, 1, 4, 10, 17, 500000, 1});
  check_rotary<T>({0, 1, 4, 10, 17, 500000, 1});
  CHECK(cuda::rotary<T>({1, 1, 1, 3}, nullptr, nullptr, cuda::stream()) == Status::bad_size);
}

TEST_CASE_TEMPLATE("cuda kernels: matmul", T, double, float, bf16) {
  if (no_gpu()) return;
  for (bool ta : {false, true})
    for (bool tb : {false, true}) {
      check_matmul<T>({1, 33, 65, 17, ta, tb, 0, 0});
      check_matmul<T>({1, 64, 48, 1024, ta, tb, 0, 0});
      check_matmul<T>({5, 7, 9, 11, ta, tb, 77, 99});
      check_matmul<T>({5, 7, 9, 11, ta, tb, 77, 0});
      check_matmul<T>({5, 7, 9, 11, ta, tb, 0, 99});
      check_matmul<T>({1, 1, 1, 1, ta, tb, 0, 0});
      check_matmul<T>({3, 4, 5, 0, ta, tb, 0, 0});
      check_matmul<T>({0, 4, 5, 6, ta, tb, 24, 30});
      check_matmul<T>({2, 0, 5, 6, ta, tb, 0, 30});
    }
}

TEST_CASE_TEMPLATE("cuda kernels: Cholesky and triangular solve", T, double, float) {
  if (no_gpu()) return;
  check_linalg<T>(1, 1, 1);
  check_linalg<T>(7, 5, 3);
  check_linalg<T>(3, 33, 40);
  check_linalg<T>(2, 64, 1);
  check_linalg<T>(1, 130, 65);
  check_linalg<T>(0, 4, 4);
  check_linalg<T>(3, 0, 4);
  check_linalg<T>(3, 4, 0);
  const Remote<T> a(Values{4, 0, 0, 2, 1, 0, 1, 1, 5}), l(9);   // the second pivot is 1 - 1 = 0
  OK(cuda::cholesky(1, 3, a.at(), l.at(), cuda::stream()));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  agree("not positive definite", l.values(), {2, 0, 0, 1, nan, 0, 0.5, nan, nan}, 1e-6);
}

TEST_CASE_TEMPLATE("cuda kernels: random", T, double, float, bf16) {
  if (no_gpu()) return;
  for (int64_t n : {0, 1, 3, 1031})
    for (int64_t offset : {int64_t(0), int64_t(1), int64_t(6), (int64_t(1) << 34) + 3}) check_random<T>(offset, n);
}

TEST_CASE("cuda kernels: a captured graph repeats bit for bit") {
  if (no_gpu()) return;
  const int64_t rows = 96, n = 64;
  const Remote<float> x(random_values(rows * n, 1)), w(random_values(n * n, 2)), gain(random_values(n, 3)), h(rows * n), y(rows * n), rstd(rows), sum(n);
  const Remote<float> d_weight(n), dx(rows * n);
  const NormBackward<float> backward{rows, n, h, gain, nullptr, rstd, y, dx, d_weight, nullptr};
  const Remote<char> scratch{int64_t(cuda::norm_workspace(backward))};
  const auto work = [&] {
    OK(cuda::matmul(Product{1, rows, n, n}, x.at(), w.at(), h.at(), cuda::stream()));
    OK(cuda::rms_norm_forward(NormForward<float>{rows, n, h, gain, nullptr, 1e-5f, y, nullptr, rstd}, cuda::stream()));
    OK(cuda::rms_norm_backward(backward, Workspace{scratch, cuda::norm_workspace(backward)}, cuda::stream()));
    OK(cuda::reduce(Reduce::sum, Middle{1, rows, n}, dx.at(), sum.at(), cuda::stream()));
  };
  work();
  const Values once = sum.values(), weights = d_weight.values();
  OK(cuda::capture_begin());
  work();
  void* graph = cuda::capture_end();
  REQUIRE(graph != nullptr);
  OK(cuda::set_bytes(sum.at(), 0xff, size_t(n) * sizeof(float), cuda::stream()));
  OK(cuda::set_bytes(d_weight.at(), 0xff, size_t(n) * sizeof(float), cuda::stream()));
  for (int i = 0; i < 3; ++i) OK(cuda::graph_launch(graph));
  agree("sum", sum.values(), once, 0);
  agree("d_weight", d_weight.values(), weights, 0);
  cuda::graph_release(graph);
}

TEST_CASE("cuda kernels: more than 2^31 elements") {
  if (no_gpu()) return;
  const int64_t rows = 3, n = (int64_t(1) << 30) + 5, count = rows * n;
  auto* x = static_cast<bf16*>(cuda::allocate(size_t(count) * sizeof(bf16)));
  auto* y = static_cast<bf16*>(cuda::allocate(size_t(count) * sizeof(bf16)));
  if (x && y) {
    const Remote<bf16> gain(Values{2, 3, 5});
    OK(cuda::fill(count, 1.5, x, cuda::stream()));
    OK(cuda::binary(Binary::mul, Broadcast{2, count, {rows, n}, {{n, 1}, {1, 0}}}, x, gain.at(), y, cuda::stream()));
    for (int64_t at : {int64_t(0), n - 1, n, 2 * n - 1, 2 * n, (int64_t(1) << 31) - 1, int64_t(1) << 31, count - 1}) {
      bf16 got;
      OK(cuda::copy_to_host(&got, y + at, sizeof(got)));
      CHECK(float(got) == 1.5f * (at < n ? 2 : at < 2 * n ? 3 : 5));
    }
    const Remote<bf16> largest(rows);
    OK(cuda::reduce(Reduce::max, Middle{rows, n, 1}, y, largest.at(), cuda::stream()));
    agree("max", largest.values(), {3, 4.5, 7.5}, 0);
  } else {
    MESSAGE("skipped: not enough device memory");
  }
  cuda::release(x);
  cuda::release(y);
}

}

#else

TEST_SUITE("cuda_kernels") {
TEST_CASE("cuda kernels") { MESSAGE("skipped: built without CUDA"); }
}

#endif
