// CUDA kernels of the stem `normal_equations`, level 1: every token solved on its own. f32, bf16 (moments and solves in f32), f64; sizes at run time.
//
//   H_t = a H_{t-1} + w k k^T,  F_t = a F_{t-1} + w v k^T,  (H_t + rho_t diag(ridge)) x_t = scale q_t,  y_t = F_t x_t      (H over F: [K + V, K])
//   backward: s_t = (H_t + rho_t diag(ridge))^{-1} F_t^T dy_t, then everything is a sum over pairs of a token r with x, s, dy and a pair s
//
// CPU twin: layers/normal_equations_cpu.cpp, whose chunk form this file does without: method chunk is a factorisation a token here too.
// The moments follow one another from chunk to chunk of 64 tokens; everything else of a chunk needs only those that enter it. So:
//   rho_kernel       a thread a head      rho of every token
//   moments_kernel   a block a head       the moments that enter each chunk
//   solve_kernel     a block a chunk      x, y; in the backward x, s, dq
//   adjoint_kernel   a block a head       the adjoint (2 AH over AF) that comes back into each chunk from those after it
//   pairs_kernel     a block a chunk      dk, dv, d_write, d_log_decay, the last two without what rho owes
//   ridge_kernel     a block a head       d_ridge, and what rho owes to d_write and d_log_decay
// A document that begins has a = 0 towards the moments, so nothing crosses it; rho knows it by its number.
// Heads that share a row of k or v write their parts of dk, dv to the workspace, and a last kernel adds them in a fixed order: no atomics.
#include <ttr/cuda/block.hpp>
#include <ttr/cuda/shared.hpp>
#include <ttr/layers/normal_equations_kernel.hpp>

namespace ttr::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kC = int(kNormalChunk);

// One head's view of the arguments. Rows of q, y, dy and dq are those of asked tokens, t - past.
template <class T> struct Head {
  using W = Wide<T>;
  const NormalProblem<T>& a;
  int64_t b, h;
  int K, V;
  __device__ Head(const NormalProblem<T>& problem, int64_t head)
      : a(problem), b(head / problem.size.heads), h(head % problem.size.heads), K(int(problem.size.key_dim)), V(int(problem.size.value_dim)) {}
  __device__ int64_t token(int64_t t) const { return b * a.size.tokens + t; }
  __device__ int64_t gate(int64_t t) const { return token(t) * a.size.heads + h; }
  __device__ int64_t asked(int64_t t) const { return b * a.size.asked() + t - a.size.past; }
  __device__ const T* k(int64_t t) const { return a.k.at + token(t) * a.k.token_stride + h / (a.size.heads / a.size.key_heads) * K; }
  __device__ const T* v(int64_t t) const { return a.v.at + token(t) * a.v.token_stride + h / (a.size.heads / a.size.value_heads) * V; }
  __device__ const T* q(int64_t t) const { return a.q.at + asked(t) * a.q.token_stride + h * K; }
  __device__ bool begins(int64_t t) const { return t == 0 || (a.documents && a.documents[token(t)] != a.documents[token(t) - 1]); }
  __device__ W decay(int64_t t) const { return a.log_decay ? exp(a.log_decay[gate(t)]) : W(1); }
  __device__ W write(int64_t t) const { return a.write ? a.write[gate(t)] : W(1); }
  __device__ W kept(int64_t t) const { return begins(t) ? W(0) : decay(t); }   // what the moments are multiplied by
};

// rho [heads, T], and anew [heads, T]: whether it began from 1 (or 0) before the token. A thread owns a head.
template <class T> __global__ void rho_kernel(const NormalProblem<T> a, Wide<T>* rho, Wide<T>* anew, int64_t heads) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= heads) return;
  const Head<T> head(a, index);
  Wide<T> value = 0;
  int64_t place = a.first;
  for (int64_t t = 0; t < a.size.tokens; ++t, ++place) {
    const bool begins = head.begins(t);
    if (begins && t > 0) place = 0;
    const bool set = begins || (a.policy == RidgePolicy::refreshed && place % a.refresh == 0);
    if (a.policy == RidgePolicy::relative) value = (begins ? Wide<T>(0) : head.decay(t) * value) + head.write(t);
    else value = (a.policy == RidgePolicy::constant ? Wide<T>(1) : head.decay(t)) * (set ? Wide<T>(1) : value);
    rho[index * a.size.tokens + t] = value;
    anew[index * a.size.tokens + t] = set;
  }
}

// entering [heads, chunks, K + V, K]; a block owns a head, a thread every blockDim-th entry of its moments.
template <class T> __global__ void __launch_bounds__(kThreads) moments_kernel(const NormalProblem<T> a, Wide<T>* entering) {
  using W = Wide<T>;
  const Head<T> head(a, blockIdx.x);
  const int K = head.K, entries = (K + head.V) * K;
  W* const out = entering + int64_t(blockIdx.x) * a.size.chunks() * entries;
  for (int e = threadIdx.x; e < entries; e += blockDim.x) {
    const int i = e / K, j = e % K;
    W m = 0;
    for (int64_t t = 0; t < a.size.tokens; ++t) {
      if (t % kC == 0) out[t / kC * entries + e] = m;
      const W left = i < K ? load(head.k(t) + i) : load(head.v(t) + i - K);
      m = head.kept(t) * m + head.write(t) * left * load(head.k(t) + j);
    }
  }
}

// l [n, n] lower triangle, in place: a = l l^T, the pivots inverted. All threads of the block.
template <class W> __device__ void factor(W* l, int n) {
  for (int j = 0; j < n; ++j) {
    __syncthreads();   // the columns before j have left column j
    const W square = l[j * n + j];
    const W inverse = square > 0 ? 1 / sqrt(square) : W(NAN);
    __syncthreads();   // everyone has read the square
    for (int i = j + int(threadIdx.x); i < n; i += blockDim.x) l[i * n + j] = i == j ? inverse : l[i * n + j] * inverse;
    __syncthreads();   // column j is read below
    const int left = n - j - 1;
    for (int e = threadIdx.x; e < left * left; e += blockDim.x) {
      const int i = j + 1 + e / left, c = j + 1 + e % left;
      if (c <= i) l[i * n + c] -= l[i * n + j] * l[c * n + j];
    }
  }
  __syncthreads();   // l is whole
}

// x [sets, n] <- (l l^T)^{-1} x
template <class W> __device__ void substitute(const W* l, W* x, int n, int sets) {
  for (int pass = 0; pass < 2; ++pass)   // l from the first row, then l^T from the last
    for (int step = 0; step < n; ++step) {
      const int i = pass == 0 ? step : n - 1 - step, left = n - 1 - step;
      __syncthreads();   // x_i has lost all that is known
      for (int set = threadIdx.x; set < sets; set += blockDim.x) x[set * n + i] *= l[i * n + i];
      __syncthreads();   // x_i is final
      for (int e = threadIdx.x; e < sets * left; e += blockDim.x) {
        const int set = e / left, r = pass == 0 ? i + 1 + e % left : e % left;
        x[set * n + r] -= (pass == 0 ? l[r * n + i] : l[i * n + r]) * x[set * n + i];
      }
    }
  __syncthreads();   // x is whole
}

// x [n] <- (H + rho diag(ridge))^{-1} x by conjugate gradients from zero; scratch [3 n]: residual, direction, image.
template <class W> __device__ void iterate(const W* H, W rho, const W* ridge, W* x, W* scratch, int n, int64_t steps, W tolerance) {
  W *const residual = scratch, *const p = scratch + n, *const image = scratch + 2 * n;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  __syncthreads();   // x is written by others
  W part = 0;
  for (int j = threadIdx.x; j < n; j += blockDim.x) {
    residual[j] = p[j] = x[j];
    part += x[j] * x[j];
    x[j] = 0;
  }
  W squared = block_sum(part);
  const W enough = tolerance * tolerance * squared;
  for (int64_t step = 0; step < steps && !(squared <= enough); ++step) {
    __syncthreads();   // p is whole
    for (int i = warp; i < n; i += warps) {
      W sum = 0;
      for (int j = lane; j < n; j += 32) sum += H[i * n + j] * p[j];
      sum = warp_fold<Add>(sum);
      if (lane == 0) image[i] = sum + rho * ridge[i] * p[i];
    }
    __syncthreads();   // image is whole
    part = 0;
    for (int j = threadIdx.x; j < n; j += blockDim.x) part += p[j] * image[j];
    const W curvature = block_sum(part);
    if (curvature <= 0) break;   // the residual has arrived at zero
    const W alpha = squared / curvature;
    part = 0;
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
      x[j] += alpha * p[j];
      residual[j] -= alpha * image[j];
      part += residual[j] * residual[j];
    }
    const W next = block_sum(part);
    const W beta = next / squared;
    squared = next;
    for (int j = threadIdx.x; j < n; j += blockDim.x) p[j] = residual[j] + beta * p[j];
  }
  __syncthreads();   // x is whole
}

// What a backward adds to the solve.
template <class T> struct Asked {
  Rows<T> y;                 // forward: [B, T - past, H, V]; null in the backward
  Rows<const T> dy;          // backward
  Rows<T> dq;                // backward; may be null
  Wide<T>* x = nullptr;      // backward: [heads, T, 2, K], x beside s
};

// Block: chunk blockIdx.x % chunks of head blockIdx.x / chunks. now [blocks, K + V, K]: its moments as they move on; lower [blocks, K, K].
// Shared: kv [K + V], x and s [2 K], dy [V], scratch [3 K].
template <class T>
__global__ void __launch_bounds__(kThreads)
    solve_kernel(const NormalProblem<T> a, const Asked<T> out, const Wide<T>* entering, const Wide<T>* rho, Wide<T>* moments, Wide<T>* lowers) {
  using W = Wide<T>;
  const int64_t chunks = a.size.chunks(), index = blockIdx.x / chunks, first = blockIdx.x % chunks * kC;
  const Head<T> head(a, index);
  const int K = head.K, V = head.V, entries = (K + V) * K, lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  W* const kv = shared_memory<W>();
  W* const x = kv + K + V;
  W* const dy = x + 2 * K;
  W* const scratch = dy + V;
  W* const now = moments + int64_t(blockIdx.x) * entries;
  W* const lower = lowers + int64_t(blockIdx.x) * K * K;
  const W* const ridge = a.ridge + head.h * K;
  const bool backward = out.x != nullptr;
  const int sets = backward ? 2 : 1;
  const int64_t last = first + kC < a.size.tokens ? first + kC : a.size.tokens;

  for (int e = threadIdx.x; e < entries; e += blockDim.x) now[e] = entering[int64_t(blockIdx.x) * entries + e];
  for (int64_t t = first; t < last; ++t) {
    __syncthreads();   // kv, x and dy of the token before have been read
    for (int i = threadIdx.x; i < K + V; i += blockDim.x) kv[i] = i < K ? load(head.k(t) + i) : load(head.v(t) + i - K);
    __syncthreads();   // kv is whole
    const W kept = head.kept(t), write = head.write(t), strength = rho[index * a.size.tokens + t];
    for (int e = threadIdx.x; e < entries; e += blockDim.x) now[e] = kept * now[e] + write * kv[e / K] * kv[e % K];
    if (t < a.size.past) {
      if (backward)
        for (int i = threadIdx.x; i < 2 * K; i += blockDim.x) out.x[(index * a.size.tokens + t) * 2 * K + i] = 0;
      continue;
    }
    for (int j = threadIdx.x; j < K; j += blockDim.x) x[j] = a.scale * load(head.q(t) + j);
    if (backward)
      for (int i = threadIdx.x; i < V; i += blockDim.x) dy[i] = load(out.dy.at + head.asked(t) * out.dy.token_stride + head.h * V + i);
    __syncthreads();   // now, x and dy are whole
    if (backward)
      for (int j = threadIdx.x; j < K; j += blockDim.x) {
        W sum = 0;
        for (int i = 0; i < V; ++i) sum += now[(K + i) * K + j] * dy[i];
        x[K + j] = sum;   // F^T dy
      }
    if (a.method == NormalMethod::iterative) {
      for (int set = 0; set < sets; ++set) iterate(now, strength, ridge, x + set * K, scratch, K, a.steps, a.tolerance);
    } else {
      for (int e = threadIdx.x; e < K * K; e += blockDim.x) lower[e] = now[e] + (e / K == e % K ? strength * ridge[e % K] : W(0));
      factor(lower, K);
      substitute(lower, x, K, sets);
    }
    if (!backward) {
      for (int i = warp; i < V; i += warps) {
        W sum = 0;
        for (int j = lane; j < K; j += 32) sum += now[(K + i) * K + j] * x[j];
        sum = warp_fold<Add>(sum);
        if (lane == 0) store(out.y.at + head.asked(t) * out.y.token_stride + head.h * V + i, sum);
      }
    } else {
      for (int i = threadIdx.x; i < 2 * K; i += blockDim.x) out.x[(index * a.size.tokens + t) * 2 * K + i] = x[i];
      if (out.dq.at)
        for (int j = threadIdx.x; j < K; j += blockDim.x)
          store(out.dq.at + head.asked(t) * out.dq.token_stride + head.h * K + j, a.scale * x[K + j]);   // x = A^{-1} (scale q)
    }
  }
}

// returning [heads, chunks, K + V, K]: the adjoint of the moments that leave each chunk, 2 AH over AF. A block owns a head, a thread every
// blockDim-th entry. xs [heads, T, 2, K] from the solve.
template <class T>
__global__ void __launch_bounds__(kThreads) adjoint_kernel(const NormalProblem<T> a, const Rows<const T> dy, const Wide<T>* xs, Wide<T>* returning) {
  using W = Wide<T>;
  const Head<T> head(a, blockIdx.x);
  const int K = head.K, V = head.V, entries = (K + V) * K;
  const int64_t T_ = a.size.tokens;
  for (int e = threadIdx.x; e < entries; e += blockDim.x) {
    const int i = e / K, j = e % K;
    W m = 0;
    for (int64_t t = T_ - 1; t >= 0; --t) {
      if (t % kC == kC - 1 || t == T_ - 1) returning[(int64_t(blockIdx.x) * a.size.chunks() + t / kC) * entries + e] = m;
      if (t >= a.size.past) {
        const W* const x = xs + (int64_t(blockIdx.x) * T_ + t) * 2 * K;
        const W* const s = x + K;
        if (i < K) m -= s[i] * x[j] + x[i] * s[j];                                                        // s.(H x)
        else m += load(dy.at + head.asked(t) * dy.token_stride + head.h * V + i - K) * x[j];              // y = F x
      }
      m *= head.kept(t);                                                                                  // H_t = a H_{t-1} + ..., F_t likewise
    }
  }
}

template <class T> struct Pairs {
  Rows<T> dk, dv;
  Wide<T>*d_log_decay, *d_write;          // may be null
  Wide<T>*dk_parts, *dv_parts;            // [B, T, H, K], [B, T, H, V] where rows are shared, else null
  Wide<T>* between;                       // [blocks, 3, C, C]: D; D o X K^T; dY V^T - S K^T
};

// Block: as in solve_kernel. Row r is a token with x, s, dy; column s a pair. Shared: kept, write, since, rest, came, left [C] each.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pairs_kernel(const NormalProblem<T> a, const Pairs<T> out, const Rows<const T> dy, const Wide<T>* xs, const Wide<T>* entering,
                 const Wide<T>* returning) {
  using W = Wide<T>;
  const int64_t chunks = a.size.chunks(), index = blockIdx.x / chunks, first = blockIdx.x % chunks * kC, T_ = a.size.tokens, past = a.size.past;
  const Head<T> head(a, index);
  const int K = head.K, V = head.V, entries = (K + V) * K, lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int c = int(T_ - first < kC ? T_ - first : kC);
  W* const kept = shared_memory<W>();
  W* const write = kept + kC;
  W* const since = write + kC;
  W* const rest = since + kC;
  W* const came = rest + kC;
  W* const left = came + kC;
  W* const D = out.between + int64_t(blockIdx.x) * 3 * kC * kC;
  W* const across = D + kC * kC;
  W* const inside = across + kC * kC;
  const W* const M = entering + int64_t(blockIdx.x) * entries;     // H0 over F0
  const W* const B = returning + int64_t(blockIdx.x) * entries;    // 2 AH over AF
  const auto x_of = [&](int r) { return xs + (index * T_ + first + r) * 2 * K; };
  const auto dy_of = [&](int r, int i) {   // zero where nothing was asked
    return first + r < past ? W(0) : load(dy.at + head.asked(first + r) * dy.token_stride + head.h * V + i);
  };

  for (int r = threadIdx.x; r < c; r += blockDim.x) kept[r] = head.kept(first + r), write[r] = head.write(first + r);
  __syncthreads();   // kept is whole
  for (int s = threadIdx.x; s < c; s += blockDim.x) {
    W product = 1;
    for (int r = 0; r < s; ++r) D[r * kC + s] = 0;
    D[s * kC + s] = 1;
    for (int r = s + 1; r < c; ++r) D[r * kC + s] = product *= kept[r];
    rest[s] = product;
    product = 1;
    for (int r = 0; r <= s; ++r) product *= kept[r];
    since[s] = product;
  }
  __syncthreads();   // D, since and rest are whole

  for (int e = threadIdx.x; e < c * c; e += blockDim.x) {
    const int r = e / c, s = e % c;
    const W* const x = x_of(r);
    W xk = 0, met = 0;
    if (s <= r) {
      for (int j = 0; j < K; ++j) {
        const W k = load(head.k(first + s) + j);
        xk += x[j] * k;
        met -= x[K + j] * k;
      }
      for (int i = 0; i < V; ++i) met += dy_of(r, i) * load(head.v(first + s) + i);
    }
    across[r * kC + s] = D[r * kC + s] * xk;
    inside[r * kC + s] = met;
  }
  if (out.d_log_decay)
    for (int r = warp; r < c; r += warps) {   // a warp a token: adjoint r with the moments before the chunk, pair r with the adjoint after it
      const W* const x = x_of(r);
      W before = 0, after = 0;
      for (int i = 0; i < K + V; ++i) {
        W mx = 0, bk = 0;
        for (int j = lane; j < K; j += 32) {
          mx += M[i * K + j] * x[j];
          bk += B[i * K + j] * load(head.k(first + r) + j);
        }
        before += mx * (i < K ? -x[K + i] : dy_of(r, i - K));
        after += bk * (i < K ? W(0.5) * load(head.k(first + r) + i) : load(head.v(first + r) + i - K));
      }
      before = warp_fold<Add>(before);
      after = warp_fold<Add>(after);
      if (lane == 0) came[r] = since[r] * before, left[r] = write[r] * rest[r] * after;
    }
  W part = 0;
  if (out.d_log_decay)
    for (int e = threadIdx.x; e < entries; e += blockDim.x) part += (e < K * K ? W(0.5) : W(1)) * M[e] * B[e];
  const W cross = since[c - 1] * block_sum(part);
  __syncthreads();   // across, inside, came and left are whole

  for (int s = warp; s < c; s += warps) {   // a warp a pair
    const int64_t token = head.token(first + s), gate = head.gate(first + s);
    W both = 0;   // k.z + v.u
    for (int j = lane; j < K; j += 32) {
      W z = 0;
      for (int i = 0; i < K + V; ++i) z += B[i * K + j] * (i < K ? load(head.k(first + s) + i) : load(head.v(first + s) + i - K));
      z *= rest[s];                                                                                       // H_C, F_C = ... + rest w (k, v) k^T
      for (int r = s; r < c; ++r) z += D[r * kC + s] * inside[r * kC + s] * x_of(r)[j] - across[r * kC + s] * x_of(r)[K + j];   // y_r = F_r x_r;  s_r.(H_r x_r)
      both += z * load(head.k(first + s) + j);
      if (out.dk_parts) out.dk_parts[gate * K + j] = write[s] * z;                                        // w v k^T and w k k^T, for k
      else if (out.dk.at) store(out.dk.at + token * out.dk.token_stride + head.h * K + j, write[s] * z);  // w v k^T and w k k^T, for k
    }
    for (int i = lane; i < V; i += 32) {
      W u = 0;
      for (int j = 0; j < K; ++j) u += B[(K + i) * K + j] * load(head.k(first + s) + j);
      u *= rest[s];                                                                                       // F_C = ... + rest w v k^T
      for (int r = s; r < c; ++r) u += across[r * kC + s] * dy_of(r, i);                                  // y_r = F_r x_r
      both += u * load(head.v(first + s) + i);
      if (out.dv_parts) out.dv_parts[gate * V + i] = write[s] * u;                                        // w v k^T, for v
      else if (out.dv.at) store(out.dv.at + token * out.dv.token_stride + head.h * V + i, write[s] * u);  // w v k^T, for v
    }
    both = warp_fold<Add>(both);
    if (out.d_write && lane == 0) out.d_write[gate] = W(0.5) * both;                                      // w v k^T and w k k^T, for w
  }
  if (out.d_log_decay)
    for (int t = threadIdx.x; t < c; t += blockDim.x) {   // every product of a pair before t and an adjoint from t on
      W sum = cross;
      for (int r = t; r < c; ++r) sum += came[r];
      for (int s = 0; s < t; ++s) sum += left[s];
      for (int s = 0; s < t; ++s) {
        W column = 0;
        for (int r = t; r < c; ++r) column += across[r * kC + s] * inside[r * kC + s];
        sum += column * write[s];
      }
      out.d_log_decay[head.gate(first + t)] = sum;                                                        // F_t = a F_{t-1} + ..., H_t likewise
    }
}

// d_ridge [heads, K], and rho's part of d_log_decay and d_write, added to what pairs_kernel left there. A block owns a head.
// owed [heads, T]: d rho of every token.
template <class T>
__global__ void __launch_bounds__(kThreads)
    ridge_kernel(const NormalProblem<T> a, const Wide<T>* xs, const Wide<T>* rho, const Wide<T>* anew, Wide<T>* owed, Wide<T>* d_ridge,
                 Wide<T>* d_log_decay, Wide<T>* d_write) {
  using W = Wide<T>;
  const Head<T> head(a, blockIdx.x);
  const int K = head.K, lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int64_t T_ = a.size.tokens, at = int64_t(blockIdx.x) * T_;
  const W* const ridge = a.ridge + head.h * K;
  if (d_ridge)
    for (int j = threadIdx.x; j < K; j += blockDim.x) {
      W sum = 0;
      for (int64_t t = a.size.past; t < T_; ++t) sum -= rho[at + t] * xs[(at + t) * 2 * K + j] * xs[(at + t) * 2 * K + K + j];   // A = H + rho diag(ridge)
      d_ridge[blockIdx.x * K + j] = sum;
    }
  if (a.policy == RidgePolicy::constant) return;
  for (int64_t t = warp; t < T_; t += warps) {
    W sum = 0;
    for (int j = lane; j < K; j += 32) sum -= ridge[j] * xs[(at + t) * 2 * K + j] * xs[(at + t) * 2 * K + K + j];   // A = H + rho diag(ridge), for rho
    sum = warp_fold<Add>(sum);
    if (lane == 0) owed[at + t] = sum;
  }
  __syncthreads();   // owed is whole
  if (threadIdx.x != 0) return;
  W flow = 0;
  for (int64_t t = T_ - 1; t >= 0; --t) {
    flow += owed[at + t];
    const W through = a.policy == RidgePolicy::relative ? rho[at + t] - head.write(t) : rho[at + t];
    if (a.policy == RidgePolicy::relative && d_write) d_write[head.gate(t)] += flow;                     // rho_t = a rho_{t-1} + w
    if (d_log_decay) d_log_decay[head.gate(t)] += through * flow;                                        // rho_t = a rho_{t-1} (+ w), for log a
    flow = anew[at + t] != 0 ? W(0) : flow * head.decay(t);
  }
}

// to [rows, few, D] <- the sum over the many / few heads that share a row of from [rows, many, D]. A thread owns one element of to.
template <class T> __global__ void share_kernel(const Wide<T>* from, Rows<T> to, int64_t rows, int64_t many, int64_t few, int64_t dim) {
  const int64_t index = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= rows * few * dim) return;
  const int64_t token = index / (few * dim), head = index / dim % few, d = index % dim, share = many / few;
  Wide<T> sum = 0;
  for (int64_t h = head * share; h < (head + 1) * share; ++h) sum += from[(token * many + h) * dim + d];
  store(to.at + token * to.token_stride + head * dim + d, sum);
}

template <class T> Status share_heads(const Wide<T>* from, Rows<T> to, const NormalSizes& n, int64_t few, int64_t dim, Stream stream) {
  const int64_t rows = n.batch * n.tokens;
  return launch(share_kernel<T>, dim3(unsigned(divide_up(rows * few * dim, kThreads))), dim3(kThreads), 0, stream, from, to, rows, n.heads, few, dim);
}

template <class T> bool problem_holds(const NormalProblem<T>& a) {
  const NormalSizes& n = a.size;
  return heads_hold(n) && n.past >= 0 && n.past <= n.tokens && (a.policy != RidgePolicy::refreshed || a.refresh > 0) &&
         n.batch * n.heads * n.chunks() <= 0x7fffffff;
}

template <class T> size_t shared_bytes(const NormalSizes& n) { return size_t(6 * n.key_dim + 2 * n.value_dim) * sizeof(Wide<T>); }

// Pieces of the workspace, in elements of Wide<T>; a piece that is not needed is empty.
template <class T> struct Room {
  Wide<T>*rho, *anew, *entering, *moments, *lowers, *xs, *returning, *between, *owed, *dk_parts, *dv_parts;
  int64_t total = 0;
  Room(void* work, const NormalSizes& n, bool saves, bool backward, bool parts_of_k, bool parts_of_v) {
    Wide<T>* const at = static_cast<Wide<T>*>(work);
    const auto take = [&](int64_t count) {
      Wide<T>* const piece = at ? at + total : nullptr;
      total += count;
      return piece;
    };
    const int64_t heads = n.batch * n.heads, blocks = heads * n.chunks(), entries = (n.key_dim + n.value_dim) * n.key_dim;
    rho = take(heads * n.tokens);
    anew = take(heads * n.tokens);
    entering = take(saves ? 0 : blocks * entries);
    moments = take(blocks * entries);
    lowers = take(blocks * n.key_dim * n.key_dim);
    xs = take(backward ? heads * n.tokens * 2 * n.key_dim : 0);
    returning = take(backward ? blocks * entries : 0);
    between = take(backward ? blocks * 3 * kC * kC : 0);
    owed = take(backward ? heads * n.tokens : 0);
    dk_parts = take(parts_of_k ? heads * n.tokens * n.key_dim : 0);
    dv_parts = take(parts_of_v ? heads * n.tokens * n.value_dim : 0);
  }
};
template <class T> Room<T> room(const NormalForward<T>& a, void* work) { return {work, a.size, a.saved != nullptr, false, false, false}; }
template <class T> Room<T> room(const NormalBackward<T>& a, void* work) {
  return {work, a.size, true, true, a.dk.at && a.size.key_heads < a.size.heads, a.dv.at && a.size.value_heads < a.size.heads};
}

}  // namespace

template <class T> size_t normal_equations_workspace(const NormalForward<T>& a) { return size_t(room(a, nullptr).total) * sizeof(Wide<T>); }
template <class T> size_t normal_equations_workspace(const NormalBackward<T>& a) { return size_t(room(a, nullptr).total) * sizeof(Wide<T>); }

template <class T> Status normal_equations_forward(const NormalForward<T>& a, Workspace work, Stream stream) {
  const NormalSizes& n = a.size;
  if (!problem_holds(a)) return Status::bad_size;
  if (work.bytes < normal_equations_workspace(a)) return Status::small_workspace;
  const int64_t heads = n.batch * n.heads;
  if (heads == 0 || n.tokens == 0) return Status::ok;
  const Room<T> m = room(a, work.at);
  const NormalProblem<T>& problem = a;
  Wide<T>* const entering = a.saved ? a.saved : m.entering;
  Status status = launch(rho_kernel<T>, grid_for(heads, 32), 32, 0, stream, problem, m.rho, m.anew, heads);
  if (status == Status::ok) status = launch(moments_kernel<T>, unsigned(heads), kThreads, 0, stream, problem, entering);
  if (status == Status::ok) status = allow_shared(solve_kernel<T>, shared_bytes<T>(n));
  if (status == Status::ok)
    status = launch(solve_kernel<T>, unsigned(heads * n.chunks()), kThreads, shared_bytes<T>(n), stream, problem, {.y = a.y}, entering, m.rho, m.moments,
                    m.lowers);
  return status;
}

template <class T> Status normal_equations_backward(const NormalBackward<T>& a, Workspace work, Stream stream) {
  const NormalSizes& n = a.size;
  if (!problem_holds(a)) return Status::bad_size;
  if (work.bytes < normal_equations_workspace(a)) return Status::small_workspace;
  const int64_t heads = n.batch * n.heads;
  if (heads == 0 || n.tokens == 0) return Status::ok;
  const Room<T> m = room(a, work.at);
  const NormalProblem<T>& problem = a;
  const unsigned blocks = unsigned(heads * n.chunks());
  Wide<T>* const dk_parts = a.dk.at && n.key_heads < n.heads ? m.dk_parts : nullptr;
  Wide<T>* const dv_parts = a.dv.at && n.value_heads < n.heads ? m.dv_parts : nullptr;
  Status status = launch(rho_kernel<T>, grid_for(heads, 32), 32, 0, stream, problem, m.rho, m.anew, heads);
  if (status == Status::ok) status = allow_shared(solve_kernel<T>, shared_bytes<T>(n));
  if (status == Status::ok)
    status = launch(solve_kernel<T>, blocks, kThreads, shared_bytes<T>(n), stream, problem, {.dy = a.dy, .dq = a.dq, .x = m.xs}, a.saved, m.rho, m.moments,
                    m.lowers);
  if (status == Status::ok) status = launch(adjoint_kernel<T>, unsigned(heads), kThreads, 0, stream, problem, a.dy, m.xs, m.returning);
  if (status == Status::ok)
    status = launch(pairs_kernel<T>, blocks, kThreads, 6 * kC * sizeof(Wide<T>), stream, problem,
                    {a.dk, a.dv, a.d_log_decay, a.d_write, dk_parts, dv_parts, m.between}, a.dy, m.xs, a.saved, m.returning);
  if (status == Status::ok && (a.d_ridge || a.d_log_decay || a.d_write))
    status = launch(ridge_kernel<T>, unsigned(heads), kThreads, 0, stream, problem, m.xs, m.rho, m.anew, m.owed, a.d_ridge, a.d_log_decay, a.d_write);
  if (status == Status::ok && dk_parts) status = share_heads(dk_parts, a.dk, n, n.key_heads, n.key_dim, stream);
  if (status == Status::ok && dv_parts) status = share_heads(dv_parts, a.dv, n, n.value_heads, n.value_dim, stream);
  return status;
}

template size_t normal_equations_workspace<float>(const NormalForward<float>&);
template size_t normal_equations_workspace<bf16>(const NormalForward<bf16>&);
template size_t normal_equations_workspace<double>(const NormalForward<double>&);
template size_t normal_equations_workspace<float>(const NormalBackward<float>&);
template size_t normal_equations_workspace<bf16>(const NormalBackward<bf16>&);
template size_t normal_equations_workspace<double>(const NormalBackward<double>&);
template Status normal_equations_forward<float>(const NormalForward<float>&, Workspace, Stream);
template Status normal_equations_forward<bf16>(const NormalForward<bf16>&, Workspace, Stream);
template Status normal_equations_forward<double>(const NormalForward<double>&, Workspace, Stream);
template Status normal_equations_backward<float>(const NormalBackward<float>&, Workspace, Stream);
template Status normal_equations_backward<bf16>(const NormalBackward<bf16>&, Workspace, Stream);
template Status normal_equations_backward<double>(const NormalBackward<double>&, Workspace, Stream);

}  // namespace ttr::cuda
