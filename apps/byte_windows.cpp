// Cutting windows out of bytes.
#include <ttr/apps/byte_windows.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/core/random_kernel.hpp>

namespace ttr {

ByteWindows byte_windows(std::string_view text, const std::vector<int64_t>& starts, int64_t tokens) {
  std::vector<int32_t> input, target;
  for (const int64_t start : starts) {
    if (start < 0 || start + tokens >= int64_t(text.size()))
      throw refuse("byte_windows", "a window is [{}, {}) and its targets end one later, needs a place in {} bytes", start, start + tokens, text.size());
    for (int64_t i = start; i < start + tokens; ++i) {
      input.push_back(int32_t(static_cast<unsigned char>(text[size_t(i)])));
      target.push_back(int32_t(static_cast<unsigned char>(text[size_t(i) + 1])));
    }
  }
  const Shape shape{int64_t(starts.size()), tokens};
  return {from_vector(input, shape), from_vector(target, shape)};
}

ByteWindows sample(std::string_view text, const Sampling& s, int64_t step) {
  constexpr uint64_t kStream = 0x64617461;   // of the seed's random numbers, apart from those of initial values
  const auto draw = [&](uint64_t i) { return uniform<double>({s.seed, kStream}, i); };
  return byte_windows(text, sample_windows(int64_t(text.size()), s.tokens, s.rows, uint64_t(step), draw), s.tokens);
}

}  // namespace ttr
