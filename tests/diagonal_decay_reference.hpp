// What the kernels of the stem `diagonal_decay` are held against: the token recurrence of layers/diagonal_decay_kernel.hpp and its adjoint in
// f64, on std::vector.
//
//   M_t = M_{t-1} diag(a_t) + w_t v_t k_t^T,   y_t = scale (M_t q_t + ((u * k_t) . q_t) v_t)          strict: M_{t-1} q_t
//   with size.normaliser v_t has a further channel, 1, whose answer is n_t, and y_t is divided by z(n_t)
//
// DecayShape names a case, DecayProblem draws its numbers, decay_answer() solves it, DecayRun<T> holds the same numbers as a kernel of
// operands T reads them (outputs filled with NaN). forward_arguments and backward_arguments take a function that turns a host vector
// into the pointer the kernel gets, as in delta_reference.hpp.
#pragma once
#include <ttr/layers/diagonal_decay_kernel.hpp>
#include <ttr/tests/delta_reference.hpp>

namespace ttr {

enum class DecayKind { none, head, channel };
enum class DecayRange { mild, strong, mixed };   // strong: exp(-50) at every token; mixed: both, exactly 0 among them

struct DecayShape {
  DecaySizes size;
  DecayKind kind = DecayKind::head;
  DecayRange range = DecayRange::mild;
  bool strict = false, bonus = false, write = false, segments = false;
  bool tied = false;     // k = 1 - exp(log_decay); DecayProblem::k and the answer's dk are empty
  bool fused = false;    // q, k, v are columns of one projection
  bool carried = false;  // memory_in and d_memory_out are given
  Divide divide = Divide::sum;   // with size.normaliser
  bool floor = false;    // of Divide::magnitude, given
};

inline std::string describe(const DecayShape& x) {
  const char *kind[] = {"none", "head", "channel"}, *range[] = {"mild", "strong", "mixed"};
  const char* divide[] = {"sum", "clamp", "magnitude"};
  return fmt::format("B{} T{} H{}/{}/{} K{} V{} decay={} {} strict={} bonus={} write={} segments={} fused={} carried={} normaliser={} divide={} floor={} "
                     "tied={}", x.size.batch, x.size.tokens,
                     x.size.heads, x.size.key_heads, x.size.value_heads, x.size.key_dim, x.size.value_dim, kind[int(x.kind)], range[int(x.range)],
                     x.strict, x.bonus, x.write, x.segments, x.fused, x.carried, x.size.normaliser, divide[int(x.divide)], x.floor, x.tied);
}

inline std::vector<DecayShape> decay_shapes() {
  std::vector<DecayShape> shapes;
  int64_t i = 0;
  for (int64_t tokens : {1, 2, 15, 16, 17, 63, 64, 65, 130})
    for (int64_t key_dim : {8, 60, 64, 128}) {
      const int64_t value_dims[] = {64, 20, 48, 8, 33};
      const int64_t heads[][3] = {{1, 1, 1}, {2, 2, 2}, {2, 1, 2}, {4, 2, 1}, {2, 2, 1}};
      const int64_t* h = heads[i % 5];
      DecayShape x{.size = {1 + i % 2, tokens, h[0], h[1], h[2], key_dim, value_dims[(i * 2 + i / 5) % 5]}};
      x.kind = DecayKind((i + i / 4) % 3), x.range = DecayRange((i / 2 + i / 7) % 3);
      x.strict = i % 4 > 1, x.bonus = i % 8 > 4, x.write = i % 5 > 2, x.segments = i % 7 > 3, x.fused = i % 3 == 1, x.carried = i % 2 == 1;
      x.size.normaliser = i % 6 < 2, x.divide = Divide((i / 2) % 3), x.floor = i % 4 < 2;
      shapes.push_back(x);
      ++i;
      if (x.kind != DecayKind::channel) continue;
      x.tied = true, x.size.key_heads = x.size.heads;
      shapes.push_back(x);
    }
  for (const DecayKind kind : {DecayKind::none, DecayKind::head, DecayKind::channel})
    for (const bool strict : {false, true}) {
      DecayShape all{.size = {2, 130, 6, 2, 3, 20, 17}, .kind = kind, .range = DecayRange::mixed, .strict = strict};   // groups that straddle each other
      all.bonus = all.write = all.segments = all.fused = all.carried = all.size.normaliser = true;
      for (const Divide divide : {Divide::sum, Divide::clamp, Divide::magnitude}) {
        all.divide = divide, all.floor = strict;
        shapes.push_back(all);
      }
      shapes.push_back({.size = {1, 200, 1, 1, 1, 5, 3}, .kind = kind, .strict = strict, .carried = true});   // narrower than a register
      shapes.push_back({.size = {1, 100, 2, 2, 2, 40, 24}, .kind = kind, .range = DecayRange::strong, .strict = strict, .carried = true});
    }
  return shapes;
}

// Contiguous: q [B,T,H,K], k [B,T,Hk,K], v [B,T,Hv,V], log_decay [B,T,H] or [B,T,H,K], write [B,T,H], bonus [H,K], memories [B,H,R,K],
// dy [B,T,H,V], floor [B,T,H].
struct DecayProblem {
  DecayShape shape;
  double scale = 0.5, eps = 0.5;
  std::vector<double> q, k, v, log_decay, write, bonus, memory_in, dy, d_memory_out, floor;   // log_decay and the following ones but dy empty: null
  std::vector<int32_t> segments;
};

struct DecayAnswer {
  std::vector<double> y, memory_out, dq, dk, dv, d_log_decay, d_write, d_bonus, d_memory_in, normaliser, d_floor;   // d_bonus [B, H, K]
};

inline DecayProblem decay_problem(const DecayShape& shape, uint64_t seed) {
  const DecaySizes& n = shape.size;
  const int64_t rows = n.batch * n.tokens, memory = n.batch * n.heads * n.rows() * n.key_dim;
  DeltaRandom random(seed);
  DecayProblem p;
  p.shape = shape;
  const double least = n.normaliser && shape.divide == Divide::sum ? 0.1 : -1;   // a sum is for positive features
  p.q = random(rows * n.heads * n.key_dim, least, 1);
  if (!shape.tied) p.k = random(rows * n.key_heads * n.key_dim, least, 1);
  p.v = random(rows * n.value_heads * n.value_dim, -1, 1);
  p.dy = random(rows * n.heads * n.value_dim, -1, 1);
  if (n.normaliser && shape.floor) p.floor = random(rows * n.heads, 0.5, 4);
  if (shape.write) p.write = random(rows * n.heads, 0.1, 1);
  if (shape.bonus) p.bonus = random(n.heads * n.key_dim, least, 1);
  if (shape.carried) p.memory_in = random(memory, least, 1), p.d_memory_out = random(memory, -1, 1);
  if (shape.segments)
    for (int64_t i = 0; i < rows; ++i) p.segments.push_back(int32_t((i % n.tokens) / 21 * 5 % 4));
  if (shape.kind == DecayKind::none) return p;
  p.log_decay = random(rows * n.heads * (shape.kind == DecayKind::channel ? n.key_dim : 1), -0.3, -0.001);
  for (double& g : p.log_decay) {
    if (shape.range == DecayRange::strong) g = -50 + g;
    if (shape.range == DecayRange::mixed && random() > 0.6) g = random() > 0 ? -50 : -std::numeric_limits<double>::infinity();
  }
  return p;
}

inline DecayAnswer decay_answer(const DecayProblem& p) {
  const DecaySizes& n = p.shape.size;
  const int64_t B = n.batch, T = n.tokens, H = n.heads, Hk = n.key_heads, Hv = n.value_heads, K = n.key_dim, V = n.value_dim, R = n.rows(), RK = R * K;
  const bool channel = p.shape.kind == DecayKind::channel;
  DecayAnswer r;
  r.y.assign(p.dy.size(), 0);
  std::vector<double> dn(n.normaliser ? B * T * H : 0);
  r.normaliser.assign(dn.size(), 0), r.d_floor.assign(p.floor.size(), 0);
  const auto least = [&](int64_t gate) { return p.shape.divide == Divide::clamp ? p.eps : p.floor.empty() ? 1 : p.floor[gate]; };
  const auto bounded = [&](double size, int64_t gate) { return p.shape.divide == Divide::sum ? size : std::max(size, least(gate)); };
  const auto size = [&](double x) { return p.shape.divide == Divide::magnitude ? std::abs(x) : x; };
  const auto divisor = [&](int64_t gate) {   // z(n)
    return n.normaliser ? bounded(size(r.normaliser[gate]), gate) + (p.shape.divide == Divide::clamp ? 0 : p.eps) : 1;
  };
  r.memory_out.assign(B * H * RK, 0);
  r.dq.assign(p.q.size(), 0);
  std::vector<double> keys = p.k;
  if (p.shape.tied)
    for (double g : p.log_decay) keys.push_back(-std::expm1(g));
  r.dk.assign(keys.size(), 0);
  r.dv.assign(p.v.size(), 0);
  r.d_log_decay.assign(p.log_decay.size(), 0);
  r.d_write.assign(p.write.size(), 0);
  r.d_bonus.assign(p.bonus.empty() ? 0 : B * H * K, 0);
  r.d_memory_in.assign(B * H * RK, 0);
  std::vector<double> M((T + 1) * RK), dM(RK);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h) {
      const int64_t hk = h / (H / Hk), hv = h / (H / Hv);
      const auto starts = [&](int64_t t) { return t > 0 && !p.segments.empty() && p.segments[b * T + t] != p.segments[b * T + t - 1]; };
      const auto decay = [&](int64_t t, int64_t j) {
        const int64_t gate = (b * T + t) * H + h;
        return starts(t) ? 0 : p.log_decay.empty() ? 1 : std::exp(p.log_decay[channel ? gate * K + j : gate]);
      };
      const auto asked = [&](int64_t t, int64_t i, int64_t j) {   // the memory that q_t reads
        return !p.shape.strict ? M[(t + 1) * RK + i * K + j] : starts(t) ? 0 : M[t * RK + i * K + j];
      };
      for (int64_t i = 0; i < RK; ++i) M[i] = p.memory_in.empty() ? 0 : p.memory_in[(b * H + h) * RK + i];
      for (int64_t t = 0; t < T; ++t) {
        const int64_t at = b * T + t, gate = at * H + h;
        const double *q = &p.q[gate * K], *k = &keys[(at * Hk + hk) * K], *v = &p.v[(at * Hv + hv) * V], *u = p.bonus.empty() ? nullptr : &p.bonus[h * K];
        const double w = p.write.empty() ? 1 : p.write[gate];
        for (int64_t i = 0; i < R; ++i) {
          double y = 0;
          const double value = i < V ? v[i] : 1;
          for (int64_t j = 0; j < K; ++j) M[(t + 1) * RK + i * K + j] = decay(t, j) * M[t * RK + i * K + j] + w * value * k[j];
          for (int64_t j = 0; j < K; ++j) y += asked(t, i, j) * q[j] + (u ? u[j] * k[j] * q[j] * value : 0);
          (i < V ? r.y[gate * V + i] : r.normaliser[gate]) = p.scale * y;
        }
        for (int64_t i = 0; i < V; ++i) r.y[gate * V + i] /= divisor(gate);
        if (!n.normaliser) continue;
        double dz = 0;   // y = N / z
        for (int64_t i = 0; i < V; ++i) dz -= p.dy[gate * V + i] * r.y[gate * V + i] / divisor(gate);
        const bool held = size(r.normaliser[gate]) < bounded(size(r.normaliser[gate]), gate);   // at the floor
        dn[gate] = held ? 0 : p.shape.divide == Divide::magnitude && r.normaliser[gate] < 0 ? -dz : dz;
        if (!p.floor.empty()) r.d_floor[gate] = held && p.shape.divide == Divide::magnitude ? dz : 0;
      }
      for (int64_t i = 0; i < RK; ++i) r.memory_out[(b * H + h) * RK + i] = M[T * RK + i];

      for (int64_t i = 0; i < RK; ++i) dM[i] = p.d_memory_out.empty() ? 0 : p.d_memory_out[(b * H + h) * RK + i];
      for (int64_t t = T - 1; t >= 0; --t) {
        const int64_t at = b * T + t, gate = at * H + h;
        const double *q = &p.q[gate * K], *k = &keys[(at * Hk + hk) * K], *v = &p.v[(at * Hv + hv) * V], *u = p.bonus.empty() ? nullptr : &p.bonus[h * K];
        const double w = p.write.empty() ? 1 : p.write[gate];
        double *dq = &r.dq[gate * K], *dk = &r.dk[(at * Hk + hk) * K], *dv = &r.dv[(at * Hv + hv) * V];
        const auto heard = [&](int64_t i) { return p.scale * (i < V ? p.dy[gate * V + i] / divisor(gate) : dn[gate]); };
        const auto read = [&](int64_t i, int64_t j) { dM[i * K + j] += heard(i) * q[j]; };   // y = scale M q
        for (int64_t i = 0; i < R; ++i)
          for (int64_t j = 0; j < K; ++j) {
            const double dy = heard(i), value = i < V ? v[i] : 1;
            double unread = 0, &dvi = i < V ? dv[i] : unread;
            dq[j] += dy * asked(t, i, j);                              // y = scale M q
            if (!p.shape.strict) read(i, j);
            const double d = dM[i * K + j];
            dvi += w * d * k[j];                                       // M_t = M_{t-1} diag(a) + w v k^T
            dk[j] += w * d * value;                                    // M_t = M_{t-1} diag(a) + w v k^T
            if (!p.write.empty()) r.d_write[gate] += d * value * k[j]; // M_t = M_{t-1} diag(a) + w v k^T
            if (!p.log_decay.empty()) r.d_log_decay[channel ? gate * K + j : gate] += decay(t, j) * d * M[t * RK + i * K + j];   // a = exp(g)
            dM[i * K + j] = decay(t, j) * d;                           // M_t = M_{t-1} diag(a) + w v k^T
            if (p.shape.strict && !starts(t)) read(i, j);
            if (!u) continue;
            dq[j] += dy * u[j] * k[j] * value;                         // y += scale ((u * k) . q) v
            dk[j] += dy * u[j] * q[j] * value;                         // y += scale ((u * k) . q) v
            dvi += dy * u[j] * k[j] * q[j];                            // y += scale ((u * k) . q) v
            r.d_bonus[(b * H + h) * K + j] += dy * k[j] * q[j] * value;   // y += scale ((u * k) . q) v
          }
      }
      for (int64_t i = 0; i < RK; ++i) r.d_memory_in[(b * H + h) * RK + i] = dM[i];
    }
  if (p.shape.tied) {
    for (size_t i = 0; i < keys.size(); ++i) r.d_log_decay[i] += r.dk[i] * (keys[i] - 1);   // k = 1 - exp(g)
    r.dk.clear();
  }
  return r;
}

// The problem as operands of type T hold it: q, k, v, dy through T, the rest through Wide<T>.
template <class T> DecayProblem rounded(DecayProblem p) {
  for (auto* x : {&p.q, &p.k, &p.v, &p.dy})
    for (double& e : *x) e = double(T(e));
  for (auto* x : {&p.log_decay, &p.write, &p.bonus, &p.memory_in, &p.d_memory_out, &p.floor})
    for (double& e : *x) e = double(Wide<T>(e));
  return p;
}

// Tokens [begin, end) of a problem; the memory that enters and the adjoint of the one that leaves are the caller's to set.
inline DecayProblem slice(const DecayProblem& p, int64_t begin, int64_t end) {
  const DecaySizes& n = p.shape.size;
  const auto cut = [&](const auto& x) {
    const int64_t width = int64_t(x.size()) / (n.batch * n.tokens);
    std::decay_t<decltype(x)> part;
    for (int64_t b = 0; b < n.batch && width > 0; ++b)
      part.insert(part.end(), x.begin() + (b * n.tokens + begin) * width, x.begin() + (b * n.tokens + end) * width);
    return part;
  };
  DecayProblem part = p;
  for (auto x : {&DecayProblem::q, &DecayProblem::k, &DecayProblem::v, &DecayProblem::log_decay, &DecayProblem::write, &DecayProblem::dy,
                 &DecayProblem::floor})
    part.*x = cut(p.*x);
  part.segments = cut(p.segments);
  part.shape.size.tokens = end - begin;
  return part;
}

// Everything a kernel of operands T reads and writes, on the host. Outputs and padding start as NaN.
template <class T> struct DecayRun {
  DecayShape shape;
  DeltaLayout layout;
  double scale, eps;
  std::vector<T> q, k, v, dy, y, dq, dk, dv;   // fused: q holds k and v too, dq holds dk and dv
  std::vector<Wide<T>> log_decay, write, bonus, memory_in, d_memory_out, memory_out, saved, pairs, d_log_decay, d_write, d_bonus, d_memory_in;
  std::vector<Wide<T>> normaliser, floor, d_floor, exact_y;
  std::vector<int32_t> segments;

  explicit DecayRun(const DecayProblem& p) : shape(p.shape), layout(as_delta(p.shape)), scale(p.scale), eps(p.eps), segments(p.segments) {
    const DecaySizes& n = shape.size;
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
    for (auto [from, to] : {std::pair(&p.log_decay, &log_decay),
                            {&p.write, &write},
                            {&p.bonus, &bonus},
                            {&p.memory_in, &memory_in},
                            {&p.d_memory_out, &d_memory_out},
                            {&p.floor, &floor}})
      for (double e : *from) to->push_back(Wide<T>(e));
    const int64_t heads = n.batch * n.heads, memory = n.rows() * n.key_dim;
    normaliser.assign(n.normaliser ? n.batch * n.tokens * n.heads : 0, wide_nan), d_floor.assign(floor.size(), wide_nan);
    exact_y.assign(n.normaliser && sizeof(T) != sizeof(Wide<T>) ? y.size() : 0, wide_nan);
    for (auto* x : {&memory_out, &d_memory_in}) x->assign(heads * memory, wide_nan);
    d_log_decay.assign(log_decay.size(), wide_nan);
    d_write.assign(write.size(), wide_nan);
    d_bonus.assign(bonus.empty() ? 0 : heads * n.key_dim, wide_nan);
    saved.assign(heads * n.chunks() * memory, wide_nan);
    pairs.assign(heads * n.blocks() * kDecayBlock * kDecayBlock, wide_nan);
  }

  // The answer in f64, contiguous.
  DecayAnswer answer() const {
    const DecaySizes& n = shape.size;
    const auto wide = [](const std::vector<Wide<T>>& x) { return std::vector<double>(x.begin(), x.end()); };
    DecayAnswer r{{}, wide(memory_out), {}, {}, {}, wide(d_log_decay), wide(d_write), wide(d_bonus), wide(d_memory_in), wide(normaliser), wide(d_floor)};
    for (T e : y) r.y.push_back(double(e));
    r.dq = gather(dq, layout.q, layout.q_stride, n.heads * n.key_dim);
    if (!shape.tied) r.dk = gather(layout.fused ? dq : dk, layout.k, layout.k_stride, n.key_heads * n.key_dim);
    r.dv = gather(layout.fused ? dq : dv, layout.v, layout.v_stride, n.value_heads * n.value_dim);
    return r;
  }

 private:
  static DeltaShape as_delta(const DecayShape& x) {
    const DecaySizes& n = x.size;
    return {.size = {n.batch, n.tokens, n.heads, n.key_heads, n.value_heads, n.key_dim, n.value_dim}, .fused = x.fused};
  }
  void scatter(const std::vector<double>& from, std::vector<T>& to, int64_t first, int64_t stride) {
    if (from.empty()) return;   // tied keys
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
template <class T, class Place> DecayForward<T> forward_arguments(DecayRun<T>& r, Place&& place) {
  const DeltaLayout& l = r.layout;
  const auto maybe = [&](auto& x) { return x.empty() ? nullptr : place(x); };
  DecayForward<T> a;
  T* const q = place(r.q);
  a.size = r.shape.size;
  a.gates = {.log_decay = maybe(r.log_decay), .per_channel = r.shape.kind == DecayKind::channel, .tied = r.shape.tied, .strict = r.shape.strict,
             .write = maybe(r.write),
             .bonus = maybe(r.bonus), .segments = maybe(r.segments), .scale = Wide<T>(r.scale)};
  a.q = {q + l.q, l.q_stride};
  if (!r.shape.tied) a.k = {(l.fused ? q : place(r.k)) + l.k, l.k_stride};
  a.v = {(l.fused ? q : place(r.v)) + l.v, l.v_stride};
  a.memory_in = maybe(r.memory_in), a.memory_out = place(r.memory_out), a.saved = place(r.saved), a.pairs = maybe(r.pairs);
  a.y = {place(r.y), a.size.heads * a.size.value_dim};
  a.divisor = {.by = r.shape.divide, .eps = Wide<T>(r.eps), .floor = maybe(r.floor)};
  a.normaliser = maybe(r.normaliser), a.exact_y = maybe(r.exact_y);
  return a;
}

// After the forward, whose arguments it continues.
template <class T, class Place> DecayBackward<T> backward_arguments(DecayRun<T>& r, const DecayForward<T>& f, Place&& place) {
  const DeltaLayout& l = r.layout;
  const auto maybe = [&](auto& x) { return x.empty() ? nullptr : place(x); };
  DecayBackward<T> a;
  T* const dq = place(r.dq);
  a.size = f.size, a.gates = f.gates, a.divisor = f.divisor, a.q = f.q, a.k = f.k, a.v = f.v, a.saved = f.saved, a.pairs = f.pairs;
  a.dy = {place(r.dy), a.size.heads * a.size.value_dim};
  if constexpr (sizeof(T) == sizeof(Wide<T>)) a.y = {f.y.at, f.y.token_stride};
  else a.y = {f.exact_y, f.y.token_stride};
  a.d_memory_out = maybe(r.d_memory_out), a.normaliser = f.normaliser, a.d_floor = maybe(r.d_floor);
  a.dq = {dq + l.q, l.q_stride};
  if (!r.shape.tied) a.dk = {(l.fused ? dq : place(r.dk)) + l.k, l.k_stride};
  a.dv = {(l.fused ? dq : place(r.dv)) + l.v, l.v_stride};
  a.d_log_decay = maybe(r.d_log_decay), a.d_write = maybe(r.d_write), a.d_bonus = maybe(r.d_bonus), a.d_memory_in = place(r.d_memory_in);
  return a;
}

struct DecayPart {
  const char* name;
  std::vector<double> DecayAnswer::*part;
  bool gradient;
};
inline constexpr DecayPart kDecayParts[] = {{"y", &DecayAnswer::y, false},
                                            {"memory_out", &DecayAnswer::memory_out, false},
                                            {"dq", &DecayAnswer::dq, true},
                                            {"dk", &DecayAnswer::dk, true},
                                            {"dv", &DecayAnswer::dv, true},
                                            {"d_log_decay", &DecayAnswer::d_log_decay, true},
                                            {"d_write", &DecayAnswer::d_write, true},
                                            {"d_bonus", &DecayAnswer::d_bonus, true},
                                            {"d_memory_in", &DecayAnswer::d_memory_in, true},
                                            {"normaliser", &DecayAnswer::normaliser, false},
                                            {"d_floor", &DecayAnswer::d_floor, true}};

// Every part of the answer that is further off than allowed, as a sentence; empty when all hold.
inline std::string decay_mismatch(const DecayAnswer& got, const DecayAnswer& want, const DecayShape& shape, uint64_t seed, double outputs,
                                  double gradients) {
  std::string text;
  for (const DecayPart& p : kDecayParts) {
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
