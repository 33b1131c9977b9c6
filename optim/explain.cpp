// Where a number stopped being finite: the recorded graph in the order it was made, looking at whatever was kept for the backward.
#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <set>
#include <ttr/core/op.hpp>
#include <ttr/optim/stepper.hpp>

namespace ttr {
namespace {

enum Kind { fine, below, above, nan };   // finite, -inf, inf, not a number

Kind kind_of(const Tensor& t) {
  if (!is_floating(t.dtype())) return fine;
  Kind worst = fine;
  for (const double v : t.to_vector<double>()) {
    if (std::isnan(v)) return nan;
    if (std::isinf(v)) worst = std::max(worst, v < 0 ? below : above);
  }
  return worst;
}

const char* word(Kind k) { return k == nan ? "nan" : k == above ? "inf" : "-inf"; }

// The parameter with the fewest operations between it and node; "" when there is none below.
std::string nearest_parameter(Node* node, const std::map<const Node*, std::string>& names) {
  std::deque<Node*> next{node};
  std::set<Node*> seen{node};
  while (!next.empty()) {
    Node* n = next.front();
    next.pop_front();
    if (const auto found = names.find(n); found != names.end()) return found->second;
    for (const Edge& e : n->edges)
      if (e.node && seen.insert(e.node).second) next.push_back(e.node);
  }
  return "";
}

struct Finding {
  uint64_t order;
  std::string text;
};

// The oldest node with an output of that kind or a worse one, as far as outputs were kept.
std::optional<Finding> first_output(const std::map<uint64_t, Node*>& graph, Kind wanted, const std::map<const Node*, std::string>& names) {
  std::optional<Finding> best;
  const auto blame = [&](Node* node, Kind k) {
    if (best && best->order <= node->order) return;
    const std::string near = nearest_parameter(node, names);
    best = {node->order,
            fmt::format("an output of {} is {}{}", node->name, word(k), near.empty() ? "" : "; the nearest parameter is " + near)};
  };
  for (const auto& [order, node] : graph) {
    if (best && best->order < order) break;   // a user is younger than what it uses
    for (const Tensor& y : node->kept_outputs)
      if (const Kind k = y.defined() ? kind_of(y) : fine; k >= wanted) blame(node, k);
    for (size_t i = 0; i < node->kept_inputs.size(); ++i) {
      const Tensor& x = node->kept_inputs[i];
      const Kind k = x.defined() ? kind_of(x) : fine;
      if (k < wanted) continue;
      if (node->edges[i].node) {
        blame(node->edges[i].node, k);
      } else if (!best) {
        const std::string near = nearest_parameter(node, names);
        best = {order, fmt::format("input {} of {}, a constant or part of the batch, is {}{}", i, node->name, word(k),
                                   near.empty() ? "" : "; the nearest parameter is " + near)};
      }
    }
  }
  return best;
}

}  // namespace

std::string explain_nonfinite(const Tensor& total, const Arena& arena) {
  for (const Arena::Entry& e : arena.entries())
    if (const Kind k = kind_of(e.value)) return fmt::format("the parameter {} is {}", e.name, word(k));

  std::map<const Node*, std::string> names;
  for (const Arena::Entry& e : arena.entries()) names[e.value.body()->node] = e.name;
  if (const Kind k = kind_of(total)) {
    std::map<uint64_t, Node*> graph;
    std::vector<Node*> next{total.body()->node};
    while (!next.empty()) {
      Node* n = next.back();
      next.pop_back();
      if (!n || !graph.emplace(n->order, n).second) continue;
      for (const Edge& e : n->edges) next.push_back(e.node);
    }
    // -inf may be meant (a mask before a softmax), so it is blamed last.
    for (const Kind wanted : {above, below})
      if (const auto found = first_output(graph, wanted, names)) return found->text;
    return fmt::format("the loss itself, an output of {}, is {}", total.body()->node->name, word(k));
  }

  std::string first;
  size_t bad = 0;
  grad({total}, {}, arena.variables(), {.ready = [&](size_t i, const Tensor& d) {
         const Kind k = kind_of(d);
         if (k == fine) return;
         if (bad++ == 0) first = fmt::format("the gradient of {} is {}", arena.entries()[i].name, word(k));
       }});
  if (bad) return fmt::format("{}, the first of {} in the order of the backward; the loss is finite", first, bad);
  return "the loss and every gradient are finite";
}

}  // namespace ttr
