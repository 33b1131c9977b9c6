// CUDA kernels of the stem `diagonal_decay`, level 1: the token recurrence written plainly. f32, bf16 (states in f32), f64; sizes at run time.
//
//   M_t = M_{t-1} diag(a_t) + w_t v_t k_t^T,   y_t = scale (M_t q_t + ((u * k_t) . q_t) v_t)          M [R, K]; strict: M_{t-1} q_t
//   R is V, or V + 1 where the normaliser is asked for: a value that is 1 at every token, whose answer is n_t; then y_t is divided by z(n_t).
//
// CPU twin: layers/diagonal_decay_cpu.cpp, which does the same a block of tokens at a time. Here one token follows another: T steps of O(K V).
//
// A block owns one head of one sequence and its whole memory. Four neighbouring threads (a quad) own one row of it: thread `lane` of
// the quad holds columns lane, lane + 4, ..., so a row's dot product is a loop and two shuffles. When rows outnumber quads, a quad takes
// every (threads / 4)-th row. In the backward the same quads also serve as owners of columns.
// In shared memory: the vectors of the current token, and the memory (backward: its adjoint) when it fits kSharedLimit; else that lies
// in the workspace. Its rows are padded to 4 mod 8 elements, which puts the 8 rows x 4 columns a warp touches at once in different banks.
//
// The backward needs M_{t-1} at every token, and M_t cannot be run backwards (a may be 0). So it walks the chunks from the last and
// recomputes: from the saved memory that enters a chunk, the memories that enter its spans of 8 tokens; from each of those, the 8
// memories inside.
// Heads that share a row of k or v write their parts of dk, dv to the workspace, and a second kernel adds them in a fixed order: no atomics.
#include <ttr/cuda/shared.hpp>
#include <ttr/layers/diagonal_decay_kernel.hpp>

namespace ttr::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kQuad = 4;
constexpr int kSpan = 8;                          // tokens between two recomputed memories
constexpr int kSpans = int(kDecayChunk) / kSpan;
constexpr int kStates = kSpans + kSpan;           // memories in the workspace of a block: one a span, one a token of a span

TTR_BOTH constexpr int64_t row_stride(int64_t key_dim) { return (key_dim + 3) / 8 * 8 + 4; }

template <class W> __device__ W quad_sum(W x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ inline float exponential(float x) { return expf(x); }
__device__ inline double exponential(double x) { return exp(x); }
__device__ inline float less_one(float x) { return expm1f(x); }   // e^x - 1
__device__ inline double less_one(double x) { return expm1(x); }

// Who a thread is: index 0 .. quads-1 of its quad, lane 0 .. 3 inside it.
struct Place {
  int quad, lane, quads;
};
__device__ inline Place place() { return {int(threadIdx.x) / kQuad, int(threadIdx.x) % kQuad, int(blockDim.x) / kQuad}; }

// One head's view of the arguments: where token t's rows and gates lie.
template <class T> struct Head {
  const T *q, *k, *v;                       // [T, K], [T, K], [T, V], rows a stride apart
  int64_t q_stride, k_stride, v_stride;
  const Wide<T>*log_decay, *write, *bonus;  // [T] or [T, K], a token H or H K apart; [T], H apart; [K]; each may be null
  const int32_t* segments;                  // [T]; may be null
  int64_t heads, decay_stride, value_dim;
  bool per_channel, tied;
  __device__ bool starts(int64_t t) const { return t > 0 && segments && segments[t] != segments[t - 1]; }
  __device__ Wide<T> decay(int64_t t, int j) const {
    if (starts(t)) return 0;
    return log_decay ? exponential(log_decay[t * decay_stride + (per_channel ? j : 0)]) : Wide<T>(1);
  }
  __device__ Wide<T> key(int64_t t, int j) const {   // before w
    return tied ? -less_one(log_decay[t * decay_stride + j]) : Wide<T>(load(k + t * k_stride + j));
  }
  __device__ Wide<T> w(int64_t t) const { return write ? write[t * heads] : Wide<T>(1); }
  __device__ Wide<T> value(int64_t t, int64_t i) const { return i < value_dim ? Wide<T>(load(v + t * v_stride + i)) : Wide<T>(1); }
};

template <class Arguments, class T> __device__ Head<T> head_of(const Arguments& a, int64_t b, int64_t h, const T*) {
  const DecaySizes& n = a.size;
  const DecayGates<T>& g = a.gates;
  const int64_t token = b * n.tokens, gate = token * n.heads + h, width = g.per_channel ? n.key_dim : 1;
  return {a.q.at + token * a.q.token_stride + h * n.key_dim,
          g.tied ? nullptr : a.k.at + token * a.k.token_stride + h / (n.heads / n.key_heads) * n.key_dim,
          a.v.at + token * a.v.token_stride + h / (n.heads / n.value_heads) * n.value_dim,
          a.q.token_stride, a.k.token_stride, a.v.token_stride,
          g.log_decay ? g.log_decay + gate * width : nullptr, g.write ? g.write + gate : nullptr, g.bonus ? g.bonus + h * n.key_dim : nullptr,
          g.segments ? g.segments + token : nullptr, n.heads, n.heads * width, n.value_dim, g.per_channel, g.tied};
}

// Each thread moves the entries it owns (so no barrier is needed before it reads them again): to [R, to_stride] <- from [R,
// from_stride], or 0.
template <class W> __device__ void copy_rows(W* to, int64_t to_stride, const W* from, int64_t from_stride, int R, int K) {
  const Place me = place();
  for (int i = me.quad; i < R; i += me.quads)
    for (int j = me.lane; j < K; j += kQuad) to[i * to_stride + j] = from ? from[i * from_stride + j] : W(0);
}

// Block: head blockIdx.x % H of sequence blockIdx.x / H. Shared: k (times w), q, a, own [K] each, answer [R], and M [R, row_stride] if memories is null.
// own_j = u_j k_j q_j, whose sum is the answer's part of v_t.
template <class T> __global__ void __launch_bounds__(1024) forward_kernel(const DecayForward<T> a, Wide<T>* memories) {
  using W = Wide<T>;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  const DecaySizes& n = a.size;
  const int K = int(n.key_dim), V = int(n.value_dim), R = int(n.rows());
  const int64_t stride = row_stride(K), b = blockIdx.x / n.heads, h = blockIdx.x % n.heads;
  const Head<T> head = head_of(a, b, h, a.q.at);
  const Place me = place();
  W* const k = reinterpret_cast<W*>(shared_bytes);
  W* const q = k + K;
  W* const decay = q + K;
  W* const own = decay + K;
  W* const answer = own + K;
  W* const M = memories ? memories + blockIdx.x * (R * stride) : answer + R;

  copy_rows<W>(M, stride, a.memory_in ? a.memory_in + int64_t(blockIdx.x) * R * K : nullptr, K, R, K);
  for (int64_t t = 0; t < n.tokens; ++t) {
    if (a.saved && t % kDecayChunk == 0)
      copy_rows<W>(a.saved + (int64_t(blockIdx.x) * n.chunks() + t / kDecayChunk) * R * K, K, M, stride, R, K);
    for (int j = threadIdx.x; j < K; j += blockDim.x) {
      const W raw = head.key(t, j);
      k[j] = head.w(t) * raw;
      q[j] = load(head.q + t * head.q_stride + j);
      decay[j] = head.decay(t, j);
      own[j] = head.bonus ? head.bonus[j] * raw * q[j] : W(0);
    }
    __syncthreads();   // k, q, decay and own are written by all, read by all

    const bool hidden = a.gates.strict && head.starts(t);   // the document is new and nothing is to be seen yet
    for (int top = 0; top < R; top += me.quads) {           // the same trips for every thread: the shuffles need whole warps
      const int i = top + me.quad;
      const bool mine = i < R;
      W* const row = M + i * stride;
      W y = 0;
      if (mine) {
        const W v = head.value(t, i);
        for (int j = me.lane; j < K; j += kQuad) {
          const W before = row[j], after = decay[j] * before + v * k[j];
          row[j] = after;
          const W asked = !a.gates.strict ? after : hidden ? W(0) : before;
          y += asked * q[j] + own[j] * v;
        }
      }
      y = quad_sum(y);
      if (mine && me.lane == 0) answer[i] = a.gates.scale * y;
    }
    __syncthreads();   // answer is whole; the token's vectors have been read before the next token replaces them
    const int64_t token = b * n.tokens + t, gate = token * n.heads + h;
    const W z = n.normaliser ? a.divisor.of(answer[V], gate) : W(1);
    for (int i = threadIdx.x; i < V; i += blockDim.x) {
      const W y = answer[i] / z;
      store(a.y.at + token * a.y.token_stride + h * V + i, y);
      if (a.exact_y) a.exact_y[gate * V + i] = y;
    }
    if (n.normaliser && threadIdx.x == 0) a.normaliser[gate] = answer[V];   // the next token's answer comes after its own barrier
  }
  if (a.memory_out) copy_rows<W>(a.memory_out + int64_t(blockIdx.x) * R * K, K, M, stride, R, K);
}

// to <- the memory after token t, from <- the one before; they may be the same. k, decay [K] are shared scratch.
template <class T>
__device__ void advance(const Head<T>& head, int64_t t, const Wide<T>* from, Wide<T>* to, Wide<T>* k, Wide<T>* decay, int R, int K, int64_t stride) {
  using W = Wide<T>;
  const Place me = place();
  for (int j = threadIdx.x; j < K; j += blockDim.x) {
    k[j] = head.w(t) * head.key(t, j);
    decay[j] = head.decay(t, j);
  }
  __syncthreads();   // k and decay are written by all, read by all
  for (int i = me.quad; i < R; i += me.quads) {
    const W v = head.value(t, i);
    for (int j = me.lane; j < K; j += kQuad) to[i * stride + j] = decay[j] * from[i * stride + j] + v * k[j];
  }
  __syncthreads();   // k and decay have been read before they are replaced; `to` is whole, for the owners of columns
}

// Block: as in the forward. Shared: k (times w), raw, q, decay, own, d_bonus [K]; part [2, K]; g, v [R]; the quotient's 1 / z and dn;
// and dM [R, row_stride] if adjoints is null. states [blocks, kStates, R, row_stride] is the block's room for recomputed memories.
// dk_parts [B, T, H, K], dv_parts [B, T, H, V]: where a head leaves its part when its row is shared with others, else null.
template <class T>
__global__ void __launch_bounds__(1024)
    backward_kernel(const DecayBackward<T> a, Wide<T>* states, Wide<T>* adjoints, Wide<T>* dk_parts, Wide<T>* dv_parts) {
  using W = Wide<T>;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  const DecaySizes& n = a.size;
  const int K = int(n.key_dim), V = int(n.value_dim), R = int(n.rows());
  const int64_t stride = row_stride(K), size = R * stride, b = blockIdx.x / n.heads, h = blockIdx.x % n.heads;
  const Head<T> head = head_of(a, b, h, a.q.at);
  const Place me = place();
  W* const k = reinterpret_cast<W*>(shared_bytes);
  W* const raw = k + K;
  W* const q = raw + K;
  W* const decay = q + K;
  W* const own = decay + K;
  W* const d_bonus = own + K;
  W* const part = d_bonus + K;   // what each column adds to d_write and, with one decay a head, to d_log_decay
  W* const g = part + 2 * K;     // scale dy
  W* const v = g + R;
  W* const quotient = v + R;     // 1 / z(n), dn
  W* const dM = adjoints ? adjoints + blockIdx.x * size : quotient + 2;
  W* const starts = states + blockIdx.x * (kStates * size);   // [kSpans]: the memory that enters each span of the chunk
  W* const inner = starts + kSpans * size;                    // [kSpan]: the memory that enters each token of the span, the first excepted

  for (int j = threadIdx.x; j < K; j += blockDim.x) d_bonus[j] = 0;
  copy_rows<W>(dM, stride, a.d_memory_out ? a.d_memory_out + int64_t(blockIdx.x) * R * K : nullptr, K, R, K);
  __syncthreads();   // d_bonus is zero before the owners of columns add to it
  for (int64_t chunk = n.chunks() - 1; chunk >= 0; --chunk) {
    const int64_t t0 = chunk * kDecayChunk;
    const int c = int(n.tokens - t0 < kDecayChunk ? n.tokens - t0 : kDecayChunk), spans = (c + kSpan - 1) / kSpan;
    copy_rows<W>(starts, stride, a.saved + (int64_t(blockIdx.x) * n.chunks() + chunk) * R * K, K, R, K);
    for (int i = 0; i < (spans - 1) * kSpan; ++i)
      advance(head, t0 + i, i % kSpan == 0 ? starts + i / kSpan * size : inner,
              (i + 1) % kSpan == 0 ? starts + (i + 1) / kSpan * size : inner, k, decay, R, K, stride);

    for (int span = spans - 1; span >= 0; --span) {
      const int tokens = c - span * kSpan < kSpan ? c - span * kSpan : kSpan;
      const auto entering = [&](int i) { return i == 0 ? starts + span * size : inner + i * size; };
      for (int i = 0; i + 1 < tokens; ++i) advance(head, t0 + span * kSpan + i, entering(i), inner + (i + 1) * size, k, decay, R, K, stride);

      for (int back = tokens - 1; back >= 0; --back) {
        const int64_t t = t0 + span * kSpan + back, token = b * n.tokens + t, gate = token * n.heads + h;
        const W* const M = entering(back);   // M_{t-1}
        const W write = head.w(t);
        const bool strict = a.gates.strict, hidden = strict && head.starts(t);
        for (int j = threadIdx.x; j < K; j += blockDim.x) {
          raw[j] = head.key(t, j);
          k[j] = write * raw[j];
          q[j] = load(head.q + t * head.q_stride + j);
          decay[j] = head.decay(t, j);
          own[j] = head.bonus ? head.bonus[j] * raw[j] * q[j] : W(0);
        }
        if (threadIdx.x < kWarp && n.normaliser) {   // y = N / z: dN = dy / z, dz = -dN . y
          const W at = a.normaliser[gate], inverse = 1 / a.divisor.of(at, gate);
          W against = 0;
          for (int i = threadIdx.x; i < V; i += kWarp)
            against += W(load(a.dy.at + token * a.dy.token_stride + h * V + i)) * a.y.at[token * a.y.token_stride + h * V + i];
          for (int width = kWarp / 2; width > 0; width /= 2) against += __shfl_xor_sync(0xffffffffu, against, width);
          if (threadIdx.x == 0) {
            quotient[0] = inverse, quotient[1] = -inverse * against * a.divisor.slope(at, gate);
            if (a.d_floor) a.d_floor[gate] = -inverse * against * a.divisor.floor_slope(at, gate);
          }
        }
        __syncthreads();   // the token's vectors and its quotient are written by all, read by all; the span's memories are whole

        for (int top = 0; top < R; top += me.quads) {   // quads own rows
          const int i = top + me.quad;
          const bool mine = i < R;
          W gi = 0;
          if (mine && i == V) gi = a.gates.scale * quotient[1];
          if (mine && i < V) gi = a.gates.scale * (n.normaliser ? quotient[0] : W(1)) * W(load(a.dy.at + token * a.dy.token_stride + h * V + i));
          W dv = 0;
          if (mine)
            for (int j = me.lane; j < K; j += kQuad) {
              const W dm = strict ? dM[i * stride + j] : dM[i * stride + j] + gi * q[j];   // y_t = scale M_t q_t
              dM[i * stride + j] = dm;
              dv += dm * k[j] + gi * own[j];                   // M_t = M_{t-1} diag(a) + w v k^T;  y_t += scale own v
            }
          dv = quad_sum(dv);
          if (mine && me.lane == 0) {
            g[i] = gi;
            v[i] = head.value(t, i);
            if (dv_parts && i < V) dv_parts[gate * V + i] = dv;
            else if (a.dv.at && i < V) store(a.dv.at + token * a.dv.token_stride + h * V + i, dv);
          }
        }
        __syncthreads();   // dM, g and v are written by the owners of rows, read below by others

        for (int left = 0; left < K; left += me.quads) {   // quads own columns
          const int j = left + me.quad;
          const bool mine = j < K;
          W dq = 0, dk = 0, da = 0, gv = 0;
          if (mine)
            for (int i = me.lane; i < R; i += kQuad) {
              const W m = M[i * stride + j], dm = dM[i * stride + j];
              dq += (!strict ? decay[j] * m + v[i] * k[j] : hidden ? W(0) : m) * g[i];   // y_t = scale M_t q_t
              dk += dm * v[i];                                 // M_t = M_{t-1} diag(a) + w v k^T
              da += dm * m;                                    // M_t = M_{t-1} diag(a) + w v k^T
              gv += g[i] * v[i];                               // y_t += scale own v
            }
          dq = quad_sum(dq);
          dk = quad_sum(dk);
          da = quad_sum(da);
          gv = quad_sum(gv);
          if (mine && me.lane == 0) {
            W dg = decay[j] * da;
            const W u = head.bonus ? head.bonus[j] : W(0);   // a = exp(g)
            part[j] = raw[j] * dk;                             // M_t = M_{t-1} diag(a) + w v k^T, for w
            d_bonus[j] += gv * raw[j] * q[j];                  // own = u k q
            dq += gv * u * raw[j];                             // own = u k q
            dk = write * dk + gv * u * q[j];                   // M_t, for k;  own = u k q
            if (head.tied) dg += dk * (raw[j] - 1);            // k = 1 - exp(g)
            part[K + j] = dg;
            if (a.d_log_decay && a.gates.per_channel) a.d_log_decay[gate * K + j] = dg;
            if (a.dq.at) store(a.dq.at + token * a.dq.token_stride + h * K + j, dq);
            if (dk_parts) dk_parts[gate * K + j] = dk;
            else if (a.dk.at && !head.tied) store(a.dk.at + token * a.dk.token_stride + h * K + j, dk);
          }
        }
        __syncthreads();   // part is whole; the owners of columns have read dM before the owners of rows change it

        for (int which = int(threadIdx.x) / kWarp; which < 2; which += int(blockDim.x) / kWarp) {   // a warp a gate
          W sum = 0;
          for (int j = int(threadIdx.x) % kWarp; j < K; j += kWarp) sum += part[which * K + j];
          for (int width = kWarp / 2; width > 0; width /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, width);
          W* const to = which == 0 ? a.d_write : a.gates.per_channel ? nullptr : a.d_log_decay;
          if (to && threadIdx.x % kWarp == 0) to[gate] = sum;
        }
        for (int i = me.quad; i < R; i += me.quads)
          for (int j = me.lane; j < K; j += kQuad) {
            const W read = strict && !hidden ? g[i] * q[j] : W(0);
            dM[i * stride + j] = decay[j] * dM[i * stride + j] + read;   // M_t = M_{t-1} diag(a) + w v k^T;  y_t = scale M_{t-1} q_t
          }
        __syncthreads();   // the token's vectors and part have been read before they are replaced, and M before its place in `states` is
      }
    }
  }
  if (a.d_memory_in) copy_rows<W>(a.d_memory_in + int64_t(blockIdx.x) * R * K, K, dM, stride, R, K);
  if (a.d_bonus)
    for (int j = threadIdx.x; j < K; j += blockDim.x) a.d_bonus[int64_t(blockIdx.x) * K + j] = d_bonus[j];
}

// to [rows, few, D] <- the sum over the many / few heads that share a row of from [rows, many, D]. A thread owns one element of to.
template <class T> __global__ void sum_heads_kernel(const Wide<T>* from, Rows<T> to, int64_t rows, int64_t many, int64_t few, int64_t dim) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= rows * few * dim) return;
  const int64_t token = index / (few * dim), head = index / dim % few, d = index % dim, share = many / few;
  Wide<T> sum = 0;
  for (int64_t h = head * share; h < (head + 1) * share; ++h) sum += from[(token * many + h) * dim + d];
  store(to.at + token * to.token_stride + head * dim + d, sum);
}

template <class T> Status sum_heads(const Wide<T>* from, Rows<T> to, const DecaySizes& n, int64_t few, int64_t dim, Stream stream) {
  constexpr int threads = 256;
  const int64_t rows = n.batch * n.tokens;
  if (rows == 0) return Status::ok;
  return launch(sum_heads_kernel<T>, dim3(unsigned(divide_up(rows * few * dim, threads))), dim3(threads), 0, stream, from, to, rows,
                n.heads, few, dim);
}

// Shared memory of a block: `vectors` elements, and the memory where both fit.
template <class W> struct SharedPlan {
  size_t bytes;
  bool memory_fits;
  SharedPlan(const DecaySizes& n, int64_t vectors) {
    const int64_t memory = n.rows() * row_stride(n.key_dim);
    memory_fits = size_t(vectors + memory) * sizeof(W) <= kSharedLimit;
    bytes = size_t(vectors + (memory_fits ? memory : 0)) * sizeof(W);
  }
};
template <class T> SharedPlan<Wide<T>> shared_plan(const DecayForward<T>& a) {
  return {a.size, 4 * a.size.key_dim + a.size.rows()};
}
template <class T> SharedPlan<Wide<T>> shared_plan(const DecayBackward<T>& a) {
  return {a.size, 8 * a.size.key_dim + 2 * a.size.rows() + 2};
}

// Elements of each part of the backward's workspace, in order; 0 where a part is not needed.
struct BackwardRoom {
  int64_t states, adjoints, dk_parts, dv_parts;
  int64_t total() const { return states + adjoints + dk_parts + dv_parts; }
};
template <class T> BackwardRoom room(const DecayBackward<T>& a) {
  const DecaySizes& n = a.size;
  const int64_t heads = n.batch * n.heads, memory = n.rows() * row_stride(n.key_dim);
  return {heads * kStates * memory, shared_plan(a).memory_fits ? 0 : heads * memory,
          a.dk.at && n.key_heads < n.heads ? heads * n.tokens * n.key_dim : 0,
          a.dv.at && n.value_heads < n.heads ? heads * n.tokens * n.value_dim : 0};
}

// Four threads a row, whole warps.
unsigned threads_for(int64_t rows) {
  const int64_t threads = divide_up(rows * kQuad, kWarp) * kWarp;
  return unsigned(threads < 1024 ? threads : 1024);
}

// One block a head. No heads: nothing to do.
template <class... P>
Status launch_heads(void (*kernel)(P...), const DecaySizes& n, unsigned threads, size_t shared_bytes, Stream stream,
                    std::type_identity_t<P>... arguments) {
  const int64_t blocks = n.batch * n.heads;
  if (blocks == 0) return Status::ok;
  if (blocks > 0x7fffffff) return Status::bad_size;
  const Status allowed = allow_shared(kernel, shared_bytes);
  return allowed == Status::ok ? launch(kernel, dim3(unsigned(blocks)), dim3(threads), shared_bytes, stream, arguments...) : allowed;
}

// A thread owns one head of one sequence and walks its tokens.
template <class A> __global__ void running_scale_forward_kernel(const RunningScale<A> x) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, H = x.heads;
  if (index >= x.batch * H) return;
  const int64_t b = index / H, h = index % H;
  const int32_t* const segments = x.segments ? x.segments + b * x.tokens : nullptr;
  A before = x.initial ? x.initial[index] : A(0);
  for (int64_t t = 0; t < x.tokens; ++t) {
    const int64_t at = (b * x.tokens + t) * H + h;
    if (t > 0 && segments && segments[t] != segments[t - 1]) before = 0;
    const A decayed = x.log_decay[at] + before;
    before = decayed >= x.log_write[at] ? decayed : x.log_write[at];
    x.scale[at] = before;
  }
}

template <class A> __global__ void running_scale_backward_kernel(const RunningScale<A> x) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, H = x.heads;
  if (index >= x.batch * H) return;
  const int64_t b = index / H, h = index % H;
  const int32_t* const segments = x.segments ? x.segments + b * x.tokens : nullptr;
  A carried = 0;   // adjoint of m_t from the future
  for (int64_t t = x.tokens - 1; t >= 0; --t) {
    const int64_t at = (b * x.tokens + t) * H + h;
    const bool starts = t > 0 && segments && segments[t] != segments[t - 1];
    const A before = starts ? A(0) : t > 0 ? x.scale[at - H] : x.initial ? x.initial[index] : A(0);
    const A d = carried + x.d_scale[at];
    const bool decays = x.log_decay[at] + before >= x.log_write[at];
    x.d_log_decay[at] = decays ? d : A(0);     // m_t = max(g_t + m_{t-1}, w_t)
    x.d_log_write[at] = decays ? A(0) : d;     // m_t = max(g_t + m_{t-1}, w_t)
    carried = decays && !starts ? d : A(0);    // m_t = max(g_t + m_{t-1}, w_t)
  }
  if (x.d_initial) x.d_initial[index] = carried;
}

template <class A> Status launch_scale(void (*kernel)(RunningScale<A>), const RunningScale<A>& x, Stream stream) {
  constexpr int threads = 64;
  if (x.batch * x.heads == 0) return Status::ok;
  return launch(kernel, dim3(unsigned(divide_up(x.batch * x.heads, threads))), dim3(threads), 0, stream, x);
}

}  // namespace

template <class T> size_t diagonal_decay_workspace(const DecayForward<T>& a) {
  const DecaySizes& n = a.size;
  return shared_plan(a).memory_fits ? 0 : size_t(n.batch * n.heads * n.rows() * row_stride(n.key_dim)) * sizeof(Wide<T>);
}

template <class T> size_t diagonal_decay_workspace(const DecayBackward<T>& a) {
  return size_t(room(a).total()) * sizeof(Wide<T>);
}

template <class T> Status diagonal_decay_forward(const DecayForward<T>& a, Workspace work, Stream stream) {
  const DecaySizes& n = a.size;
  if (!heads_hold(n)) return Status::bad_size;
  if (work.bytes < diagonal_decay_workspace(a)) return Status::small_workspace;
  const auto plan = shared_plan(a);
  Wide<T>* const memories = plan.memory_fits ? nullptr : static_cast<Wide<T>*>(work.at);
  return launch_heads(forward_kernel<T>, n, threads_for(n.rows()), plan.bytes, stream, a, memories);
}

template <class T> Status diagonal_decay_backward(const DecayBackward<T>& a, Workspace work, Stream stream) {
  const DecaySizes& n = a.size;
  if (!heads_hold(n)) return Status::bad_size;
  if (work.bytes < diagonal_decay_workspace(a)) return Status::small_workspace;
  const auto plan = shared_plan(a);
  const BackwardRoom need = room(a);
  Wide<T>* const states = static_cast<Wide<T>*>(work.at);
  Wide<T>* const adjoints = need.adjoints ? states + need.states : nullptr;
  Wide<T>* const dk_parts = need.dk_parts ? states + need.states + need.adjoints : nullptr;
  Wide<T>* const dv_parts = need.dv_parts ? states + need.states + need.adjoints + need.dk_parts : nullptr;
  const int64_t widest = n.rows() > n.key_dim ? n.rows() : n.key_dim;
  Status status = launch_heads(backward_kernel<T>, n, threads_for(widest), plan.bytes, stream, a, states, adjoints, dk_parts, dv_parts);
  if (status == Status::ok && dk_parts) status = sum_heads(dk_parts, a.dk, n, n.key_heads, n.key_dim, stream);
  if (status == Status::ok && dv_parts) status = sum_heads(dv_parts, a.dv, n, n.value_heads, n.value_dim, stream);
  return status;
}

template <class A> Status running_scale_forward(const RunningScale<A>& x, Stream stream) {
  return launch_scale(running_scale_forward_kernel<A>, x, stream);
}
template <class A> Status running_scale_backward(const RunningScale<A>& x, Stream stream) {
  return launch_scale(running_scale_backward_kernel<A>, x, stream);
}

template size_t diagonal_decay_workspace<float>(const DecayForward<float>&);
template size_t diagonal_decay_workspace<bf16>(const DecayForward<bf16>&);
template size_t diagonal_decay_workspace<double>(const DecayForward<double>&);
template size_t diagonal_decay_workspace<float>(const DecayBackward<float>&);
template size_t diagonal_decay_workspace<bf16>(const DecayBackward<bf16>&);
template size_t diagonal_decay_workspace<double>(const DecayBackward<double>&);
template Status diagonal_decay_forward<float>(const DecayForward<float>&, Workspace, Stream);
template Status diagonal_decay_forward<bf16>(const DecayForward<bf16>&, Workspace, Stream);
template Status diagonal_decay_forward<double>(const DecayForward<double>&, Workspace, Stream);
template Status diagonal_decay_backward<float>(const DecayBackward<float>&, Workspace, Stream);
template Status diagonal_decay_backward<bf16>(const DecayBackward<bf16>&, Workspace, Stream);
template Status diagonal_decay_backward<double>(const DecayBackward<double>&, Workspace, Stream);
template Status running_scale_forward<float>(const RunningScale<float>&, Stream);
template Status running_scale_forward<double>(const RunningScale<double>&, Stream);
template Status running_scale_backward<float>(const RunningScale<float>&, Stream);
template Status running_scale_backward<double>(const RunningScale<double>&, Stream);

}  // namespace ttr::cuda
