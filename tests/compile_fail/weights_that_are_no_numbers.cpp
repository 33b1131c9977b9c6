// expect: this optimizer looks at all visible pairs: it needs weights that are numbers
#include <ttr/layers/recipes.hpp>
const ttr::Recipe nonsense{ttr::WeightDecay{}, ttr::LinearMap{}, ttr::GradientSteps{}};
