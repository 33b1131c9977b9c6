// expect: the third ingredient is an update rule, not an optimizer: it needs to be put into one, Descend<MyRule>{}
#include <ttr/layers/functions.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/weights.hpp>
const ttr::Recipe nonsense{ttr::EvenWeights{}, ttr::LinearMap{}, ttr::Sgd{}};
