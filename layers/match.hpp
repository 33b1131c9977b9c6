// How a route recognises what it can say: it names the options it honours; any other option away from its default refuses by name.
#pragma once
#include <algorithm>
#include <ttr/layers/functions.hpp>
#include <ttr/layers/optimizers.hpp>
#include <ttr/layers/problem.hpp>
#include <ttr/layers/weights.hpp>

namespace ttr {

// "" or "option normaliser=sum of linear is not honoured".
template <class T> std::string unhonoured(T ingredient, std::initializer_list<std::string_view> honoured) {
  std::vector<std::string> usual;
  T defaults{};
  each_option(defaults, [&](const char*, auto& value) { usual.push_back(detail::write_option(value)); });
  std::string reason;
  size_t i = 0;
  each_option(ingredient, [&](const char* name, auto& value) {
    const std::string text = detail::write_option(value);
    if (text != usual[i++] && reason.empty() && std::find(honoured.begin(), honoured.end(), name) == honoured.end())
      reason = fmt::format("option {}={} of {} is not honoured", name, text, ingredient_name<T>());
  });
  return reason;
}

// The reasons every kernel of a device has in common; "" when the device, the build and the dtype are right.
std::string unmet_device(const Problem&, DeviceKind wanted);

}  // namespace ttr
