// expect: the first ingredient is no weights: it needs discount
#include <ttr/layers/recipes.hpp>
struct Careless { std::vector<ttr::Slot> slots() const { return {}; } };
const ttr::Recipe nonsense{Careless{}, ttr::LinearMap{}, ttr::Exact{}};
