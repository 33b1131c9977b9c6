// One optimizer step on the device: what the host launches, in which order, and what it copies.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/safetensors.hpp>
#include <ttr/optim/muon.hpp>
#include <ttr/optim/stepper.hpp>

namespace ttr {
namespace {

static_assert(sizeof(StepState) % sizeof(double) == 0 && sizeof(StepRecord) == 4 * sizeof(double));
constexpr int64_t kStateNumbers = sizeof(StepState) / sizeof(double);

StepState* state_at(const Tensor& t) { return static_cast<StepState*>(t.address()); }
StepRecord* records_at(const Tensor& t) { return static_cast<StepRecord*>(t.address()); }
Workspace workspace_at(const Tensor& t) { return {t.address(), size_t(t.count()) * sizeof(double)}; }

void copy_in(void* to, const void* from, size_t bytes, Device device) {
  if (!device.is_cuda())
    std::memcpy(to, from, bytes);
  else if constexpr (with_cuda)
    must("trainer", cuda::copy_to_device(to, from, bytes));
}
void copy_out(void* to, const void* from, size_t bytes, Device device) {
  if (!device.is_cuda())
    std::memcpy(to, from, bytes);
  else if constexpr (with_cuda)
    must("trainer", cuda::copy_to_host(to, from, bytes));
}

Tensor as_number(const char* name, const Tensor& t, Device device) {   // f64 []
  if (t.count() != 1)
    throw refuse("trainer", "the loss function's {} has shape {}, needs a scalar; reduce it with sum or mean", name, to_string(t.shape()));
  if (t.device() != device)
    throw refuse("trainer", "the loss function's {} is on {}, needs the model's {}", name, name_of(t.device()), name_of(device));
  return cast(detach(t), Dtype::f64);
}

}  // namespace

const StepRecord& StepReport::record() const {
  if (!read_) {
    StepRecord r;
    copy_out(&r, records_at(records_) + index_ % kStepRecords, sizeof r, records_.device());
    if (r.step != double(index_))
      throw refuse("trainer", "the report of step {} is gone, needs to be read within {} steps; step {} took its place", index_,
                   kStepRecords, r.step);
    read_ = r;
  }
  return *read_;
}

Stepper::Stepper(const Walk<Parameter>& parameters, const Walk<Frozen>& frozen, UpdateRule rule, uint64_t seed, double average)
    : arena_(collect(parameters), std::visit([](const auto& r) { return r.memories; }, rule), average > 0, std::holds_alternative<MuonAdamW>(rule)),
      frozen_(collect(frozen)),
      rule_(rule),
      average_(average) {
  if (!(average >= 0 && average < 1)) throw refuse("trainer", "the average's decay is {}, needs one from 0 (none) to less than 1", average);
  const Options options{Dtype::f64, arena_.device()};
  state_ = empty({kStateNumbers}, options);
  records_ = zeros({kStepRecords, 4}, options);
  partial_ = empty({int64_t(measure_workspace(arena_.count()) / sizeof(double))}, options);
  StepState fresh;
  fresh.key = seed;
  copy_in(state_.address(), &fresh, sizeof fresh, arena_.device());
}

Stepper::~Stepper() { drop_graph(); }

void Stepper::drop_graph() {
  if constexpr (with_cuda)
    if (graph_) {
      cuda::synchronise();   // a replay may still be running
      cuda::graph_release(graph_);
    }
  graph_ = nullptr;
  pool_.reset();
}

void Stepper::begin(const StepOptions& o) {
  if (!std::isfinite(o.rate)) throw refuse("trainer", "rate is {}, needs a finite number", o.rate);
  if (!(o.clip >= 0)) throw refuse("trainer", "clip is {}, needs a norm, or 0 for no clipping", o.clip);
  arena_.must_be_bound();
  const double given[2] = {o.rate, o.clip};   // the first two numbers of StepState
  static_assert(offsetof(StepState, rate) == 0 && offsetof(StepState, clip) == sizeof(double));
  copy_in(state_.address(), given, sizeof given, arena_.device());
}

void Stepper::backward(const Loss& loss, bool first) {
  if (!loss.total.defined()) throw refuse("trainer", "the loss function's total is undefined, needs a scalar");
  if (!loss.total.tracked())
    throw refuse("trainer", "the loss is untracked, needs to depend on a parameter; was recording off, or the values detached");
  {
    Recording off(false);
    const Tensor total = as_number("total", loss.total, arena_.device());
    const Tensor count = loss.count.defined() ? as_number("count", loss.count, arena_.device()) : Tensor();
    if (!arena_.device().is_cuda())
      must("trainer", cpu::add_loss(in<double>(total), in<double>(count), first, state_at(state_)));
    else if constexpr (with_cuda)
      must("trainer", cuda::add_loss(in<double>(total), in<double>(count), first, state_at(state_), cuda::stream()));
  }
  const Profile::Phase phase("backward");
  grad({loss.total}, {}, arena_.variables(), {.consume = true, .ready = [&](size_t i, const Tensor& d) { arena_.land(i, d, !first); }});
}

void Stepper::point() {
  if (const auto* muon = std::get_if<MuonAdamW>(&rule_))
    point_matrices(arena_, *muon, window(state_, offsetof(StepState, scale) / sizeof(double), {1}));
}

void Stepper::launch_update() {
  const Profile::Phase phase("update");
  const int64_t n = arena_.count();
  dispatch("trainer", arena_.master(), [&]<class T>(auto place) {
    if constexpr (!std::is_same_v<T, bf16>) {   // masters are f32 or f64
      constexpr bool on_cuda = decltype(place)::cuda;
      const auto measure = [&](Betas betas) {
        const T* gradient = in<T>(arena_.gradient());
        if constexpr (on_cuda)
          must("trainer", cuda::measure<T>(n, gradient, betas, state_at(state_), records_at(records_), workspace_at(partial_), place.stream));
        else
          must("trainer", cpu::measure<T>(n, gradient, betas, state_at(state_), records_at(records_), workspace_at(partial_)));
      };
      const auto update = [&](const auto& rule, int64_t begin, int64_t end) {   // elements [begin, end)
        Update<T> u{.n = end - begin,
                    .decaying = std::clamp<int64_t>(arena_.decaying() - begin, 0, end - begin),
                    .master = static_cast<T*>(arena_.master().address()) + begin,
                    .gradient = in<T>(arena_.gradient()) + begin,
                    .state = state_at(state_)};
        for (int i = 0; i < rule.memories; ++i) u.memory[i] = static_cast<T*>(arena_.memories()[size_t(i)].address()) + begin;
        if (average_ > 0) u.average = static_cast<T*>(arena_.average().address()) + begin, u.average_decay = average_;
        if (arena_.rounded().defined()) u.rounded = static_cast<bf16*>(arena_.rounded().address()) + begin;
        if constexpr (on_cuda) must("trainer", cuda::update(rule, u, place.stream));
        else must("trainer", cpu::update(rule, u));
      };
      std::visit(
          [&]<class Rule>(const Rule& rule) {
            if constexpr (std::is_same_v<Rule, MuonAdamW>) {
              measure(betas_of(rule.others));
              point();
              update(rule.matrices(), 0, arena_.matrices());
              update(rule.others, arena_.matrices(), n);
            } else {
              measure(betas_of(rule));
              update(rule, 0, n);
            }
          },
          rule_);
    }
  });
}

StepReport Stepper::report() {
  arena_.modified();
  return {records_, steps_++};
}

StepReport Stepper::finish() {
  launch_update();
  return report();
}

void Stepper::capture(const std::function<void()>& backwards) {
  if (!arena_.device().is_cuda())
    throw refuse("capture", "the model is on {}, needs cuda; only there can a step become a graph", name_of(arena_.device()));
  if constexpr (with_cuda) {
    drop_graph();
    arena_.must_be_bound();
    pool_ = std::make_unique<PrivatePool>();
    PrivatePool::Use use(*pool_);
    backwards();   // once for real: kernels are loaded and the pool is filled; it writes nothing that the next step does not overwrite
    point();
    must("capture", cuda::synchronise());
    must("capture", cuda::capture_begin());
    try {
      backwards();
      launch_update();
    } catch (const std::exception& e) {
      cuda::graph_release(cuda::capture_end());
      throw refuse("capture",
                   "the step broke while it was recorded: {}; a captured loss may not read numbers back (item, to_vector) nor upload any",
                   e.what());
    }
    graph_ = cuda::capture_end();
    if (!graph_)
      throw refuse("capture", "the step did not become a graph: {}; a captured loss may not read numbers back nor upload any",
                   cuda::last_error());
  }
}

StepReport Stepper::replay(const StepOptions& o) {
  if (!graph_) throw refuse("replay", "no step was captured, needs capture() first");
  begin(o);
  if constexpr (with_cuda) must("replay", cuda::graph_launch(graph_));
  return report();
}

Tensor Stepper::key() const {
  static_assert(sizeof(StepState::key) == sizeof(double) && offsetof(StepState, key) % sizeof(double) == 0);
  return window(state_, offsetof(StepState, key) / sizeof(double), {1});
}

void Stepper::averaged(const std::function<void()>& f) {
  if (average_ == 0) return f();
  const auto put = [&](const Tensor& values) {
    overwrite("trainer", "the parameters", arena_.master(), values);
    arena_.round();
    arena_.modified();
  };
  const Tensor own = empty(arena_.master().shape(), like(arena_.master()));
  overwrite("trainer", "the parameters", own, arena_.master());
  put(arena_.average());
  try {
    f();
  } catch (...) {
    put(own);
    throw;
  }
  put(own);
}

bool Stepper::keeps(size_t memory, size_t entry) const { return memory == 0 || !arena_.entries()[entry].apart; }

const char* Stepper::rule_name() const {
  return std::visit([](const auto& r) { return r.name; }, rule_);
}

// -- files -------------------------------------------------------------------------------------------------------------------------------
namespace {

const std::string kCounters = "optimizer.step";   // I64 [3]: steps, updates, key
std::string memory_name(size_t m, const std::string& name) { return "optimizer." + std::to_string(m) + "." + name; }

}  // namespace

void Stepper::save(const std::string& path, std::map<std::string, std::string> metadata) const {
  Tensors flat{to_device(arena_.master(), cpu_device)};
  for (const Tensor& m : arena_.memories()) flat.push_back(to_device(m, cpu_device));
  const Tensor average = average_ > 0 ? to_device(arena_.average(), cpu_device) : Tensor();
  StepState state;
  copy_out(&state, state_.address(), sizeof state, arena_.device());
  const int64_t counters[3] = {state.step, state.updates, int64_t(state.key)};

  std::vector<SafetensorsEntry> entries;
  const auto add = [&](const std::string& name, const Tensor& t) {   // t on the CPU
    const std::vector<int64_t> shape(t.shape().begin(), t.shape().end());
    entries.push_back(
        {name, {raw_name_of(t.dtype()), shape, static_cast<const std::byte*>(t.address()), size_t(t.count()) * bytes_of(t.dtype())}});
  };
  for (size_t i = 0; i < arena_.entries().size(); ++i)
    for (size_t m = 0; m < flat.size(); ++m)
      if (m == 0 || keeps(m - 1, i))
        add(m == 0 ? arena_.entries()[i].name : memory_name(m - 1, arena_.entries()[i].name), arena_.part(flat[m], i));
  for (size_t i = 0; average.defined() && i < arena_.entries().size(); ++i)
    add(kAverageName + arena_.entries()[i].name, arena_.part(average, i));
  Tensors fixed;
  for (const auto& [name, value] : frozen_) fixed.push_back(to_device(value, cpu_device));
  for (size_t i = 0; i < fixed.size(); ++i) add(frozen_[i].name, fixed[i]);
  entries.push_back({kCounters, {"I64", {3}, reinterpret_cast<const std::byte*>(counters), sizeof counters}});
  metadata["optimizer"] = rule_name();
  write_safetensors(path, entries, metadata);
}

void Stepper::load(const std::string& path) { load(SafetensorsFile(path)); }

void Stepper::load(const SafetensorsFile& file) {
  const auto rule = file.metadata().find("optimizer");
  const std::string was = rule == file.metadata().end() ? "nothing" : rule->second;
  if (was != rule_name())
    throw refuse("load", "{} was saved by {}, needs {}; resume with the same optimizer", file.path(), was, rule_name());
  std::map<std::string, Tensor> places;   // name -> where it goes
  for (size_t i = 0; i < arena_.entries().size(); ++i) {
    places[arena_.entries()[i].name] = arena_.part(arena_.master(), i);
    for (size_t m = 0; m < arena_.memories().size(); ++m)
      if (keeps(m, i)) places[memory_name(m, arena_.entries()[i].name)] = arena_.part(arena_.memories()[m], i);
    if (average_ > 0) places[kAverageName + arena_.entries()[i].name] = arena_.part(arena_.average(), i);
  }
  for (const auto& [name, value] : frozen_) places[name] = value;
  for (const std::string& name : file.names())
    if (name != kCounters && !places.contains(name))
      throw refuse("load", "{} holds {}, which the model does not have; was it another model", file.path(), name);

  std::map<std::string, Tensor> values;
  for (const auto& [name, place] : places) {   // everything is looked at before anything changes
    if (!file.has(name)) throw refuse("load", "{} is not in {}, needs every tensor of the model and its optimizer", name, file.path());
    if (const std::string& dtype = file.at(name).dtype; dtype != raw_name_of(place.dtype()))
      throw refuse("load", "{} is {} in {}, needs {}", name, dtype, file.path(), raw_name_of(place.dtype()));
    const Tensor value = from_raw(name, file.read(name), {place.dtype(), cpu_device});
    if (value.shape() != place.shape())
      throw refuse("load", "{} is {} in {}, needs {}", name, to_string(value.shape()), file.path(), to_string(place.shape()));
    values[name] = value;
  }
  if (!file.has(kCounters)) throw refuse("load", "{} is not in {}, needs the file of a trainer", kCounters, file.path());
  const RawTensor raw = file.read(kCounters);
  int64_t counters[3];
  if (raw.dtype != "I64" || raw.bytes != sizeof counters)
    throw refuse("load", "{} is {} of {} bytes in {}, needs 3 numbers I64", kCounters, raw.dtype, raw.bytes, file.path());
  std::memcpy(counters, raw.data, sizeof counters);
  if (counters[0] < 0 || counters[1] < 0)
    throw refuse("load", "{} counts {} steps and {} updates, needs none below 0", file.path(), counters[0], counters[1]);

  for (const auto& [name, place] : places) overwrite("load", name, place, values[name]);
  arena_.round();
  arena_.modified();
  StepState state;
  state.step = steps_ = counters[0];
  state.updates = counters[1];
  state.key = uint64_t(counters[2]);
  copy_in(state_.address(), &state, sizeof state, arena_.device());
}

}  // namespace ttr
