// metrics.jsonl there and back, its refusals, and the progress line.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <doctest/doctest.h>
#include <unistd.h>
#include <ttr/apps/metrics.hpp>
#include <ttr/apps/plot.hpp>
#include <ttr/apps/progress.hpp>
#include <ttr/core/error.hpp>

namespace {

struct File {
  std::string path = (std::filesystem::temp_directory_path() / fmt::format("ttr_metrics_{}.jsonl", getpid())).string();
  explicit File(const std::string& text = "") { std::ofstream(path, std::ios::binary) << text; }
  ~File() { std::filesystem::remove(path); }
  std::string text() const {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }
};

std::string refusal(const std::string& text) {
  const File file(text);
  try {
    (void)ttr::read_metrics(file.path);
  } catch (const ttr::Error& error) {
    std::string what = error.what();
    const std::size_t at = what.find(file.path);
    return at == std::string::npos ? what : what.replace(at, file.path.size(), "FILE");
  }
  return "none";
}

// What a progress line wrote, with a clock of our own.
struct Screen {
  std::FILE* file = std::tmpfile();
  double seconds = 100;
  ~Screen() { std::fclose(file); }
  ttr::ProgressOptions options(bool is_terminal) {
    return {.out = file, .is_terminal = is_terminal, .columns = 100, .plain_every_s = 10, .now = [this] { return seconds; }};
  }
  std::string text() {
    std::rewind(file);
    std::string all;
    for (int c; (c = std::fgetc(file)) != EOF;) all.push_back(static_cast<char>(c));
    return all;
  }
};

}  // namespace

TEST_SUITE("metrics") {
  TEST_CASE("what is written is read, and is in the file before the writer ends") {
    const File file;
    ttr::MetricsWriter writer(file.path);
    writer.write({.step = 1, .loss = 5.545177444479562, .lr = 1e-3, .grad_norm = 0.1 + 0.2, .tokens_per_s = 52000});
    CHECK(file.text() ==
          "{\"step\": 1, \"loss\": 5.545177444479562, \"val_loss\": null, \"lr\": 0.001, \"grad_norm\": 0.30000000000000004, "
          "\"tokens_per_s\": 52000}\n");
    writer.write(
        {.step = 123456789012, .loss = std::numeric_limits<double>::quiet_NaN(), .val_loss = 1.25, .lr = 0, .grad_norm = INFINITY});
    const ttr::Metrics metrics = ttr::read_metrics(file.path);
    CHECK(metrics.step == std::vector<double>{1, 123456789012});
    CHECK(metrics.loss[0] == 5.545177444479562);
    CHECK(metrics.grad_norm[0] == 0.1 + 0.2);
    CHECK(std::isnan(metrics.loss[1]));
    CHECK(std::isnan(metrics.val_loss[0]));
    CHECK(metrics.val_loss[1] == 1.25);
    CHECK(std::isnan(metrics.grad_norm[1]));
  }

  TEST_CASE("a resumed run appends, and drops the half line of the interrupted one") {
    const File file("{\"step\": 1, \"loss\": 2}\n{\"step\": 2, \"lo");
    CHECK(ttr::read_metrics(file.path).step == std::vector<double>{1});
    {
      ttr::MetricsWriter writer(file.path, true);
      writer.write({.step = 2, .loss = 1.5});
    }
    CHECK(ttr::read_metrics(file.path).loss == std::vector<double>{2, 1.5});
    { const ttr::MetricsWriter afresh(file.path); }
    CHECK(file.text().empty());
  }

  TEST_CASE("the reader forgives what is missing or unknown") {
    const File file("\n{\"step\": 3, \"new_field\": [1], \"loss\": null}\r\n   \n{\"step\": 4}");
    const ttr::Metrics metrics = ttr::read_metrics(file.path);
    CHECK(metrics.step == std::vector<double>{3, 4});
    CHECK(metrics.lr.size() == 2);
    CHECK(std::isnan(metrics.loss[0]));
    CHECK(std::isnan(metrics.lr[1]));
  }

  TEST_CASE("what it does not forgive it names with its line") {
    CHECK(refusal("{\"step\": 1}\n{\"step\": 2,\n{\"step\": 3}\n") == "[metrics] line 2 of FILE is not JSON, needs a JSON object");
    CHECK(refusal("[1, 2]\n") == "[metrics] line 1 of FILE is array, needs a JSON object");
    CHECK(refusal("{\"step\": 1}\n\n{\"loss\": 2}\n") == "[metrics] line 3 of FILE has no step, needs a number");
    CHECK(refusal("{\"step\": \"one\"}\n") == "[metrics] line 1 of FILE has a wrong step, needs a number");
    CHECK(refusal("{\"step\": 1, \"lr\": \"fast\"}\n") == "[metrics] field lr in line 1 of FILE is string, needs a number or null");
    CHECK(refusal("") == "none");
    CHECK_THROWS_AS((void)ttr::read_metrics("/no/such/file"), ttr::Error);
    CHECK_THROWS_AS((void)ttr::read_metrics(std::filesystem::temp_directory_path().string()), ttr::Error);
    CHECK_THROWS_AS(ttr::MetricsWriter("/no/such/folder/metrics.jsonl"), ttr::Error);
  }
}

TEST_SUITE("progress") {
  TEST_CASE("times and rates") {
    const std::pair<double, const char*> times[] = {
        {0, "0.0s"},    {0.84, "0.8s"},    {9.96, "10s"},   {59.4, "59s"},    {59.6, "1m00s"},
        {185, "3m05s"}, {3599.7, "1h00m"}, {7620, "2h07m"}, {86399, "1d00h"}, {4 * 86400 + 3 * 3600, "4d03h"},
        {-1, "-"},      {NAN, "-"},        {INFINITY, "-"}};
    for (const auto& [seconds, text] : times) CHECK(ttr::duration_text(seconds) == text);
    const std::pair<double, const char*> rates[] = {{0, "0"},         {950.4, "950"},    {999.6, "1.00k"},  {12345, "12.3k"},
                                                    {123456, "123k"}, {999600, "1.00M"}, {4.56e6, "4.56M"}, {NAN, "-"}};
    for (const auto& [rate, text] : rates) CHECK(ttr::rate_text(rate) == text);
  }

  TEST_CASE("the line fits its columns") {
    const ttr::ProgressStatus status{
        .step = 760, .total = 2000, .loss = 1.93214, .val_loss = 2.001, .tokens_per_s = 52100, .seconds_left = 31};
    CHECK(ttr::progress_text(status, 100, true) ==
          " 38%  ━━━━━━━╸               760/2000  loss 1.9321  val 2.0010  52.1k tokens/s  ETA 31s");
    CHECK(ttr::progress_text(status, 100, false) == " 760/2000  loss 1.9321  val 2.0010  52.1k tokens/s  ETA 31s");
    for (int columns = 0; columns < 120; ++columns) CHECK(ttr::text_columns(ttr::progress_text(status, columns, true)) <= columns);
  }

  TEST_CASE("a terminal's line is rewritten at most ten times a second and never blank") {
    Screen screen;
    {
      ttr::Progress progress(1000, 100, 0, screen.options(true));
      for (int step = 1; step <= 1000; ++step) {
        screen.seconds += step == 1 ? 1.0 : 0.01;   // the first step is slow
        progress.step(step, 2.0);
      }
      CHECK(progress.tokens_per_s() == doctest::Approx(100 / 0.01).epsilon(1e-6));
      progress.note("saved");
      progress.finish();
    }
    const std::string text = screen.text();
    const auto drawings = std::count(text.begin(), text.end(), '\r');
    CHECK(drawings >= 90);
    CHECK(drawings <= 110);
    CHECK(std::count(text.begin(), text.end(), '\n') == 2);
    CHECK(text.find("\r\x1b[Ksaved\n") != std::string::npos);
    CHECK(text.find("100%") != std::string::npos);
    CHECK(text.ends_with("  took 11s\x1b[K\n"));
  }

  TEST_CASE("a file gets a plain line now and then") {
    Screen screen;
    {
      ttr::Progress progress(100, 64, 0, screen.options(false));
      for (int step = 1; step <= 60; ++step) {
        screen.seconds += 1;
        progress.step(step, 3.0);
        if (step == 30) {   // half an hour of validation is not training
          progress.pause();
          screen.seconds += 1800;
          progress.validated(3.5);
        }
      }
      CHECK(progress.tokens_per_s() == doctest::Approx(64).epsilon(1e-9));
    }
    const std::string text = screen.text();
    CHECK(text.find('\r') == std::string::npos);
    CHECK(text.find('\x1b') == std::string::npos);
    CHECK(text.starts_with("  1/100  loss 3.0000  64 tokens/s  ETA 1m39s\n"));
    CHECK(std::count(text.begin(), text.end(), '\n') == 6);
    CHECK(text.find(" 51/100  loss 3.0000  val 3.5000  64 tokens/s  ETA 49s\n") != std::string::npos);
  }

  TEST_CASE("a resumed run estimates from its own steps") {
    Screen screen;
    ttr::Progress progress(1000, 10, 900, screen.options(false));
    screen.seconds += 2;
    progress.step(901, 1.0);
    CHECK(progress.tokens_per_s() == doctest::Approx(5));
    progress.finish();
    CHECK(screen.text().starts_with(" 901/1000  loss 1.0000  5 tokens/s  ETA 3m18s\n"));
  }
}
