// What the kernels of the stem `scan` are held against: the token recurrence of layers/scan_kernel.hpp and its adjoint in f64, entry by entry.
//
//   M_t = a_t * M_{t-1} + x_t k_t^T,   y_t = scale M_t q_t          (without keys K = 1 and k = q = scale = 1; rotation: complex numbers)
//
// ScanShape names a case, scan_problem() draws its numbers, scan_answer() solves it, ScanRun<T> holds the same numbers as a kernel of operands
// T reads them (outputs filled with NaN). forward_arguments and backward_arguments take a function that turns a host vector into the pointer
// the kernel gets, so the same cases serve a device: upload in that function, download after the kernel.
#pragma once
#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <fmt/core.h>
#include <ttr/layers/scan_kernel.hpp>

namespace ttr {

struct ScanShape {
  ScanSizes size;
  ScanKind kind = ScanKind::value;
  bool written = false;
  bool fused = false;      // q, k, v are columns of one projection
  bool carried = false;    // memory_in and d_memory_out are given
  bool documents = false;  // segments are given
  bool keyed() const { return kind != ScanKind::value && kind != ScanKind::rotation; }
};

inline std::string describe(const ScanShape& x) {
  const char* kinds[] = {"value", "rotation", "entry", "product", "proximal"};
  return fmt::format("{}{} B{} T{} H{}/{}/{} K{} V{} fused={} carried={} documents={}", kinds[int(x.kind)], x.written ? " written" : "", x.size.batch,
                     x.size.tokens, x.size.heads, x.size.key_heads, x.size.value_heads, x.size.key_dim, x.size.value_dim, x.fused, x.carried, x.documents);
}

inline std::vector<ScanShape> scan_shapes() {
  struct Form { ScanKind kind; bool written; };
  const Form forms[] = {{ScanKind::value, true}, {ScanKind::rotation, false}, {ScanKind::product, true},   {ScanKind::proximal, false},
                        {ScanKind::entry, false}, {ScanKind::value, false},   {ScanKind::product, false}};
  const int64_t heads[][3] = {{1, 1, 1}, {2, 2, 2}, {4, 2, 1}, {2, 1, 2}, {6, 2, 3}};
  const int64_t key_dims[] = {16, 5, 1, 64, 33}, value_dims[] = {32, 5, 64, 18, 40};
  std::vector<ScanShape> shapes;
  int64_t i = 0;
  for (const Form& form : forms)
    for (const int64_t tokens : {1, 2, 63, 64, 65, 130}) {
      const int64_t* h = heads[(i + i / 5) % 5];
      ScanShape s{{1 + i % 2, tokens, h[0], h[1], h[2], key_dims[(i + i / 7) % 5], value_dims[(2 * i + i / 3) % 5]},
                  form.kind, form.written, i % 3 == 1, i % 2 == 1, i % 4 >= 2};
      if (!s.keyed()) s.size.key_dim = 1, s.size.key_heads = s.size.value_heads = s.size.heads;
      if (s.kind == ScanKind::rotation) s.size.value_dim = (s.size.value_dim + 1) / 2 * 2;
      shapes.push_back(s);
      ++i;
    }
  shapes.push_back({{1, 70, 10, 10, 10, 1, 40}, ScanKind::value, true, true, true, true});    // more channels than a worker takes at once
  shapes.push_back({{1, 70, 9, 9, 9, 1, 40}, ScanKind::rotation, false, true, true, true});
  return shapes;
}

using ScanParts = std::map<std::string, std::vector<double>>;
struct ScanProblem {
  ScanShape shape;
  double scale = 1;
  ScanParts x;                     // q, k, v, gate, rate, memory_in, dy, d_memory_out: empty where there is none
  std::vector<int32_t> segments;
};

inline ScanProblem scan_problem(const ScanShape& shape, uint64_t seed) {
  const ScanSizes& n = shape.size;
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  const auto random = [&](int64_t count, double low, double high) {
    std::vector<double> x(static_cast<size_t>(count));
    for (double& e : x) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      e = low + (high - low) * double(state >> 11) / double(uint64_t(1) << 53);
    }
    return x;
  };
  const int64_t rows = n.batch * n.tokens, answers = n.heads * n.value_dim, memory = n.batch * answers * n.key_dim;
  ScanProblem p{shape, shape.keyed() ? 0.7 : 1, {}, {}};
  if (shape.keyed()) {
    p.x["q"] = random(rows * n.heads * n.key_dim, -1, 1);
    p.x["k"] = random(rows * n.key_heads * n.key_dim, -1, 1);
  }
  p.x["v"] = random(rows * n.value_heads * n.value_dim, -1, 1);
  p.x["dy"] = random(rows * answers, -1, 1);
  switch (shape.kind) {
    case ScanKind::value: p.x["gate"] = random(rows * answers, -1, -0.001); break;
    case ScanKind::entry: p.x["gate"] = random(rows * answers * n.key_dim, -1, -0.001); break;
    case ScanKind::rotation: p.x["gate"] = random(answers / 2, -0.5, -0.001), p.x["rate"] = random(answers / 2, -3, 3); break;
    case ScanKind::product: p.x["gate"] = random(rows * answers, 0.01, 1), p.x["rate"] = random(answers * n.key_dim, 0.05, 2); break;
    case ScanKind::proximal: p.x["gate"] = random(rows * answers, 0.01, 1); break;
  }
  if (shape.carried) p.x["memory_in"] = random(memory, -1, 1), p.x["d_memory_out"] = random(memory, -1, 1);
  if (shape.documents)
    for (int64_t i = 0; i < rows; ++i) p.segments.push_back(int32_t((i % n.tokens + 3 * (i / n.tokens)) / 11 * 7 % 5));
  return p;
}

inline ScanParts scan_answer(const ScanProblem& p) {
  const ScanShape& shape = p.shape;
  const ScanSizes& n = shape.size;
  const int64_t B = n.batch, T = n.tokens, H = n.heads, K = n.key_dim, V = n.value_dim, half = V / 2;
  const auto of = [&](const char* name) -> const std::vector<double>& {
    static const std::vector<double> none;
    const auto found = p.x.find(name);
    return found == p.x.end() ? none : found->second;
  };
  const auto &q = of("q"), &k = of("k"), &v = of("v"), &gate = of("gate"), &rate = of("rate");
  const auto &in = of("memory_in"), &dy = of("dy"), &d_out = of("d_memory_out");
  ScanParts r;
  for (const char* name : {"q", "k", "v"})
    if (!of(name).empty()) r[std::string("d") + name].assign(of(name).size(), 0);
  auto &y = r["y"], &out = r["memory_out"], &d_in = r["d_memory_in"], &d_gate = r["d_gate"], &dv = r["dv"];
  y.assign(dy.size(), 0), out.assign(size_t(B * H * V * K), 0), d_in.assign(out.size(), 0);
  d_gate.assign(shape.kind == ScanKind::rotation ? size_t(B * H * half) : gate.size(), 0);
  if (!rate.empty()) r["d_rate"].assign(size_t(B) * rate.size(), 0);
  const auto keeps = [&](int64_t b, int64_t t) { return p.segments.empty() || t == 0 || p.segments[size_t(b * T + t)] == p.segments[size_t(b * T + t - 1)]; };

  for (int64_t b = 0; b < B; ++b)
    for (int64_t h = 0; h < H; ++h) {
      const int64_t at = (b * H + h) * V * K;
      if (shape.kind == ScanKind::rotation) {
        for (int64_t i = 0; i < half; ++i) {
          using Complex = std::complex<double>;
          const auto number = [&](const std::vector<double>& x, int64_t first) {
            return x.empty() ? Complex() : Complex(x[size_t(first + i)], x[size_t(first + half + i)]);
          };
          const auto write = [&](std::vector<double>& x, int64_t first, Complex z) { x[size_t(first + i)] = z.real(), x[size_t(first + half + i)] = z.imag(); };
          const Complex a = std::exp(Complex(gate[size_t(h * half + i)], rate[size_t(h * half + i)]));
          std::vector<Complex> m{number(in, at)};
          for (int64_t t = 0; t < T; ++t) {
            const int64_t row = ((b * T + t) * H + h) * V;
            m.push_back((keeps(b, t) ? a * m.back() : 0) + number(v, row));
            write(y, row, m.back());
          }
          write(out, at, m.back());
          Complex d = number(d_out, at), da = 0;
          for (int64_t t = T - 1; t >= 0; --t) {
            const int64_t row = ((b * T + t) * H + h) * V;
            d += number(dy, row);                                   // y = m
            write(dv, row, d);                                      // m = a m + v
            if (keeps(b, t)) da += d * std::conj(m[size_t(t)]);     // m = a m + v
            d = keeps(b, t) ? d * std::conj(a) : 0;                 // m = a m + v
          }
          write(d_in, at, d);
          const Complex d_log = da * std::conj(a);                  // a = exp(log + i phase)
          d_gate[size_t((b * H + h) * half + i)] = d_log.real(), r["d_rate"][size_t((b * H + h) * half + i)] = d_log.imag();
        }
        continue;
      }
      for (int64_t i = 0; i < V; ++i)
        for (int64_t j = 0; j < K; ++j) {   // y and the adjoints of what a row or a column shares are sums over entries
          struct Moment { double a, m, s, shrink, square; };
          std::vector<Moment> seen;
          const int64_t hk = h / (H / n.key_heads), hv = h / (H / n.value_heads);
          double m = in.empty() ? 0 : in[size_t(at + i * K + j)];
          for (int64_t t = 0; t < T; ++t) {
            const int64_t row = (b * T + t) * H + h, key = ((b * T + t) * n.key_heads + hk) * K;
            const double value = v[size_t(((b * T + t) * n.value_heads + hv) * V + i)], kj = k.empty() ? 1 : k[size_t(key + j)];
            Moment now{0, m, 1, 1, 0};
            const double g = gate[size_t(shape.kind == ScanKind::entry ? (row * V + i) * K + j : row * V + i)];
            switch (shape.kind) {
              case ScanKind::product: now.a = std::exp(-g * rate[size_t((h * V + i) * K + j)]), now.s = shape.written ? g : 1; break;
              case ScanKind::proximal:
                for (int64_t l = 0; l < K; ++l) now.square += k[size_t(key + l)] * k[size_t(key + l)];
                now.shrink = 1 / (1 + g * now.square), now.s = g * now.shrink, now.a = 1 - now.s * kj * kj;
                break;
              default: now.a = std::exp(g), now.s = shape.written ? -std::expm1(g) : 1; break;
            }
            m = (keeps(b, t) ? now.a : 0) * m + now.s * value * kj;
            y[size_t(row * V + i)] += p.scale * m * (q.empty() ? 1 : q[size_t(row * K + j)]);
            seen.push_back(now);
          }
          out[size_t(at + i * K + j)] = m;
          double d = d_out.empty() ? 0 : d_out[size_t(at + i * K + j)];
          for (int64_t t = T - 1; t >= 0; --t) {
            const int64_t row = (b * T + t) * H + h, key = ((b * T + t) * n.key_heads + hk) * K, from = ((b * T + t) * n.value_heads + hv) * V + i;
            const Moment& now = seen[size_t(t)];
            const double after = t + 1 < T ? seen[size_t(t + 1)].m : m, value = v[size_t(from)], kj = k.empty() ? 1 : k[size_t(key + j)];
            const double g = p.scale * dy[size_t(row * V + i)];
            d += g * (q.empty() ? 1 : q[size_t(row * K + j)]);                                // y = scale m q
            if (!q.empty()) r["dq"][size_t(row * K + j)] += g * after;                        // y = scale m q
            if (!k.empty()) r["dk"][size_t(key + j)] += d * now.s * value;                    // m = a m + s v k
            dv[size_t(from)] += d * now.s * kj;                                               // m = a m + s v k
            const double ds = d * value * kj, da = keeps(b, t) ? d * now.m : 0;               // m = a m + s v k
            double* const own = &d_gate[size_t(shape.kind == ScanKind::entry ? (row * V + i) * K + j : row * V + i)];
            const double delta = gate[size_t(shape.kind == ScanKind::entry ? (row * V + i) * K + j : row * V + i)];
            switch (shape.kind) {
              case ScanKind::product:
                *own += (shape.written ? ds : 0) - da * now.a * rate[size_t((h * V + i) * K + j)];   // s = delta;  a = exp(-delta rate)
                r["d_rate"][size_t(((b * H + h) * V + i) * K + j)] -= da * now.a * delta;     // a = exp(-delta rate)
                break;
              case ScanKind::proximal: {
                const double all = ds - da * kj * kj;                                         // a = 1 - s k^2
                r["dk"][size_t(key + j)] -= 2 * da * now.s * kj;                              // a = 1 - s k^2
                *own += all * now.shrink * now.shrink;                                        // s = delta / (1 + delta |k|^2)
                for (int64_t l = 0; l < K; ++l)
                  r["dk"][size_t(key + l)] -= 2 * k[size_t(key + l)] * all * now.s * now.s;   // s = delta / (1 + delta |k|^2)
                break;
              }
              default: *own += da * now.a - (shape.written ? ds * now.a : 0); break;          // a = exp g;  s = 1 - exp g
            }
            d *= keeps(b, t) ? now.a : 0;                                                     // m = a m + s v k
          }
          d_in[size_t(at + i * K + j)] = d;
        }
    }
  return r;
}

// The problem as operands of type T hold it: q, k, v, dy through T, the rest through Wide<T>.
template <class T> ScanProblem rounded(ScanProblem p) {
  for (auto& [name, x] : p.x)
    for (double& e : x) e = name == "q" || name == "k" || name == "v" || name == "dy" ? double(T(e)) : double(Wide<T>(e));
  return p;
}

// Everything a kernel of operands T reads and writes, on the host. Outputs and padding start as NaN.
template <class T> struct ScanRun {
  ScanProblem problem;
  std::map<std::string, std::vector<T>> narrow;         // q, k, v, dy, y, dq, dk, dv; fused: "v" holds q and k too, "dv" dq and dk
  std::map<std::string, std::vector<Wide<T>>> broad;
  std::map<std::string, int64_t> first, stride;         // of the rows q, k, v

  explicit ScanRun(const ScanProblem& p) : problem(p) {
    const ScanSizes& n = p.shape.size;
    const int64_t rows = n.batch * n.tokens, answers = n.heads * n.value_dim, memory = n.batch * answers * n.key_dim;
    const int64_t widths[] = {n.value_heads * n.value_dim, p.shape.keyed() ? n.key_heads * n.key_dim : 0, p.shape.keyed() ? n.heads * n.key_dim : 0};
    const char* names[] = {"v", "k", "q"};
    int64_t at = 1;
    for (int i = 0; i < 3; ++i) {
      if (p.shape.fused) first[names[i]] = at, stride[names[i]] = widths[0] + widths[1] + widths[2] + 3, at += widths[i];   // between columns of something else
      else first[names[i]] = 0, stride[names[i]] = widths[i];
    }
    const T nan = T(std::numeric_limits<double>::quiet_NaN());
    for (const std::string name : {"v", "k", "q"}) {
      if (!p.x.contains(name)) continue;
      auto& to = narrow[p.shape.fused ? "v" : name];
      if (to.empty()) to.assign(size_t(rows * stride[name]), nan);
      narrow[p.shape.fused ? "dv" : "d" + name].assign(size_t(rows * stride[name]), nan);
      const auto& from = p.x.at(name);
      const int64_t width = int64_t(from.size()) / rows;
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < width; ++j) to[size_t(first[name] + i * stride[name] + j)] = T(from[size_t(i * width + j)]);
    }
    for (const double e : p.x.at("dy")) narrow["dy"].push_back(T(e));
    narrow["y"].assign(narrow["dy"].size(), nan);
    for (const char* name : {"gate", "rate", "memory_in", "d_memory_out"})
      if (p.x.contains(name))
        for (const double e : p.x.at(name)) broad[name].push_back(Wide<T>(e));
    const Wide<T> wide_nan = std::numeric_limits<Wide<T>>::quiet_NaN();
    broad["memory_out"].assign(size_t(memory), wide_nan), broad["d_memory_in"].assign(size_t(memory), wide_nan);
    broad["saved"].assign(size_t(memory * n.chunks()), wide_nan);
    broad["d_gate"].assign(p.shape.kind == ScanKind::rotation ? size_t(n.batch * answers / 2) : p.x.at("gate").size(), wide_nan);
    if (p.x.contains("rate")) broad["d_rate"].assign(size_t(n.batch) * p.x.at("rate").size(), wide_nan);
  }

  ScanParts answer() const {   // in f64, contiguous
    ScanParts r;
    for (const char* name : {"memory_out", "d_memory_in", "d_gate", "d_rate"})
      if (broad.contains(name)) r[name].assign(broad.at(name).begin(), broad.at(name).end());
    for (const T e : narrow.at("y")) r["y"].push_back(double(e));
    for (const std::string name : {"v", "k", "q"}) {
      if (!problem.x.contains(name)) continue;
      const auto& from = narrow.at(problem.shape.fused ? "dv" : "d" + name);
      const int64_t rows = problem.shape.size.batch * problem.shape.size.tokens, width = int64_t(problem.x.at(name).size()) / rows;
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < width; ++j) r["d" + name].push_back(double(from[size_t(first.at(name) + i * stride.at(name) + j)]));
    }
    return r;
  }
};

// place(vector&) is the pointer the kernel gets for a vector; it is called once a vector, and never for an empty one.
template <class T, class Place> ScanForward<T> forward_arguments(ScanRun<T>& r, Place&& place) {
  const ScanShape& s = r.problem.shape;
  ScanForward<T> a;
  a.size = s.size, a.kind = s.kind, a.written = s.written, a.scale = Wide<T>(r.problem.scale);
  std::map<std::string, T*> rows;
  for (auto& [name, x] : r.narrow)
    if (name == "q" || name == "k" || name == "v") rows[name] = place(x);
  const auto row = [&](const char* name) {
    return r.problem.x.contains(name) ? Rows<const T>{rows.at(s.fused ? "v" : name) + r.first.at(name), r.stride.at(name)} : Rows<const T>{};
  };
  a.q = row("q"), a.k = row("k"), a.v = row("v");
  const auto maybe = [&](const char* name) { return r.broad.contains(name) ? place(r.broad.at(name)) : nullptr; };
  a.gate = maybe("gate"), a.rate = maybe("rate"), a.memory_in = maybe("memory_in");
  a.memory_out = place(r.broad.at("memory_out")), a.saved = place(r.broad.at("saved"));
  if (!r.problem.segments.empty()) a.segments = place(r.problem.segments);
  a.y = {place(r.narrow.at("y")), s.size.heads * s.size.value_dim};
  return a;
}

// After the forward, whose arguments it continues.
template <class T, class Place> ScanBackward<T> backward_arguments(ScanRun<T>& r, const ScanForward<T>& f, Place&& place) {
  const ScanShape& s = r.problem.shape;
  ScanBackward<T> a;
  a.size = f.size, a.kind = f.kind, a.written = f.written, a.scale = f.scale, a.q = f.q, a.k = f.k, a.v = f.v;
  a.gate = f.gate, a.rate = f.rate, a.segments = f.segments, a.saved = f.saved;
  a.dy = {place(r.narrow.at("dy")), s.size.heads * s.size.value_dim};
  a.d_memory_out = r.broad.contains("d_memory_out") ? place(r.broad.at("d_memory_out")) : nullptr;
  std::map<std::string, T*> rows;
  for (auto& [name, x] : r.narrow)
    if (name == "dq" || name == "dk" || name == "dv") rows[name] = place(x);
  const auto row = [&](const std::string& name) {
    return r.problem.x.contains(name) ? Rows<T>{rows.at(s.fused ? "dv" : "d" + name) + r.first.at(name), r.stride.at(name)} : Rows<T>{};
  };
  a.dq = row("q"), a.dk = row("k"), a.dv = row("v");
  a.d_gate = place(r.broad.at("d_gate")), a.d_memory_in = place(r.broad.at("d_memory_in"));
  a.d_rate = r.broad.contains("d_rate") ? place(r.broad.at("d_rate")) : nullptr;
  return a;
}

// Only the gradient `only` is asked for; "" asks for none.
template <class T> void ask_only(ScanBackward<T>& a, const std::string& only) {
  if (only != "dq") a.dq = {};
  if (only != "dk") a.dk = {};
  if (only != "dv") a.dv = {};
  if (only != "d_gate") a.d_gate = nullptr;
  if (only != "d_rate") a.d_rate = nullptr;
  if (only != "d_memory_in") a.d_memory_in = nullptr;
}

// |a - b|_F / |b|_F; infinite when a holds a NaN or has another length. Adjoints that vanish are compared against 1e-3.
inline double far_from(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
  return std::isfinite(difference) ? std::sqrt(difference) / std::max(std::sqrt(size), 1e-3) : std::numeric_limits<double>::infinity();
}

// Every part of the answer that is further off than allowed, as a sentence naming shape, seed, worst index and both values; empty when all hold.
inline std::string scan_mismatch(const ScanParts& got, const ScanParts& want, const ScanShape& shape, uint64_t seed, double outputs, double gradients) {
  std::string text;
  for (const auto& [name, b] : want) {
    const std::vector<double>& a = got.at(name);
    const double off = far_from(a, b);
    if (off <= (name[0] == 'd' ? gradients : outputs)) continue;
    size_t worst = 0;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (!(std::abs(a[i] - b[i]) <= std::abs(a[worst] - b[worst]))) worst = i;
    text += fmt::format("{} is off by {:.2e} ({} seed {}): worst [{}] is {}, needs {}\n", name, off, describe(shape), seed, worst,
                        a.empty() ? 0 : a[worst], b.empty() ? 0 : b[worst]);
  }
  return text;
}

}  // namespace ttr
