// Counting a model: parameters, bytes of a step, the plan of each mixer.
#include <algorithm>
#include <cmath>
#include <set>
#include <ttr/core/ops.hpp>
#include <ttr/layers/describe.hpp>
#include <ttr/layers/fold.hpp>
#include <ttr/layers/plan.hpp>

namespace ttr {
namespace {

// Bytes that stay while f's answer lives: what its tape keeps.
template <class F> double kept_by(Device device, F&& f) {
  const Recording on(true);
  const size_t before = memory_use(device).live_bytes;
  const auto answer = f();
  return double(memory_use(device).live_bytes) - double(before);
}

// kept(T) = kept(b) + slope (T - b), from two lengths that are whole numbers of every kernel's chunks.
template <class F> double kept_per_token(Device device, F&& f) {
  constexpr int64_t kShort = 64, kLong = 128;
  const double few = kept_by(device, [&] { return f(kShort); }), many = kept_by(device, [&] { return f(kLong); });
  return std::max(0.0, (many - few) / double(kLong - kShort));
}

Tensor input_of(const MemoryLayer& layer, int64_t tokens) {
  return normal({1, tokens, layer.options.dim}, 1, 0, 0, 1, like(*layer.project.weight));
}
double bytes_of_all(const Slots& slots) {
  double bytes = 0;
  for (const auto& [name, x] : slots) bytes += double(x.count()) * double(bytes_of(x.dtype()));
  return bytes;
}

double slots_of_token(const MemoryLayer& layer) {   // what a head has once is not counted
  return bytes_of_all(layer.slots(input_of(layer, 2))) - bytes_of_all(layer.slots(input_of(layer, 1)));
}

struct Kept {
  double activations = 0, workspace = 0;
};   // of one sequence

Kept kept_by_fold(const MemoryLayer& layer, int64_t tokens) {
  const Device device = layer.project.weight->device();
  const auto tape = [&](int64_t count) {
    Slots slots;
    for (const auto& [name, x] : layer.slots(input_of(layer, count))) slots[name] = variable(x);
    return kept_by(device, [&] { return fold(layer.options.recipe, {.slots = slots}, {.checkpoint_every = -1}); });
  };
  // A token's tape is a + b p where p tokens are visible; b is 0 unless old pairs are read again.
  const double at4 = tape(4), at8 = tape(8), at12 = tape(12);
  const double b = layer.options.recipe.looks_back() ? std::max(0.0, (at12 - 2 * at8 + at4) / 16) : 0;
  const double a = std::max(0.0, (at12 - at4) / 8 - 8.5 * b);
  const int64_t every = std::min(tokens, std::max<int64_t>(8, int64_t(std::sqrt(double(tokens)))));
  const Recording off(false);
  const Answer answer = fold(layer.options.recipe, {.slots = layer.slots(input_of(layer, 1)), .want_state = true});
  const double state = layer.options.recipe.looks_back() ? 0 : bytes_of_all(answer.state);
  const double pieces = double((tokens + every - 1) / every);
  return {slots_of_token(layer) * double(tokens) + state * pieces, double(every) * (a + b * (double(tokens) - double(every) / 2))};
}

Kept kept_by_block(const Block& block, int64_t tokens) {
  const MemoryLayer& layer = block.mixer;
  const Device device = layer.project.weight->device();
  const double number = double(bytes_of(layer.project.weight->dtype()));
  const double answer = double(layer.options.heads * layer.options.value_dim) * number;
  const Route* route = choose(layer.options.recipe, layer.problem(1, tokens, true), layer.options.route).route;
  double per_token = 2 * double(layer.options.dim) * number;   // the stream before and after the mixer
  per_token += kept_per_token(device, [&](int64_t count) { return layer.slots(input_of(layer, count)); });
  per_token += answer * ((layer.output_norm ? 1 : 0) + (layer.group_norm ? 2 : 0) + (layer.options.around->output_gate ? 3 : 0));
  if (layer.query && layer.skip.defined()) per_token += answer;   // D times the branch
  if (block.mlp_norm) per_token += kept_per_token(device, [&](int64_t count) { return block.feed(input_of(layer, count)); });
  if (std::string_view(route->name) == "fold") {
    Kept kept = kept_by_fold(layer, tokens);
    kept.activations += per_token * double(tokens) + answer * double(tokens);
    return kept;
  }
  per_token += kept_per_token(device, [&](int64_t count) {
    Slots slots;
    for (const auto& [name, x] : layer.slots(input_of(layer, count))) slots[name] = variable(x);
    return remember(layer.options.recipe, {.slots = slots}, layer.options.route);
  });
  // What the slots are is counted once, as the projections' output.
  const Recording off(false);
  per_token -= std::min(per_token, slots_of_token(layer));
  return {per_token * double(tokens), 0};
}

std::string thousands(int64_t n) {
  std::string text = std::to_string(n);
  for (int64_t i = int64_t(text.size()) - 3; i > 0; i -= 3) text.insert(size_t(i), ",");
  return text;
}
std::string size_text(double bytes) {
  if (bytes < 1e6) return fmt::format("{:.3g} kB", bytes * 1e-3);
  return bytes < 1e9 ? fmt::format("{:.3g} MB", bytes * 1e-6) : fmt::format("{:.3g} GB", bytes * 1e-9);
}
template <class M> int64_t count_of(const M& module) {
  M view = module;   // the same parameters
  int64_t count = 0;
  each_parameter(view, [&](const std::string&, Parameter& p) { count += p->count(); });
  return count;
}

// Blocks one after the other with the same mixer: [first, last].
std::vector<std::pair<size_t, size_t>> runs_of(const LanguageModel& model) {
  std::vector<std::pair<size_t, size_t>> runs;
  for (size_t i = 0; i < model.blocks.size(); ++i) {
    if (!runs.empty() && model.blocks[runs.back().second].mixer.options.recipe == model.blocks[i].mixer.options.recipe)
      runs.back().second = i;
    else
      runs.emplace_back(i, i);
  }
  return runs;
}

// What weight decay acts on, said by the parameters themselves.
std::string decay_text(const LanguageModel& model) {
  LanguageModel view = model;   // the same parameters
  std::set<const void*> seen;
  int64_t tensors[2] = {}, numbers[2] = {};
  each_parameter(view, [&](const std::string&, Parameter& p) {
    if (seen.insert(p.identity()).second) ++tensors[p.decays()], numbers[p.decays()] += p->count();
  });
  return fmt::format(
      "weight decay acts on {} matrices, {} numbers; not on gains, biases and what a recurrence learns: {} tensors, {} numbers\n",
      tensors[1], thousands(numbers[1]), tensors[0], thousands(numbers[0]));
}

Problem problem_of(const MemoryLayer& layer, const DescribeOptions& o) {
  Problem p = layer.problem(o.batch, o.tokens, o.training);
  p.segments = o.segments;
  return p;
}

std::vector<Kept> kept_by_runs(const LanguageModel& model, const DescribeOptions& o) {   // of one sequence, by one block of each run
  std::vector<Kept> kept;
  for (const auto& [first, last] : runs_of(model)) kept.push_back(o.training ? kept_by_block(model.blocks[first], o.tokens) : Kept{});
  return kept;
}

Footprint footprint_of(const LanguageModel& model, const DescribeOptions& o, const std::vector<Kept>& by_run) {
  const Dtype dtype = model.embed.weight->dtype();
  const double count = double(model.parameter_count()), number = double(bytes_of(dtype)), master = double(bytes_of(wide(dtype)));
  Footprint f;
  f.parameters = count * (dtype == wide(dtype) ? master : master + number);
  if (!o.training) return f;
  f.gradients = count * master;
  f.moments = double(o.moments) * count * master;
  const double rows = double(o.batch), tokens = double(o.batch * o.tokens);
  size_t run = 0;
  for (const auto& [first, last] : runs_of(model)) {
    const Kept& kept = by_run[run++];
    f.activations += double(last - first + 1) * kept.activations * rows;
    f.workspace = std::max(f.workspace, kept.workspace * rows);
  }
  f.activations += tokens * number * double(2 * model.options.dim + model.options.vocab);   // normed and not, logits
  f.workspace = std::max(f.workspace, tokens * number * double(model.options.vocab));       // their derivative
  return f;
}

}  // namespace

Footprint footprint(const LanguageModel& model, const DescribeOptions& o) { return footprint_of(model, o, kept_by_runs(model, o)); }

std::string describe(const LanguageModel& model, const DescribeOptions& o) {
  const std::vector<Kept> by_run = kept_by_runs(model, o);
  size_t run = 0;
  const LanguageModelOptions& m = model.options;
  std::string text = fmt::format("language model: {} blocks of width {}, {} tokens in the vocabulary, {} parameters\n", m.blocks, m.dim,
                                 m.vocab, thousands(model.parameter_count()));
  const auto part = [&](const std::string& name, int64_t count, const std::string& what) {
    text += fmt::format("  {:<14} {:>13}{}\n", name, thousands(count), what.empty() ? "" : "  " + what);
  };
  part("embed", count_of(model.embed), m.tied ? "also the head" : "");
  if (model.positions) part("positions", count_of(*model.positions), "");
  for (const auto& [first, last] : runs_of(model)) {
    const Block& block = model.blocks[first];
    const MemoryOptions& mixer = block.mixer.options;
    const std::string each = first == last ? "" : " each";
    std::string what =
        fmt::format("mixer {} ({} heads, K {}, V {})", thousands(count_of(block.mixer)), mixer.heads, mixer.key_dim, mixer.value_dim);
    if (mixer.key_heads != mixer.heads || mixer.value_heads != mixer.heads)
      what += fmt::format(", {} key heads, {} value heads", mixer.key_heads, mixer.value_heads);
    if (block.swiglu) what += fmt::format(", swiglu {} (hidden {})", thousands(count_of(*block.swiglu)), block.hidden());
    if (block.gelu) what += fmt::format(", gelu {} (hidden {})", thousands(count_of(*block.gelu)), block.hidden());
    what += fmt::format(", {}", choose(mixer.recipe, problem_of(block.mixer, o), mixer.route).route->name);
    if (o.training) {
      const Kept& kept = by_run[run++];
      what += fmt::format(", activations {}", size_text(kept.activations * double(o.batch)));
      if (kept.workspace > 0) what += fmt::format(" and {} for a while", size_text(kept.workspace * double(o.batch)));
    }
    part(first == last ? fmt::format("blocks.{}", first) : fmt::format("blocks.{}-{}", first, last), count_of(block), what + each);
  }
  if (model.decay_floors.defined()) part("decay_floors", model.decay_floors->count(), "of all blocks");
  part("norm", count_of(model.norm), "");
  if (model.head) part("head", count_of(*model.head), "");
  if (o.training) text += decay_text(model);

  const Footprint f = footprint_of(model, o, by_run);
  text += fmt::format("memory of a step, {} x {} tokens in {} on {}: about {}\n", o.batch, o.tokens, name_of(model.embed.weight->dtype()),
                      name_of(model.embed.weight->device()), size_text(f.total()));
  text += fmt::format("  parameters {}", size_text(f.parameters));
  if (o.training)
    text += fmt::format(", gradients {}, moments {}, activations {}, workspace {}", size_text(f.gradients), size_text(f.moments),
                        size_text(f.activations), size_text(f.workspace));
  text += "\nplan\n";
  for (const auto& [first, last] : runs_of(model)) {
    const MemoryLayer& layer = model.blocks[first].mixer;
    text += first == last ? fmt::format("blocks.{}: ", first) : fmt::format("blocks.{}-{}: ", first, last);
    text += describe_plan(layer.options.recipe, problem_of(layer, o), layer.options.route);
  }
  return text;
}

}  // namespace ttr
