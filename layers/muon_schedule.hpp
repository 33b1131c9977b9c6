// Muon as a rule inside a layer: how its schedule reads from text.
#pragma once
#include <ttr/layers/option.hpp>
#include <ttr/optim/muon.hpp>

namespace ttr {

template <> struct NamesOf<MuonSchedule> {
  static constexpr Naming<MuonSchedule> names[] = {{MuonSchedule::keller, "keller"}, {MuonSchedule::lact, "lact"}};
};

}   // namespace ttr
