// What the kernels of the stem `delta` are held against: the token recurrence of layers/delta_kernel.hpp and its adjoint in f64, on
// std::vector.
//
//   x_t = M_{t-1} k_t,  u_t = w_t v_t - e_t x_t,  M_t = a_t M_{t-1} + u_t k_t^T,  y_t = scale M_t q_t
//
// DeltaShape names a case, DeltaProblem draws its numbers, delta_answer() solves it, DeltaRun<T> holds the same numbers as a kernel of
// operands T reads them (outputs filled with NaN). forward_arguments and backward_arguments take a function that turns a host vector
// into the pointer the kernel gets, so the same cases serve a device: upload in that function, download after the kernel.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <ttr/layers/delta_kernel.hpp>

namespace ttr {

enum class DeltaDecay { none, positive, zeros, negative };   // zeros: documents start inside the sequence; negative: mixed signs

struct DeltaShape {
  DeltaSizes size;
  DeltaDecay decay = DeltaDecay::positive;
  bool fused = false;    // q, k, v are columns of one projection
  bool carried = false;  // memory_in and d_memory_out are given
};

inline std::string describe(const DeltaShape& x) {
  const char* decay[] = {"none", "positive", "zeros", "negative"};
  return fmt::format("B{} T{} H{}/{}/{} K{} V{} decay={} fused={} carried={}", x.size.batch, x.size.tokens, x.size.heads, x.size.key_heads,
                     x.size.value_heads, x.size.key_dim, x.size.value_dim, decay[int(x.decay)], x.fused, x.carried);
}

inline std::vector<DeltaShape> delta_shapes() {
  std::vector<DeltaShape> shapes;
  int64_t i = 0;
  for (int64_t tokens : {1, 2, 63, 64, 65, 130})
    for (int64_t key_dim : {8, 60, 64, 128}) {
      const int64_t value_dims[] = {64, 20, 48, 8, 33};
      const int64_t heads[][3] = {{1, 1, 1}, {2, 2, 2}, {2, 1, 2}, {4, 2, 1}, {2, 2, 1}};
      const int64_t* h = heads[i % 5];
      shapes.push_back({{1 + i % 2, tokens, h[0], h[1], h[2], key_dim, value_dims[(i * 2 + i / 5) % 5]},
                        DeltaDecay((i + i / 4) % 4),
                        i % 3 == 1,
                        i % 2 == 1});
      ++i;
    }
  shapes.push_back({{2, 130, 6, 2, 3, 16, 24}, DeltaDecay::negative, true, true});   // groups of keys and values that straddle each other
  shapes.push_back({{1, 200, 1, 1, 1, 5, 3}, DeltaDecay::zeros, false, true});       // narrower than a vector register
  shapes.push_back({{3, 65, 4, 4, 4, 64, 64}, DeltaDecay::none, true, false});
  return shapes;
}

// [B, T, heads, dim] inside vectors, as Rows sees it.
struct DeltaLayout {
  int64_t q = 0, k = 0, v = 0;           // first element
  int64_t q_stride, k_stride, v_stride;  // from one token to the next
  int64_t q_size, k_size, v_size;        // of the vectors; a fused projection is one vector, q's
  bool fused;
  explicit DeltaLayout(const DeltaShape& x) : fused(x.fused) {
    const DeltaSizes& n = x.size;
    const int64_t q_row = n.heads * n.key_dim, k_row = n.key_heads * n.key_dim, v_row = n.value_heads * n.value_dim,
                  rows = n.batch * n.tokens;
    q_stride = q_row, k_stride = k_row, v_stride = v_row;
    q_size = rows * q_row, k_size = rows * k_row, v_size = rows * v_row;
    if (!fused) return;
    q_stride = k_stride = v_stride = q_row + k_row + v_row + 3;   // and three columns of something else
    v = 1, k = v + v_row, q = k + k_row;
    q_size = rows * q_stride, k_size = v_size = 0;
  }
};

// Contiguous: q [B,T,H,K], k [B,T,Hk,K], v [B,T,Hv,V], gates [B,T,H], memories [B,H,V,K], y and dy [B,T,H,V].
struct DeltaProblem {
  DeltaShape shape;
  double scale = 0.5;
  std::vector<double> q, k, v, decay, write, erase, memory_in, dy, d_memory_out;   // decay, memory_in, d_memory_out empty: null
};

struct DeltaAnswer {
  std::vector<double> y, memory_out, dq, dk, dv, d_decay, d_write, d_erase, d_memory_in;
};

// Uniform in (-1, 1), the same everywhere.
class DeltaRandom {
 public:
  explicit DeltaRandom(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  double operator()() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return double(int64_t(state_ ^ (state_ << 31)) >> 11) / double(int64_t(1) << 52);
  }
  std::vector<double> operator()(int64_t count, double low, double high) {
    std::vector<double> x(count);
    for (double& e : x) e = low + (high - low) * 0.5 * (1 + (*this)());
    return x;
  }

 private:
  uint64_t state_;
};

inline DeltaProblem delta_problem(const DeltaShape& shape, uint64_t seed) {
  const DeltaSizes& n = shape.size;
  const int64_t rows = n.batch * n.tokens, memory = n.batch * n.heads * n.value_dim * n.key_dim;
  DeltaRandom random(seed);
  DeltaProblem p;
  p.shape = shape;
  p.q = random(rows * n.heads * n.key_dim, -1, 1);
  p.k = random(rows * n.key_heads * n.key_dim, -1, 1);
  p.v = random(rows * n.value_heads * n.value_dim, -1, 1);
  p.dy = random(rows * n.heads * n.value_dim, -1, 1);
  p.write = random(rows * n.heads, 0.1, 1);
  p.erase = random(rows * n.heads, 0, 1.5);
  if (shape.carried) p.memory_in = random(memory, -1, 1), p.d_memory_out = random(memory, -1, 1);
  for (int64_t i = 0; i < rows * n.key_heads; ++i) {   // keys of length one keep |a I - e k k^T| bounded
    double square = 0;
    for (int64_t j = 0; j < n.key_dim; ++j) square += p.k[i * n.key_dim + j] * p.k[i * n.key_dim + j];
    for (int64_t j = 0; j < n.key_dim; ++j) p.k[i * n.key_dim + j] /= std::sqrt(square);
  }
  if (shape.decay == DeltaDecay::none) return p;
  p.decay = random(rows * n.heads, 0.7, 1);
  for (int64_t i = 0; i < rows * n.heads; ++i) {
    const int64_t t = i / n.heads % n.tokens;
    if (shape.decay == DeltaDecay::zeros && t % 21 == 5) {
      p.decay[i] = 0;
      if (t % 2) p.erase[i] = 0;
    }
    if (shape.decay == DeltaDecay::negative && random() > 0.3) p.decay[i] *= -0.9;
  }
  return p;
}

inline DeltaAnswer delta_answer(const DeltaProblem& p) {
  const DeltaSizes& n = p.shape.size;
  const int64_t B = n.batch, T = n.tokens, H = n.heads, Hk = n.key_heads, Hv = n.value_heads, K = n.key_dim, V = n.value_dim, VK = V * K;
  DeltaAnswer r;
  r.y.assign(p.dy.size(), 0);
  r.memory_out.assign(B * H * VK, 0);
  r.dq.assign(p.q.size(), 0);
  r.dk.assign(p.k.size(), 0);
  r.dv.assign(p.v.size(), 0);
  r.d_decay.assign(B * T * H, 0);
  r.d_write.assign(B * T * H, 0);
  r.d_erase.assign(B * T * H, 0);
  r.d_memory_in.assign(B * H * VK, 0);
  std::vector<double> M((T + 1) * VK), x(T * V), u(T * V), dM(VK), du(V);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h) {
      const int64_t hk = h / (H / Hk), hv = h / (H / Hv);
      for (int64_t i = 0; i < VK; ++i) M[i] = p.memory_in.empty() ? 0 : p.memory_in[(b * H + h) * VK + i];
      for (int64_t t = 0; t < T; ++t) {
        const int64_t at = b * T + t, gate = at * H + h;
        const double a = p.decay.empty() ? 1 : p.decay[gate], w = p.write[gate], e = p.erase[gate];
        const double *q = &p.q[gate * K], *k = &p.k[(at * Hk + hk) * K], *v = &p.v[(at * Hv + hv) * V], *last = &M[t * VK];
        double* next = &M[(t + 1) * VK];
        for (int64_t i = 0; i < V; ++i) {
          double read = 0, y = 0;
          for (int64_t j = 0; j < K; ++j) read += last[i * K + j] * k[j];
          x[t * V + i] = read;
          u[t * V + i] = w * v[i] - e * read;
          for (int64_t j = 0; j < K; ++j) next[i * K + j] = a * last[i * K + j] + u[t * V + i] * k[j];
          for (int64_t j = 0; j < K; ++j) y += next[i * K + j] * q[j];
          r.y[gate * V + i] = p.scale * y;
        }
      }
      for (int64_t i = 0; i < VK; ++i) r.memory_out[(b * H + h) * VK + i] = M[T * VK + i];

      for (int64_t i = 0; i < VK; ++i) dM[i] = p.d_memory_out.empty() ? 0 : p.d_memory_out[(b * H + h) * VK + i];
      for (int64_t t = T - 1; t >= 0; --t) {
        const int64_t at = b * T + t, gate = at * H + h;
        const double a = p.decay.empty() ? 1 : p.decay[gate], w = p.write[gate], e = p.erase[gate];
        const double *q = &p.q[gate * K], *k = &p.k[(at * Hk + hk) * K], *v = &p.v[(at * Hv + hv) * V], *last = &M[t * VK],
                     *next = &M[(t + 1) * VK];
        double *dq = &r.dq[gate * K], *dk = &r.dk[(at * Hk + hk) * K], *dv = &r.dv[(at * Hv + hv) * V];
        for (int64_t i = 0; i < V; ++i)
          for (int64_t j = 0; j < K; ++j) {
            const double dy = p.scale * p.dy[gate * V + i];
            dq[j] += dy * next[i * K + j];              // y = scale M q
            dM[i * K + j] += dy * q[j];                 // y = scale M q
          }
        for (int64_t i = 0; i < V; ++i) {
          du[i] = 0;
          for (int64_t j = 0; j < K; ++j) {
            du[i] += dM[i * K + j] * k[j];              // M_t = a M_{t-1} + u k^T
            dk[j] += dM[i * K + j] * u[t * V + i];      // M_t = a M_{t-1} + u k^T
            r.d_decay[gate] += dM[i * K + j] * last[i * K + j];   // M_t = a M_{t-1} + u k^T
          }
          dv[i] += w * du[i];                           // u = w v - e x
          r.d_write[gate] += v[i] * du[i];              // u = w v - e x
          r.d_erase[gate] -= x[t * V + i] * du[i];      // u = w v - e x
          for (int64_t j = 0; j < K; ++j) {
            dk[j] -= e * du[i] * last[i * K + j];       // x = M_{t-1} k
            dM[i * K + j] = a * dM[i * K + j] - e * du[i] * k[j];   // M_t = a M_{t-1} + u k^T;  x = M_{t-1} k
          }
        }
      }
      for (int64_t i = 0; i < VK; ++i) r.d_memory_in[(b * H + h) * VK + i] = dM[i];
    }
  return r;
}

// The problem as operands of type T hold it: q, k, v, dy through T, the rest through Wide<T>.
template <class T> DeltaProblem rounded(DeltaProblem p) {
  for (auto* x : {&p.q, &p.k, &p.v, &p.dy})
    for (double& e : *x) e = double(T(e));
  for (auto* x : {&p.decay, &p.write, &p.erase, &p.memory_in, &p.d_memory_out})
    for (double& e : *x) e = double(Wide<T>(e));
  return p;
}

// Tokens [begin, end) of a problem; the memory that enters and the adjoint of the one that leaves are the caller's to set.
inline DeltaProblem slice(const DeltaProblem& p, int64_t begin, int64_t end) {
  const DeltaSizes& n = p.shape.size;
  const auto cut = [&](const std::vector<double>& x) {
    const int64_t width = int64_t(x.size()) / (n.batch * n.tokens);
    std::vector<double> part;
    for (int64_t b = 0; b < n.batch && width > 0; ++b)
      part.insert(part.end(), x.begin() + (b * n.tokens + begin) * width, x.begin() + (b * n.tokens + end) * width);
    return part;
  };
  DeltaProblem part{p.shape,      p.scale,      cut(p.q),    cut(p.k),  cut(p.v),      cut(p.decay),
                    cut(p.write), cut(p.erase), p.memory_in, cut(p.dy), p.d_memory_out};
  part.shape.size.tokens = end - begin;
  return part;
}

// Everything a kernel of operands T reads and writes, on the host. Outputs and padding start as NaN.
template <class T> struct DeltaRun {
  DeltaShape shape;
  DeltaLayout layout;
  double scale;
  std::vector<T> q, k, v, dy, y, dq, dk, dv;   // fused: q holds k and v too, dq holds dk and dv
  std::vector<Wide<T>> decay, write, erase, memory_in, d_memory_out, memory_out, saved, d_decay, d_write, d_erase, d_memory_in;

  explicit DeltaRun(const DeltaProblem& p) : shape(p.shape), layout(p.shape), scale(p.scale) {
    const DeltaSizes& n = shape.size;
    const T nan = T(std::numeric_limits<double>::quiet_NaN());
    const Wide<T> wide_nan = std::numeric_limits<Wide<T>>::quiet_NaN();
    for (auto* x : {&q, &dq}) x->assign(layout.q_size, nan);
    for (auto* x : {&k, &dk}) x->assign(layout.k_size, nan);
    for (auto* x : {&v, &dv}) x->assign(layout.v_size, nan);
    scatter(p.q, q, layout.q, layout.q_stride);
    scatter(p.k, layout.fused ? q : k, layout.k, layout.k_stride);
    scatter(p.v, layout.fused ? q : v, layout.v, layout.v_stride);
    for (double e : p.dy) dy.push_back(T(e));
    y.assign(dy.size(), nan);
    for (auto [from, to] : {std::pair(&p.decay, &decay),
                            {&p.write, &write},
                            {&p.erase, &erase},
                            {&p.memory_in, &memory_in},
                            {&p.d_memory_out, &d_memory_out}})
      for (double e : *from) to->push_back(Wide<T>(e));
    const int64_t heads = n.batch * n.heads, memory = n.value_dim * n.key_dim;
    for (auto* x : {&memory_out, &d_memory_in}) x->assign(heads * memory, wide_nan);
    for (auto* x : {&d_decay, &d_write, &d_erase}) x->assign(heads * n.tokens, wide_nan);
    saved.assign(heads * n.chunks() * memory, wide_nan);
  }

  // The answer in f64, contiguous.
  DeltaAnswer answer() const {
    const DeltaSizes& n = shape.size;
    const auto wide = [](const std::vector<Wide<T>>& x) { return std::vector<double>(x.begin(), x.end()); };
    DeltaAnswer r{{}, wide(memory_out), {}, {}, {}, wide(d_decay), wide(d_write), wide(d_erase), wide(d_memory_in)};
    for (T e : y) r.y.push_back(double(e));
    r.dq = gather(dq, layout.q, layout.q_stride, n.heads * n.key_dim);
    r.dk = gather(layout.fused ? dq : dk, layout.k, layout.k_stride, n.key_heads * n.key_dim);
    r.dv = gather(layout.fused ? dq : dv, layout.v, layout.v_stride, n.value_heads * n.value_dim);
    return r;
  }

 private:
  void scatter(const std::vector<double>& from, std::vector<T>& to, int64_t first, int64_t stride) {
    const int64_t rows = shape.size.batch * shape.size.tokens, width = int64_t(from.size()) / rows;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < width; ++j) to[first + i * stride + j] = T(from[i * width + j]);
  }
  std::vector<double> gather(const std::vector<T>& from, int64_t first, int64_t stride, int64_t width) const {
    std::vector<double> to;
    for (int64_t i = 0; i < shape.size.batch * shape.size.tokens; ++i)
      for (int64_t j = 0; j < width; ++j) to.push_back(double(from[first + i * stride + j]));
    return to;
  }
};

// place(vector&) is the pointer the kernel gets for a vector; it is called once a vector, and never for an empty one.
template <class T, class Place> DeltaForward<T> forward_arguments(DeltaRun<T>& r, Place&& place) {
  const DeltaLayout& l = r.layout;
  const auto maybe = [&](auto& x) { return x.empty() ? nullptr : place(x); };
  DeltaForward<T> a;
  T* const q = place(r.q);
  a.size = r.shape.size;
  a.q = {q + l.q, l.q_stride};
  a.k = {(l.fused ? q : place(r.k)) + l.k, l.k_stride};
  a.v = {(l.fused ? q : place(r.v)) + l.v, l.v_stride};
  a.decay = maybe(r.decay), a.write = place(r.write), a.erase = place(r.erase);
  a.scale = Wide<T>(r.scale);
  a.memory_in = maybe(r.memory_in), a.memory_out = place(r.memory_out), a.saved = place(r.saved);
  a.y = {place(r.y), a.size.heads * a.size.value_dim};
  return a;
}

// After the forward, whose arguments it continues.
template <class T, class Place> DeltaBackward<T> backward_arguments(DeltaRun<T>& r, const DeltaForward<T>& f, Place&& place) {
  const DeltaLayout& l = r.layout;
  DeltaBackward<T> a;
  T* const dq = place(r.dq);
  a.size = f.size, a.q = f.q, a.k = f.k, a.v = f.v;
  a.decay = f.decay, a.write = f.write, a.erase = f.erase, a.scale = f.scale, a.saved = f.saved;
  a.dy = {place(r.dy), a.size.heads * a.size.value_dim};
  a.d_memory_out = r.d_memory_out.empty() ? nullptr : place(r.d_memory_out);
  a.dq = {dq + l.q, l.q_stride};
  a.dk = {(l.fused ? dq : place(r.dk)) + l.k, l.k_stride};
  a.dv = {(l.fused ? dq : place(r.dv)) + l.v, l.v_stride};
  a.d_decay = place(r.d_decay), a.d_write = place(r.d_write), a.d_erase = place(r.d_erase), a.d_memory_in = place(r.d_memory_in);
  return a;
}

// |a - b|_F / |b|_F; infinite when a holds a NaN or has another length. Adjoints that vanish are compared against 1e-3.
inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
  return std::isfinite(difference) ? std::sqrt(difference) / std::max(std::sqrt(size), 1e-3) : std::numeric_limits<double>::infinity();
}

struct DeltaPart {
  const char* name;
  std::vector<double> DeltaAnswer::*part;
  bool gradient;
};
inline constexpr DeltaPart kDeltaParts[] = {{"y", &DeltaAnswer::y, false},
                                            {"memory_out", &DeltaAnswer::memory_out, false},
                                            {"dq", &DeltaAnswer::dq, true},
                                            {"dk", &DeltaAnswer::dk, true},
                                            {"dv", &DeltaAnswer::dv, true},
                                            {"d_decay", &DeltaAnswer::d_decay, true},
                                            {"d_write", &DeltaAnswer::d_write, true},
                                            {"d_erase", &DeltaAnswer::d_erase, true},
                                            {"d_memory_in", &DeltaAnswer::d_memory_in, true}};

// Every part of the answer that is further off than allowed, as a sentence naming shape, seed, worst index and both values; empty when
// all hold.
inline std::string delta_mismatch(const DeltaAnswer& got, const DeltaAnswer& want, const DeltaShape& shape, uint64_t seed, double outputs,
                                  double gradients) {
  std::string text;
  for (const DeltaPart& p : kDeltaParts) {
    const std::vector<double>&a = got.*p.part, &b = want.*p.part;
    const double off = distance(a, b);
    if (off <= (p.gradient ? gradients : outputs)) continue;
    size_t worst = 0;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (!(std::abs(a[i] - b[i]) <= std::abs(a[worst] - b[worst]))) worst = i;
    text += fmt::format("{} is off by {:.2e} ({} seed {}): worst [{}] is {}, needs {}\n", p.name, off, describe(shape), seed, worst,
                        a.empty() ? 0 : a[worst], b.empty() ? 0 : b[worst]);
  }
  return text;
}

}  // namespace ttr
