// CUDA kernels of the stem `scan`, level 1: the token recurrence written plainly. f32, bf16 (states in f32), f64; sizes at run time.
//
//   M_t = a_t * M_{t-1} + x_t k_t^T,   y_t = scale M_t q_t, entry by entry; the table of a and x is in layers/scan_kernel.hpp
//
// CPU twin: layers/scan_cpu.cpp. Here one token follows another: T steps.
//
// Without keys a thread owns one channel (rotation: one complex number) of one sequence and holds it in registers; neighbouring threads own
// neighbouring channels, so every access is coalesced. The backward writes the states that enter a chunk's tokens to the workspace first.
//
// With keys a block owns one head and its whole memory, four threads (a quad) a row of it: heads.hpp. Entries never meet, so a thread reads
// and writes only its own; barriers are needed for what crosses rows: k and q, and in the backward the sums over rows in dq and dk.
// In shared memory: the vectors of the current token, and the memory (backward: its adjoint) when it fits kSharedLimit; else in the workspace.
// The backward walks the chunks from the last and recomputes: from the saved memory that enters a chunk, the memories that enter its spans
// of 8 tokens; from each of those, the 8 memories after its tokens.
// Heads that share a row of k or v write their parts of dk, dv to the workspace, and a second kernel adds them in a fixed order: no atomics.
#include <ttr/cuda/heads.hpp>
#include <ttr/layers/scan_kernel.hpp>

namespace ttr::cuda {
namespace {

constexpr int kSpan = 8;                          // tokens between two recomputed memories
constexpr int kSpans = int(kScanChunk) / kSpan;
constexpr int kStates = kSpans + kSpan;           // memories in the workspace of a block: one a span, one a token of a span
constexpr int kThreads = 128;                     // of a block without keys

// -- without keys ------------------------------------------------------------------------------------------------------------------------------
// Thread: channel c of sequence b, D = H V of them.
template <class T> __global__ void value_forward_kernel(const ScanForward<T> f) {
  using W = Wide<T>;
  const ScanSizes& n = f.size;
  const int64_t D = n.heads * n.value_dim, index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= n.batch * D) return;
  const int64_t b = index / D, c = index % D;
  W h = f.memory_in ? f.memory_in[index] : W(0);
  for (int64_t t = 0; t < n.tokens; ++t) {
    const int64_t token = b * n.tokens + t;
    if (f.saved && t % kScanChunk == 0) f.saved[(b * n.chunks() + t / kScanChunk) * D + c] = h;
    const W g = f.gate[token * D + c], v = load(f.v.at + token * f.v.token_stride + c);
    h = (goes_on(f, b, t) ? exp(g) * h : W(0)) + (f.written ? -expm1(g) * v : v);
    store(f.y.at + token * f.y.token_stride + c, h);
  }
  if (f.memory_out) f.memory_out[index] = h;
}

// states [B, kScanChunk, D]: what enters each token of the chunk at hand.
template <class T> __global__ void value_backward_kernel(const ScanBackward<T> f, Wide<T>* states) {
  using W = Wide<T>;
  const ScanSizes& n = f.size;
  const int64_t D = n.heads * n.value_dim, index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= n.batch * D) return;
  const int64_t b = index / D, c = index % D;
  W* const own = states + b * kScanChunk * D + c;
  W d = f.d_memory_out ? f.d_memory_out[index] : W(0);
  for (int64_t chunk = n.chunks() - 1; chunk >= 0; --chunk) {
    const int64_t t0 = chunk * kScanChunk, rows = n.tokens - t0 < kScanChunk ? n.tokens - t0 : kScanChunk;
    W h = f.saved[(b * n.chunks() + chunk) * D + c];
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t token = b * n.tokens + t0 + r;
      own[r * D] = h;
      const W g = f.gate[token * D + c], v = load(f.v.at + token * f.v.token_stride + c);
      h = (goes_on(f, b, t0 + r) ? exp(g) * h : W(0)) + (f.written ? -expm1(g) * v : v);
    }
    for (int64_t r = rows - 1; r >= 0; --r) {
      const int64_t token = b * n.tokens + t0 + r;
      const W g = f.gate[token * D + c], v = load(f.v.at + token * f.v.token_stride + c), a = exp(g);
      const bool on = goes_on(f, b, t0 + r);
      d += load(f.dy.at + token * f.dy.token_stride + c);                                                          // y = h
      if (f.dv.at) store(f.dv.at + token * f.dv.token_stride + c, f.written ? -expm1(g) * d : d);                  // h = a h + (1 - a) v
      if (f.d_gate) f.d_gate[token * D + c] = d * a * ((on ? own[r * D] : W(0)) - (f.written ? v : W(0)));         // a = exp g
      d = on ? a * d : W(0);                                                                                       // h = a h + (1 - a) v
    }
  }
  if (f.d_memory_in) f.d_memory_in[index] = d;
}

// Thread: number i of head h of sequence b; its parts lie V / 2 apart.
struct Number {
  int64_t b, real, imaginary, own;   // channels of its parts; own: its place among the numbers of a sequence
};
__device__ inline Number number_of(const ScanSizes& n, int64_t index) {
  const int64_t half = n.value_dim / 2, each = n.heads * half, own = index % each, h = own / half, i = own % half;
  return {index / each, h * n.value_dim + i, h * n.value_dim + half + i, own};
}

template <class T> __global__ void rotation_forward_kernel(const ScanForward<T> f) {
  using W = Wide<T>;
  const ScanSizes& n = f.size;
  const int64_t D = n.heads * n.value_dim, index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= n.batch * D / 2) return;
  const Number me = number_of(n, index);
  const W size = exp(f.gate[me.own]), ar = size * cos(f.rate[me.own]), ai = size * sin(f.rate[me.own]);
  W re = f.memory_in ? f.memory_in[me.b * D + me.real] : W(0), im = f.memory_in ? f.memory_in[me.b * D + me.imaginary] : W(0);
  for (int64_t t = 0; t < n.tokens; ++t) {
    const int64_t token = me.b * n.tokens + t;
    if (f.saved && t % kScanChunk == 0) {
      W* const at = f.saved + (me.b * n.chunks() + t / kScanChunk) * D;
      at[me.real] = re, at[me.imaginary] = im;
    }
    const T* const v = f.v.at + token * f.v.token_stride;
    T* const y = f.y.at + token * f.y.token_stride;
    const W keep = W(goes_on(f, me.b, t)), turned = keep * (ar * re - ai * im);
    im = keep * (ai * re + ar * im) + load(v + me.imaginary);
    re = turned + load(v + me.real);
    store(y + me.real, re);
    store(y + me.imaginary, im);
  }
  if (f.memory_out) f.memory_out[me.b * D + me.real] = re, f.memory_out[me.b * D + me.imaginary] = im;
}

// states [B, kScanChunk, D], as above.
template <class T> __global__ void rotation_backward_kernel(const ScanBackward<T> f, Wide<T>* states) {
  using W = Wide<T>;
  const ScanSizes& n = f.size;
  const int64_t D = n.heads * n.value_dim, index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= n.batch * D / 2) return;
  const Number me = number_of(n, index);
  const W size = exp(f.gate[me.own]), ar = size * cos(f.rate[me.own]), ai = size * sin(f.rate[me.own]);
  W* const own = states + me.b * kScanChunk * D;
  W dr = f.d_memory_out ? f.d_memory_out[me.b * D + me.real] : W(0), di = f.d_memory_out ? f.d_memory_out[me.b * D + me.imaginary] : W(0);
  W d_ar = 0, d_ai = 0;
  for (int64_t chunk = n.chunks() - 1; chunk >= 0; --chunk) {
    const int64_t t0 = chunk * kScanChunk, rows = n.tokens - t0 < kScanChunk ? n.tokens - t0 : kScanChunk;
    const W* const saved = f.saved + (me.b * n.chunks() + chunk) * D;
    W re = saved[me.real], im = saved[me.imaginary];
    for (int64_t r = 0; r < rows; ++r) {
      own[r * D + me.real] = re, own[r * D + me.imaginary] = im;
      const T* const v = f.v.at + (me.b * n.tokens + t0 + r) * f.v.token_stride;
      const W keep = W(goes_on(f, me.b, t0 + r)), turned = keep * (ar * re - ai * im);
      im = keep * (ai * re + ar * im) + load(v + me.imaginary);
      re = turned + load(v + me.real);
    }
    for (int64_t r = rows - 1; r >= 0; --r) {
      const int64_t token = me.b * n.tokens + t0 + r;
      const W keep = W(goes_on(f, me.b, t0 + r)), hr = own[r * D + me.real], hi = own[r * D + me.imaginary];
      const T* const dy = f.dy.at + token * f.dy.token_stride;
      dr += load(dy + me.real), di += load(dy + me.imaginary);   // y = h
      if (f.dv.at) {
        T* const dv = f.dv.at + token * f.dv.token_stride;
        store(dv + me.real, dr), store(dv + me.imaginary, di);   // h = a h + v
      }
      d_ar += keep * (dr * hr + di * hi);                        // h = a h + v, for Re a
      d_ai += keep * (di * hr - dr * hi);                        // h = a h + v, for Im a
      const W back = keep * (ar * dr + ai * di);                 // h = a h + v, for h
      di = keep * (ar * di - ai * dr);                           // h = a h + v, for h
      dr = back;
    }
  }
  if (f.d_gate) f.d_gate[index] = d_ar * ar + d_ai * ai;         // a = exp(g + i phase)
  if (f.d_rate) f.d_rate[index] = d_ai * ar - d_ar * ai;         // a = exp(g + i phase)
  if (f.d_memory_in) f.d_memory_in[me.b * D + me.real] = dr, f.d_memory_in[me.b * D + me.imaginary] = di;
}

// -- with keys ---------------------------------------------------------------------------------------------------------------------------------
// One row of the memory at one token.
template <class W> struct Row {
  W step;    // delta or s; 0 for entry
  W share;   // ds / d delta = (1 / (1 + delta |k|^2))^2; else 1
  W v, x;    // x: what is written
  const W* gates;   // entry: log_decay [K]
  const W* rates;   // product: rate [K]
  W keep;    // 0 where a document begins
};

// Row i of token t. k_square is |k|^2.
template <class A, class W>
__device__ Row<W> row_of(const A& f, int64_t b, int64_t h, int64_t t, int64_t i, W k_square) {
  const ScanSizes& n = f.size;
  const int64_t token = b * n.tokens + t, at = (token * n.heads + h) * n.value_dim + i;
  Row<W> row{W(0), W(1), load(f.v.at + token * f.v.token_stride + h / (n.heads / n.value_heads) * n.value_dim + i), W(0), nullptr, nullptr,
             W(goes_on(f, b, t))};
  row.x = row.v;
  if (f.kind == ScanKind::entry) {
    row.gates = f.gate + at * n.key_dim;
    return row;
  }
  row.step = f.gate[at];
  if (f.kind == ScanKind::product) {
    row.rates = f.rate + (h * n.value_dim + i) * n.key_dim;
    if (f.written) row.x = row.step * row.v;
  } else {
    const W shrink = W(1) / (W(1) + row.step * k_square);
    row.share = shrink * shrink;
    row.step *= shrink;
    row.x = row.step * row.v;
  }
  return row;
}

// a of the row's entry j.
template <class W> __device__ W decay_of(ScanKind kind, const Row<W>& row, int j, W k) {
  if (kind == ScanKind::entry) return row.keep * exp(row.gates[j]);
  if (kind == ScanKind::product) return row.keep * exp(-row.step * row.rates[j]);
  return row.keep * (W(1) - row.step * k * k);
}

// k and q of token t into shared memory; every quad then knows |k|^2. Called by all threads; ends with a barrier.
template <class A, class W> __device__ W load_token(const A& f, int64_t b, int64_t h, int64_t t, W* k, W* q) {
  const ScanSizes& n = f.size;
  const int64_t token = b * n.tokens + t;
  const int K = int(n.key_dim);
  for (int j = threadIdx.x; j < K; j += blockDim.x) {
    k[j] = load(f.k.at + token * f.k.token_stride + h / (n.heads / n.key_heads) * K + j);
    if (q) q[j] = load(f.q.at + token * f.q.token_stride + h * K + j);
  }
  __syncthreads();   // k and q are written by all, read by all
  W square = 0;
  if (f.kind == ScanKind::proximal)
    for (int j = place().lane; j < K; j += kQuad) square += k[j] * k[j];
  return quad_sum(square);
}

// Block: head blockIdx.x % H of sequence blockIdx.x / H. Shared: k [K], q [K], and M [V, row_stride] if memories is null.
template <class T> __global__ void __launch_bounds__(1024) forward_kernel(const ScanForward<T> f, Wide<T>* memories) {
  using W = Wide<T>;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  const ScanSizes& n = f.size;
  const int K = int(n.key_dim), V = int(n.value_dim);
  const int64_t stride = row_stride(K), b = blockIdx.x / n.heads, h = blockIdx.x % n.heads;
  const Place me = place();
  W* const k = reinterpret_cast<W*>(shared_bytes);
  W* const q = k + K;
  W* const M = memories ? memories + blockIdx.x * (V * stride) : q + K;

  copy_rows<W>(M, stride, f.memory_in ? f.memory_in + int64_t(blockIdx.x) * V * K : nullptr, K, V, K);
  for (int64_t t = 0; t < n.tokens; ++t) {
    if (f.saved && t % kScanChunk == 0)
      copy_rows<W>(f.saved + ((b * n.chunks() + t / kScanChunk) * n.heads + h) * V * K, K, M, stride, V, K);
    const W square = load_token(f, b, h, t, k, q);
    for (int top = 0; top < V; top += me.quads) {   // the same trips for every thread: the shuffles need whole warps
      const int i = top + me.quad;
      W y = 0;
      if (i < V) {
        const Row<W> row = row_of(f, b, h, t, i, square);
        for (int j = me.lane; j < K; j += kQuad) {
          const W m = decay_of(f.kind, row, j, k[j]) * M[i * stride + j] + row.x * k[j];
          M[i * stride + j] = m;
          y += m * q[j];
        }
      }
      y = quad_sum(y);
      if (i < V && me.lane == 0) store(f.y.at + (b * n.tokens + t) * f.y.token_stride + h * V + i, f.scale * y);
    }
    __syncthreads();   // k and q have been read before the next token replaces them
  }
  if (f.memory_out) copy_rows<W>(f.memory_out + int64_t(blockIdx.x) * V * K, K, M, stride, V, K);
}

// to <- the memory after token t, from <- the one before; they may be the same. k [K] is shared scratch.
template <class T>
__device__ void advance(const ScanBackward<T>& f, int64_t b, int64_t h, int64_t t, const Wide<T>* from, Wide<T>* to, Wide<T>* k, int64_t stride) {
  using W = Wide<T>;
  const int K = int(f.size.key_dim), V = int(f.size.value_dim);
  const Place me = place();
  const W square = load_token<ScanBackward<T>, W>(f, b, h, t, k, nullptr);
  for (int i = me.quad; i < V; i += me.quads) {
    const Row<W> row = row_of(f, b, h, t, i, square);
    for (int j = me.lane; j < K; j += kQuad) to[i * stride + j] = decay_of(f.kind, row, j, k[j]) * from[i * stride + j] + row.x * k[j];
  }
  __syncthreads();   // k has been read before it is replaced; `to` is whole, for the owners of columns
}

// Block: as in the forward. Shared: k, q [K]; g, x, step, shrunk [V]; and dM [V, row_stride] if adjoints is null.
// states [blocks, kStates, V, row_stride] is the block's room for recomputed memories.
// dk_parts [B, T, H, K], dv_parts [B, T, H, V]: where a head leaves its part when its row is shared with others, else null.
template <class T>
__global__ void __launch_bounds__(1024)
    backward_kernel(const ScanBackward<T> f, Wide<T>* states, Wide<T>* adjoints, Wide<T>* dk_parts, Wide<T>* dv_parts) {
  using W = Wide<T>;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  const ScanSizes& n = f.size;
  const int K = int(n.key_dim), V = int(n.value_dim);
  const int64_t stride = row_stride(K), size = V * stride, b = blockIdx.x / n.heads, h = blockIdx.x % n.heads;
  const Place me = place();
  W* const k = reinterpret_cast<W*>(shared_bytes);
  W* const q = k + K;
  W* const g = q + K;         // scale dy
  W* const x = g + V;         // what is written
  W* const step = x + V;      // proximal: s
  W* const shrunk = step + V; // proximal: what each row adds to the adjoint of |k|^2
  W* const dM = adjoints ? adjoints + blockIdx.x * size : shrunk + V;
  W* const starts = states + blockIdx.x * (kStates * size);   // [kSpans]: the memory that enters each span of the chunk
  W* const inner = starts + kSpans * size;                    // [kSpan]: the memory after each token of the span
  W* const d_rate = f.d_rate ? f.d_rate + int64_t(blockIdx.x) * V * K : nullptr;
  const bool proximal = f.kind == ScanKind::proximal, product = f.kind == ScanKind::product;

  copy_rows<W>(dM, stride, f.d_memory_out ? f.d_memory_out + int64_t(blockIdx.x) * V * K : nullptr, K, V, K);
  if (d_rate) copy_rows<W>(d_rate, K, nullptr, K, V, K);
  for (int64_t chunk = n.chunks() - 1; chunk >= 0; --chunk) {
    const int64_t t0 = chunk * kScanChunk;
    const int c = int(n.tokens - t0 < kScanChunk ? n.tokens - t0 : kScanChunk), spans = (c + kSpan - 1) / kSpan;
    copy_rows<W>(starts, stride, f.saved + ((b * n.chunks() + chunk) * n.heads + h) * V * K, K, V, K);
    for (int i = 0; i < (spans - 1) * kSpan; ++i)
      advance(f, b, h, t0 + i, i % kSpan == 0 ? starts + i / kSpan * size : inner, (i + 1) % kSpan == 0 ? starts + (i + 1) / kSpan * size : inner, k, stride);

    for (int span = spans - 1; span >= 0; --span) {
      const int tokens = c - span * kSpan < kSpan ? c - span * kSpan : kSpan;
      const auto entering = [&](int i) { return i == 0 ? starts + span * size : inner + (i - 1) * size; };
      for (int i = 0; i < tokens; ++i) advance(f, b, h, t0 + span * kSpan + i, entering(i), inner + i * size, k, stride);

      for (int back = tokens - 1; back >= 0; --back) {
        const int64_t t = t0 + span * kSpan + back, token = b * n.tokens + t, at = token * n.heads + h;
        const W* const before = entering(back);      // M_{t-1}
        const W* const after = inner + back * size;  // M_t
        const W square = load_token(f, b, h, t, k, q);

        for (int top = 0; top < V; top += me.quads) {   // quads own rows
          const int i = top + me.quad;
          const bool mine = i < V;
          W dx = 0, d_step = 0;
          Row<W> row{};
          if (mine) {
            row = row_of(f, b, h, t, i, square);
            const W gi = f.scale * load(f.dy.at + token * f.dy.token_stride + h * V + i);
            if (me.lane == 0) g[i] = gi, x[i] = row.x, step[i] = row.step;
            for (int j = me.lane; j < K; j += kQuad) {
              const W dm = dM[i * stride + j] + gi * q[j];                     // y = scale M q
              dM[i * stride + j] = dm;
              dx += dm * k[j];                                                 // M = a M + x k
              const W da = row.keep * dm * before[i * stride + j];             // M = a M + x k
              if (proximal) {
                d_step -= da * k[j] * k[j];                                    // a = 1 - s k^2
                continue;
              }
              const W da_a = da * decay_of(f.kind, row, j, k[j]);
              if (product) {
                d_step -= da_a * row.rates[j];                                 // a = exp(-delta rate)
                if (d_rate) d_rate[i * K + j] -= da_a * row.step;              // a = exp(-delta rate)
              } else if (f.d_gate) {
                f.d_gate[(at * V + i) * K + j] = da_a;                         // a = exp g
              }
            }
          }
          dx = quad_sum(dx);
          d_step = quad_sum(d_step);
          if (mine && me.lane == 0) {
            const bool stepped = proximal || (product && f.written);
            if (stepped) d_step += dx * row.v;                                 // x = delta v;  x = s v
            shrunk[i] = -d_step * row.step * row.step;                         // s = delta / (1 + delta |k|^2), for |k|^2
            if (f.d_gate && f.kind != ScanKind::entry) f.d_gate[at * V + i] = d_step * row.share;   // s = delta / (1 + delta |k|^2)
            const W dv = stepped ? dx * row.step : dx;                         // x = delta v;  x = s v
            if (dv_parts) dv_parts[at * V + i] = dv;
            else if (f.dv.at) store(f.dv.at + token * f.dv.token_stride + h * V + i, dv);
          }
        }
        __syncthreads();   // dM, g, x, step and shrunk are written by the owners of rows, read below by others

        const W keep = W(goes_on(f, b, t));
        for (int left = 0; left < K; left += me.quads) {   // quads own columns
          const int j = left + me.quad;
          const bool mine = j < K;
          W dq = 0, dk = 0;
          if (mine)
            for (int i = me.lane; i < V; i += kQuad) {
              dq += after[i * stride + j] * g[i];                              // y = scale M q
              dk += dM[i * stride + j] * x[i];                                 // M = a M + x k
              if (proximal)
                dk += 2 * k[j] * (shrunk[i] - keep * step[i] * dM[i * stride + j] * before[i * stride + j]);   // |k|^2;  a = 1 - s k^2
            }
          dq = quad_sum(dq);
          dk = quad_sum(dk);
          if (mine && me.lane == 0) {
            if (f.dq.at) store(f.dq.at + token * f.dq.token_stride + h * K + j, dq);
            if (dk_parts) dk_parts[at * K + j] = dk;
            else if (f.dk.at) store(f.dk.at + token * f.dk.token_stride + h * K + j, dk);
          }
        }
        __syncthreads();   // the owners of columns have read dM before the owners of rows change it

        for (int i = me.quad; i < V; i += me.quads) {
          const Row<W> row = row_of(f, b, h, t, i, square);
          for (int j = me.lane; j < K; j += kQuad) dM[i * stride + j] *= decay_of(f.kind, row, j, k[j]);   // M = a M + x k
        }
        __syncthreads();   // k and q have been read before they are replaced, and `after` before its place is
      }
    }
  }
  if (f.d_memory_in) copy_rows<W>(f.d_memory_in + int64_t(blockIdx.x) * V * K, K, dM, stride, V, K);
}

bool keyed(ScanKind kind) { return kind != ScanKind::value && kind != ScanKind::rotation; }

// Shared memory of a block: `vectors` elements, and the memory where both fit.
template <class W> struct SharedPlan {
  size_t bytes;
  bool memory_fits;
  SharedPlan(const ScanSizes& n, int64_t vectors) {
    const int64_t memory = n.value_dim * row_stride(n.key_dim);
    memory_fits = size_t(vectors + memory) * sizeof(W) <= kSharedLimit;
    bytes = size_t(vectors + (memory_fits ? memory : 0)) * sizeof(W);
  }
};
template <class T> SharedPlan<Wide<T>> shared_plan(const ScanForward<T>& f) { return {f.size, 2 * f.size.key_dim}; }
template <class T> SharedPlan<Wide<T>> shared_plan(const ScanBackward<T>& f) { return {f.size, 2 * f.size.key_dim + 4 * f.size.value_dim}; }

// Elements of each part of the backward's workspace, in order; 0 where a part is not needed.
struct BackwardRoom {
  int64_t states, adjoints, dk_parts, dv_parts;
  int64_t total() const { return states + adjoints + dk_parts + dv_parts; }
};
template <class T> BackwardRoom room(const ScanBackward<T>& f) {
  const ScanSizes& n = f.size;
  const int64_t heads = n.batch * n.heads, memory = n.value_dim * row_stride(n.key_dim);
  if (!keyed(f.kind)) return {heads * kScanChunk * n.value_dim, 0, 0, 0};
  return {heads * kStates * memory, shared_plan(f).memory_fits ? 0 : heads * memory,
          f.dk.at && n.key_heads < n.heads ? heads * n.tokens * n.key_dim : 0,
          f.dv.at && n.value_heads < n.heads ? heads * n.tokens * n.value_dim : 0};
}

// One thread a channel.
template <class... P> Status launch_channels(void (*kernel)(P...), int64_t channels, Stream stream, std::type_identity_t<P>... arguments) {
  if (channels == 0) return Status::ok;
  const int64_t blocks = divide_up(channels, kThreads);
  if (blocks > 0x7fffffff) return Status::bad_size;
  return launch(kernel, dim3(unsigned(blocks)), dim3(kThreads), 0, stream, arguments...);
}

}  // namespace

template <class T> size_t scan_workspace(const ScanForward<T>& f) {
  const ScanSizes& n = f.size;
  return !keyed(f.kind) || shared_plan(f).memory_fits ? 0 : size_t(n.batch * n.heads * n.value_dim * row_stride(n.key_dim)) * sizeof(Wide<T>);
}

template <class T> size_t scan_workspace(const ScanBackward<T>& f) { return size_t(room(f).total()) * sizeof(Wide<T>); }

template <class T> Status scan_forward(const ScanForward<T>& f, Workspace work, Stream stream) {
  const ScanSizes& n = f.size;
  if (!sizes_hold(n, f.kind)) return Status::bad_size;
  if (work.bytes < scan_workspace(f)) return Status::small_workspace;
  const int64_t channels = n.batch * n.heads * n.value_dim;
  if (f.kind == ScanKind::value) return launch_channels(value_forward_kernel<T>, channels, stream, f);
  if (f.kind == ScanKind::rotation) return launch_channels(rotation_forward_kernel<T>, channels / 2, stream, f);
  const auto plan = shared_plan(f);
  Wide<T>* const memories = plan.memory_fits ? nullptr : static_cast<Wide<T>*>(work.at);
  return launch_heads(forward_kernel<T>, n.batch * n.heads, quads_for(n.value_dim), plan.bytes, stream, f, memories);
}

template <class T> Status scan_backward(const ScanBackward<T>& f, Workspace work, Stream stream) {
  const ScanSizes& n = f.size;
  if (!sizes_hold(n, f.kind)) return Status::bad_size;
  if (work.bytes < scan_workspace(f)) return Status::small_workspace;
  const int64_t channels = n.batch * n.heads * n.value_dim;
  Wide<T>* const states = static_cast<Wide<T>*>(work.at);
  if (f.kind == ScanKind::value) return launch_channels(value_backward_kernel<T>, channels, stream, f, states);
  if (f.kind == ScanKind::rotation) return launch_channels(rotation_backward_kernel<T>, channels / 2, stream, f, states);
  const auto plan = shared_plan(f);
  const BackwardRoom need = room(f);
  Wide<T>* const adjoints = need.adjoints ? states + need.states : nullptr;
  Wide<T>* const dk_parts = need.dk_parts ? states + need.states + need.adjoints : nullptr;
  Wide<T>* const dv_parts = need.dv_parts ? states + need.states + need.adjoints + need.dk_parts : nullptr;
  const int64_t widest = n.value_dim > n.key_dim ? n.value_dim : n.key_dim;
  Status status = launch_heads(backward_kernel<T>, n.batch * n.heads, quads_for(widest), plan.bytes, stream, f, states, adjoints, dk_parts, dv_parts);
  if (status == Status::ok && dk_parts) status = sum_heads(dk_parts, f.dk, n.batch * n.tokens, n.heads, n.key_heads, n.key_dim, stream);
  if (status == Status::ok && dv_parts) status = sum_heads(dv_parts, f.dv, n.batch * n.tokens, n.heads, n.value_heads, n.value_dim, stream);
  return status;
}

template size_t scan_workspace<float>(const ScanForward<float>&);
template size_t scan_workspace<bf16>(const ScanForward<bf16>&);
template size_t scan_workspace<double>(const ScanForward<double>&);
template size_t scan_workspace<float>(const ScanBackward<float>&);
template size_t scan_workspace<bf16>(const ScanBackward<bf16>&);
template size_t scan_workspace<double>(const ScanBackward<double>&);
template Status scan_forward<float>(const ScanForward<float>&, Workspace, Stream);
template Status scan_forward<bf16>(const ScanForward<bf16>&, Workspace, Stream);
template Status scan_forward<double>(const ScanForward<double>&, Workspace, Stream);
template Status scan_backward<float>(const ScanBackward<float>&, Workspace, Stream);
template Status scan_backward<bf16>(const ScanBackward<bf16>&, Workspace, Stream);
template Status scan_backward<double>(const ScanBackward<double>&, Workspace, Stream);

}  // namespace ttr::cuda
