// Ctrl-C as a question: a long run asks between two steps whether to stop, saves what it has, and leaves with exit code 130.
#pragma once

namespace ttr {

inline constexpr int kInterrupted = 130;

void catch_interrupts();   // from here on the first Ctrl-C is noted; a second one ends the program at once
bool interrupted();

}  // namespace ttr
