// The one way in which files are opened. What is not a regular file is refused in a sentence before a byte of it is read or written: a named pipe
// waits for its other end, a device may never end, and a folder or a socket holds nothing to read.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace ttr {

// A regular file, closed when left.
class OpenFile {
 public:
  static OpenFile to_read(std::string where, std::string path);   // where: the first word of its refusals
  static OpenFile to_append(std::string where, std::string path);
  static OpenFile afresh(std::string where, std::string path);        // empty, whatever was there
  static OpenFile exclusively(std::string where, std::string path);   // new, or refused
  OpenFile(OpenFile&&) noexcept;
  ~OpenFile();

  const std::string& path() const { return path_; }
  uint64_t size() const;
  void read(uint64_t from, void* into, size_t bytes) const;   // all of them; refused where the file was cut since
  void write(const void* data, size_t bytes);
  void flush();   // to the disk
  void close();

 private:
  friend std::string read_whole(std::string, std::string, bool, size_t);
  OpenFile(std::string where, std::string path, int flags, bool pipe = false);
  std::string where_, path_;
  int number_ = -1;
  bool pipe_ = false;
};

constexpr size_t kLargestRead = size_t(1) << 32;

// All of a file of at most `most` bytes. `pipe`: a pipe will do too, and is read to its end for as long as somebody holds the other one.
std::string read_whole(std::string where, std::string path, bool pipe = false, size_t most = kLargestRead);

void must_not_be_special(const std::string& where, const std::string& path);   // what stands there is a regular file, or nothing

}  // namespace ttr
