// Writing whole files, by rename.
#include <ttr/core/whole_file.hpp>
#include <fcntl.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

constexpr std::string_view kMark = ".partial-";

void flush_folder(const std::string& where, const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const std::string folder = parent.empty() ? "." : parent.string();
  const int directory = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) throw refuse(where, "the folder {} cannot be opened: {}", folder, std::strerror(errno));
  const int failed = fsync(directory) == 0 ? 0 : errno;
  close(directory);
  if (failed && failed != EINVAL)   // some network file systems cannot flush a folder
    throw refuse(where, "the folder {} cannot be flushed to its disk: {}", folder, std::strerror(failed));
}

std::string partial_name(const std::string& where, const std::string& path) {
  static std::atomic<uint64_t> serial{0};
  must_not_be_special(where, path);
  return path + std::string(kMark) + std::to_string(getpid()) + "-" + std::to_string(serial++);
}

}  // namespace

WholeFile::WholeFile(std::string where, std::string path)
    : where_(std::move(where)), path_(std::move(path)), partial_(OpenFile::exclusively(where_, partial_name(where_, path_))) {}

WholeFile::~WholeFile() {
  if (!committed_) unlink(partial_.path().c_str());
}

void WholeFile::write(const void* data, size_t bytes) { partial_.write(data, bytes); }

void WholeFile::commit() {
  partial_.flush();
  must_not_be_special(where_, path_);
  if (rename(partial_.path().c_str(), path_.c_str()) != 0)
    throw refuse(where_, "{} cannot be renamed to {}: {}", partial_.path(), path_, std::strerror(errno));
  committed_ = true;
  partial_.close();
  flush_folder(where_, path_);
}

void write_whole(std::string where, const std::string& path, std::string_view text) {
  WholeFile file(std::move(where), path);
  file.write(text.data(), text.size());
  file.commit();
}

bool is_partial_file(std::string_view name) { return name.find(kMark) != std::string_view::npos; }

void remove_partial_files(const std::string& folder) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (is_partial_file(entry.path().filename().string())) std::filesystem::remove(entry.path(), error);
}

}  // namespace ttr
