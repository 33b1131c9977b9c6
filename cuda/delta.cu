// CUDA kernels of the stem `delta`, level 1: the token recurrence written plainly. f32, bf16 (states in f32), f64; sizes at run time.
//
//   x_t = M_{t-1} k_t,   u_t = w_t v_t - e_t x_t,   M_t = a_t M_{t-1} + u_t k_t^T,   y_t = scale M_t q_t          M [V, K]
//
// CPU twin: layers/delta_cpu.cpp, which does the same a chunk at a time. Here one token follows another: T steps of O(K V).
//
// A block owns one head of one sequence and its whole memory, four threads (a quad) a row of it: heads.hpp.
// In shared memory: the vectors of the current token, and the memory (backward: its adjoint) when it fits kSharedLimit; else that lies
// in the workspace.
//
// The backward needs M_{t-1} at every token, and M_t cannot be run backwards (a may be 0). So it walks the chunks from the last and
// recomputes: from the saved memory that enters a chunk, the memories that enter its spans of 8 tokens; from each of those, the 8
// memories inside.
// Heads that share a row of k or v write their parts of dk, dv to the workspace, and a second kernel adds them in a fixed order: no atomics.
#include <ttr/cuda/heads.hpp>
#include <ttr/layers/delta_kernel.hpp>

namespace ttr::cuda {
namespace {

constexpr int kSpan = 8;                          // tokens between two recomputed memories
constexpr int kSpans = int(kDeltaChunk) / kSpan;
constexpr int kStates = kSpans + kSpan;           // memories in the workspace of a block: one a span, one a token of a span

// One head's view of the arguments: where token t's rows and coefficients lie.
template <class T> struct Head {
  const T *q, *k, *v;                       // [T, K], [T, K], [T, V], rows a stride apart
  int64_t q_stride, k_stride, v_stride;
  const Wide<T>*decay, *write, *erase;      // [T], H apart; decay may be null
  int64_t heads;
  __device__ Wide<T> a(int64_t t) const { return decay ? decay[t * heads] : Wide<T>(1); }
  __device__ Wide<T> w(int64_t t) const { return write[t * heads]; }
  __device__ Wide<T> e(int64_t t) const { return erase[t * heads]; }
};

template <class Arguments, class T> __device__ Head<T> head_of(const Arguments& a, int64_t b, int64_t h, const T*) {
  const DeltaSizes& n = a.size;
  const int64_t token = b * n.tokens, gate = token * n.heads + h;
  return {a.q.at + token * a.q.token_stride + h * n.key_dim,
          a.k.at + token * a.k.token_stride + h / (n.heads / n.key_heads) * n.key_dim,
          a.v.at + token * a.v.token_stride + h / (n.heads / n.value_heads) * n.value_dim,
          a.q.token_stride, a.k.token_stride, a.v.token_stride,
          a.decay ? a.decay + gate : nullptr, a.write + gate, a.erase + gate, n.heads};
}

// Block: head blockIdx.x % H of sequence blockIdx.x / H. Shared: k [K], q [K], and M [V, row_stride] if memories is null.
template <class T> __global__ void __launch_bounds__(1024) forward_kernel(const DeltaForward<T> a, Wide<T>* memories) {
  using W = Wide<T>;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  const DeltaSizes& n = a.size;
  const int K = int(n.key_dim), V = int(n.value_dim);
  const int64_t stride = row_stride(K), b = blockIdx.x / n.heads, h = blockIdx.x % n.heads;
  const Head<T> head = head_of(a, b, h, a.q.at);
  const Place me = place();
  W* const k = reinterpret_cast<W*>(shared_bytes);
  W* const q = k + K;
  W* const M = memories ? memories + blockIdx.x * (V * stride) : q + K;

  copy_rows<W>(M, stride, a.memory_in ? a.memory_in + int64_t(blockIdx.x) * V * K : nullptr, K, V, K);
  for (int64_t t = 0; t < n.tokens; ++t) {
    if (a.saved && t % kDeltaChunk == 0)
      copy_rows<W>(a.saved + (int64_t(blockIdx.x) * n.chunks() + t / kDeltaChunk) * V * K, K, M, stride, V, K);
    for (int j = threadIdx.x; j < K; j += blockDim.x) {
      k[j] = load(head.k + t * head.k_stride + j);
      q[j] = load(head.q + t * head.q_stride + j);
    }
    __syncthreads();   // k and q are written by all, read by all

    const W decay = head.a(t), write = head.w(t), erase = head.e(t);
    for (int top = 0; top < V; top += me.quads) {   // the same trips for every thread: the shuffles need whole warps
      const int i = top + me.quad;
      const bool mine = i < V;
      W* const row = M + i * stride;
      W x = 0, y = 0;
      if (mine)
        for (int j = me.lane; j < K; j += kQuad) x += row[j] * k[j];
      x = quad_sum(x);
      if (mine) {
        const W u = write * load(head.v + t * head.v_stride + i) - erase * x;
        for (int j = me.lane; j < K; j += kQuad) {
          const W m = decay * row[j] + u * k[j];
          row[j] = m;
          y += m * q[j];
        }
      }
      y = quad_sum(y);
      if (mine && me.lane == 0) store(a.y.at + (b * n.tokens + t) * a.y.token_stride + h * V + i, a.scale * y);
    }
    __syncthreads();   // k and q have been read before the next token replaces them
  }
  if (a.memory_out) copy_rows<W>(a.memory_out + int64_t(blockIdx.x) * V * K, K, M, stride, V, K);
}

// to <- the memory after token t, from <- the one before; they may be the same. k [K] is shared scratch.
template <class T>
__device__ void advance(const Head<T>& head, int64_t t, const Wide<T>* from, Wide<T>* to, Wide<T>* k, int V, int K, int64_t stride) {
  using W = Wide<T>;
  const Place me = place();
  for (int j = threadIdx.x; j < K; j += blockDim.x) k[j] = load(head.k + t * head.k_stride + j);
  __syncthreads();   // k is written by all, read by all
  const W decay = head.a(t), write = head.w(t), erase = head.e(t);
  for (int top = 0; top < V; top += me.quads) {
    const int i = top + me.quad;
    const bool mine = i < V;
    W x = 0;
    if (mine)
      for (int j = me.lane; j < K; j += kQuad) x += from[i * stride + j] * k[j];
    x = quad_sum(x);
    if (mine) {
      const W u = write * load(head.v + t * head.v_stride + i) - erase * x;
      for (int j = me.lane; j < K; j += kQuad) to[i * stride + j] = decay * from[i * stride + j] + u * k[j];
    }
  }
  __syncthreads();   // k has been read before it is replaced; `to` is whole, for the owners of columns
}

// Block: as in the forward. Shared: k, q [K]; g, u, du [V]; part [3, V]; and dM [V, row_stride] if adjoints is null.
// states [blocks, kStates, V, row_stride] is the block's room for recomputed memories.
// dk_parts [B, T, H, K], dv_parts [B, T, H, V]: where a head leaves its part when its row is shared with others, else null.
template <class T>
__global__ void __launch_bounds__(1024)
    backward_kernel(const DeltaBackward<T> a, Wide<T>* states, Wide<T>* adjoints, Wide<T>* dk_parts, Wide<T>* dv_parts) {
  using W = Wide<T>;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  const DeltaSizes& n = a.size;
  const int K = int(n.key_dim), V = int(n.value_dim);
  const int64_t stride = row_stride(K), size = V * stride, b = blockIdx.x / n.heads, h = blockIdx.x % n.heads;
  const Head<T> head = head_of(a, b, h, a.q.at);
  const Place me = place();
  W* const k = reinterpret_cast<W*>(shared_bytes);
  W* const q = k + K;
  W* const g = q + K;        // scale dy
  W* const u = g + V;
  W* const du = u + V;
  W* const part = du + V;    // what each row adds to d_decay, d_write, d_erase
  W* const dM = adjoints ? adjoints + blockIdx.x * size : part + 3 * V;
  W* const starts = states + blockIdx.x * (kStates * size);   // [kSpans]: the memory that enters each span of the chunk
  W* const inner = starts + kSpans * size;                    // [kSpan]: the memory that enters each token of the span, the first excepted

  copy_rows<W>(dM, stride, a.d_memory_out ? a.d_memory_out + int64_t(blockIdx.x) * V * K : nullptr, K, V, K);
  for (int64_t chunk = n.chunks() - 1; chunk >= 0; --chunk) {
    const int64_t t0 = chunk * kDeltaChunk;
    const int c = int(n.tokens - t0 < kDeltaChunk ? n.tokens - t0 : kDeltaChunk), spans = (c + kSpan - 1) / kSpan;
    copy_rows<W>(starts, stride, a.saved + (int64_t(blockIdx.x) * n.chunks() + chunk) * V * K, K, V, K);
    for (int i = 0; i < (spans - 1) * kSpan; ++i)
      advance(head, t0 + i, i % kSpan == 0 ? starts + i / kSpan * size : inner,
              (i + 1) % kSpan == 0 ? starts + (i + 1) / kSpan * size : inner, k, V, K, stride);

    for (int span = spans - 1; span >= 0; --span) {
      const int tokens = c - span * kSpan < kSpan ? c - span * kSpan : kSpan;
      const auto entering = [&](int i) { return i == 0 ? starts + span * size : inner + i * size; };
      for (int i = 0; i + 1 < tokens; ++i) advance(head, t0 + span * kSpan + i, entering(i), inner + (i + 1) * size, k, V, K, stride);

      for (int back = tokens - 1; back >= 0; --back) {
        const int64_t t = t0 + span * kSpan + back, token = b * n.tokens + t, gate = token * n.heads + h;
        const W* const M = entering(back);   // M_{t-1}
        const W decay = head.a(t), write = head.w(t), erase = head.e(t);
        for (int j = threadIdx.x; j < K; j += blockDim.x) {
          k[j] = load(head.k + t * head.k_stride + j);
          q[j] = load(head.q + t * head.q_stride + j);
        }
        __syncthreads();   // k and q are written by all, read by all

        for (int top = 0; top < V; top += me.quads) {   // quads own rows
          const int i = top + me.quad;
          const bool mine = i < V;
          const W gi = mine ? a.scale * load(a.dy.at + token * a.dy.token_stride + h * V + i) : W(0);
          W x = 0, dui = 0, d_decay = 0;
          if (mine)
            for (int j = me.lane; j < K; j += kQuad) {
              const W m = M[i * stride + j];
              const W dm = dM[i * stride + j] + gi * q[j];   // y_t = scale M_t q_t
              dM[i * stride + j] = dm;
              x += m * k[j];
              dui += dm * k[j];                              // M_t = a M_{t-1} + u k^T
              d_decay += dm * m;                             // M_t = a M_{t-1} + u k^T
            }
          x = quad_sum(x);
          dui = quad_sum(dui);
          d_decay = quad_sum(d_decay);
          if (mine && me.lane == 0) {
            const W vi = load(head.v + t * head.v_stride + i);
            g[i] = gi;
            u[i] = write * vi - erase * x;
            du[i] = dui;
            part[i] = d_decay;
            part[V + i] = dui * vi;                          // u = w v - e x
            part[2 * V + i] = -dui * x;                      // u = w v - e x
            if (dv_parts) dv_parts[gate * V + i] = write * dui;                                                // u = w v - e x
            else if (a.dv.at) store(a.dv.at + token * a.dv.token_stride + h * V + i, write * dui);             // u = w v - e x
          }
        }
        __syncthreads();   // dM, g, u, du and part are written by the owners of rows, read below by others

        for (int left = 0; left < K; left += me.quads) {   // quads own columns
          const int j = left + me.quad;
          const bool mine = j < K;
          W dq = 0, dk = 0;
          if (mine)
            for (int i = me.lane; i < V; i += kQuad) {
              const W m = M[i * stride + j];
              dq += (decay * m + u[i] * k[j]) * g[i];                       // y_t = scale M_t q_t
              dk += dM[i * stride + j] * u[i] - erase * m * du[i];          // M_t = a M_{t-1} + u k^T;  x = M_{t-1} k
            }
          dq = quad_sum(dq);
          dk = quad_sum(dk);
          if (mine && me.lane == 0) {
            if (a.dq.at) store(a.dq.at + token * a.dq.token_stride + h * K + j, dq);
            if (dk_parts) dk_parts[gate * K + j] = dk;
            else if (a.dk.at) store(a.dk.at + token * a.dk.token_stride + h * K + j, dk);
          }
        }
        for (int which = int(threadIdx.x) / kWarp; which < 3; which += int(blockDim.x) / kWarp) {   // a warp a coefficient
          W sum = 0;
          for (int i = int(threadIdx.x) % kWarp; i < V; i += kWarp) sum += part[which * V + i];
          for (int width = kWarp / 2; width > 0; width /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, width);
          W* const to = which == 0 ? a.d_decay : which == 1 ? a.d_write : a.d_erase;
          if (to && threadIdx.x % kWarp == 0) to[gate] = sum;
        }
        __syncthreads();   // the owners of columns have read dM before the owners of rows change it

        for (int i = me.quad; i < V; i += me.quads)
          for (int j = me.lane; j < K; j += kQuad)
            dM[i * stride + j] = decay * dM[i * stride + j] - erase * du[i] * k[j];   // M_t = a M_{t-1} + u k^T;  x = M_{t-1} k
        __syncthreads();   // k, q, du have been read before they are replaced, and M before its place in `states` is
      }
    }
  }
  if (a.d_memory_in) copy_rows<W>(a.d_memory_in + int64_t(blockIdx.x) * V * K, K, dM, stride, V, K);
}

// Shared memory of a block: `vectors` elements, and the memory where both fit.
template <class W> struct SharedPlan {
  size_t bytes;
  bool memory_fits;
  SharedPlan(const DeltaSizes& n, int64_t vectors) {
    const int64_t memory = n.value_dim * row_stride(n.key_dim);
    memory_fits = size_t(vectors + memory) * sizeof(W) <= kSharedLimit;
    bytes = size_t(vectors + (memory_fits ? memory : 0)) * sizeof(W);
  }
};
template <class T> SharedPlan<Wide<T>> shared_plan(const DeltaForward<T>& a) { return {a.size, 2 * a.size.key_dim}; }
template <class T> SharedPlan<Wide<T>> shared_plan(const DeltaBackward<T>& a) {
  return {a.size, 2 * a.size.key_dim + 6 * a.size.value_dim};
}

// Elements of each part of the backward's workspace, in order; 0 where a part is not needed.
struct BackwardRoom {
  int64_t states, adjoints, dk_parts, dv_parts;
  int64_t total() const { return states + adjoints + dk_parts + dv_parts; }
};
template <class T> BackwardRoom room(const DeltaBackward<T>& a) {
  const DeltaSizes& n = a.size;
  const int64_t heads = n.batch * n.heads, memory = n.value_dim * row_stride(n.key_dim);
  return {heads * kStates * memory, shared_plan(a).memory_fits ? 0 : heads * memory,
          a.dk.at && n.key_heads < n.heads ? heads * n.tokens * n.key_dim : 0,
          a.dv.at && n.value_heads < n.heads ? heads * n.tokens * n.value_dim : 0};
}

}  // namespace

template <class T> size_t delta_workspace(const DeltaForward<T>& a) {
  const DeltaSizes& n = a.size;
  return shared_plan(a).memory_fits ? 0 : size_t(n.batch * n.heads * n.value_dim * row_stride(n.key_dim)) * sizeof(Wide<T>);
}

template <class T> size_t delta_workspace(const DeltaBackward<T>& a) {
  return size_t(room(a).total()) * sizeof(Wide<T>);
}

template <class T> Status delta_forward(const DeltaForward<T>& a, Workspace work, Stream stream) {
  const DeltaSizes& n = a.size;
  if (!heads_hold(n)) return Status::bad_size;
  if (work.bytes < delta_workspace(a)) return Status::small_workspace;
  const auto plan = shared_plan(a);
  Wide<T>* const memories = plan.memory_fits ? nullptr : static_cast<Wide<T>*>(work.at);
  return launch_heads(forward_kernel<T>, n.batch * n.heads, quads_for(n.value_dim), plan.bytes, stream, a, memories);
}

template <class T> Status delta_backward(const DeltaBackward<T>& a, Workspace work, Stream stream) {
  const DeltaSizes& n = a.size;
  if (!heads_hold(n)) return Status::bad_size;
  if (work.bytes < delta_workspace(a)) return Status::small_workspace;
  const auto plan = shared_plan(a);
  const BackwardRoom need = room(a);
  Wide<T>* const states = static_cast<Wide<T>*>(work.at);
  Wide<T>* const adjoints = need.adjoints ? states + need.states : nullptr;
  Wide<T>* const dk_parts = need.dk_parts ? states + need.states + need.adjoints : nullptr;
  Wide<T>* const dv_parts = need.dv_parts ? states + need.states + need.adjoints + need.dk_parts : nullptr;
  const int64_t widest = n.value_dim > n.key_dim ? n.value_dim : n.key_dim;
  Status status = launch_heads(backward_kernel<T>, n.batch * n.heads, quads_for(widest), plan.bytes, stream, a, states, adjoints, dk_parts, dv_parts);
  if (status == Status::ok && dk_parts) status = sum_heads(dk_parts, a.dk, n.batch * n.tokens, n.heads, n.key_heads, n.key_dim, stream);
  if (status == Status::ok && dv_parts) status = sum_heads(dv_parts, a.dv, n.batch * n.tokens, n.heads, n.value_heads, n.value_dim, stream);
  return status;
}

template size_t delta_workspace<float>(const DeltaForward<float>&);
template size_t delta_workspace<bf16>(const DeltaForward<bf16>&);
template size_t delta_workspace<double>(const DeltaForward<double>&);
template size_t delta_workspace<float>(const DeltaBackward<float>&);
template size_t delta_workspace<bf16>(const DeltaBackward<bf16>&);
template size_t delta_workspace<double>(const DeltaBackward<double>&);
template Status delta_forward<float>(const DeltaForward<float>&, Workspace, Stream);
template Status delta_forward<bf16>(const DeltaForward<bf16>&, Workspace, Stream);
template Status delta_forward<double>(const DeltaForward<double>&, Workspace, Stream);
template Status delta_backward<float>(const DeltaBackward<float>&, Workspace, Stream);
template Status delta_backward<bf16>(const DeltaBackward<bf16>&, Workspace, Stream);
template Status delta_backward<double>(const DeltaBackward<double>&, Workspace, Stream);

}  // namespace ttr::cuda
