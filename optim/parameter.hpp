// Parameters, and the walk over a module's parts. A module is a plain struct with one `each` line that names its parts:
//   struct Recall { Linear embed; MemoryLayer mixer; void each(auto&& f) { f("embed", embed); f("mixer", mixer); } };
// Names become checkpoint keys: "mixer.q.weight". No base class, no registration.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>
#include <ttr/core/grad.hpp>

namespace ttr {

// One learned tensor. Copies are the same parameter (tied parts are one, by identity).
class Parameter {
 public:
  Parameter() = default;
  explicit Parameter(Tensor initial, bool decays = true) : cell_(std::make_shared<Cell>(Cell{variable(initial), decays, false})) {}
  bool defined() const { return cell_ != nullptr; }
  const Tensor& operator*() const { return cell_->value; }        // tracked; in the compute dtype
  const Tensor* operator->() const { return &cell_->value; }
  bool is_hidden_matrix() const { return cell_->decays && !cell_->outer && cell_->value.rank() == 2; }   // between hidden vectors: what Muon moves
  Parameter& outer() { cell_->outer = true; return *this; }       // declares a table, a head or a filter: no matrix between hidden vectors
  bool decays() const { return cell_->decays; }                   // weight decay acts on it (matrices; not norms, biases, gates' initial values)
  void rebind(Tensor value) { cell_->value = variable(value); }   // the trainer moves it into an arena
  const void* identity() const { return cell_.get(); }

 private:
  struct Cell { Tensor value; bool decays, outer = false; };
  std::shared_ptr<Cell> cell_;
};

// A tensor drawn once and never learned, such as a random projection: no optimizer sees it, a checkpoint keeps it.
struct Frozen {
  Tensor value;
};

template <class M> concept Module = requires(M& m) { m.each([](const char*, auto&) {}); };

std::string part_name(const std::string& above, const std::string& name);   // "above.name", or the name alone

template <class Leaf> using PartVisitor = std::function<void(const std::string& name, Leaf&)>;

// f(name, Leaf&) for every part of this type below m, in the order of `each`. Lists name their parts by number; an empty optional has none.
// One instantiation a module, whatever visits it: modules of the library have theirs in the library.
template <class Leaf, class M> void each_part(M& m, const PartVisitor<Leaf>& f, const std::string& prefix = "") {
  using T = std::remove_const_t<M>;
  if constexpr (std::is_same_v<T, Leaf>) {
    f(prefix, m);
  } else if constexpr (std::is_same_v<T, Parameter> || std::is_same_v<T, Frozen>) {
    return;
  } else if constexpr (requires { m.begin(); m.end(); m.size(); }) {
    size_t i = 0;
    for (auto& part : m) each_part<Leaf>(part, f, part_name(prefix, std::to_string(i++)));
  } else if constexpr (requires { m.has_value(); *m; }) {
    if (m.has_value()) each_part<Leaf>(*m, f, prefix);
  } else {
    m.each([&](const char* name, auto& part) { each_part<Leaf>(part, f, part_name(prefix, name)); });
  }
}

// f(name, Parameter&) for every parameter below m; a tied parameter comes once for each name it has.
template <class M, class F> void each_parameter(M& m, F&& f, const std::string& prefix = "") {
  each_part<Parameter>(m, [&](const std::string& name, Parameter& p) { if (p.defined()) f(name, p); }, prefix);
}
// f(name, Frozen&): what a checkpoint must keep beside the parameters.
template <class M, class F> void each_frozen(M& m, F&& f, const std::string& prefix = "") {
  each_part<Frozen>(m, [&](const std::string& name, Frozen& x) { if (x.value.defined()) f(name, x); }, prefix);
}

}  // namespace ttr
