// What the test of a page stands on (extract.cpp writes it).
#pragma once
#include <cstdio>
#include <string>
#include <doctest/doctest.h>

namespace page {

// Standard output between begin() and end(), compared with what the page says.
class Output {
 public:
  ~Output();
  void begin();
  void end(const char* place, const std::string& want);

 private:
  std::string take();
  int screen_ = -1;     // the real standard output, while it is away
  std::FILE* caught_ = nullptr;
};

// A folder of the page's own, gone with it, and commands there.
class Shell {
 public:
  Shell() = default;
  ~Shell();
  Shell(const Shell&) = delete;
  void run(const char* place, const std::string& commands, const std::string& shows);

 private:
  std::string folder_;
};

// `file` of the repository has these lines in this order; white space does not matter, nor where lines are broken.
void quotes(const char* place, const std::string& file, const std::string& lines);

}  // namespace page
