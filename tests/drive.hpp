// Driving the program `ttr` from a test, as a user at a shell would.
#pragma once
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <doctest/doctest.h>

namespace drive {

struct Folder {   // of one test, gone after it
  std::filesystem::path path;
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "ttr_drive_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

inline std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Ran {
  int code;
  std::string out, err;
};

// `before` stands before the program in the shell's line, such as "printf x |".
inline Ran ttr_run(const Folder& folder, const std::string& arguments, const std::string& before = "</dev/null") {
  const std::string errors = folder / "stderr";
  std::FILE* pipe = popen((before + " TTR_THREADS=1 '" TTR_PROGRAM "' " + arguments + " 2>'" + errors + "'").c_str(), "r");
  REQUIRE(pipe != nullptr);
  Ran ran;
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) ran.out.append(buffer, n);
  const int status = pclose(pipe);
  ran.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  ran.err = contents(errors);
  return ran;
}

inline bool says(const std::string& text, const std::string& words) { return text.find(words) != std::string::npos; }

// One sentence on standard error: one line, no trace of the source.
inline void check_sentence(const Ran& ran, int code, const std::string& words) {
  CAPTURE(ran.err);
  CAPTURE(words);
  CHECK(ran.code == code);
  CHECK(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
  CHECK(ran.err.substr(0, 1) == "[");
  CHECK(!says(ran.err, ".cpp"));
  CHECK(says(ran.err, words));
}

}  // namespace drive
