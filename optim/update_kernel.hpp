// Border of the update: what happens to all parameters at once at the end of a step. They lie one behind the other in flat arenas, those
// that weight decay acts on first, so that one launch covers them and one number says which decay.
//
//   G = sum over micro-batches of d total / d p          total, count: summed over micro-batches, count 1 for a loss that is a mean
//   g = G / count * min(1, clip / |G / count|)
//   rule(p, g, memories..., rate)                        optim/rule.hpp, the same source that runs over tokens inside a layer
//   average += (1 - d_n) (p - average)                   where one is kept: d_n = min(d, (1 + n) / (10 + n)) after n updates
//
// Everything a step decides from its numbers is decided here, from a StepState in the device's own memory: the host reads nothing.
#pragma once
#include <cmath>
#include <ttr/core/border.hpp>
#include <ttr/optim/rule.hpp>

namespace ttr {

constexpr int64_t kStepRecords = 1024;   // how many steps back a loss can still be read
constexpr int kMostMemories = 2;

// The host writes rate and clip before a step; kernels do the rest.
struct StepState {
  double rate = 0;
  double clip = 0;                         // largest norm of the gradient; 0: no clipping
  double total = 0, count = 0;             // of the loss, over the micro-batches so far
  double scale = 0;                        // what the summed gradient is multiplied by: 1 / count, and clipping
  double correct1 = 1, correct2 = 1;       // 1 - beta^updates
  int64_t step = 0;                        // steps taken
  int64_t updates = 0;                     // of which changed the parameters
  int64_t applies = 0;                     // 1 when loss and gradient are finite; a step that is not leaves the parameters as they were
  uint64_t key = 0;                        // another number every step, for what draws inside a captured step
};

struct StepRecord {   // as f64, so that the ring of them is a tensor
  double loss = 0, grad_norm = 0, step = -1, finite = 0;
};

struct Betas { double first = 0, second = 0; };   // of a rule that has them
template <class Rule> Betas betas_of(const Rule& rule) {
  if constexpr (requires { rule.beta1, rule.beta2; }) return {rule.beta1, rule.beta2};
  else return {};
}

// The rate as rules read it.
template <class X> struct StepRate {
  using Number = X;
  X step_size = 0, momentum = 0, correct1 = 1, correct2 = 1, decay = 0;
};
template <class X, class Rule> TTR_BOTH StepRate<X> rate_of(const Rule& rule, const StepState& s, bool decays) {
  StepRate<X> rate{X(s.rate), X(0), X(s.correct1), X(s.correct2), X(0)};
  if constexpr (requires { rule.momentum; }) rate.momentum = X(rule.momentum);
  if constexpr (requires { rule.decay; }) rate.decay = decays ? X(rule.decay) : X(0);
  return rate;
}

// The arenas, [n] each.
template <class X> struct Update {
  int64_t n = 0;
  int64_t decaying = 0;                    // elements [0, decaying) decay
  X* master = nullptr;
  const X* gradient = nullptr;
  X* memory[kMostMemories] = {};           // as many as the rule has
  bf16* rounded = nullptr;                 // what a bf16 model sees; null when none does
  X* average = nullptr;                    // of the masters over the steps; null when none is kept
  double average_decay = 0;                // d
  const StepState* state = nullptr;
};

// One element; m [Rule::memories].
template <class Rule, class X> TTR_BOTH void update_element(const Rule& rule, X& p, X g, X* m, const StepRate<X>& rate) {
  static_assert(Rule::memories <= kMostMemories);
  if constexpr (Rule::memories == 0) rule(p, g, rate);
  else if constexpr (Rule::memories == 1) rule(p, g, m[0], rate);
  else rule(p, g, m[0], m[1], rate);
}

// 1 - d_n: an average that is young forgets faster, so that the initial values do not stay in it.
template <class X> TTR_BOTH X average_share(const Update<X>& u) {
  const double n = double(u.state->updates), young = (1 + n) / (10 + n);
  return X(1 - (u.average_decay < young ? u.average_decay : young));
}

// Loss, norm and clipping of a step, from the sum of squares of the summed gradient.
TTR_BOTH void conclude_step(double squares, Betas betas, StepState& s, StepRecord* records) {   // records [kStepRecords]
  const double share = s.count > 0 ? 1 / s.count : 0;
  const double loss = s.total * share, norm = std::sqrt(squares) * share;
  s.applies = std::isfinite(loss) && std::isfinite(norm) ? 1 : 0;
  s.scale = share * (s.clip > 0 && norm > s.clip ? s.clip / norm : 1);
  s.updates += s.applies;
  if (betas.first > 0) s.correct1 = 1 - std::pow(betas.first, double(s.updates));
  if (betas.second > 0) s.correct2 = 1 - std::pow(betas.second, double(s.updates));
  records[s.step % kStepRecords] = {loss, norm, double(s.step), double(s.applies)};
  s.step += 1;
  s.key += 0x9E3779B97F4A7C15u;   // the golden ratio: never the same again
}

// The sum of squares is taken in parts whose number depends on n alone, so it repeats bit for bit.
inline int64_t measure_parts(int64_t n) { return n <= 4096 ? 1 : n >= 4096 * 1024 ? 1024 : (n + 4095) / 4096; }
inline size_t measure_workspace(int64_t n) { return size_t(measure_parts(n)) * sizeof(double); }

namespace cpu {   // T: float, double; X: float, double; Rule: Sgd, Momentum, AdamW, MuonStep
template <class T> Status land(int64_t n, const T* from, Wide<T>* into, bool add);              // into (+)= from
Status add_loss(const double* total, const double* count, bool first, StepState*);             // null count: 1
template <class X> Status measure(int64_t n, const X* gradient, Betas, StepState*, StepRecord*, Workspace);
template <class Rule, class X> Status update(const Rule&, const Update<X>&);
}  // namespace cpu
namespace cuda {  // T: float, double, bf16; the rest as above
template <class T> Status land(int64_t n, const T* from, Wide<T>* into, bool add, Stream);
Status add_loss(const double* total, const double* count, bool first, StepState*, Stream);
template <class X> Status measure(int64_t n, const X* gradient, Betas, StepState*, StepRecord*, Workspace, Stream);
template <class Rule, class X> Status update(const Rule&, const Update<X>&, Stream);
}  // namespace cuda

}  // namespace ttr
