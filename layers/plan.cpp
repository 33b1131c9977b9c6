// Choosing a route: the first that accepts, or the one that is forced; and the choice as text.
#include <cstdlib>
#include <ttr/core/dispatch.hpp>
#include <ttr/layers/match.hpp>
#include <ttr/layers/plan.hpp>

namespace ttr {

std::string unmet_device(const Problem& p, DeviceKind wanted) {
  if (wanted == DeviceKind::cuda && !with_cuda) return "built without CUDA";
  if (p.device.kind != wanted) return fmt::format("the tensors are on {}, needs {}", name_of(p.device), name_of(Device{wanted, 0}));
  if (wanted == DeviceKind::cpu && p.dtype == Dtype::bf16) return "dtype is bf16, needs f32 or f64 on the cpu";
  return {};
}

Choice choose(const Recipe& recipe, const Problem& problem, std::string_view forced) {
  const char* environment = std::getenv("TTR_ROUTE");
  if (forced.empty() && environment) forced = environment;
  Choice choice{nullptr, {}};
  if (!forced.empty()) {
    std::vector<std::string> names;
    for (const Route& r : routes()) {
      names.push_back(r.name);
      if (forced != r.name) continue;
      if (const std::string why = r.accepts(recipe, problem); !why.empty()) throw refuse("plan", "route {} is asked for and refuses: {}", r.name, why);
      choice.route = &r;
      return choice;
    }
    const std::string near = detail::nearest(forced, names);
    std::string all;
    for (const std::string& n : names) all += (all.empty() ? "" : ", ") + n;
    throw refuse("plan", "route '{}' is unknown, needs one of: {}{}", forced, all, near.empty() ? "" : "; did you mean '" + near + "'?");
  }
  for (const Route& r : routes()) {
    const std::string why = r.accepts(recipe, problem);
    if (why.empty()) {
      choice.route = &r;
      return choice;
    }
    choice.refused.emplace_back(&r, why);
  }
  throw refuse("plan", "no route takes {}, needs one; fold takes every recipe", recipe.text());   // fold is last and always accepts
}

std::string describe_plan(const Recipe& recipe, const Problem& p, std::string_view forced) {
  const Choice choice = choose(recipe, p, forced);
  std::string text =
      fmt::format("{}\n  {} B{} T{} H{} K{} V{} {} on {}: {}\n", recipe.text(), p.training ? "training" : "inference", p.batch, p.tokens,
                  p.heads, p.key_dim, p.value_dim, name_of(p.dtype), name_of(p.device), choice.route->name);
  text += fmt::format("  {:.3g} Mflop, {:.3g} MB at least\n", choice.route->flops(recipe, p) * 1e-6, choice.route->bytes(recipe, p) * 1e-6);
  for (const auto& [route, why] : choice.refused) text += fmt::format("  not {}: {}\n", route->name, why);
  return text;
}

Answer remember(const Recipe& recipe, const Arguments& arguments, std::string_view forced) {
  const Problem problem = examine(recipe, arguments);
  return choose(recipe, problem, forced).route->run(recipe, arguments, problem);
}

}  // namespace ttr
