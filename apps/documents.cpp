// Cutting a text into documents.
#include <ttr/apps/documents.hpp>
#include <algorithm>
#include <ttr/core/error.hpp>

namespace ttr {

std::int64_t Documents::document_of(std::int64_t at) const { return std::upper_bound(ends.begin(), ends.end(), at) - ends.begin(); }

Documents split_documents(std::string text, const std::string& separator) {
  if (separator.empty()) {
    Documents whole{std::move(text), {}};
    whole.ends.push_back(std::int64_t(whole.bytes.size()));
    return whole;
  }
  if (text.find(separator) == std::string::npos)
    throw refuse("data", "the separator of documents is nowhere in the text of {} bytes, needs to be; check --documents", text.size());
  Documents found;
  found.bytes.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(separator, at), text.size());
    found.bytes.append(text, at, end - at);
    if (end > at) found.ends.push_back(std::int64_t(found.bytes.size()));
    at = end + separator.size();
  }
  if (found.bytes.empty()) throw refuse("data", "the text of {} bytes holds separators of documents only, needs something between them", text.size());
  return found;
}

}  // namespace ttr
