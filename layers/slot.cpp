#include <ttr/layers/slot.hpp>

namespace ttr {

std::string Extent::text() const {
  std::string s = of == number ? std::to_string(times) : (times == 1 ? "" : std::to_string(times) + "*") + (of == K ? "K" : "V");
  return over == 1 ? s : s + "/" + std::to_string(over);
}

}  // namespace ttr
