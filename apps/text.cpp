// Loading: a file, the output of `bible`, or the grammar; then the split and the windows.
#include <ttr/apps/text.hpp>
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <sys/wait.h>
#include <ttr/apps/grammar.hpp>
#include <ttr/core/error.hpp>
#include <ttr/core/open_file.hpp>

namespace ttr {
namespace {

constexpr std::size_t kLargestFile = std::size_t{1} << 32;   // byte counts of the n-grams are 32 bits wide
constexpr std::int64_t kVerses = 31102;                      // of the King James Bible without the Apocrypha
constexpr std::size_t kSmallestBible = 4'000'000;

// A pipe will do, since it is read to its end: <(zcat text.gz).
std::string read_file(const std::string& path) {
  std::string bytes = read_whole("data", path, true, kLargestFile - 1);
  if (bytes.empty()) throw refuse("data", "file {} is 0 bytes, needs some text", path);
  return bytes;
}

// The text without the references, or nothing and the reason why not.
std::string read_bible(const std::string& command, std::string& reason) {
  const std::string quiet = command + " </dev/null 2>/dev/null";
  std::FILE* pipe = popen(quiet.c_str(), "r");
  if (pipe == nullptr) {
    reason = "no program could be started";
    return {};
  }
  std::string raw;
  std::array<char, 1 << 16> block;
  for (std::size_t n; raw.size() < kLargestFile && (n = std::fread(block.data(), 1, block.size(), pipe)) > 0;) raw.append(block.data(), n);
  if (const int status = pclose(pipe); status != 0) {
    reason = WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "the program bible is not installed" : "the program bible failed";
    return {};
  }
  std::string bytes;
  bytes.reserve(raw.size());
  std::int64_t verses = 0;
  for (std::size_t at = 0; at < raw.size(); ++verses) {
    const std::size_t end = std::min(raw.find('\n', at), raw.size());
    const std::size_t space = raw.find(' ', at);
    if (space < end) bytes.append(raw, space + 1, end - space - 1);
    bytes.push_back('\n');
    at = end + 1;
  }
  if (verses != kVerses || bytes.size() < kSmallestBible) {
    reason = fmt::format("the program bible printed {} verses and {} bytes, not {} verses", verses, bytes.size(), kVerses);
    return {};
  }
  return bytes;
}

}  // namespace

bool is_built_in(const std::string& file) { return file == "bible" || file == "grammar" || file.starts_with("grammar:"); }

Text load_text(const TextOptions& options) {
  Text text;
  const auto bible = [&](std::string& reason) {
    text.bytes = read_bible(options.bible, reason);
    text.source = fmt::format("the King James Bible, {} bytes", text.bytes.size());
    text.files = {"bible"};
    return !text.bytes.empty();
  };
  const auto grammar = [&](std::uint64_t seed, const std::string& why) {
    if (options.grammar_bytes < 1) throw refuse("data", "grammar_bytes is {}, needs at least 1", options.grammar_bytes);
    const Grammar made = make_grammar(seed);
    text.bytes = made.sample(seed, static_cast<std::size_t>(options.grammar_bytes));
    text.entropy_nats_per_byte = made.entropy_nats_per_byte();
    text.files = {fmt::format("grammar:{}", seed)};
    text.source = fmt::format("a grammar with seed {} and {:.4f} nats per byte, {} bytes{}", seed, *text.entropy_nats_per_byte,
                              text.bytes.size(), why);
  };
  std::string reason;
  if (options.files.empty()) {
    if (!bible(reason)) grammar(options.seed, ", because " + reason);
    return text;
  }
  for (const std::string& file : options.files) {
    if (is_built_in(file) && options.files.size() > 1)
      throw refuse("data", "{} stands among {} files, needs to be alone; a file of that name is ./{}", file, options.files.size(), file);
    if (file == "bible") {
      if (!bible(reason)) throw refuse("data", "the Bible cannot be read because {}, needs the program bible of bible-kjv", reason);
      return text;
    }
    if (is_built_in(file)) {
      std::uint64_t seed = options.seed;
      const std::string number = file.substr(std::min(file.size(), std::string_view("grammar:").size()));
      const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), seed);
      if (file != "grammar" && (error != std::errc() || end != number.data() + number.size()))
        throw refuse("data", "the seed of {} is '{}', needs a whole number of at least 0", file, number);
      grammar(seed, "");
      return text;
    }
  }
  text.files = options.files;
  for (const std::string& file : options.files) {
    text.bytes += read_file(file);
    text.source += (text.source.empty() ? "" : " + ") + file;
    if (text.bytes.size() >= kLargestFile)
      throw refuse("data", "the files have {} bytes or more, needs fewer than {}; take fewer", text.bytes.size(), kLargestFile);
  }
  text.source += fmt::format(", {} bytes", text.bytes.size());
  return text;
}

Split split_text(const Text& text, std::int64_t context) {
  if (context < 1) throw refuse("data", "context is {}, needs at least 1", context);
  const std::size_t held_out = text.bytes.size() / 10;
  const std::size_t trained = text.bytes.size() - held_out;
  if (trained <= static_cast<std::size_t>(context)) {
    throw refuse("data", "training part is {} bytes of {}, needs {} for context {}; bring more text or lower the context", trained,
                 text.bytes.size(), context + 1, context);
  }
  if (held_out < 2)
    throw refuse("data", "validation part is {} bytes of {}, needs at least 2; bring at least 20 bytes", held_out, text.bytes.size());
  const std::string_view all = text.bytes;
  return {all.substr(0, trained), all.substr(trained)};
}

std::vector<Window> validation_windows(std::int64_t bytes, std::int64_t context) {
  if (bytes < 2) throw refuse("data", "validation part is {} bytes, needs at least 2", bytes);
  if (context < 1) throw refuse("data", "context is {}, needs at least 1", context);
  std::vector<Window> windows;
  for (std::int64_t start = 0; start < bytes - 1; start += std::min(context, bytes)) windows.push_back({start, std::min(context, bytes - 1 - start)});
  return windows;
}

std::vector<std::int64_t> sample_windows(std::int64_t bytes, std::int64_t context, std::int64_t count, std::uint64_t step,
                                         const std::function<double(std::uint64_t)>& uniform) {
  if (context < 1) throw refuse("data", "context is {}, needs at least 1", context);
  if (bytes <= context) throw refuse("data", "training part is {} bytes, needs {} for context {}", bytes, context + 1, context);
  if (count < 1) throw refuse("data", "batch is {}, needs at least 1", count);
  const std::int64_t places = bytes - context;
  std::vector<std::int64_t> starts;
  for (std::int64_t row = 0; row < count; ++row) {
    const double u = uniform(step * static_cast<std::uint64_t>(count) + static_cast<std::uint64_t>(row));
    starts.push_back(std::clamp<std::int64_t>(static_cast<std::int64_t>(u * static_cast<double>(places)), 0, places - 1));
  }
  return starts;
}

}  // namespace ttr
