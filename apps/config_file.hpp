// Configuration files: TOML with the keys of RunConfig at the top level, such as
//   recipe = "delta_net"
//   steps = 2000
// What is wrong is one sentence with the file and the line; an unknown key names the nearest known one.
#pragma once
#include <ttr/apps/run_config.hpp>

namespace ttr {

RunConfig read_config(const std::string& path);                                  // what the file does not say is at its default
RunConfig config_of_toml(const std::string& text, const std::string& path);      // path: for refusals

}  // namespace ttr
