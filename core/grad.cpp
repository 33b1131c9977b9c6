// The sweep: one ordered map of nodes, newest first, without recursion. Creation order is a topological order, so a node's adjoint is final
// when the map's walk reaches it.
#include <map>
#include <memory_resource>
#include <ttr/core/dispatch.hpp>
#include <ttr/core/op.hpp>
#include <ttr/core/ops.hpp>
#include <ttr/core/ops/elementwise_kernel.hpp>

namespace ttr {
namespace {

thread_local bool is_recording = true;
std::atomic<uint64_t> next_order{1};

struct Leaf final : Node {
  Tensors backward(const Sweep&, bool) override { return {}; }
};

Tensor attached_view(const Tensor& x, Node* node, int output) {   // takes no reference of its own from the caller
  Tensor y = detach(x);
  detail::retain(node);
  y.body()->node = node;
  y.body()->output = output;
  return y;
}

uint64_t versions_of(const Node& node) {
  uint64_t sum = 0;
  for (const Tensor& t : node.kept_inputs) if (t.defined()) sum += t.version();
  for (const Tensor& t : node.kept_outputs) if (t.defined()) sum += t.version();
  return sum;
}

}  // namespace

// -- recording ---------------------------------------------------------------------------------------------------------------------------
bool recording() { return is_recording; }
Recording::Recording(bool on) : before_(std::exchange(is_recording, on)) {}
Recording::~Recording() { is_recording = before_; }

namespace detail {

void retain(Node* node) { node->references.fetch_add(1, std::memory_order_relaxed); }

void release(Node* node) noexcept {
  if (node->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  // A node's inputs may be the last owners of the nodes before it: a chain of 100,000 is freed by a loop, not by recursion.
  thread_local std::vector<Node*> dead;
  thread_local bool draining = false;
  dead.push_back(node);
  if (draining) return;
  draining = true;
  while (!dead.empty()) {
    Node* n = dead.back();
    dead.pop_back();
    for (const Edge& e : n->edges) if (e.node) release(e.node);
    delete n;
  }
  draining = false;
}

bool any_tracked(const Tensors& inputs) {
  for (const Tensor& x : inputs) if (x.tracked()) return true;
  return false;
}

void attach(Node* node, const char* name, Tensors& ys, const Tensors& inputs, unsigned keep) {
  node->name = name;
  node->order = next_order.fetch_add(1, std::memory_order_relaxed);
  node->edges.resize(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].tracked()) continue;
    node->edges[i] = {inputs[i].body()->node, inputs[i].body()->output};
    retain(node->edges[i].node);
  }
  if (keep & keep_inputs) node->kept_inputs = inputs;
  node->outputs.resize(ys.size());
  if (keep & keep_outputs) node->kept_outputs.resize(ys.size());
  for (size_t i = 0; i < ys.size(); ++i) {
    Tensor& y = ys[i];
    node->outputs[i] = {y.shape(), y.dtype(), y.device()};
    if (keep & keep_outputs) node->kept_outputs[i] = detach(y);
    if (y.body()->node || y.body()->references.load(std::memory_order_relaxed) != 1) y = detach(y);   // somebody else's handle stays as it is
    y.body()->node = node;
    y.body()->output = int32_t(i);
    if (i) retain(node);
  }
  node->versions = versions_of(*node);
}

Tensors backward_through(const Define& define, const Tensors& inputs, const Sweep& s, const char* name) {
  if (!define) throw refuse(name, "a second derivative is asked for, needs an operation with a definition; run this layer with route fold");
  Recording on(true);
  Tensors points = inputs, needed;
  for (size_t i = 0; i < inputs.size(); ++i)
    if (s.needs(int(i))) needed.push_back(points[i] = alias(inputs[i]));
  const Tensors all = define(points);
  Tensors ys, dys;
  for (size_t j = 0; j < all.size(); ++j)
    if (s.dy(int(j)).defined()) ys.push_back(all[j]), dys.push_back(s.dy(int(j)));
  const Tensors found = grad(ys, dys, needed, {.create_graph = true});
  Tensors dxs(inputs.size());
  for (size_t i = 0, j = 0; i < inputs.size(); ++i)
    if (s.needs(int(i))) dxs[i] = found[j++];
  return dxs;
}

}  // namespace detail

Tensor variable(const Tensor& x) {
  if (!is_floating(x.dtype())) throw refuse("variable", "dtype is {}, needs a floating one; integers have no derivative", name_of(x.dtype()));
  auto* leaf = new Leaf;
  leaf->name = "variable";
  leaf->order = next_order.fetch_add(1, std::memory_order_relaxed);
  leaf->outputs.push_back({x.shape(), x.dtype(), x.device()});
  Tensor y = detach(x);
  y.body()->node = leaf;
  return y;
}

// -- what a backward is shown --------------------------------------------------------------------------------------------------------------
const Tensor& Sweep::x(int i) const { return node_.kept_inputs[size_t(i)]; }
Tensor Sweep::y(int i) const {
  const Tensor& kept = node_.kept_outputs[size_t(i)];
  return recording() ? attached_view(kept, const_cast<Node*>(&node_), i) : kept;
}
bool Sweep::needs(int i) const { return needs_[i]; }
const Shape& Sweep::shape(int i) const {
  const Edge& e = node_.edges[size_t(i)];
  return e.node->outputs[size_t(e.output)].shape;
}

// -- the sweep -----------------------------------------------------------------------------------------------------------------------------
namespace {

struct Slot {
  Node* node = nullptr;
  std::pmr::vector<Tensor> dys;        // adjoint of each output; undefined: zero so far
  std::pmr::vector<std::pair<int32_t, size_t>> wanted;   // (output, index in xs)
  int64_t pending = 0;                 // uses whose contribution has not arrived
  bool leads = false;                  // to an x
  explicit Slot(Node* n, std::pmr::memory_resource* r) : node(n), dys(n->outputs.size(), r), wanted(r) {}
};

bool alone(const Tensor& t) {
  return t.body()->references.load(std::memory_order_relaxed) == 1 && t.body()->buffer->references.load(std::memory_order_relaxed) == 1 && !t.tracked();
}

// The one place where adjoints accumulate: in place when nobody else can see the sum so far.
void accumulate(std::string_view name, Tensor& into, Tensor d, const Meta& meta) {
  if (d.shape() != meta.shape || d.dtype() != meta.dtype)
    throw refuse("grad", "the backward of {} gave {} {}, needs {} {}; its rule is wrong", name, name_of(d.dtype()), to_string(d.shape()), name_of(meta.dtype),
                 to_string(meta.shape));
  if (!into.defined()) {
    into = std::move(d);
  } else if (recording()) {
    into = into + d;
  } else if (alone(into) || alone(d)) {
    if (!alone(into)) std::swap(into, d);
    Broadcast same{.rank = 1, .count = into.count()};
    same.size[0] = same.count;
    for (auto& stride : same.stride) stride[0] = 1;
    dispatch("grad", into, [&]<class T>(auto place) {
      T* sum = out<T>(into);
      if constexpr (place.cuda) must("grad", cuda::binary<T>(Binary::add, same, sum, in<T>(d), sum, place.stream));
      else must("grad", cpu::binary<T>(Binary::add, same, sum, in<T>(d), sum));
    });
  } else {
    into = into + d;
  }
}

}  // namespace

Tensors grad(const Tensors& ys, const Tensors& dys, const Tensors& xs, const GradOptions& options) {
  if (dys.size() != ys.size() && !dys.empty()) throw refuse("grad", "there are {} dys, needs one for each of the {} ys", dys.size(), ys.size());
  for (size_t i = 0; i < xs.size(); ++i)
    if (!xs[i].tracked()) throw refuse("grad", "xs[{}] is untracked, needs a variable() or something computed from one while recording", i);
  Recording record(options.create_graph);

  std::array<std::byte, 8192> stack;
  std::pmr::monotonic_buffer_resource memory(stack.data(), stack.size());
  std::pmr::map<uint64_t, Slot, std::greater<>> slots(&memory);
  const auto slot_of = [&](Node* n) -> Slot& { return slots.try_emplace(n->order, n, &memory).first->second; };

  uint64_t oldest = ~uint64_t(0);   // nothing older than the oldest x can lead to one
  for (const Tensor& x : xs) oldest = std::min(oldest, x.body()->node->order);

  for (size_t j = 0; j < ys.size(); ++j) {
    Node* n = ys[j].defined() ? ys[j].body()->node : nullptr;
    if (!n || n->order < oldest) continue;
    Tensor d = j < dys.size() ? dys[j] : Tensor();
    if (!d.defined()) {
      if (ys[j].count() != 1) throw refuse("grad", "ys[{}] has shape {} and no dy, needs a scalar or a dy of that shape", j, to_string(ys[j].shape()));
      d = ones(ys[j].shape(), like(ys[j]));
    }
    accumulate("the caller", slot_of(n).dys[size_t(ys[j].body()->output)], d, n->outputs[size_t(ys[j].body()->output)]);
  }
  for (auto& [order, slot] : slots)   // grows behind the iterator: edges point to older nodes
    for (const Edge& e : slot.node->edges)
      if (e.node && e.node->order >= oldest) slot_of(e.node);

  for (size_t i = 0; i < xs.size(); ++i) {
    const auto found = slots.find(xs[i].body()->node->order);
    if (found != slots.end()) found->second.wanted.emplace_back(xs[i].body()->output, i);
  }
  const auto leading = [&](const Edge& e) -> Slot* {
    if (!e.node || e.node->order < oldest) return nullptr;
    Slot& s = slots.find(e.node->order)->second;
    return s.leads ? &s : nullptr;
  };
  for (auto it = slots.rbegin(); it != slots.rend(); ++it) {   // oldest first
    Slot& slot = it->second;
    slot.leads = !slot.wanted.empty();
    for (const Edge& e : slot.node->edges)
      if (Slot* from = leading(e)) slot.leads = true, ++from->pending;
  }

  Tensors dxs(xs.size());
  const auto finish = [&](Slot& slot) {
    for (const auto& [output, i] : slot.wanted) {
      Tensor& d = slot.dys[size_t(output)];
      dxs[i] = d.defined() ? d : zeros(xs[i].shape(), like(xs[i]));
      if (options.ready) options.ready(i, dxs[i]);
    }
  };
  for (auto& [order, slot] : slots) {
    if (!slot.leads) continue;
    if (slot.pending == 0) finish(slot), slot.pending = -1;
    bool any = false, further = false;
    for (const Tensor& d : slot.dys) any |= d.defined();
    std::pmr::vector<uint8_t> needs(slot.node->edges.size(), 0, &memory);
    for (size_t i = 0; i < needs.size(); ++i) further |= (needs[i] = leading(slot.node->edges[i]) != nullptr) != 0;
    if (!further) continue;
    Tensors found;
    if (any) {
      Node& node = *slot.node;
      if (node.forgotten) throw refuse("grad", "{} was freed by an earlier sweep, needs a graph that was not consumed; drop .consume there", node.name);
      if (node.versions != versions_of(node))
        throw refuse("grad", "a tensor that {} saved was modified in place since, needs its old values; take derivatives before the update", node.name);
      const Tensors arrived(slot.dys.begin(), slot.dys.end());
      slot.dys.assign(slot.dys.size(), Tensor());
      found = node.backward(Sweep(node, arrived, needs.data()), options.create_graph);
      if (options.consume) {
        node.kept_inputs.clear();
        node.kept_outputs.clear();
        node.forget();
        node.forgotten = true;
      }
    }
    for (size_t i = 0; i < needs.size(); ++i) {
      if (!needs[i]) continue;
      const Edge& e = slot.node->edges[i];
      Slot& from = *leading(e);
      if (i < found.size() && found[i].defined())
        accumulate(slot.node->name, from.dys[size_t(e.output)], std::move(found[i]), e.node->outputs[size_t(e.output)]);
      if (--from.pending == 0) finish(from), from.pending = -1;
    }
  }
  for (size_t i = 0; i < xs.size(); ++i) {
    if (dxs[i].defined()) continue;
    dxs[i] = zeros(xs[i].shape(), like(xs[i]));
    if (options.ready) options.ready(i, dxs[i]);
  }
  return dxs;
}

Tensor grad(const Tensor& y, const Tensor& x, const GradOptions& options) { return grad(Tensors{y}, {}, Tensors{x}, options)[0]; }

}  // namespace ttr
