// The arena: all parameters of a model one behind the other, in flat arrays [n] on their device.
//   master     f32 (f64 for an f64 model): the values that the rule updates
//   gradient   like master
//   memories   like master, as many as the rule has (moments)
//   average    like master, only when asked for: the values averaged over the steps, see update_kernel.hpp
//   rounded    bf16, only when some parameter is bf16: what the model sees of those; all others see the master itself
// Hidden matrices come first where they are asked to stand apart, then what else decays, then the rest. Each begins on a multiple of 64
// elements; what lies between stays zero. The model's parameters become views, so an update in place is seen by the model, and a backward
// through a graph recorded before it is refused.
#pragma once
#include <ttr/optim/parameter.hpp>

namespace ttr {

struct RawTensor;
class SafetensorsFile;

struct NamedParameter { std::string name; Parameter parameter; };
// Shows every leaf of a model to a visitor.
template <class Leaf> using Walk = std::function<void(const PartVisitor<Leaf>&)>;
template <class Leaf, class M> Walk<Leaf> walk(M& model) { return [&model](const PartVisitor<Leaf>& f) { each_part<Leaf>(model, f); }; }

// Tied parameters come once, under the first of their names.
std::vector<NamedParameter> collect(const Walk<Parameter>&);
template <class M> std::vector<NamedParameter> parameters_of(M& model) { return collect(walk<Parameter>(model)); }

// What is drawn once and never learned: not in the arena, but in a checkpoint.
struct NamedTensor { std::string name; Tensor value; };
std::vector<NamedTensor> collect(const Walk<Frozen>&);
template <class M> std::vector<NamedTensor> frozen_of(M& model) { return collect(walk<Frozen>(model)); }

class Arena {
 public:
  struct Entry {
    std::string name;
    Tensor value;                    // what the model sees: a leaf, in the parameter's own dtype
    Parameter parameter;
    int64_t first = 0;               // element of the flat arrays
    bool apart = false;              // a hidden matrix, which stands before the others
  };

  Arena(std::vector<NamedParameter> parameters, int memories, bool average = false, bool matrices_apart = false);

  const std::vector<Entry>& entries() const { return entries_; }   // in the model's order
  const Tensors& variables() const { return variables_; }          // the entries' values
  Dtype dtype() const { return master_.dtype(); }
  Device device() const { return master_.device(); }
  int64_t count() const { return master_.count(); }                // elements, the gaps included
  int64_t decaying() const { return decaying_; }                   // elements before the first that does not decay
  int64_t matrices() const { return matrices_; }                   // elements of the hidden matrices that stand apart
  int64_t parameters() const;                                      // numbers learned

  const Tensor& master() const { return master_; }
  const Tensor& gradient() const { return gradient_; }
  const Tensors& memories() const { return memories_; }
  const Tensor& average() const { return average_; }
  const Tensor& rounded() const { return rounded_; }
  Tensor part(const Tensor& flat, size_t entry) const;             // a view, shaped like the parameter

  void land(size_t entry, const Tensor& d, bool add);              // gradient of that entry (+)= d, on the stream
  void must_be_bound() const;                                      // refused when somebody gave a parameter other values since
  void modified();                                                 // the values changed: graphs that kept them are stale
  void round();                                                    // rounded = master

 private:
  std::vector<Entry> entries_;
  Tensors variables_, memories_;
  Tensor master_, gradient_, average_, rounded_;
  int64_t decaying_ = 0, matrices_ = 0;
};

// to's memory takes from's values; same dtype and shape, any devices. Ordered on the stream.
void overwrite(const char* where, const std::string& name, Tensor to, const Tensor& from);

// A file's tensor (F32, F64, BF16, I32) as one of ours.
Tensor from_raw(const std::string& name, const RawTensor&, Options);

const char* raw_name_of(Dtype);   // "F32"

// The values of a checkpoint, without a trainer (to sample, to evaluate): the average where the file has one. Everything the model has must be there
// with its shape; parameters are converted to their dtype. Call it before a Trainer takes the model.
constexpr const char* kAverageName = "optimizer.average.";   // before a parameter's name in a file
void load_values(const Walk<Parameter>&, const Walk<Frozen>&, const SafetensorsFile&);
template <class M> void load_parameters(M& model, const SafetensorsFile& file) { load_values(walk<Parameter>(model), walk<Frozen>(model), file); }

}  // namespace ttr
