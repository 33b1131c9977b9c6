// The sentence of a refusal, put together in one place, so that whoever refuses compiles its arguments only.
#include <ttr/core/error.hpp>
#include <fmt/format.h>

namespace ttr::detail {

Error refusal(std::string_view where, fmt::string_view text, fmt::format_args args) {
  return Error(fmt::format("[{}] {}", where, fmt::vformat(text, args)));
}

}  // namespace ttr::detail
