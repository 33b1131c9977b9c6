// Every route, best first, fold last. Listing one here is what tests, times and documents it.
#include <ttr/layers/fold.hpp>
#include <ttr/layers/plan.hpp>

namespace ttr {

namespace delta {
extern const Route cpu_chunk, cuda_recurrent;
}
namespace scan {
extern const Route cpu_tiles, cuda_recurrent;
}
namespace diagonal_decay {
extern const Route cpu_block, cuda_recurrent;
}
namespace softmax_attention {
extern const Route cpu_blocked, cuda_streaming, cpu_local_linear, cuda_local_linear;
}
namespace least_squares {
extern const Route cpu_factorised, cpu_iterative, cuda_factorised, cuda_iterative;
}

namespace {

// What the definition costs at least: the memory is read and written once a token; linear classes touch K V numbers.
double fold_flops(const Recipe&, const Problem& p) {
  return double(p.batch * p.tokens * p.heads) * 6.0 * double(p.key_dim * p.value_dim) * (p.training ? 3 : 1);
}
double fold_bytes(const Recipe&, const Problem& p) {
  return double(p.batch * p.tokens * p.heads) * double(2 * p.key_dim + 2 * p.value_dim) * double(bytes_of(p.dtype)) * (p.training ? 3 : 1);
}
const Route kFold{"fold", "", [](const Recipe&, const Problem&) { return std::string(); },
                  [](const Recipe& recipe, const Arguments& a, const Problem&) { return fold(recipe, a); }, fold_flops, fold_bytes};

}  // namespace

std::span<const Route> routes() {
  static const Route all[] = {
      delta::cpu_chunk,
      delta::cuda_recurrent,
      diagonal_decay::cpu_block,
      diagonal_decay::cuda_recurrent,
      least_squares::cpu_factorised,
      least_squares::cpu_iterative,
      least_squares::cuda_factorised,
      least_squares::cuda_iterative,
      scan::cpu_tiles,
      scan::cuda_recurrent,
      softmax_attention::cpu_blocked,
      softmax_attention::cuda_streaming,
      softmax_attention::cpu_local_linear,
      softmax_attention::cuda_local_linear,
      kFold,
  };
  return all;
}

}  // namespace ttr
