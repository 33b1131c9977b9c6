// Muon as a rule inside a layer: how its schedule reads from text.
#pragma once
#include <ttr/layers/option.hpp>
#include <ttr/optim/muon.hpp>

namespace ttr {

template <> struct NamesOf<Schedule> {
  static constexpr std::pair<Schedule, const char*> names[] = {{Schedule::keller, "keller"}, {Schedule::lact, "lact"}};
};

}   // namespace ttr
