// Muon: the iteration, and its published coefficients.
#include <ttr/optim/muon.hpp>

namespace ttr {

const char* name_of(MuonSchedule s) { return s == MuonSchedule::keller ? "keller" : "lact"; }

Tensor orthogonalize(const Tensor& m, MuonSchedule schedule, int64_t steps) {
  struct Step {
    double a, b, c;
  };
  constexpr Step keller{3.4445, -4.7750, 2.0315};
  constexpr Step lact[] = {{4.0848, -6.8946, 2.9270},
                           {3.9505, -6.3029, 2.6377},
                           {3.7418, -5.5913, 2.3037},
                           {2.8769, -3.1427, 1.2046},
                           {2.8366, -3.0525, 1.2012}};
  if (m.rank() < 2) throw refuse("muon", "m has shape {}, needs at least two axes", to_string(m.shape()));
  if (steps < 1 || (schedule == MuonSchedule::lact && steps > 5))
    throw refuse("muon", "iterations is {}, needs at least 1, and at most 5 for the schedule lact", steps);
  const Tensor squares = sum(sum(square(m), -1, true), -2, true);   // [..., 1, 1]
  const Tensor some = less(zeros({}, like(m)), squares);            // a matrix of zeros has no direction
  const Tensor norm = where(some, sqrt(where(some, squares, ones(squares.shape(), like(m)))), zeros(squares.shape(), like(m)));
  Tensor x = m / (norm + 1e-7);
  const bool tall = m.size(-2) > m.size(-1);   // x (x^T x) = (x x^T) x: take the smaller product
  for (int64_t i = 0; i < steps; ++i) {
    const Step& s = schedule == MuonSchedule::keller ? keller : lact[i];
    const Tensor a = tall ? matmul(x, x, true, false) : matmul(x, x, false, true);
    const Tensor polynomial = s.b * a + s.c * matmul(a, a);
    x = s.a * x + (tall ? matmul(x, polynomial) : matmul(polynomial, x));
  }
  return x;
}

}   // namespace ttr
