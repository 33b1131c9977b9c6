// Muon: momentum whose step is made orthogonal, by Newton-Schulz iterations on the last two axes.
//
//   m = eta m + g;   p = p - theta NS(m)          rate.step_size (theta), rate.momentum (eta)
//   NS: x_0 = m / (|m|_F + 1e-7);  x <- a x + (b A + c A A) x,  A = x x^T
//
// It moves every singular value towards 1 and keeps the singular vectors. Two schedules of (a, b, c):
//   keller   (3.4445, -4.7750, 2.0315) at every step: fast, and singular values stay within about 0.7 .. 1.2   (K. Jordan 2024; ATLAS, arXiv 2505.23735)
//   lact     five steps, each with its own numbers: within about 2 % of 1                                         (LaCT, arXiv 2505.23884)
#pragma once
#include <ttr/core/ops.hpp>
#include <ttr/optim/rule.hpp>

namespace ttr {

class Arena;

enum class MuonSchedule { keller, lact };
Tensor orthogonalize(const Tensor& m, MuonSchedule, int64_t steps);   // [..., R, D] -> [..., R, D]

struct Muon {
  static constexpr const char* name = "muon";
  static constexpr int memories = 1;
  static constexpr bool of_matrices = true;   // not for vectors: NS of a vector is its direction
  static constexpr bool momentum_by_slot = true;
  double momentum = 0.95;                     // the trainer's clock; inside a layer it is a slot
  MuonSchedule schedule = MuonSchedule::keller;
  int64_t iterations = 5;
  void each(auto&& f) { f("momentum", momentum), f("schedule", schedule), f("iterations", iterations); }
  template <class R> void operator()(Tensor& p, const Tensor& g, Tensor& m, const R& rate) const {
    m = rate.momentum * m + g;
    p = p - rate.step_size * orthogonalize(m, schedule, iterations);
  }
};

// The trainer's Muon: the direction of every matrix that stands apart into the second memory, from the gradient g times `scale` [1] and the momentum m:
// o = 0.2 sqrt(max(R, D)) NS(g + eta (eta m + g)), Nesterov's. On the device and without a look at its numbers, so a captured step does it too.
void point_matrices(const Arena&, const MuonAdamW&, const Tensor& scale);

}   // namespace ttr
