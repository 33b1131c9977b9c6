// The update of all parameters, CPU. CUDA twin: cuda/update.cu. One loop over the arenas, in vectors; the rule is inlined into it.
#include <algorithm>
#include <ttr/core/parallel.hpp>
#include <ttr/core/simd.hpp>
#include <ttr/optim/update_kernel.hpp>

namespace ttr::cpu {
namespace {

constexpr int64_t kGrain = 8192;

// Elements [begin, end), all of which decay or none.
template <class Rule, class X>
TTR_SIMD_INLINE void update_range(const Rule& rule, const Update<X>& u, bool decays, int64_t begin, int64_t end) {
  constexpr int kMemories = Rule::memories;
  const StepRate<X> rate = rate_of<X>(rule, *u.state, decays);
  const X scale = X(u.state->scale);
  const Rule own = rule;   // a copy: the loop's stores cannot touch it
  X* __restrict p = u.master;
  const X* __restrict g = u.gradient;
  X* __restrict m0 = u.memory[0];
  X* __restrict m1 = u.memory[1];
  for (int64_t i = begin; i < end; ++i) {
    X x = p[i], m[kMostMemories] = {};
    if constexpr (kMemories > 0) m[0] = m0[i];
    if constexpr (kMemories > 1) m[1] = m1[i];
    update_element(own, x, g[i] * scale, m, rate);
    p[i] = x;
    if constexpr (kMemories > 0) m0[i] = m[0];
    if constexpr (kMemories > 1) m1[i] = m[1];
  }
}

TTR_SIMD_CLONES void run(const Sgd& r, const Update<float>& u, bool decays, int64_t begin, int64_t end) {
  update_range(r, u, decays, begin, end);
}
void run(const Sgd& r, const Update<double>& u, bool decays, int64_t begin, int64_t end) {
  update_range(r, u, decays, begin, end);
}
TTR_SIMD_CLONES void run(const Momentum& r, const Update<float>& u, bool decays, int64_t begin, int64_t end) {
  update_range(r, u, decays, begin, end);
}
void run(const Momentum& r, const Update<double>& u, bool decays, int64_t begin, int64_t end) {
  update_range(r, u, decays, begin, end);
}
TTR_SIMD_CLONES void run(const AdamW& r, const Update<float>& u, bool decays, int64_t begin, int64_t end) {
  update_range(r, u, decays, begin, end);
}
void run(const AdamW& r, const Update<double>& u, bool decays, int64_t begin, int64_t end) {
  update_range(r, u, decays, begin, end);
}

TTR_SIMD_CLONES void run(const MuonStep& r, const Update<float>& u, bool decays, int64_t begin, int64_t end) {
  update_range(r, u, decays, begin, end);
}
TTR_SIMD_CLONES void run(const MuonStep& r, const Update<double>& u, bool decays, int64_t begin, int64_t end) {
  update_range(r, u, decays, begin, end);
}

template <class X> TTR_SIMD_INLINE double squares_of(const X* x, int64_t n) {   // x [n]
  double lane[kSimdLanes] = {};
  int64_t i = 0;
  for (; i + kSimdLanes <= n; i += kSimdLanes)
    for (int64_t l = 0; l < kSimdLanes; ++l) lane[l] += double(x[i + l]) * double(x[i + l]);
  for (; i < n; ++i) lane[i % kSimdLanes] += double(x[i]) * double(x[i]);
  double sum = 0;
  for (const double v : lane) sum += v;
  return sum;
}
TTR_SIMD_CLONES double squares(const float* x, int64_t n) { return squares_of(x, n); }
double squares(const double* x, int64_t n) { return squares_of(x, n); }

}  // namespace

template <class T> Status land(int64_t n, const T* from, Wide<T>* into, bool add) {
  if (n < 0) return Status::bad_size;
  parallel_for(n, 2 * kGrain, [&](int64_t begin, int64_t end) {
    if (add)
      for (int64_t i = begin; i < end; ++i) into[i] += from[i];
    else
      std::copy(from + begin, from + end, into + begin);
  });
  return Status::ok;
}

Status add_loss(const double* total, const double* count, bool first, StepState* s) {
  s->total = (first ? 0 : s->total) + *total;
  s->count = (first ? 0 : s->count) + (count ? *count : 1);
  return Status::ok;
}

template <class X> Status measure(int64_t n, const X* gradient, Betas betas, StepState* s, StepRecord* records, Workspace w) {
  if (n < 0) return Status::bad_size;
  if (w.bytes < measure_workspace(n)) return Status::small_workspace;
  const int64_t parts = measure_parts(n), size = (n + parts - 1) / parts;
  double* const sums = static_cast<double*>(w.at);   // [parts]
  parallel_for(parts, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      sums[i] = squares(gradient + std::min(n, i * size), std::min(n, (i + 1) * size) - std::min(n, i * size));
  });
  double sum = 0;
  for (int64_t i = 0; i < parts; ++i) sum += sums[i];
  conclude_step(sum, betas, *s, records);
  return Status::ok;
}

template <class Rule, class X> Status update(const Rule& rule, const Update<X>& u) {
  if (u.n < 0 || u.decaying < 0 || u.decaying > u.n) return Status::bad_size;
  if (!u.state->applies) return Status::ok;
  parallel_for(u.n, kGrain, [&](int64_t begin, int64_t end) {
    const int64_t middle = std::clamp(u.decaying, begin, end);
    run(rule, u, true, begin, middle);
    run(rule, u, false, middle, end);
    if (u.rounded)
      for (int64_t i = begin; i < end; ++i) u.rounded[i] = bf16(u.master[i]);
    if (u.average) {
      const X share = average_share(u);
      for (int64_t i = begin; i < end; ++i) u.average[i] += share * (u.master[i] - u.average[i]);
    }
  });
  return Status::ok;
}

template Status land<float>(int64_t, const float*, float*, bool);
template Status land<double>(int64_t, const double*, double*, bool);
template Status measure<float>(int64_t, const float*, Betas, StepState*, StepRecord*, Workspace);
template Status measure<double>(int64_t, const double*, Betas, StepState*, StepRecord*, Workspace);
template Status update<Sgd, float>(const Sgd&, const Update<float>&);
template Status update<Sgd, double>(const Sgd&, const Update<double>&);
template Status update<Momentum, float>(const Momentum&, const Update<float>&);
template Status update<Momentum, double>(const Momentum&, const Update<double>&);
template Status update<AdamW, float>(const AdamW&, const Update<float>&);
template Status update<AdamW, double>(const AdamW&, const Update<double>&);
template Status update<MuonStep, float>(const MuonStep&, const Update<float>&);
template Status update<MuonStep, double>(const MuonStep&, const Update<double>&);

}  // namespace ttr::cpu
