// The plan: which kernel says a recipe, and why. A Route is one way to compute a memory; layers/routes.cpp lists them all, best first, fold last.
#pragma once
#include <span>
#include <string_view>
#include <ttr/layers/problem.hpp>

namespace ttr {

struct Route {
  const char* name;                                                       // "<stem>/<device>-<algorithm>", such as "delta/cpu-chunk"; "fold"
  const char* stem;
  std::string (*accepts)(const Recipe&, const Problem&);                  // "" for yes, or the first unmet need as a sentence
  Answer (*run)(const Recipe&, const Arguments&, const Problem&);         // differentiable
  double (*flops)(const Recipe&, const Problem&);                         // useful ones, forward plus backward when training, else forward
  double (*bytes)(const Recipe&, const Problem&);                         // the fewest that must move
};
std::span<const Route> routes();

struct Choice {
  const Route* route;
  std::vector<std::pair<const Route*, std::string>> refused;              // those before it, with their reasons
};
// The first route that accepts. `forced`, else the environment variable TTR_ROUTE, names one; if that refuses, its reason is the error.
Choice choose(const Recipe&, const Problem&, std::string_view forced = {});
std::string describe_plan(const Recipe&, const Problem&, std::string_view forced = {});   // a few lines for people

// y = memory(slots): what a layer calls. One token with a carried state is the decode form: the same call with T = 1 and want_state.
Answer remember(const Recipe&, const Arguments&, std::string_view forced = {});

}  // namespace ttr
