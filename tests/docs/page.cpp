// The runner of the pages, and what holds for all of them: links lead somewhere, and the README's table of recipes is the program's.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <ttr/tests/docs/page.hpp>

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>
#include <unistd.h>
#include <ttr/layers/vocabulary.hpp>
#include <ttr/layers/recipes.hpp>

namespace page {
namespace {

const std::filesystem::path kRoot = TTR_SOURCE_ROOT;

std::string squeezed(std::string text) {   // without white space
  std::erase_if(text, [](unsigned char c) { return std::isspace(c); });
  return text;
}

std::string trimmed(const std::string& text) {   // no spaces at the ends of lines, no empty lines at the end
  std::string out, line;
  std::istringstream in(text);
  while (std::getline(in, line)) out += line.substr(0, line.find_last_not_of(" \t\r") + 1) + "\n";
  while (out.size() > 1 && out.ends_with("\n\n")) out.pop_back();
  return out == "\n" ? "" : out;
}

std::vector<std::filesystem::path> pages() {
  std::vector<std::filesystem::path> all{kRoot / "README.md"};
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kRoot / "docs"))
    if (entry.path().extension() == ".md") all.push_back(entry.path());
  return all;
}

}  // namespace

void Output::begin() {
  std::fflush(stdout);
  caught_ = std::tmpfile();
  REQUIRE(caught_);
  screen_ = dup(1);
  dup2(fileno(caught_), 1);
}

std::string Output::take() {
  if (screen_ < 0) return {};
  std::fflush(stdout);
  dup2(screen_, 1);
  close(screen_);
  screen_ = -1;
  std::string text;
  std::rewind(caught_);
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, caught_)) > 0;) text.append(buffer, n);
  std::fclose(caught_);
  return text;
}

void Output::end(const char* place, const std::string& want) {
  const std::string got = trimmed(take());
  INFO(std::string(place));
  CHECK(got == trimmed(want));
}

Output::~Output() { take(); }

namespace {

// Where the first line of `lines` that `have` lacks begins; "" when it has all, in this order. White space does not matter.
std::string missing(const std::string& have, const std::string& lines) {
  std::istringstream text(lines);
  size_t at = 0;
  for (std::string line; std::getline(text, line);) {
    const std::string want = squeezed(line);
    at = have.find(want, at);
    if (at == have.npos) return line;
    at += want.size();
  }
  return "";
}

}  // namespace

void Shell::run(const char* place, const std::string& commands, const std::string& shows) {
  if (folder_.empty()) {
    std::string name = (std::filesystem::temp_directory_path() / "ttr_page_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    folder_ = name;
  }
  const std::string program = std::filesystem::path(TTR_PROGRAM).parent_path().string();
  const std::string script = folder_ + "/.commands", log = folder_ + "/.output";
  std::ofstream(script) << "set -euo pipefail\ncd '" << folder_ << "'\nPATH='" << program << "':$PATH\n" << commands;
  const int status = std::system(("bash '" + script + "' >'" + log + "' 2>&1 </dev/null").c_str());
  std::ifstream in(log);
  const std::string printed{std::istreambuf_iterator<char>(in), {}};
  INFO(std::string(place), " printed:\n", printed);
  CHECK(status == 0);
  const std::string line = missing(squeezed(printed), shows);
  INFO("the line '", line, "' is not there, or not in this order");
  CHECK(line.empty());
}

Shell::~Shell() {
  std::error_code error;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, error);
}

void quotes(const char* place, const std::string& file, const std::string& lines) {
  std::ifstream source(kRoot / file);
  INFO(std::string(place), " quotes ", file);
  REQUIRE(source.good());
  const std::string have = squeezed({std::istreambuf_iterator<char>(source), {}});
  const std::string line = missing(have, lines);
  INFO("the line '", line, "' is not there, or not in this order");
  REQUIRE(line.empty());
}

TEST_CASE("links lead somewhere") {
  for (const auto& page : pages()) {
    std::ifstream in(page);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    for (size_t at = 0; (at = text.find("](", at)) != text.npos; ++at) {
      std::string link = text.substr(at + 2, text.find(')', at) - at - 2);
      link = link.substr(0, link.find('#'));
      if (link.empty() || link.starts_with("http") || link.find_first_of(" \n{") != link.npos) continue;   // elsewhere, or code
      INFO(page.string(), ": ", link);
      CHECK(std::filesystem::exists(page.parent_path() / link));
    }
  }
}

// | `name` | `weights` | `function` | `optimizer` | ...
TEST_CASE("the README's recipes are the program's") {
  std::ifstream in(kRoot / "README.md");
  int rows = 0;
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("| `")) continue;
    std::vector<std::string> cells;
    for (size_t at = 0; (at = line.find('`', at)) != line.npos;) {
      const size_t end = line.find('`', at + 1);
      cells.push_back(line.substr(at + 1, end - at - 1));
      at = end + 1;
    }
    REQUIRE(cells.size() >= 4);
    const ttr::Recipe& recipe = ttr::published(cells[0]).recipe;
    INFO(cells[0]);
    CHECK(cells[1] == recipe.weights().text());
    CHECK(cells[2] == recipe.function().text());
    CHECK(cells[3] == recipe.optimizer().text());
    ++rows;
  }
  CHECK(rows >= 10);
}

}  // namespace page
