// expect: the third ingredient is no optimizer: it needs start
#include <ttr/layers/recipes.hpp>
const ttr::Recipe nonsense{ttr::EvenWeights{}, ttr::Exact{}, ttr::LinearMap{}};
