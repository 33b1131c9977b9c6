// UTF-8, read strictly: no overlong forms, no surrogates, nothing beyond U+10FFFF. What comes from a model or a file may be anything.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace ttr {

struct Character {
  std::uint32_t code = 0;
  int bytes = 0;      // 0: what stands there is no UTF-8
  bool cut = false;   // it is none because the text ends, and more bytes could make it one
};

Character character_at(std::string_view text, std::size_t at);   // at < text.size()

// Text for a terminal from pieces that may cut characters: what is no UTF-8, and control characters, become question marks, one a byte.
class Printable {
 public:
  std::string put(std::string_view bytes);   // what is complete; the bytes of an unfinished character wait for the next piece
  std::string end();                         // what waited in vain

 private:
  std::string waiting_;
};

std::string for_people(std::string_view bytes);   // in one piece

}  // namespace ttr
