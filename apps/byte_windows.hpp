// Windows of a text as tensors: what a language model over bytes reads and what it should have said.
#pragma once
#include <string_view>
#include <vector>
#include <ttr/core/tensor.hpp>

namespace ttr {

struct ByteWindows {   // i32 [rows, T]; target is input one byte later
  Tensor input, target;
  void each(auto&& f) { f("input", input), f("target", target); }
};

// The bytes [start, start + tokens) for each start, and the one after them.
ByteWindows byte_windows(std::string_view text, const std::vector<int64_t>& starts, int64_t tokens);

// One step's windows, at places that the seed and the step draw.
struct Sampling { int64_t rows = 32, tokens = 128; uint64_t seed = 1; };
ByteWindows sample(std::string_view text, const Sampling&, int64_t step);

}  // namespace ttr
