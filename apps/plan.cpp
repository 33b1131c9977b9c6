#include <ttr/apps/place.hpp>
#include <ttr/apps/plan.hpp>
#include <ttr/layers/plan.hpp>
#include <ttr/layers/vocabulary.hpp>

namespace ttr {

int print_plan(const PlanOptions& o) {
  const Recipe recipe = parse_recipe(o.recipe);
  // A plan is a question: it may be asked about a device that is not here.
  Problem p{.batch = o.batch, .tokens = o.tokens, .heads = o.heads, .key_heads = o.key_heads ? o.key_heads : o.heads,
            .value_heads = o.value_heads ? o.value_heads : o.heads, .key_dim = o.key_dim, .value_dim = o.value_dim, .writes = recipe.reading().writes,
            .device = o.device == "cuda" ? cuda_device : cpu_device, .training = !o.inference};
  for (const auto& [name, heads] : {std::pair{"--key-heads", p.key_heads}, std::pair{"--value-heads", p.value_heads}})
    if (p.heads % heads) throw refuse("plan", "{} is {}, needs a divisor of --heads {}", name, heads, p.heads);
  p.dtype = o.dtype == "f64" ? Dtype::f64 : o.dtype == "bf16" ? Dtype::bf16 : Dtype::f32;
  fmt::print("{}", describe_plan(recipe, p, o.route));
  if (const std::string why = missing_device(p.device); !why.empty()) fmt::print("  nothing runs on cuda here: {}\n", why);
  return 0;
}

}  // namespace ttr
