// What the kernels of the stem `normal_equations` are held against: the moments token by token, each system solved directly by elimination, and
// the adjoints of the moments as recurrences, in f64 on std::vector. Nothing here is a chunk, a factor that is shared, or an iteration.
//
//   H_t = a H_{t-1} + w k k^T,  F_t = a F_{t-1} + w v k^T,  x = (H_t + rho_t diag(ridge))^{-1} (scale q),  y = F_t x
//
// NormalCase names a case, NormalData draws its numbers, normal_answer() solves it, NormalRun<T> holds the same numbers as a kernel of operands T
// reads them (outputs filled with NaN). `place` turns a host vector into the pointer the kernel gets, so the same cases serve a device.
#pragma once
#include <ttr/layers/normal_equations_kernel.hpp>
#include <ttr/tests/delta_reference.hpp>

namespace ttr {

struct NormalCase {
  NormalSizes size;
  RidgePolicy policy = RidgePolicy::constant;
  NormalMethod method = NormalMethod::token;
  bool decays = false, weighs = false, documents = false;
  int64_t refresh = 64;
  double least_decay = -0.05;
  bool padded = false;   // rows of q, k, v, y, dy and the gradients are a few columns apart
};

inline std::string describe(const NormalCase& x) {
  const char *policies[] = {"constant", "decaying", "refreshed", "relative"}, *methods[] = {"chunk", "token", "iterative"};
  return fmt::format("B{} T{} past={} H{}/{}/{} K{} V{} {} {} decays={} weighs={} documents={} refresh={} padded={}", x.size.batch, x.size.tokens, x.size.past,
                     x.size.heads, x.size.key_heads, x.size.value_heads, x.size.key_dim, x.size.value_dim, policies[int(x.policy)], methods[int(x.method)],
                     x.decays, x.weighs, x.documents, x.refresh, x.padded);
}

// Every policy by every method that can, over the lengths around a chunk, with odd sizes, groups, carried tokens and documents.
inline std::vector<NormalCase> normal_cases() {
  std::vector<NormalCase> cases;
  int64_t i = 0;
  for (const int64_t tokens : {1, 2, 63, 64, 65, 130})
    for (const RidgePolicy policy : {RidgePolicy::constant, RidgePolicy::decaying, RidgePolicy::refreshed, RidgePolicy::relative})
      for (const NormalMethod method : {NormalMethod::chunk, NormalMethod::token, NormalMethod::iterative}) {
        if (method == NormalMethod::chunk && policy == RidgePolicy::relative) continue;   // no rank-one form
        const int64_t key_dims[] = {5, 8, 17, 24}, value_dims[] = {3, 8, 11}, heads[][3] = {{1, 1, 1}, {2, 1, 2}, {4, 2, 1}}, refreshes[] = {64, 7, 100};
        const int64_t* h = heads[i % 3];
        NormalCase x{{.batch = 1 + i % 2, .tokens = tokens, .past = i % 4 == 1 ? std::min<int64_t>(3, tokens - 1) : 0, .heads = h[0], .key_heads = h[1],
                      .value_heads = h[2], .key_dim = key_dims[(i + i / 3) % 4], .value_dim = value_dims[(i / 2) % 3]},
                     policy, method};
        x.decays = method != NormalMethod::chunk || policy != RidgePolicy::constant;
        x.weighs = i % 2 == 1, x.documents = i % 3 == 2, x.padded = i % 5 == 1, x.refresh = refreshes[i / 2 % 3];
        cases.push_back(x);
        ++i;
      }
  cases.push_back({{.batch = 1, .tokens = 130, .heads = 1, .key_heads = 1, .value_heads = 1, .key_dim = 67, .value_dim = 33}, RidgePolicy::constant,
                   NormalMethod::chunk});
  cases.push_back({{.batch = 1, .tokens = 70, .heads = 1, .key_heads = 1, .value_heads = 1, .key_dim = 33, .value_dim = 67}, RidgePolicy::constant,
                   NormalMethod::token, true, true});
  return cases;
}

// Contiguous: q, dq [B,T-past,H,K], k [B,T,Hk,K], v [B,T,Hv,V], gates [B,T,H], ridge [H,K], d_ridge [B,H,K], y and dy [B,T-past,H,V].
struct NormalData {
  NormalCase shape;
  double scale = 0.7, tolerance = 0;
  int64_t steps = 200;
  std::vector<double> q, k, v, log_decay, write, ridge, dy;   // log_decay, write empty: null
  std::vector<int32_t> documents;
};
struct NormalAnswer {
  std::vector<double> y, dq, dk, dv, d_log_decay, d_write, d_ridge;
};

inline NormalData normal_data(const NormalCase& shape, uint64_t seed) {
  const NormalSizes& n = shape.size;
  const int64_t rows = n.batch * n.tokens, asked = n.batch * n.asked();
  DeltaRandom random(seed);
  NormalData p;
  p.shape = shape;
  p.tolerance = 1e-15;
  p.q = random(asked * n.heads * n.key_dim, -1, 1);
  p.k = random(rows * n.key_heads * n.key_dim, -1, 1);
  p.v = random(rows * n.value_heads * n.value_dim, -1, 1);
  p.dy = random(asked * n.heads * n.value_dim, -1, 1);
  p.ridge = random(n.heads * n.key_dim, 0.5, 1.5);
  for (double& e : p.k) e /= std::sqrt(double(n.key_dim) / 3);   // about of length one
  if (shape.decays) p.log_decay = random(rows * n.heads, shape.least_decay, -0.001);
  if (shape.weighs) p.write = random(rows * n.heads, 0.05, 1);
  if (shape.documents)
    for (int64_t b = 0; b < n.batch; ++b)
      for (int64_t t = 0; t < n.tokens; ++t) p.documents.push_back(t < n.past ? 0 : int32_t((t - n.past + 11 * b) / 30));
  return p;
}

namespace detail {
// x of A x = b by elimination with pivots; a [n, n] and b are consumed.
inline std::vector<double> eliminate(std::vector<double> a, std::vector<double> b) {
  const size_t n = b.size();
  for (size_t j = 0; j < n; ++j) {
    size_t best = j;
    for (size_t i = j + 1; i < n; ++i)
      if (std::abs(a[i * n + j]) > std::abs(a[best * n + j])) best = i;
    for (size_t c = 0; c < n; ++c) std::swap(a[j * n + c], a[best * n + c]);
    std::swap(b[j], b[best]);
    for (size_t i = j + 1; i < n; ++i) {
      const double by = a[i * n + j] / a[j * n + j];
      for (size_t c = j; c < n; ++c) a[i * n + c] -= by * a[j * n + c];
      b[i] -= by * b[j];
    }
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t c = i + 1; c < n; ++c) b[i] -= a[i * n + c] * b[c];
    b[i] /= a[i * n + i];
  }
  return b;
}
}  // namespace detail

inline NormalAnswer normal_answer(const NormalData& p) {
  const NormalSizes& n = p.shape.size;
  const int64_t B = n.batch, T = n.tokens, H = n.heads, Hk = n.key_heads, Hv = n.value_heads, K = n.key_dim, V = n.value_dim, W = K + V, past = n.past;
  NormalAnswer r;
  r.y.assign(p.dy.size(), 0), r.dq.assign(p.q.size(), 0), r.dk.assign(p.k.size(), 0), r.dv.assign(p.v.size(), 0);
  r.d_log_decay.assign(B * T * H, 0), r.d_write.assign(B * T * H, 0), r.d_ridge.assign(B * H * K, 0);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h) {
      const int64_t hk = h / (H / Hk), hv = h / (H / Hv);
      const double* ridge = &p.ridge[h * K];
      std::vector<double> M((T + 1) * W * K, 0.0), rho(T + 1, 0.0), before(T, 0.0);   // H over F and rho after each token; rho as it enters one
      std::vector<std::vector<double>> x(T, std::vector<double>(K, 0.0)), s = x;
      std::vector<char> begins(T), anew(T);
      int64_t place = past;   // the first carried token stands `past` tokens into its document
      for (int64_t t = 0; t < T; ++t, ++place) {
        begins[t] = t == 0 || (!p.documents.empty() && p.documents[b * T + t] != p.documents[b * T + t - 1]);
        if (begins[t] && t > 0) place = 0;
        anew[t] = begins[t] || (p.shape.policy == RidgePolicy::refreshed && place % p.shape.refresh == 0);
        const int64_t at = b * T + t, gate = at * H + h;
        const double a = p.log_decay.empty() ? 1 : std::exp(p.log_decay[gate]), w = p.write.empty() ? 1 : p.write[gate];
        const double *k = &p.k[(at * Hk + hk) * K], *v = &p.v[(at * Hv + hv) * V];
        for (int64_t i = 0; i < W; ++i)
          for (int64_t j = 0; j < K; ++j)
            M[((t + 1) * W + i) * K + j] = (begins[t] ? 0 : a * M[(t * W + i) * K + j]) + w * (i < K ? k[i] : v[i - K]) * k[j];
        const bool relative = p.shape.policy == RidgePolicy::relative;
        before[t] = anew[t] ? (relative ? 0 : 1) : rho[t];
        rho[t + 1] = p.shape.policy == RidgePolicy::constant ? 1 : a * before[t] + (relative ? w : 0);
        if (t < past) continue;
        const int64_t ask = (b * n.asked() + t - past) * H + h;
        const double* now = &M[(t + 1) * W * K];
        std::vector<double> system(now, now + K * K), query(K), turned(K, 0.0);
        for (int64_t j = 0; j < K; ++j) system[j * K + j] += rho[t + 1] * ridge[j], query[j] = p.scale * p.q[ask * K + j];
        for (int64_t i = 0; i < V; ++i)
          for (int64_t j = 0; j < K; ++j) turned[j] += now[(K + i) * K + j] * p.dy[ask * V + i];
        x[t] = detail::eliminate(system, query);
        s[t] = detail::eliminate(system, turned);
        for (int64_t i = 0; i < V; ++i)
          for (int64_t j = 0; j < K; ++j) r.y[ask * V + i] += now[(K + i) * K + j] * x[t][j];
        for (int64_t j = 0; j < K; ++j) r.dq[ask * K + j] = p.scale * s[t][j];
      }
      std::vector<double> A(W * K, 0.0);   // AH over AF
      double d_rho = 0;
      for (int64_t t = T - 1; t >= 0; --t) {
        const int64_t at = b * T + t, gate = at * H + h, ask = (b * n.asked() + t - past) * H + h;
        const double a = p.log_decay.empty() ? 1 : std::exp(p.log_decay[gate]), w = p.write.empty() ? 1 : p.write[gate];
        const double *k = &p.k[(at * Hk + hk) * K], *v = &p.v[(at * Hv + hv) * V];
        for (int64_t j = 0; j < K; ++j) {
          d_rho -= ridge[j] * s[t][j] * x[t][j];                                       // A = H + rho diag(ridge)
          r.d_ridge[(b * H + h) * K + j] -= rho[t + 1] * s[t][j] * x[t][j];             // A = H + rho diag(ridge)
          for (int64_t i = 0; i < K; ++i) A[i * K + j] -= (s[t][i] * x[t][j] + x[t][i] * s[t][j]) / 2;   // A x = q, H symmetric
          if (t >= past)
            for (int64_t i = 0; i < V; ++i) A[(K + i) * K + j] += p.dy[ask * V + i] * x[t][j];           // y = F x
        }
        for (int64_t i = 0; i < W; ++i)
          for (int64_t j = 0; j < K; ++j) {
            const double left = i < K ? k[i] : v[i - K], d = A[i * K + j];
            r.dk[(at * Hk + hk) * K + j] += w * left * d;                              // w (k, v) k^T, for the right factor
            (i < K ? r.dk[(at * Hk + hk) * K + i] : r.dv[(at * Hv + hv) * V + i - K]) += w * k[j] * d;   // w (k, v) k^T, for the left factor
            r.d_write[gate] += left * k[j] * d;                                        // w (k, v) k^T
            if (!begins[t]) r.d_log_decay[gate] += a * M[(t * W + i) * K + j] * d;      // a H_{t-1}, a F_{t-1}
            A[i * K + j] = begins[t] ? 0 : a * d;                                      // a H_{t-1}, a F_{t-1}
          }
        if (p.shape.policy == RidgePolicy::constant) {
          d_rho = 0;
          continue;
        }
        r.d_log_decay[gate] += a * before[t] * d_rho;                                  // rho_t = a rho_{t-1} (+ w)
        if (p.shape.policy == RidgePolicy::relative) r.d_write[gate] += d_rho;          // rho_t = a rho_{t-1} + w
        d_rho = anew[t] ? 0 : a * d_rho;                                               // rho_t = a rho_{t-1} (+ w)
      }
    }
  return r;
}

template <class T> NormalData rounded(NormalData p) {
  for (auto* x : {&p.q, &p.k, &p.v, &p.dy})
    for (double& e : *x) e = double(T(e));
  for (auto* x : {&p.log_decay, &p.write, &p.ridge})
    for (double& e : *x) e = double(Wide<T>(e));
  return p;
}

template <class T> struct NormalRun {
  NormalCase shape;
  int64_t pad, steps;
  double scale, tolerance;
  std::vector<T> q, k, v, dy, y, dq, dk, dv;
  std::vector<Wide<T>> log_decay, write, ridge, saved, d_log_decay, d_write, d_ridge;
  std::vector<int32_t> documents;

  explicit NormalRun(const NormalData& p)
      : shape(p.shape), pad(p.shape.padded ? 5 : 0), steps(p.steps), scale(p.scale), tolerance(sizeof(Wide<T>) == 8 ? p.tolerance : 1e-7),
        documents(p.documents) {
    const NormalSizes& n = shape.size;
    const int64_t rows = n.batch * n.tokens, asked = n.batch * n.asked();
    q = spread(p.q, asked), k = spread(p.k, rows), v = spread(p.v, rows), dy = spread(p.dy, asked);
    const T nan = T(std::numeric_limits<double>::quiet_NaN());
    dq.assign(q.size(), nan), dk.assign(k.size(), nan), dv.assign(v.size(), nan), y.assign(dy.size(), nan);
    for (auto [from, to] : {std::pair(&p.log_decay, &log_decay), {&p.write, &write}, {&p.ridge, &ridge}})
      for (const double e : *from) to->push_back(Wide<T>(e));
    const Wide<T> wide_nan = std::numeric_limits<Wide<T>>::quiet_NaN();
    saved.assign(n.batch * n.heads * n.chunks() * (n.key_dim + n.value_dim) * n.key_dim, wide_nan);
    d_log_decay.assign(rows * n.heads, wide_nan), d_write.assign(rows * n.heads, wide_nan), d_ridge.assign(n.batch * n.heads * n.key_dim, wide_nan);
  }
  NormalAnswer answer() const {
    const NormalSizes& n = shape.size;
    const int64_t rows = n.batch * n.tokens, asked = n.batch * n.asked();
    const auto wide = [](const std::vector<Wide<T>>& x) { return std::vector<double>(x.begin(), x.end()); };
    return {gather(y, asked), gather(dq, asked), gather(dk, rows), gather(dv, rows), wide(d_log_decay), wide(d_write), wide(d_ridge)};
  }

 private:
  std::vector<T> spread(const std::vector<double>& from, int64_t rows) const {
    const int64_t width = rows ? int64_t(from.size()) / rows : 0;
    std::vector<T> to(rows * (width + pad), T(std::numeric_limits<double>::quiet_NaN()));
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < width; ++j) to[i * (width + pad) + j] = T(from[i * width + j]);
    return to;
  }
  std::vector<double> gather(const std::vector<T>& from, int64_t rows) const {
    const int64_t width = rows ? int64_t(from.size()) / rows - pad : 0;
    std::vector<double> to;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < width; ++j) to.push_back(double(from[i * (width + pad) + j]));
    return to;
  }
};

template <class T, class Place> NormalForward<T> forward_arguments(NormalRun<T>& r, Place&& place) {
  const NormalSizes& n = r.shape.size;
  const auto maybe = [&](auto& x) { return x.empty() ? nullptr : place(x); };
  NormalForward<T> a;
  a.size = n;
  a.q = {place(r.q), n.heads * n.key_dim + r.pad}, a.k = {place(r.k), n.key_heads * n.key_dim + r.pad}, a.v = {place(r.v), n.value_heads * n.value_dim + r.pad};
  a.log_decay = maybe(r.log_decay), a.write = maybe(r.write), a.ridge = place(r.ridge), a.documents = maybe(r.documents);
  a.first = n.past, a.policy = r.shape.policy, a.refresh = r.shape.refresh;
  a.method = r.shape.method, a.steps = r.steps, a.tolerance = Wide<T>(r.tolerance), a.scale = Wide<T>(r.scale);
  a.saved = place(r.saved), a.y = {place(r.y), n.heads * n.value_dim + r.pad};
  return a;
}
template <class T, class Place> NormalBackward<T> backward_arguments(NormalRun<T>& r, const NormalForward<T>& f, Place&& place) {
  NormalBackward<T> a;
  static_cast<NormalProblem<T>&>(a) = f;
  a.saved = f.saved, a.dy = {place(r.dy), f.y.token_stride};
  a.dq = {place(r.dq), f.q.token_stride}, a.dk = {place(r.dk), f.k.token_stride}, a.dv = {place(r.dv), f.v.token_stride};
  a.d_log_decay = place(r.d_log_decay), a.d_write = place(r.d_write), a.d_ridge = place(r.d_ridge);
  return a;
}

struct NormalPart {
  const char* name;
  std::vector<double> NormalAnswer::*part;
};
inline constexpr NormalPart kNormalParts[] = {{"y", &NormalAnswer::y},   {"dq", &NormalAnswer::dq}, {"dk", &NormalAnswer::dk}, {"dv", &NormalAnswer::dv},
                                              {"d_log_decay", &NormalAnswer::d_log_decay}, {"d_write", &NormalAnswer::d_write},
                                              {"d_ridge", &NormalAnswer::d_ridge}};

// |a - b|_F / |b|_F, where entries smaller than 0.1 on average count as 0.1: some adjoints vanish because terms of size 1 cancel.
inline double normal_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double size = 0;
  for (const double e : b) size += e * e;
  return distance(a, b) * std::max(std::sqrt(size), 1e-3) / std::max({std::sqrt(size), 0.1 * std::sqrt(double(b.size())), 1e-3});
}

// Every part that is further off than allowed, as a sentence; empty when all hold.
inline std::string normal_mismatch(const NormalAnswer& got, const NormalAnswer& want, const NormalCase& shape, uint64_t seed, double allowed) {
  std::string text;
  for (const NormalPart& p : kNormalParts) {
    const std::vector<double>&a = got.*p.part, &b = want.*p.part;
    const double off = normal_distance(a, b);
    if (off <= allowed) continue;
    size_t worst = 0;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (!(std::abs(a[i] - b[i]) <= std::abs(a[worst] - b[worst]))) worst = i;
    text += fmt::format("{} is off by {:.2e}, needs {:.0e} ({} seed {}): worst [{}] is {}, needs {}\n", p.name, off, allowed, describe(shape), seed, worst,
                        a.empty() ? 0 : a[worst], b.empty() ? 0 : b[worst]);
  }
  return text;
}

}  // namespace ttr
