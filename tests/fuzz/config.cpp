// A configuration file is either refused in a sentence or says the same when it is written and read again, as TOML and as JSON.
#include <cstdint>
#include <cstdlib>
#include <ttr/apps/config_file.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const ttr::RunConfig config = ttr::config_of_toml(text, "input.toml");
    const std::string written = ttr::toml_of(config);
    if (ttr::toml_of(ttr::config_of_toml(written, "written.toml")) != written) std::abort();
    if (ttr::toml_of(ttr::config_of_json(ttr::json_of(config), "written.json")) != written) std::abort();
  } catch (const ttr::Error&) {
  }
  try {
    (void)ttr::config_of_json(text, "input.json");
  } catch (const ttr::Error&) {
  }
  return 0;
}
