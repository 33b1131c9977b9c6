// Writing an operation. Two kinds:
//   primitive   its backward is written in operations, from inputs and outputs only: derivatives of any order.
//   kernel op   its backward is a kernel that reads a Saved struct; first order. With `define`, the same function in primitives, a second
//               derivative differentiates that instead, and every define is a parity test.
#pragma once
#include <memory>
#include <optional>
#include <ttr/core/grad.hpp>

namespace ttr {

struct Meta { Shape shape; Dtype dtype = Dtype::f32; Device device; };

// What a backward is shown.
class Sweep {
 public:
  Sweep(const Node& node, const Tensors& dys, const uint8_t* needs) : node_(node), dys_(dys), needs_(needs) {}
  const Tensor& x(int i = 0) const;          // kept input
  Tensor y(int i = 0) const;                 // kept output, attached to the graph while derivatives of derivatives are recorded
  const Tensor& dy(int i = 0) const { return dys_[i]; }   // undefined when nothing flows into output i
  bool needs(int i) const;                   // does anyone need the derivative of input i
  const Shape& shape(int i) const;           // of input i (only where needs(i))
  const Tensors& dys() const { return dys_; }

 private:
  const Node& node_;
  const Tensors& dys_;
  const uint8_t* needs_;
};

enum Keep : unsigned { keep_nothing = 0, keep_inputs = 1, keep_outputs = 2 };

struct Edge { Node* node = nullptr; int32_t output = 0; };

struct Node {
  virtual ~Node() = default;
  virtual Tensors backward(const Sweep&, bool create_graph) = 0;   // one tensor an input; undefined where not needed or zero
  virtual void forget() {}                                         // free what a backward would read

  std::atomic<int32_t> references{1};
  uint64_t order = 0;                  // of creation: a topological order
  const char* name = "";
  std::vector<Edge> edges;             // one an input
  std::vector<Meta> outputs;
  Tensors kept_inputs, kept_outputs;   // outputs are kept without their node (else a cycle)
  uint64_t versions = 0;               // sum over what is kept, when it was recorded
  bool forgotten = false;
};

namespace detail {
bool any_tracked(const Tensors& inputs);
void attach(Node* node, const char* name, Tensors& ys, const Tensors& inputs, unsigned keep);   // takes over the one reference
void retain(Node*);
void release(Node*) noexcept;

template <class Rule> struct Primitive final : Node {
  explicit Primitive(Rule r) : rule(std::move(r)) {}
  Tensors backward(const Sweep& s, bool) override { return rule(s); }
  Rule rule;
};

using Define = std::function<Tensors(const Tensors&)>;
Tensors backward_through(const Define&, const Tensors& inputs, const Sweep&, const char* name);

template <class Saved, class Rule> struct KernelOp final : Node {
  KernelOp(Saved s, Rule r, Define d) : saved(std::move(s)), rule(std::move(r)), define(std::move(d)) {}
  Tensors backward(const Sweep& s, bool create_graph) override {
    if (create_graph) return backward_through(define, kept_inputs, s, name);
    return rule(*saved, s);
  }
  void forget() override { saved.reset(); }
  std::optional<Saved> saved;
  Rule rule;
  Define define;
};
}  // namespace detail

// return primitive("mul", y, {a, b}, keep_inputs, [](const Sweep& s) { return Tensors{s.dy() * s.x(1), s.dy() * s.x(0)}; });
template <class Rule> Tensor primitive(const char* name, Tensor y, const Tensors& inputs, unsigned keep, Rule rule) {
  if (!recording() || !detail::any_tracked(inputs)) return y;
  Tensors ys(1);
  ys[0] = std::move(y);
  detail::attach(new detail::Primitive<Rule>(std::move(rule)), name, ys, inputs, keep);
  return std::move(ys[0]);
}
template <class Rule> Tensors primitives(const char* name, Tensors ys, const Tensors& inputs, unsigned keep, Rule rule) {
  if (recording() && detail::any_tracked(inputs)) detail::attach(new detail::Primitive<Rule>(std::move(rule)), name, ys, inputs, keep);
  return ys;
}

// rule(const Saved&, const Sweep&) -> Tensors. `define` may be empty: then a second derivative is refused with the op's name.
// Only outputs listed in ys are differentiable; anything else the backward reads goes into Saved.
template <class Saved, class Rule> Tensors kernel_op(const char* name, Tensors ys, const Tensors& inputs, Saved saved, Rule rule, detail::Define define = {}) {
  if (recording() && detail::any_tracked(inputs))
    detail::attach(new detail::KernelOp<Saved, Rule>(std::move(saved), std::move(rule), std::move(define)), name, ys, inputs, keep_inputs);
  return ys;
}

}  // namespace ttr
