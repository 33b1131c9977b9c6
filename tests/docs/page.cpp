// The runner of the pages, and what holds for all of them: links and anchors lead somewhere, every page is reached, tables of recipes are the program's.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <ttr/tests/docs/page.hpp>

#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
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

// -- links ---------------------------------------------------------------------------------------------------------------------------------------
// What a heading is called in a link: lower case, spaces as hyphens, everything else that is no letter, digit, hyphen or underscore left out.
std::string anchor_of(const std::string& heading) {
  std::string anchor;
  for (const char c : heading) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '-' || c == '_' || byte >= 0x80) anchor += char(std::tolower(byte));
    else if (c == ' ') anchor += '-';
  }
  return anchor;
}

// The text of a page without its blocks of code, whose brackets are no links; a line stays a line.
std::string prose_of(const std::filesystem::path& page) {
  std::ifstream in(page);
  std::string text;
  bool inside = false;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("```")) inside = !inside;
    else if (!inside) text += line + "\n";
  }
  return text;
}

std::set<std::string> anchors_of(const std::filesystem::path& page) {
  std::set<std::string> anchors;
  std::istringstream in(prose_of(page));
  for (std::string line; std::getline(in, line);) {
    const size_t level = line.find_first_not_of('#');
    if (level == 0 || level == line.npos || line[level] != ' ') continue;
    std::string heading = line.substr(level + 1);
    std::erase(heading, '`');
    const std::string anchor = anchor_of(heading);
    for (int again = 0; !anchors.insert(again ? anchor + "-" + std::to_string(again) : anchor).second;) ++again;
  }
  return anchors;
}

struct Link {
  std::string text, file, anchor;
};

std::vector<Link> links_of(const std::filesystem::path& page) {
  const std::string text = prose_of(page);
  std::vector<Link> links;
  for (size_t at = 0; (at = text.find("](", at)) != text.npos; ++at) {
    const std::string target = text.substr(at + 2, text.find(')', at) - at - 2);
    if (target.starts_with("http") || target.find_first_of(" \n{") != target.npos) continue;   // elsewhere, or code
    const size_t hash = std::min(target.find('#'), target.size()), open = text.rfind('[', at);
    links.push_back({text.substr(open + 1, at - open - 1), target.substr(0, hash), hash < target.size() ? target.substr(hash + 1) : ""});
  }
  return links;
}

// A figure is drawn when the site is made, from a program or from data beside it (docs/site).
bool is_figure(const std::filesystem::path& file) {
  auto source = file;
  return file.extension() == ".svg" && file.parent_path().filename() == "figures" &&
         (std::filesystem::exists(source.replace_extension(".cpp")) || std::filesystem::exists(source.replace_extension(".txt")));
}

TEST_CASE("links and anchors lead somewhere") {
  size_t anchors = 0;
  for (const auto& page : pages())
    for (const Link& link : links_of(page)) {
      const auto file = link.file.empty() ? page : (page.parent_path() / link.file).lexically_normal();
      INFO(page.string(), ": ", link.file, "#", link.anchor);
      CHECK((std::filesystem::exists(file) || is_figure(file)));
      if (link.anchor.empty()) continue;
      CHECK(anchors_of(file).contains(link.anchor));
      ++anchors;
    }
  CHECK(anchors > 0);
  CHECK(anchor_of("Gated DeltaNet from weight decay needs the value rescaled, once") == "gated-deltanet-from-weight-decay-needs-the-value-rescaled-once");
}

TEST_CASE("every page is reached from the index") {
  std::set<std::filesystem::path> reached;
  std::vector<std::filesystem::path> todo{kRoot / "docs/index.md"};
  while (!todo.empty()) {
    const auto page = todo.back();
    todo.pop_back();
    if (page.extension() != ".md" || !std::filesystem::exists(page) || !reached.insert(page).second) continue;
    for (const Link& link : links_of(page)) todo.push_back((page.parent_path() / link.file).lexically_normal());
  }
  for (const auto& page : pages()) {
    INFO(page.string());
    CHECK(reached.contains(page.lexically_normal()));
  }
}

// -- tables --------------------------------------------------------------------------------------------------------------------------------------
// The rows | `name` | `weights` | `function` | `optimizer` | ... of a page are the program's, with `reading` if it is whole; gives the names.
std::set<std::string> check_recipes(const std::filesystem::path& page, bool whole = false) {
  std::ifstream in(page);
  std::set<std::string> names;
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
    if (whole) CHECK(cells[1] + " / " + cells[2] + " / " + cells[3] + (cells.size() > 4 ? " / " + cells[4] : "") == recipe.text());
    names.insert(cells[0]);
  }
  return names;
}

TEST_CASE("the README's recipes are the program's") { CHECK(check_recipes(kRoot / "README.md").size() >= 10); }

TEST_CASE("the map holds every published recipe, and the tests that it names exist") {
  const auto page = kRoot / "docs/10-map.md";
  const std::set<std::string> names = check_recipes(page, true);
  for (const ttr::Published& p : ttr::published_recipes()) {
    INFO(p.name);
    CHECK(names.contains(p.name));
  }
  int tests = 0;
  for (const Link& link : links_of(page)) {
    if (link.file.find("tests/") == link.file.npos) continue;
    std::ifstream in((page.parent_path() / link.file).lexically_normal());
    const std::string source{std::istreambuf_iterator<char>(in), {}};
    INFO(link.text, " in ", link.file);
    CHECK(source.find("TEST_CASE(\"" + link.text) != source.npos);
    ++tests;
  }
  CHECK(tests >= 25);
}

TEST_CASE("the notation holds every slot of every published recipe") {
  std::ifstream in(kRoot / "docs/notation.md");
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  for (const ttr::Published& p : ttr::published_recipes())
    for (const ttr::Slot& slot : p.recipe.slots()) {
      INFO(p.name, " reads ", slot.name);
      CHECK(text.find("`" + slot.name + "`") != text.npos);
    }
}

}  // namespace page
