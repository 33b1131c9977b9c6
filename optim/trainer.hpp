// The trainer: a model, an update rule and a loss.
//
//   Trainer trainer(model, AdamW{.beta2 = 0.95, .decay = 0.1},
//                   [](const auto& m, const Batch& b) { return cross_entropy(m(b.input), b.target); });
//   const StepReport report = trainer.step(batch, {.rate = schedule(step), .clip = 1.0});
//   if (step % 100 == 0) fmt::print("{}\n", report.loss());                  // waits for the device; nothing else here does
//
// It is given the loss, not its value: only so can it accumulate over micro-batches, free the tape as it goes, capture the whole step in a
// CUDA graph, and run it again to say where a NaN came from. The loss may return a scalar, or a Loss{total, count} to be divided later. It may
// take a StepKey as a third argument: what dropout draws from, another number every step, also in the replays of a graph.
// The model must outlive the trainer. Its parameters move into the trainer's arena and stay there; the model stays usable.
#pragma once
#include <span>
#include <utility>
#include <ttr/optim/batch.hpp>
#include <ttr/optim/stepper.hpp>

namespace ttr {

struct StepKey {
  Tensor key;          // f64 [1], on the model's device, whose bits are the number
  uint64_t piece = 0;  // of the step's micro-batches
  int64_t row = 0;     // rows of the micro-batches before this one: where its first row stands in the whole batch
};

template <class M, class F> class Trainer {
 public:
  // average: decay of a running average of the parameters; 0: none is kept.
  Trainer(M& model, UpdateRule rule, F loss, uint64_t seed = 0, double average = 0)
      : model_(model), loss_(std::move(loss)), stepper_(walk<Parameter>(model), walk<Frozen>(model), rule, seed, average) {}
  Trainer(const Trainer&) = delete;

  // One update from one batch. Tensors of a batch with an `each` are moved to the model's device if they are elsewhere.
  template <class B> StepReport step(const B& batch, const StepOptions& options = {}) {
    return step(std::span<const B>(&batch, 1), options);
  }
  // One update from several micro-batches: the big batch in pieces.
  template <class B> StepReport step(const std::vector<B>& batches, const StepOptions& options = {}) {
    return step(std::span<const B>(batches), options);
  }
  template <class B> StepReport step(std::span<const B> batches, const StepOptions& options = {}) {
    if (batches.empty()) throw refuse("trainer", "there are 0 micro-batches, needs at least one");
    stepper_.begin(options);
    Place place;
    for (const B& batch : batches) take(here(batch), place);
    return stepper_.finish();
  }

  // Records the whole step as a CUDA graph. The example gives shapes and dtypes; no step is taken. The loss must do the same operations
  // every time and may neither read numbers back nor upload any; dropout that draws from a number instead of a StepKey is alike in every replay.
  template <class B> void capture(const B& example) { capture(std::span<const B>(&example, 1)); }
  template <class B> void capture(const std::vector<B>& examples) { capture(std::span<const B>(examples)); }
  template <class B> void capture(std::span<const B> examples) {
    static_assert(BatchOfTensors<B>, "a captured batch needs an each() that names its tensors: replay copies new values into them");
    stepper_.drop_graph();
    inputs_.clear();
    std::vector<B> fixed(examples.begin(), examples.end());
    for (B& batch : fixed)
      each_tensor(batch, [&](const std::string& name, Tensor& x) {
        const Tensor place = empty(x.shape(), {x.dtype(), stepper_.arena().device()});
        overwrite("capture", name, place, x);
        inputs_.push_back({name, x = place});
      });
    stepper_.capture([&] {
      Place place;
      for (const B& batch : fixed) take(batch, place);
    });
  }
  bool captured() const { return stepper_.captured(); }

  // step(), by the graph: the same numbers, bit for bit.
  template <class B> StepReport replay(const B& batch, const StepOptions& options = {}) {
    return replay(std::span<const B>(&batch, 1), options);
  }
  template <class B> StepReport replay(const std::vector<B>& batches, const StepOptions& options = {}) {
    return replay(std::span<const B>(batches), options);
  }
  template <class B> StepReport replay(std::span<const B> batches, const StepOptions& options = {}) {
    size_t at = 0;
    for (B batch : batches)
      each_tensor(batch, [&](const std::string& name, Tensor& x) {
        if (at < inputs_.size()) overwrite("replay", name, inputs_[at].tensor, x);
        ++at;
      });
    if (at != inputs_.size()) throw refuse("replay", "the batches have {} tensors, needs the {} that were captured", at, inputs_.size());
    return stepper_.replay(options);
  }

  // Why the loss or the gradient of this batch is not finite, as a clause: "an output of exp is inf; the nearest parameter is head.weight".
  // A step that is not finite leaves the parameters as they were, so it can be asked afterwards.
  template <class B> std::string explain_nonfinite(const B& batch) {
    return ttr::explain_nonfinite(loss_of(here(batch), {}).total, stepper_.arena());
  }

  // Everything that continues the run: parameters, memories, counters. The next steps are the same bits as without the break.
  void save(const std::string& path, const std::map<std::string, std::string>& metadata = {}) const { stepper_.save(path, metadata); }
  void load(const SafetensorsFile& file) { stepper_.load(file); }
  void load(const std::string& path) { stepper_.load(path); }

  // f(), while the model's parameters are their averages, where those are kept.
  void averaged(const std::function<void()>& f) { stepper_.averaged(f); }

  const Arena& arena() const { return stepper_.arena(); }
  int64_t steps() const { return stepper_.steps(); }        // taken so far, also before a load
  const char* rule_name() const { return stepper_.rule_name(); }

 private:
  struct Place { uint64_t piece = 0; int64_t row = 0; };   // of a micro-batch in the step
  template <class B> void take(const B& batch, Place& place) {
    stepper_.backward(loss_of(batch, place), place.piece == 0);
    ++place.piece;
    place.row += rows_of(batch);
  }
  // The first axis of the first tensor; a batch that names no tensors counts as more rows than any has, so that each piece draws its own.
  template <class B> static int64_t rows_of(B batch) {
    int64_t rows = -1;
    if constexpr (BatchOfTensors<B>)
      each_tensor(batch, [&](const std::string&, Tensor& x) { if (rows < 0 && x.defined()) rows = x.rank() > 0 ? x.size(0) : 1; });
    return rows < 0 ? int64_t(1) << 32 : rows;
  }
  template <class B> auto called(const B& batch, Place place) {
    if constexpr (std::is_invocable_v<F&, const M&, const B&, StepKey>)
      return loss_(std::as_const(model_), batch, StepKey{stepper_.key(), place.piece, place.row});
    else
      return loss_(std::as_const(model_), batch);
  }
  template <class B> Loss loss_of(const B& batch, Place place) {
    auto value = called(batch, place);
    if constexpr (std::is_same_v<decltype(value), Loss>) return value;
    else return {std::move(value), {}};
  }
  template <class B> B here(B batch) const {   // a copy of the handles
    if constexpr (BatchOfTensors<B>)
      each_tensor(batch, [&](const std::string&, Tensor& x) {
        if (x.device() != stepper_.arena().device()) x = to_device(x, stepper_.arena().device());
      });
    return batch;
  }

  struct Input { std::string name; Tensor tensor; };
  M& model_;
  F loss_;
  Stepper stepper_;
  std::vector<Input> inputs_;   // what the captured step reads
};

}  // namespace ttr
