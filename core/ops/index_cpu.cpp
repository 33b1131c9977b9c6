// Indexing on the CPU. Scattering splits the destination rows among threads, and each adds its rows in the order of ids: no atomics, and the
// same bits for any number of threads. f32 and f64.
#include <algorithm>
#include <cstring>
#include <ttr/core/ops/index_kernel.hpp>
#include <ttr/core/parallel.hpp>

namespace ttr::cpu {

namespace {
constexpr int64_t kGrain = 32768;   // elements below which a second thread costs more than it gives
}

template <class T> Status gather(Middle m, int64_t count, const int32_t* ids, const T* x, T* y) {
  parallel_for(m.outer * count, std::max<int64_t>(1, kGrain / std::max<int64_t>(m.inner, 1)), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t o = r / count, id = ids[r % count];
      T* to = y + r * m.inner;
      if (id < 0 || id >= m.n)
        std::fill(to, to + m.inner, T(0));
      else
        std::memcpy(to, x + (o * m.n + id) * m.inner, size_t(m.inner) * sizeof(T));
    }
  });
  return Status::ok;
}

template <class T> Status scatter_add(Middle m, int64_t count, const int32_t* ids, const T* x, T* y) {
  const auto scatter = [&](int64_t o, int64_t first, int64_t last) {   // rows [first, last) of y[o]
    T* to = y + o * m.n * m.inner;
    const T* from = x + o * count * m.inner;
    std::fill(to + first * m.inner, to + last * m.inner, T(0));
    for (int64_t i = 0; i < count; ++i) {
      if (ids[i] < first || ids[i] >= last) continue;
      T* row = to + ids[i] * m.inner;
      const T* add = from + i * m.inner;
      for (int64_t c = 0; c < m.inner; ++c) row[c] += add[c];
    }
  };
  const int64_t work = std::max<int64_t>(1, (m.n + count) * m.inner);
  if (m.outer == 1) {
    const int64_t grain =
        work < 2 * kGrain ? std::max<int64_t>(m.n, 1) : std::max<int64_t>(1, m.n / (4 * thread_count()));   // a range scans all ids
    parallel_for(m.n, grain, [&](int64_t first, int64_t last) { scatter(0, first, last); });
  } else {
    parallel_for(m.outer, std::max<int64_t>(1, kGrain / work), [&](int64_t first, int64_t last) {
      for (int64_t o = first; o < last; ++o) scatter(o, 0, m.n);
    });
  }
  return Status::ok;
}

template <class T> Status pick(int64_t rows, int64_t n, const int32_t* ids, const T* x, T* y) {
  for (int64_t r = 0; r < rows; ++r) y[r] = ids[r] >= 0 && ids[r] < n ? x[r * n + ids[r]] : T(0);
  return Status::ok;
}

template <class T> Status put(int64_t rows, int64_t n, const int32_t* ids, const T* x, T* y) {
  parallel_for(rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(n, 1)), [&](int64_t first, int64_t last) {
    std::fill(y + first * n, y + last * n, T(0));
    for (int64_t r = first; r < last; ++r)
      if (ids[r] >= 0 && ids[r] < n) y[r * n + ids[r]] = x[r];
  });
  return Status::ok;
}

Status count_labels(int64_t n, const int32_t* labels, float* y) {
  *y = float(std::count_if(labels, labels + n, [](int32_t label) { return label >= 0; }));
  return Status::ok;
}

template Status gather<float>(Middle, int64_t, const int32_t*, const float*, float*);
template Status gather<double>(Middle, int64_t, const int32_t*, const double*, double*);
template Status scatter_add<float>(Middle, int64_t, const int32_t*, const float*, float*);
template Status scatter_add<double>(Middle, int64_t, const int32_t*, const double*, double*);
template Status pick<float>(int64_t, int64_t, const int32_t*, const float*, float*);
template Status pick<double>(int64_t, int64_t, const int32_t*, const double*, double*);
template Status put<float>(int64_t, int64_t, const int32_t*, const float*, float*);
template Status put<double>(int64_t, int64_t, const int32_t*, const double*, double*);

}   // namespace ttr::cpu
