// expect: this optimizer never looks back: it needs weights that can forget in one step
#include <ttr/layers/recipes.hpp>
const ttr::Recipe nonsense{ttr::KernelWeights{}, ttr::LinearMap{}, ttr::Proximal{}};
