// Muon in the trainer: what MuonStep (optim/rule.hpp) is told before it moves a matrix.
#include <algorithm>
#include <cmath>
#include <ttr/optim/arena.hpp>
#include <ttr/optim/muon.hpp>

namespace ttr {

void point_matrices(const Arena& arena, const MuonAdamW& rule, const Tensor& scale) {
  const Recording off(false);
  const Tensor by = cast(scale, arena.dtype());   // 1 / count, and clipping
  const double eta = rule.momentum;
  for (size_t i = 0; i < arena.entries().size(); ++i) {
    const Arena::Entry& entry = arena.entries()[i];
    if (!entry.apart) continue;
    const Tensor g = arena.part(arena.gradient(), i) * by, m = arena.part(arena.memories()[0], i);   // [R, D]
    const Tensor ahead = (1 + eta) * g + eta * eta * m;
    const double size = 0.2 * std::sqrt(double(std::max(g.size(0), g.size(1))));
    overwrite("muon", entry.name, arena.part(arena.memories()[1], i), size * orthogonalize(ahead, MuonSchedule::keller, 5));
  }
}

}  // namespace ttr
