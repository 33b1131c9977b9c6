// The arena: layout, landing of gradients, and values from files.
#include <cstring>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/safetensors.hpp>
#include <ttr/optim/arena.hpp>
#include <ttr/optim/update_kernel.hpp>

namespace ttr {
namespace {

constexpr int64_t kAlignment = 64;   // elements: 128 bytes of bf16, so that vector loads of products stay aligned

int64_t aligned(int64_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

// into, in the wide dtype of from, (+)= from
void land_values(const Tensor& from, Tensor into, bool add) {
  if (from.count() == 0) return;
  dispatch("arena", from, [&]<class T>(auto place) {
    if constexpr (place.cuda)
      must("arena", cuda::land<T>(from.count(), in<T>(from), out<Wide<T>>(into), add, place.stream));
    else
      must("arena", cpu::land<T>(from.count(), in<T>(from), out<Wide<T>>(into), add));
  });
}

void bump(Tensor& t) {
  if (t.dtype() == Dtype::f64)
    t.mutate<double>();
  else if (t.dtype() == Dtype::bf16)
    t.mutate<bf16>();
  else if (t.dtype() == Dtype::i32)
    t.mutate<int32_t>();
  else
    t.mutate<float>();
}

}  // namespace

std::string part_name(const std::string& above, const std::string& name) { return above.empty() ? name : above + "." + name; }

std::vector<NamedParameter> collect(const Walk<Parameter>& walk) {
  std::vector<NamedParameter> found;
  walk([&](const std::string& name, Parameter& p) {
    if (!p.defined()) return;
    for (const NamedParameter& f : found) if (f.parameter.identity() == p.identity()) return;
    found.push_back({name, p});
  });
  return found;
}
std::vector<NamedTensor> collect(const Walk<Frozen>& walk) {
  std::vector<NamedTensor> found;
  walk([&](const std::string& name, Frozen& x) { if (x.value.defined()) found.push_back({name, x.value}); });
  return found;
}

Arena::Arena(std::vector<NamedParameter> parameters, int memories, bool average, bool matrices_apart) {
  if (parameters.empty()) throw refuse("arena", "the model has 0 parameters, needs at least one; does its each() name its parts");
  const NamedParameter& lead = parameters[0];
  const Dtype dtype = wide(lead.parameter->dtype());
  const Device device = lead.parameter->device();
  bool any_bf16 = false;
  for (const auto& [name, p] : parameters) {
    if (wide(p->dtype()) != dtype)
      throw refuse("arena", "{} is {} and {} is {}, needs f64 for all or none; build the model in one dtype", lead.name,
                   name_of(lead.parameter->dtype()), name, name_of(p->dtype()));
    if (p->device() != device)
      throw refuse("arena", "{} is on {} and {} on {}, needs one device; build the model on one", lead.name,
                   name_of(lead.parameter->device()), name, name_of(p->device()));
    if (name.starts_with("optimizer."))
      throw refuse("arena", "a parameter's name is {}, needs another first word; the optimizer's own tensors begin so in a file", name);
    any_bf16 |= p->dtype() == Dtype::bf16;
  }

  std::vector<int64_t> first(parameters.size());
  int64_t n = 0;
  enum Group { matrix, decaying, still };
  const auto group_of = [&](const Parameter& p) { return matrices_apart && p.is_hidden_matrix() ? matrix : p.decays() ? decaying : still; };
  for (const Group group : {matrix, decaying, still}) {
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (group_of(parameters[i].parameter) != group) continue;
      first[i] = n;
      n += aligned(parameters[i].parameter->count());
    }
    (group == matrix ? matrices_ : decaying_) = group == still ? decaying_ : n;
  }
  const Options options{dtype, device};
  master_ = zeros({n}, options);
  gradient_ = zeros({n}, options);
  for (int i = 0; i < memories; ++i) memories_.push_back(zeros({n}, options));
  for (size_t i = 0; i < parameters.size(); ++i)
    land_values(*parameters[i].parameter, window(master_, first[i], {parameters[i].parameter->count()}), false);
  if (any_bf16) rounded_ = cast(master_, Dtype::bf16);
  if (average) {
    average_ = empty({n}, options);
    overwrite("arena", "the average", average_, master_);
  }

  for (size_t i = 0; i < parameters.size(); ++i) {
    Parameter& p = parameters[i].parameter;
    p.rebind(window(p->dtype() == Dtype::bf16 ? rounded_ : master_, first[i], Shape(p->shape())));
    entries_.push_back({parameters[i].name, *p, p, first[i], group_of(p) == matrix});
    variables_.push_back(*p);
  }
}

int64_t Arena::parameters() const {
  int64_t n = 0;
  for (const Entry& e : entries_) n += e.value.count();
  return n;
}

Tensor Arena::part(const Tensor& flat, size_t entry) const { return window(flat, entries_[entry].first, entries_[entry].value.shape()); }

void Arena::land(size_t entry, const Tensor& d, bool add) { land_values(d, part(gradient_, entry), add); }

void Arena::must_be_bound() const {
  for (const Entry& e : entries_)
    if (!e.value.same_as(*e.parameter))
      throw refuse(
          "trainer",
          "{} was rebound since the trainer took the model, needs its place in the arena; load before making the trainer, or through it",
          e.name);
}

void Arena::modified() {
  bump(master_);
  if (rounded_.defined()) bump(rounded_);
}

void Arena::round() {
  if (rounded_.defined()) overwrite("arena", "the bf16 copy", rounded_, cast(master_, Dtype::bf16));
}

void overwrite(const char* where, const std::string& name, Tensor to, const Tensor& from) {
  if (to.shape() != from.shape() || to.dtype() != from.dtype())
    throw refuse(where, "{} is {} {}, needs {} {}", name, name_of(from.dtype()), to_string(from.shape()), name_of(to.dtype()),
                 to_string(to.shape()));
  const size_t bytes = size_t(to.count()) * bytes_of(to.dtype());
  if (bytes == 0) return;
  bump(to);
  if (!to.device().is_cuda() && !from.device().is_cuda()) {
    std::memcpy(to.address(), from.address(), bytes);
  } else if constexpr (with_cuda) {
    if (!from.device().is_cuda())
      must(where, cuda::copy_to_device(to.address(), from.address(), bytes));
    else if (!to.device().is_cuda())
      must(where, cuda::copy_to_host(to.address(), from.address(), bytes));
    else
      must(where, cuda::copy_on_device(to.address(), from.address(), bytes, cuda::stream()));
  }
}

Tensor from_raw(const std::string& name, const RawTensor& raw, Options options) {
  if (raw.shape.size() > size_t(kMaxRank)) throw refuse("checkpoint", "{} has rank {}, needs at most {}", name, raw.shape.size(), kMaxRank);
  const Shape shape{std::span<const int64_t>(raw.shape)};
  const auto as = [&](Dtype dtype) {
    const Tensor host = empty(shape, {dtype, cpu_device});
    if (raw.bytes > 0) std::memcpy(host.address(), raw.data, raw.bytes);
    return to_device(cast(host, options.dtype), options.device);
  };
  if (raw.dtype == "F32") return as(Dtype::f32);
  if (raw.dtype == "F64") return as(Dtype::f64);
  if (raw.dtype == "BF16") return as(Dtype::bf16);
  if (raw.dtype == "I32") return as(Dtype::i32);
  throw refuse("checkpoint", "{} is {}, needs F32, F64, BF16 or I32", name, raw.dtype);
}

const char* raw_name_of(Dtype d) { return d == Dtype::f64 ? "F64" : d == Dtype::bf16 ? "BF16" : d == Dtype::i32 ? "I32" : "F32"; }

void load_values(const Walk<Parameter>& learned_parts, const Walk<Frozen>& frozen_parts, const SafetensorsFile& file) {
  const std::vector<NamedParameter> parameters = collect(learned_parts);
  const std::vector<NamedTensor> frozen = collect(frozen_parts);
  const auto found_for = [&](const std::string& name, const Tensor& place) {
    if (!file.has(name)) throw refuse("checkpoint", "{} is not in {}, needs all of the model; was it another one", name, file.path());
    Tensor value = from_raw(name, file.read(name), like(place));
    if (value.shape() != place.shape())
      throw refuse("checkpoint", "{} is {} in {}, needs {}; was it another model", name, to_string(value.shape()), file.path(),
                   to_string(place.shape()));
    return value;
  };
  Tensors learned, fixed;   // all is looked at before anything changes
  for (const auto& [name, p] : parameters) {
    const std::string averaged = kAverageName + name;
    learned.push_back(found_for(file.has(averaged) ? averaged : name, *p));
  }
  for (const auto& [name, place] : frozen) fixed.push_back(found_for(name, place));
  for (size_t i = 0; i < parameters.size(); ++i) {
    Parameter p = parameters[i].parameter;
    p.rebind(learned[i]);
  }
  for (size_t i = 0; i < frozen.size(); ++i) overwrite("checkpoint", frozen[i].name, frozen[i].value, fixed[i]);
}

}  // namespace ttr
