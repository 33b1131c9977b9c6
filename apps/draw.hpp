// One token from a model's scores.
//   p = softmax(logits / temperature), cut to the top_k likeliest, then to the fewest of those that hold top_p of what is left, and drawn by u
#pragma once
#include <cstdint>
#include <span>

namespace ttr {

struct DrawOptions {
  double temperature = 0.8;   // 0: the likeliest, every time
  std::int64_t top_k = 0;     // 0: all
  double top_p = 1;           // in (0, 1]
};

void check_draw(const DrawOptions&);   // refuses what is out of range

// u in [0, 1). Of equal scores the lower token counts as the likelier.
std::int32_t draw(std::span<const double> logits, const DrawOptions&, double u);

}  // namespace ttr
