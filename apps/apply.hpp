// ttr apply: a recipe on tensors from a safetensors file, nothing around it, so that any other implementation can be compared from outside.
//   in    q [B, T, H, K], k [B, nT, Hk, K], v [B, nT, Hv, V], the recipe's other slots as `ttr recipes --json` lists them; state0.NAME; segments [B, T];
//         with --grad dy [B, T, H, V] and dstate.NAME. F32, F64 or BF16, cast to --dtype; gates, learned slots and states of bf16 are f32.
//   out   y [B, T, H, V], state.NAME; with --grad dNAME of every floating input (dstate0.NAME of a carried state)
// The query scale of a published recipe is 1 unless --scale says otherwise, but for kernel weights (attention), whose row says 1/sqrt(K) where it is
// usual; a triple is taken as it is written.
#pragma once
#include <optional>
#include <string>

namespace ttr {

struct ApplyOptions {
  std::string recipe, in, out, route, device = "cpu", dtype = "f32";
  bool grad = false;
  std::optional<std::string> scale, read, normaliser, eps, key_norm, key_eps, ridge_policy;   // unset: the recipe's own
};
int apply_recipe(const ApplyOptions&);

}  // namespace ttr
