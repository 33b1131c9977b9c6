// One optimizer step on the device, without the model: gradients into the arena, their norm, the update, a captured graph of all of it, and
// the state in a file. optim/trainer.hpp puts a model and a loss in front of it.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <variant>
#include <ttr/optim/arena.hpp>
#include <ttr/optim/update_kernel.hpp>

namespace ttr {

using UpdateRule = std::variant<Sgd, Momentum, AdamW, MuonAdamW>;

struct StepOptions {
  double rate = 1e-3;   // step size of the rule
  double clip = 0;      // largest norm of the whole gradient; 0: no clipping
};

// A loss that is not yet divided: a sum and what to divide it by (labels that count). Micro-batches add both, so that several of them equal
// the big batch also when their counts differ.
struct Loss {
  Tensor total;         // scalar
  Tensor count;         // scalar; undefined: 1, and total is a mean
};

// What a step found. It waits on the device; reading it waits for the step. Readable for kStepRecords steps.
class StepReport {
 public:
  StepReport(Tensor records, int64_t index) : records_(std::move(records)), index_(index) {}
  int64_t index() const { return index_; }                     // of the step, from 0
  double loss() const { return record().loss; }
  double grad_norm() const { return record().grad_norm; }      // before clipping
  bool finite() const { return record().finite != 0; }         // if not, the step left the parameters as they were

 private:
  const StepRecord& record() const;
  Tensor records_;      // f64 [kStepRecords, 4]
  int64_t index_;
  mutable std::optional<StepRecord> read_;
};

class Stepper {
 public:
  Stepper(const Walk<Parameter>&, const Walk<Frozen>&, UpdateRule, uint64_t seed, double average = 0);
  ~Stepper();
  Stepper(const Stepper&) = delete;

  // One step: begin, backward once for each micro-batch, finish.
  void begin(const StepOptions&);
  void backward(const Loss&, bool first);
  StepReport finish();

  // Records what `backwards` does, and the update after it, as a graph; replay does the step again on what its inputs hold by then.
  void capture(const std::function<void()>& backwards);
  bool captured() const { return graph_ != nullptr; }
  StepReport replay(const StepOptions&);
  void drop_graph();

  const Arena& arena() const { return arena_; }
  Tensor key() const;                                                 // StepState::key, as the bits of one f64
  void averaged(const std::function<void()>& f);                      // f, while the parameters are their averages, where those are kept
  int64_t steps() const { return steps_; }
  const char* rule_name() const;

  // Parameters and frozen parts under their names, memories as "optimizer.0.NAME", averages as "optimizer.average.NAME", counters as
  // "optimizer.step". load needs exactly these.
  void save(const std::string& path, std::map<std::string, std::string> metadata) const;
  void load(const SafetensorsFile&);
  void load(const std::string& path);

 private:
  void point();           // what a rule must know of whole matrices before it moves their numbers
  void launch_update();   // the norm, the counters, the rule
  bool keeps(size_t memory, size_t entry) const;   // from step to step: not the direction of a matrix
  StepReport report();

  Arena arena_;
  std::vector<NamedTensor> frozen_;
  UpdateRule rule_;
  double average_;        // decay; 0: none
  Tensor state_;          // f64, holds one StepState
  Tensor records_;        // f64 [kStepRecords, 4]
  Tensor partial_;        // f64, scratch of the norm
  int64_t steps_ = 0;     // the device's count, known without reading it
  std::unique_ptr<PrivatePool> pool_;
  void* graph_ = nullptr;
};

// Why a loss or its gradient is not finite: the first operation with such a value, or the first gradient of the sweep, and the parameter
// nearest to it. total is recorded and not yet swept. Reads everything back: for after the fact.
std::string explain_nonfinite(const Tensor& total, const Arena&);

}  // namespace ttr
