// expect: this type is no ingredient: it needs what weights, a function class, an optimizer, a feature map or a rule has
#include <ttr/layers/vocabulary.hpp>
struct Nothing {};
void nonsense() { ttr::vocabulary().add<Nothing>(); }
