#include <csignal>
#include <ttr/apps/interrupt.hpp>

namespace ttr {
namespace {
volatile std::sig_atomic_t noted = 0;
}

void catch_interrupts() {
  std::signal(SIGINT, [](int) {
    noted = 1;
    std::signal(SIGINT, SIG_DFL);
  });
}
bool interrupted() { return noted != 0; }

}  // namespace ttr
