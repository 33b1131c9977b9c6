// Where the program computes: --device and --dtype as words, and the refusal of a device that this machine or this build does not have.
#pragma once
#include <string>
#include <ttr/core/tensor.hpp>

namespace ttr {

Options place_named(const std::string& device, const std::string& dtype);   // cpu | cuda; f32 | f64 | bf16
std::string missing_device(Device);                                         // why it cannot be used here; "" when it can

}  // namespace ttr
