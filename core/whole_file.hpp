// A file that is there whole or not at all: written under another name in the same folder, flushed to the disk, renamed over its place, and the
// folder flushed. Until commit() the old file stays as it was; whoever is killed before leaves only a "<path>.partial-..." behind. What is not a
// regular file is never renamed over.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <ttr/core/open_file.hpp>

namespace ttr {

class WholeFile {
 public:
  WholeFile(std::string where, std::string path);   // where: the first word of its refusals
  ~WholeFile();                                     // without commit() nothing happened
  WholeFile(const WholeFile&) = delete;

  void write(const void* data, size_t bytes);
  void commit();

 private:
  std::string where_, path_;
  OpenFile partial_;
  bool committed_ = false;
};

void write_whole(std::string where, const std::string& path, std::string_view text);

void remove_partial_files(const std::string& folder);   // of writers that were killed; nobody may be writing there
bool is_partial_file(std::string_view name);

}  // namespace ttr
