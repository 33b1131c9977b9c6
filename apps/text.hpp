// The bytes a language model trains on, their split, and the windows cut from them. What is said of windows holds for bytes and for tokens.
// Source, in this order, and `source` says which one it was: the user's files, one behind the other; the King James Bible as the installed
// `bible` program prints it; a seeded grammar (apps/grammar.hpp), the only one whose entropy is known. The words `bible`, `grammar` and
// `grammar:SEED` in the place of a file ask for those; a file of such a name is written ./bible.
// Split: validation is the last tenth, bytes [size - size/10, size).
// A window [start, start + length) is read as inputs and predicts what stands in [start + 1, start + length + 1).
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ttr {

struct Text {
  std::string bytes;
  std::string source;                            // one phrase for the user, such as "the King James Bible, 4137850 bytes"
  std::optional<double> entropy_nats_per_byte;   // of the source that wrote it, where that is known
  std::vector<std::string> files = {};           // what asks for this text again
};

struct TextOptions {
  std::vector<std::string> files = {};              // none: the Bible, else the grammar
  std::string bible = "bible -f gen1:1-rev22:21";   // the command that prints it, each line opening with its reference
  std::uint64_t seed = 1;                           // of the grammar
  std::int64_t grammar_bytes = 1 << 20;
};

Text load_text(const TextOptions& options = {});
bool is_built_in(const std::string& file);   // a word that asks for the Bible or a grammar

struct Split {
  std::string_view train, validation;   // views into the text that was split
};

// Refuses a text whose training part has no window of `context` bytes with its targets, or whose validation part has no target.
Split split_text(const Text& text, std::int64_t context);
Split split_text(Text&&, std::int64_t) = delete;   // the views would dangle

struct Window {
  std::int64_t start = 0, length = 0;
};

// The windows [0, context), [context, 2 context), ... of `bytes` bytes, the last one shorter if need be: bytes - 1 targets in all. Every
// byte but the first is the target of exactly one window, and the last byte is a target only.
std::vector<Window> validation_windows(std::int64_t bytes, std::int64_t context);

// `count` starts for one training step, each uniform over the bytes - context places where a window and its targets fit. `uniform` maps a
// counter to [0, 1) and must have many more bits than the text has bytes; row r of step s asks for counter s * count + r, so a resumed run
// draws the same windows.
std::vector<std::int64_t> sample_windows(std::int64_t bytes, std::int64_t context, std::int64_t count, std::uint64_t step,
                                         const std::function<double(std::uint64_t)>& uniform);

}  // namespace ttr
