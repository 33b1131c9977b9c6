// Errors are sentences: "[where] name is GOT, needs WANT; hint".
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>
#include <fmt/core.h>

namespace ttr {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {
Error refusal(std::string_view where, fmt::string_view text, fmt::format_args args);
}

// throw refuse("matmul", "inner size is {}, needs {}; transpose one operand", k1, k2)
template <class... Args>
[[nodiscard]] Error refuse(std::string_view where, fmt::format_string<Args...> text, Args&&... args) {
  return detail::refusal(where, text, fmt::make_format_args(args...));
}

}  // namespace ttr
