// expect: the rule does not say how many memories it has: it needs static constexpr int memories = 0 (or 1, or 2)
#include <ttr/layers/optimizers.hpp>
struct Forgot {
  template <class X, class R> void operator()(X& p, const X& g, const R& rate) const { p = p - rate.step_size * g; }
};
const ttr::Descend<Forgot> nonsense;
