// The update of all parameters, CUDA. CPU twin: optim/update_cpu.cpp.
//   land       a thread owns every grid-strided element of one parameter's gradient
//   measure    block i sums the squares of part i, then one block sums the parts and its first thread concludes the step
//   update     a thread owns every grid-strided element of the arenas; every thread reads the same StepState, which the caches broadcast
// Nothing depends on numbers the host would have to know, so a captured graph replays all of it.
#include <ttr/cuda/block.hpp>
#include <ttr/cuda/launch.hpp>
#include <ttr/optim/update_kernel.hpp>

namespace ttr::cuda {
namespace {

constexpr int kThreads = 256;

template <class T> __global__ void land_elements(int64_t n, const T* from, Wide<T>* into, bool add) {   // from, into [n]
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < n; i += int64_t(gridDim.x) * kThreads)
    into[i] = add ? into[i] + load(from + i) : load(from + i);
}

__global__ void add_one_loss(const double* total, const double* count, bool first, StepState* s) {
  s->total = (first ? 0 : s->total) + *total;
  s->count = (first ? 0 : s->count) + (count ? *count : 1);
}

// gradient [n] -> sums [gridDim.x], block i over elements [i size, (i + 1) size)
template <class X> __global__ void sum_squares(int64_t n, int64_t size, const X* gradient, double* sums) {
  const int64_t begin = blockIdx.x * size, end = begin + size < n ? begin + size : n;
  double sum = 0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) sum += double(gradient[i]) * double(gradient[i]);
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block; sums [parts], records [kStepRecords]
__global__ void conclude(int64_t parts, const double* sums, Betas betas, StepState* s, StepRecord* records) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < parts; i += kThreads) sum += sums[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) conclude_step(sum, betas, *s, records);
}

template <class Rule, class X> __global__ void update_arenas(Rule rule, Update<X> u) {
  if (!u.state->applies) return;
  const StepRate<X> decaying = rate_of<X>(rule, *u.state, true), still = rate_of<X>(rule, *u.state, false);
  const X scale = X(u.state->scale), share = average_share(u);
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < u.n; i += int64_t(gridDim.x) * kThreads) {
    X p = u.master[i], m[kMostMemories] = {};
#pragma unroll
    for (int j = 0; j < Rule::memories; ++j) m[j] = u.memory[j][i];
    update_element(rule, p, u.gradient[i] * scale, m, i < u.decaying ? decaying : still);
    u.master[i] = p;
#pragma unroll
    for (int j = 0; j < Rule::memories; ++j) u.memory[j][i] = m[j];
    if (u.rounded) u.rounded[i] = bf16(p);
    if (u.average) u.average[i] += share * (p - u.average[i]);
  }
}

}  // namespace

template <class T> Status land(int64_t n, const T* from, Wide<T>* into, bool add, Stream stream) {
  if (n < 0) return Status::bad_size;
  if (n == 0) return Status::ok;
  return launch(land_elements<T>, grid_for(n, kThreads), kThreads, 0, stream, n, from, into, add);
}

Status add_loss(const double* total, const double* count, bool first, StepState* s, Stream stream) {
  return launch(add_one_loss, 1, 1, 0, stream, total, count, first, s);
}

template <class X>
Status measure(int64_t n, const X* gradient, Betas betas, StepState* s, StepRecord* records, Workspace w, Stream stream) {
  if (n < 0) return Status::bad_size;
  if (w.bytes < measure_workspace(n)) return Status::small_workspace;
  const int64_t parts = measure_parts(n);
  double* const sums = static_cast<double*>(w.at);   // [parts]
  const Status first = launch(sum_squares<X>, unsigned(parts), kThreads, 0, stream, n, divide_up(n, parts), gradient, sums);
  if (first != Status::ok) return first;
  return launch(conclude, 1, kThreads, 0, stream, parts, sums, betas, s, records);
}

template <class Rule, class X> Status update(const Rule& rule, const Update<X>& u, Stream stream) {
  if (u.n < 0 || u.decaying < 0 || u.decaying > u.n) return Status::bad_size;
  if (u.n == 0) return Status::ok;
  return launch(update_arenas<Rule, X>, grid_for(u.n, kThreads), kThreads, 0, stream, rule, u);
}

template Status land<float>(int64_t, const float*, float*, bool, Stream);
template Status land<double>(int64_t, const double*, double*, bool, Stream);
template Status land<bf16>(int64_t, const bf16*, float*, bool, Stream);
template Status measure<float>(int64_t, const float*, Betas, StepState*, StepRecord*, Workspace, Stream);
template Status measure<double>(int64_t, const double*, Betas, StepState*, StepRecord*, Workspace, Stream);
template Status update<Sgd, float>(const Sgd&, const Update<float>&, Stream);
template Status update<Sgd, double>(const Sgd&, const Update<double>&, Stream);
template Status update<Momentum, float>(const Momentum&, const Update<float>&, Stream);
template Status update<Momentum, double>(const Momentum&, const Update<double>&, Stream);
template Status update<AdamW, float>(const AdamW&, const Update<float>&, Stream);
template Status update<AdamW, double>(const AdamW&, const Update<double>&, Stream);
template Status update<MuonStep, float>(const MuonStep&, const Update<float>&, Stream);
template Status update<MuonStep, double>(const MuonStep&, const Update<double>&, Stream);

}  // namespace ttr::cuda
