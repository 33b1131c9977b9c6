// What standard output can show.
#include <algorithm>
#include <cstdlib>
#include <sys/ioctl.h>
#include <unistd.h>
#include <ttr/apps/screen.hpp>

namespace ttr {

std::string on_screen(const Plot& plot) {
  if (isatty(STDOUT_FILENO) != 1) return terminal(plot);
  winsize size{};
  const int columns = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  const bool colour = std::getenv("NO_COLOR") == nullptr;
  return terminal(plot, std::clamp(columns - 2, 40, 120), 22, colour);
}

}  // namespace ttr
