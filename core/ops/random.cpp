// Random tensors and dropout. Element i depends on (seed, stream, i) alone (core/random_kernel.hpp), so the same call gives the same
// values again: dropout keeps no mask, its backward draws it a second time.
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/broadcast.hpp>
#include <ttr/core/parallel.hpp>
#include <ttr/core/random.hpp>

namespace ttr {

Tensor uniform(const Shape& shape, uint64_t seed, uint64_t stream, double low, double high, Options options) {
  Tensor y = empty(shape, options);
  if (y.count() == 0) return y;
  const Key key{seed, stream};
  dispatch("uniform", y, [&]<class T>(auto place) {
    if constexpr (place.cuda)
      must("uniform", cuda::fill_uniform<T>(key, 0, out<T>(y), y.count(), Wide<T>(low), Wide<T>(high), place.stream));
    else
      fill_uniform<T>(key, 0, out<T>(y), y.count(), T(low), T(high));
  });
  return y;
}

Tensor normal(const Shape& shape, uint64_t seed, uint64_t stream, double mean, double deviation, Options options) {
  Tensor y = empty(shape, options);
  if (y.count() == 0) return y;
  const Key key{seed, stream};
  dispatch("normal", y, [&]<class T>(auto place) {
    if constexpr (place.cuda)
      must("normal", cuda::fill_normal<T>(key, 0, out<T>(y), y.count(), Wide<T>(mean), Wide<T>(deviation), place.stream));
    else
      fill_normal<T>(key, 0, out<T>(y), y.count(), T(mean), T(deviation));
  });
  return y;
}

namespace {

// seed: read by the kernel where it is defined, else the number.
Tensor dropped(const Tensor& x, double rate, Key key, const Tensor& seed, int64_t first) {
  detail::must_be_defined("dropout", "x", x);
  if (!(rate >= 0 && rate < 1)) throw refuse("dropout", "rate is {}, needs one from 0 to less than 1", rate);
  if (first < 0) throw refuse("dropout", "first is {}, needs at least 0", first);
  if (rate == 0) return x;
  Tensor y = empty(x.shape(), like(x));
  const int64_t n = y.count();
  const float probability = float(1 - rate);
  const double kept = 1 / (1 - rate);
  if (n > 0)
    dispatch("dropout", x, [&]<class T>(auto place) {
      const auto* at = seed.defined() ? static_cast<const uint64_t*>(seed.address()) : nullptr;
      if constexpr (place.cuda) {
        must("dropout", cuda::dropout<T>(key, first, in<T>(x), out<T>(y), n, probability, Wide<T>(kept), place.stream, at));
      } else {
        const T* from = in<T>(x);
        T* to = out<T>(y);
        fill_keep<T>(at ? Key{*at, key.stream} : key, first, to, n, probability, T(kept));
        parallel_for(n, 32768, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) to[i] = to[i] == 0 ? T(0) : from[i] * to[i];   // what is dropped may be NaN
        });
      }
    });
  if (!detail::records(x)) return y;
  return primitive("dropout", std::move(y), {x}, keep_nothing, [rate, key, seed, first](const Sweep& s) {
    return Tensors{dropped(s.dy(), rate, key, seed, first)};   // y = keep x / (1 - rate)
  });
}

}   // namespace

Tensor dropout(const Tensor& x, double rate, uint64_t seed, uint64_t stream, int64_t first) { return dropped(x, rate, {seed, stream}, {}, first); }

Tensor dropout(const Tensor& x, double rate, const Tensor& key, uint64_t stream, int64_t first) {
  detail::must_be_defined("dropout", "x", x);
  detail::must_be_defined("dropout", "key", key);
  if (key.dtype() != Dtype::f64 || key.count() != 1 || key.device() != x.device())
    throw refuse("dropout", "key is {} {} on {}, needs f64 [1] on {}", name_of(key.dtype()), to_string(key.shape()), name_of(key.device()),
                 name_of(x.device()));
  return dropped(x, rate, {0, stream}, key, first);
}

}   // namespace ttr
