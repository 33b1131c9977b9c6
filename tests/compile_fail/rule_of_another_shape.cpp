// expect: the rule cannot be called: it needs operator()(X& p, const X& g, one X& for each of its memories, const R& rate) const
#include <ttr/layers/optimizers.hpp>
struct Miscounted {
  static constexpr int memories = 1;
  template <class X, class R> void operator()(X& p, const X& g, const R& rate) const { p = p - rate.step_size * g; }
};
const ttr::Descend<Miscounted> nonsense;
