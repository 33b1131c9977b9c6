// Block: two residual branches, and the names of its parts.
#include <ttr/core/ops.hpp>
#include <ttr/layers/block.hpp>

namespace ttr {

Tensor Pass::dropped(const Tensor& x, double rate, uint64_t place) const {
  if (rate == 0 || x.count() == 0) return x;
  const int64_t first = dropout_row * (x.count() / x.size(0));
  if (dropout_key.defined()) return dropout(x, rate, dropout_key, place, first);
  return dropout_seed ? dropout(x, rate, *dropout_seed, place, first) : x;
}

Block::Block(const BlockOptions& o, Init& init) : mixer_norm(o.mixer.dim, init), mixer(o.mixer, init), dropout(o.dropout) {
  if (o.feed_forward == FeedForward::none) return;
  const int64_t dim = o.mixer.dim;
  const bool gated = o.feed_forward == FeedForward::swiglu;
  const int64_t hidden = o.hidden > 0 ? o.hidden : gated ? (dim * 8 / 3 + 31) / 32 * 32 : 4 * dim;
  const FeedForwardOptions feed{.dim = dim, .hidden = hidden, .output_deviation = o.mixer.output_deviation};
  mlp_norm = RMSNorm(dim, init);
  if (gated)
    swiglu = SwiGLU(feed, init);
  else
    gelu = GeluMlp(feed, init);
}

int64_t Block::hidden() const { return swiglu ? swiglu->down.weight->size(1) : gelu ? gelu->down.weight->size(1) : 0; }

Tensor Block::feed(const Tensor& normed) const { return swiglu ? (*swiglu)(normed) : (*gelu)(normed); }

Tensor Block::operator()(const Tensor& x, const Pass& pass, uint64_t index) const {
  const Tensor mixed = pass.dropped(mixer(mixer_norm(x), pass.segments), dropout, 2 * index + 1);
  if (!mlp_norm) return x + mixed;
  const Tensors stream = add_rms_norm(x, mixed, *mlp_norm->weight, mlp_norm->eps);
  return stream[0] + pass.dropped(feed(stream[1]), dropout, 2 * index + 2);
}

Tensor Block::step(const Tensor& x, MemoryState& state) const {
  const Tensor mixed = mixer.step(mixer_norm(x), state);
  if (!mlp_norm) return x + mixed;
  const Tensors stream = add_rms_norm(x, mixed, *mlp_norm->weight, mlp_norm->eps);
  return stream[0] + feed(stream[1]);
}

}  // namespace ttr
