// expect: the second ingredient is no function class: it needs init
#include <ttr/layers/recipes.hpp>
struct Unloved {
  std::vector<ttr::Slot> slots() const { return {}; }
  ttr::Pack init(const ttr::View&) const { return {}; }
};
const ttr::Recipe nonsense{ttr::EvenWeights{}, Unloved{}, ttr::Exact{}};
