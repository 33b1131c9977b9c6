// LanguageModel: the stack, its parameters' names, and one token at a time.
#include <cmath>
#include <set>
#include <ttr/core/ops.hpp>
#include <ttr/layers/language_model.hpp>

namespace ttr {
namespace {

constexpr const char* kWhere = "language_model";

// How many tokens of the same document stand before each: i32 [B, T].
Tensor places_in_documents(const Tensor& segments) {
  const int64_t B = segments.size(0), T = segments.size(1);
  const Tensor document = cast(documents_of(segments), Dtype::f32);
  const Tensor same = equal(reshape(document, {B, T, 1}), reshape(document, {B, 1, T}));
  return cast(sum(tril(same, -1), -1), Dtype::i32);
}

}  // namespace

LanguageModel::LanguageModel(const LanguageModelOptions& o, uint64_t seed, Device device, Dtype dtype) : options(o) {
  if (o.vocab < 1 || o.dim < 1 || o.blocks < 0)
    throw refuse(kWhere, "vocab is {}, dim {} and blocks {}, needs at least 1, 1 and 0", o.vocab, o.dim, o.blocks);
  if (!is_floating(dtype)) throw refuse(kWhere, "dtype is {}, needs f32, f64 or bf16", name_of(dtype));
  Init init(seed, {dtype, device});
  embed = Embedding({.count = o.vocab, .dim = o.dim}, init);
  if (o.positions > 0) positions = Embedding({.count = o.positions, .dim = o.dim}, init);
  const double residual = 0.02 / std::sqrt(2.0 * double(std::max<int64_t>(o.blocks, 1)));
  for (int64_t i = 0; i < o.blocks; ++i) {
    const Recipe& recipe = o.mixers.empty() ? o.mixer : o.mixers[size_t(i) % o.mixers.size()];
    Surroundings around = o.around ? *o.around : usual_surroundings(recipe);
    if (!o.around && o.positions > 0) around.rotary = false;
    blocks.emplace_back(BlockOptions{.mixer = {.dim = o.dim,
                                               .heads = o.heads,
                                               .key_heads = o.key_heads,
                                               .value_heads = o.value_heads,
                                               .key_dim = o.key_dim,
                                               .value_dim = o.value_dim,
                                               .recipe = recipe,
                                               .around = around,
                                               .route = o.route,
                                               .output_deviation = residual,
                                               .depth = {.block = i, .blocks = o.blocks}},
                                     .feed_forward = o.feed_forward,
                                     .hidden = o.hidden,
                                     .dropout = o.dropout},
                        init);
  }
  bound_decays(init);
  norm = RMSNorm(o.dim, init);
  if (!o.tied) head = Linear({.in = o.dim, .out = o.vocab}, init);
}

void LanguageModel::bound_decays(Init& init) {
  for (size_t i = 1; i < blocks.size(); ++i) {   // nothing bounds the first
    MemoryLayer& mixer = blocks[i].mixer;
    if (!mixer.options.around->decay_floor) continue;
    for (const Gate& gate : mixer.gates) {
      if (gate.slot.range != log_of_unit) continue;
      const Shape needed{gate.tail.count(), int64_t(blocks.size())};
      if (!decay_floors.defined()) decay_floors = init.constant(needed, 0);
      if (decay_floors->shape() != needed)
        throw refuse(kWhere, "decay_floor bounds {} decays in block {} and {} before, needs as many in all blocks", needed[0], i, decay_floors->size(0));
      mixer.decay_floors = decay_floors, mixer.floor_block = int64_t(i);
    }
  }
}

Tensor LanguageModel::embedded(const Tensor& tokens, const Tensor& segments, int64_t first) const {
  const Tensor x = embed(tokens);
  if (!positions) return x;
  if (segments.defined()) return x + (*positions)(places_in_documents(segments));
  return x + slice(*positions->weight, 0, first, first + tokens.size(1));
}
Tensor LanguageModel::scored(const Tensor& x) const { return head ? (*head)(norm(x)) : embed.scores(norm(x)); }

Tensor LanguageModel::operator()(const Tensor& tokens, const Pass& pass) const {
  if (tokens.rank() != 2 || tokens.dtype() != Dtype::i32)
    throw refuse(kWhere, "tokens is {} {}, needs i32 [B, T]", name_of(tokens.dtype()), to_string(tokens.shape()));
  const int64_t T = tokens.size(1);
  if (positions && T > options.positions)
    throw refuse(kWhere, "tokens has {} a row, needs at most {}, the learned positions", T, options.positions);
  Tensor x = embedded(tokens, pass.segments, 0);
  x = pass.dropped(x, options.dropout, 0);
  for (size_t i = 0; i < blocks.size(); ++i) x = blocks[i](x, pass, i);
  return scored(x);
}

Tensor LanguageModel::prefill(const Tensor& tokens, LanguageModelState& state) const {
  if (tokens.rank() != 2 || tokens.dtype() != Dtype::i32 || tokens.size(1) < 1)
    throw refuse(kWhere, "tokens is {} {}, needs i32 [B, T] with at least one token", name_of(tokens.dtype()), to_string(tokens.shape()));
  const Recording off(false);
  const int64_t T = tokens.size(1);
  if (positions && state.position + T > options.positions)
    throw refuse(kWhere, "the sequence has {} tokens, needs at most {}, the learned positions", state.position + T, options.positions);
  state.blocks.resize(blocks.size());
  Tensor x = embedded(tokens, {}, state.position);
  for (size_t i = 0; i < blocks.size(); ++i) x = blocks[i].step(x, state.blocks[i]);
  state.position += T;
  return scored(slice(x, 1, T - 1, T));
}

int64_t LanguageModel::parameter_count() const {
  LanguageModel view = *this;   // the same parameters
  std::set<const void*> seen;
  int64_t count = 0;
  each_parameter(view, [&](const std::string&, Parameter& p) {
    if (seen.insert(p.identity()).second) count += p->count();
  });
  return count;
}

template void each_part<Parameter, LanguageModel>(LanguageModel&, const PartVisitor<Parameter>&, const std::string&);
template void each_part<Frozen, LanguageModel>(LanguageModel&, const PartVisitor<Frozen>&, const std::string&);

}  // namespace ttr
