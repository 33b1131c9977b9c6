// expect: this optimizer solves a linear system: it needs a function class that is linear in its parameters
#include <ttr/layers/recipes.hpp>
const ttr::Recipe nonsense{ttr::EvenWeights{}, ttr::Mlp{}, ttr::Exact{}};
