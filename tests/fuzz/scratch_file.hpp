// The input of a fuzz target as a file without a disk: what reads files is given its path.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

class ScratchFile {
 public:
  ScratchFile(const uint8_t* data, size_t size) : at_(memfd_create("input", 0)) {
    if (at_ < 0 || write(at_, data, size) != ssize_t(size)) std::abort();
  }
  ~ScratchFile() { close(at_); }
  ScratchFile(const ScratchFile&) = delete;
  std::string path() const { return "/proc/self/fd/" + std::to_string(at_); }

 private:
  int at_;
};
