// A plot where standard output is: as wide as the terminal and in colour, or, in a file, 78 columns of plain characters.
#pragma once
#include <string>
#include <ttr/apps/plot.hpp>

namespace ttr {

std::string on_screen(const Plot&);

}  // namespace ttr
