// A slot's size as text: a number, or a multiple of K or V.
#include <ttr/layers/slot.hpp>

namespace ttr {

std::string Extent::text() const {
  std::string s = of == number ? std::to_string(times) : (times == 1 ? "" : std::to_string(times) + "*") + (of == K ? "K" : "V");
  if (over != 1) s += "/" + std::to_string(over);
  return any ? "any (" + s + ")" : s;
}

}  // namespace ttr
