// expect: nothing
#include <ttr/layers/recipes.hpp>
const ttr::Recipe sense{ttr::EvenWeights{}, ttr::Mlp{}, ttr::Descend<ttr::Sgd>{}};
