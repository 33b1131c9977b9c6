// UTF-8 of a text, character by character.
#include <algorithm>
#include <ttr/apps/utf8.hpp>

namespace ttr {

Character character_at(std::string_view text, std::size_t at) {
  const auto first = static_cast<unsigned char>(text[at]);
  if (first < 0x80) return {first, 1};
  const int bytes = first >= 0xc2 && first < 0xe0 ? 2 : first >= 0xe0 && first < 0xf0 ? 3 : first >= 0xf0 && first < 0xf5 ? 4 : 0;
  std::uint32_t code = first & (0xffu >> (bytes + 1));
  for (int i = 1; i < bytes; ++i) {
    if (at + static_cast<std::size_t>(i) >= text.size()) return {0, 0, true};
    const auto next = static_cast<unsigned char>(text[at + static_cast<std::size_t>(i)]);
    const bool in_range = !(i == 1 && ((first == 0xe0 && next < 0xa0) || (first == 0xed && next >= 0xa0) || (first == 0xf0 && next < 0x90) ||
                                       (first == 0xf4 && next >= 0x90)));
    if ((next & 0xc0) != 0x80 || !in_range) return {};
    code = code << 6 | (next & 0x3f);
  }
  return {code, bytes};
}

std::string Printable::put(std::string_view bytes) {
  const std::string text = waiting_ + std::string(bytes);
  waiting_.clear();
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    const Character c = character_at(text, i);
    if (c.cut) {
      waiting_ = text.substr(i);
      break;
    }
    const bool control = c.bytes == 1 && (c.code == 0x7f || (c.code < 0x20 && c.code != '\n' && c.code != '\t'));
    if (c.bytes == 0 || control) out += '?';
    else out.append(text, i, static_cast<std::size_t>(c.bytes));
    i += static_cast<std::size_t>(std::max(c.bytes, 1));
  }
  return out;
}

std::string Printable::end() {
  const std::string out(waiting_.size(), '?');
  waiting_.clear();
  return out;
}

std::string for_people(std::string_view bytes) {
  Printable text;
  const std::string whole = text.put(bytes);
  return whole + text.end();
}

}  // namespace ttr
