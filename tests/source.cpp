// The rules of the rooms, read from the source itself: who may include whom, what a border header and a device file may see, where heavy
// headers may stand, and how a file looks. TTR_SOURCE_DIR is the source root.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>

namespace {

namespace fs = std::filesystem;
using Lines = std::vector<std::string>;

constexpr size_t kLongestLine = 160;

const std::map<std::string, std::set<std::string>> kMayInclude{
    {"core", {"core"}},
    {"optim", {"core", "optim"}},
    {"layers", {"core", "optim", "layers"}},
    {"cuda", {"cuda"}},   // and border headers
    {"apps", {"core", "optim", "layers", "apps"}},
    {"tests", {"core", "optim", "layers", "apps", "tests"}},
};

// Declares what crosses between host and device code: argument structs, kernels, and the update rules that run on both.
bool is_border(const std::string& path) { return path.ends_with("_kernel.hpp") || path == "core/border.hpp" || path == "optim/rule.hpp"; }

std::string room_of(const std::string& path) { return path.substr(0, path.find('/')); }

// What stands between < > or " " of an include; "" for other lines.
std::string included(const std::string& line) {
  std::istringstream words(line);
  std::string first, second;
  words >> first >> second;
  if (first != "#include" || second.size() < 3) return "";
  return second.substr(1, second.size() - 2);
}

const std::map<std::string, Lines>& sources() {   // path from the root -> lines, of every file of C++ and CUDA in a room
  static const auto all = [] {
    std::map<std::string, Lines> found;
    const fs::path root(TTR_SOURCE_DIR);
    for (const auto& [room, allowed] : kMayInclude)
      for (const auto& entry : fs::recursive_directory_iterator(root / room)) {
        const std::string extension = entry.path().extension().string();
        if (!entry.is_regular_file() ||
            (extension != ".cpp" && extension != ".hpp" && extension != ".cu" && extension != ".cuh" && extension != ".h"))
          continue;
        std::ifstream file(entry.path());
        Lines& lines = found[fs::relative(entry.path(), root).generic_string()];
        for (std::string line; std::getline(file, line);) lines.push_back(line);
      }
    return found;
  }();
  return all;
}

// rule(path, line) is the complaint about a line, or "".
template <class Rule> std::string complaints(const std::map<std::string, Lines>& files, Rule&& rule) {
  std::string all;
  for (const auto& [path, lines] : files)
    for (size_t i = 0; i < lines.size(); ++i)
      if (const std::string complaint = rule(path, lines[i]); !complaint.empty()) all += path + ":" + std::to_string(i + 1) + ": " + complaint + "\n";
  return all;
}

std::string include_rule(const std::string& path, const std::string& line) {
  std::string target = included(line);
  if (target.empty()) return "";
  const std::string room = room_of(path);
  const bool quoted = line.find('"') != std::string::npos;
  if (quoted) {
    if (room != "tests") return "includes \"" + target + "\", needs <ttr/" + room + "/...>";
    return "";
  }
  if (target.find(".hpp") == std::string::npos || !target.starts_with("ttr/")) {
    for (const char* heavy : {"CLI/", "nlohmann/", "toml++/"})
      if (target.starts_with(heavy) && path.ends_with(".hpp")) return "includes <" + target + ">, which is heavy: needs to stand in one .cpp";
    const bool host = target.starts_with("CLI/") || target.starts_with("nlohmann/") || target.starts_with("toml++/") || target.starts_with("fmt/");
    if (host && room == "cuda") return "includes <" + target + ">, which device code must not see";
    if (is_border(path) && target != "cstdint" && target != "cstddef" && target != "bit" && target != "cmath")
      return "includes <" + target + ">, needs plain standard headers in a border header";
    if (room != "cuda" && (target.starts_with("cuda") || target.starts_with("cublas"))) return "includes <" + target + ">, needs to be in cuda/";
    return "";
  }
  target = target.substr(4);
  if (is_border(path)) return is_border(target) ? "" : "includes " + target + ", needs a border header: this is one";
  if (room == "cuda" && is_border(target)) return "";
  return kMayInclude.at(room).contains(room_of(target)) ? "" : "includes " + target + ", needs a room that " + room + " may see";
}

std::string line_rule(const std::string& path, const std::string& line) {
  if (line.find('\t') != std::string::npos) return "has a tab";
  if (!line.empty() && (line.back() == ' ' || line.back() == '\r')) return "ends in white space";
  if (line.size() > kLongestLine) return "has " + std::to_string(line.size()) + " bytes, needs at most " + std::to_string(kLongestLine);
  if (path == "tests/source.cpp") return "";   // it names what it forbids
  for (const char* here : {"/home/", "/Users/", "/mnt/", "/workspace"})
    if (line.find(here) != std::string::npos) return std::string("names a place of one machine: ") + here;
  for (const char* unfinished : {"TODO", "FIXME"})
    if (line.find(unfinished) != std::string::npos) return std::string("is unfinished: ") + unfinished;
  return "";
}

std::string name_rule(const std::string& path) {
  const fs::path p(path);
  std::string word;
  std::set<std::string> words;
  for (const char c : p.stem().string() + "_") {
    if (std::isalnum(static_cast<unsigned char>(c))) {
      word += char(std::tolower(c));
    } else {
      words.insert(word);
      word.clear();
    }
  }
  for (const char* vague : {"util", "utils", "common", "misc", "helper", "helpers", "v2", "v3", "new", "old"})
    if (words.contains(vague)) return std::string("is named '") + vague + "', which says nothing";
  return "";
}

}  // namespace

TEST_SUITE("source") {
  TEST_CASE("rooms include what they may; border headers only border headers; heavy headers only in .cpp files") {
    REQUIRE(sources().size() > 100);
    CHECK(complaints(sources(), include_rule) == "");
  }

  TEST_CASE("lines: no tabs, no trailing white space, not too long, no places of one machine, nothing unfinished") {
    CHECK(complaints(sources(), line_rule) == "");
  }

  TEST_CASE("files open by saying what they are, are named for it, and headers are guarded") {
    for (const auto& [path, lines] : sources()) {
      CAPTURE(path);
      CHECK(name_rule(path) == "");
      REQUIRE(!lines.empty());
      CHECK(lines[0].starts_with("// "));
      const bool guarded = std::find(lines.begin(), lines.end(), "#pragma once") != lines.end();
      const bool once_a_set = std::any_of(lines.begin(), lines.end(), [](const std::string& l) {
        return l.starts_with("namespace") && l.ends_with("TTR_SIMD_SET {");
      });
      if (path.ends_with(".hpp")) CHECK(guarded != once_a_set);   // core/simd_sets.hpp includes some once for each instruction set
      CHECK(!path.ends_with(".h"));
    }
  }

  TEST_CASE("host code's CUDA switch never appears in a header that is installed for users") {
    for (const char* path : {"core/tensor.hpp", "core/grad.hpp", "core/op.hpp", "core/ops.hpp", "layers/recipe.hpp", "layers/plan.hpp", "layers/recipes.hpp"}) {
      CAPTURE(path);
      REQUIRE(sources().contains(path));
      for (const std::string& line : sources().at(path))
        CHECK((line.find("with_cuda") == std::string::npos && line.find("TTR_WITH_CUDA") == std::string::npos));
    }
  }

  TEST_CASE("the rules find what they forbid") {
    CHECK(include_rule("core/x.hpp", "#include <ttr/layers/fold.hpp>") == "includes layers/fold.hpp, needs a room that core may see");
    CHECK(include_rule("optim/x.cpp", "#include <ttr/layers/fold.hpp>") != "");
    CHECK(include_rule("layers/x.cpp", "#include <ttr/tests/parity.hpp>") != "");
    CHECK(include_rule("layers/x.cpp", "#include <ttr/cuda/launch.hpp>") != "");
    CHECK(include_rule("layers/x.cpp", "#include \"fold.hpp\"") != "");
    CHECK(include_rule("layers/x.cpp", "#include <ttr/core/ops.hpp>") == "");
    CHECK(include_rule("cuda/x.cu", "#include <ttr/core/tensor.hpp>") != "");
    CHECK(include_rule("cuda/x.cu", "#include <ttr/core/border.hpp>") == "");
    CHECK(include_rule("cuda/x.cu", "#include <fmt/core.h>") != "");
    CHECK(include_rule("layers/x_kernel.hpp", "#include <ttr/core/tensor.hpp>") == "includes core/tensor.hpp, needs a border header: this is one");
    CHECK(include_rule("layers/x_kernel.hpp", "#include <ttr/layers/delta_kernel.hpp>") == "");
    CHECK(include_rule("layers/x_kernel.hpp", "#include <vector>") != "");
    CHECK(include_rule("apps/x.hpp", "#include <nlohmann/json.hpp>") != "");
    CHECK(include_rule("apps/x.cpp", "#include <nlohmann/json.hpp>") == "");
    CHECK(include_rule("core/x.cpp", "#include <cuda_runtime.h>") != "");
    CHECK(line_rule("core/x.cpp", "\tint x;") == "has a tab");
    CHECK(line_rule("core/x.cpp", std::string(kLongestLine + 1, 'x')) != "");
    CHECK(line_rule("core/x.cpp", "const char* data = \"/home/me/data\";") != "");
    CHECK(name_rule("core/string_utils.hpp") != "");
    CHECK(name_rule("core/delta_v2.hpp") != "");
    CHECK(name_rule("core/renewal.hpp") == "");
  }
}
