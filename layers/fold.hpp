// fold: the meaning of every recipe. It walks the tokens, shows the recipe the regression problem at each, lets it advance, reads the answer,
// and differentiates through the inner optimizer. Short, slow, right; any recipe that type-checks runs and trains through it.
#pragma once
#include <ttr/layers/problem.hpp>

namespace ttr {

struct FoldOptions {
  int64_t checkpoint_every = 0;   // tokens between checkpoints of the tape; 0: about sqrt(T), negative: none
};

// Computes in f32 for bf16 inputs and in the inputs' own dtype otherwise.
Answer fold(const Recipe&, const Arguments&, FoldOptions = {});

}  // namespace ttr
