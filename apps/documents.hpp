// Documents: a text cut at a separator, which is left out. Packed windows cross their borders; `segments` then tells a memory where to start afresh,
// and the byte after a border is no target.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace ttr {

struct Documents {
  std::string bytes;                // one after the other
  std::vector<std::int64_t> ends;   // one past the last byte of each; ascending, the last is the size of bytes

  std::int64_t document_of(std::int64_t at) const;   // which one holds byte `at`
};

// Empty documents are dropped. An empty separator: the whole text is one.
Documents split_documents(std::string text, const std::string& separator);

}  // namespace ttr
