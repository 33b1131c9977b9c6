// A Profile as a table for people: operations by time, a step's phases apart, and how close its matrix products come to what this machine can do.
#pragma once
#include <string>
#include <ttr/core/profile.hpp>

namespace ttr {

double product_rate(Options);                                              // flop/s of a large product here, measured
std::string profile_table(Profile&, int64_t steps, double product_rate);   // of that many steps

}  // namespace ttr
