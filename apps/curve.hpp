// The curve of a run: its losses over steps, as curve.svg and on the terminal, with what counting reaches and what nothing can beat.
#pragma once
#include <string>
#include <ttr/apps/loss_table.hpp>
#include <ttr/apps/plot.hpp>

namespace ttr {

// From metrics.jsonl. The first fall of a longer run is cut off: its height would leave no room for the rest.
Plot curve_of(const std::string& metrics, const std::string& title, LossUnit, const Yardsticks&);

void add_yardsticks(Plot&, LossUnit, const Yardsticks&);

}  // namespace ttr
