// expect: this function class has parameters a visible pair: it needs an optimizer that solves
#include <ttr/layers/recipes.hpp>
const ttr::Recipe nonsense{ttr::EvenWeights{}, ttr::KernelExpansion{}, ttr::Descend<ttr::Sgd>{}};
