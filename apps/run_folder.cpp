// Making, locking and searching the folder of a run.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>
#include <vector>
#include <ttr/apps/run_folder.hpp>
#include <ttr/core/error.hpp>
#include <ttr/core/whole_file.hpp>

namespace ttr {
namespace {

namespace fs = std::filesystem;
constexpr const char* kWhere = "train";

bool holds_something(const std::string& path) {
  for (const auto& entry : fs::directory_iterator(path))
    if (!is_partial_file(entry.path().filename().string())) return true;
  return false;
}

}  // namespace

RunFolder::RunFolder(std::string path) : path_(std::move(path)) {
  lock_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ < 0) throw refuse(kWhere, "the folder {} cannot be opened, needs to be readable", path_);
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {   // a file system without locks goes without
    close(lock_);
    throw refuse(kWhere, "another process is training in {}, needs a folder of its own; or wait for it", path_);
  }
  remove_partial_files(path_);
}

RunFolder::RunFolder(RunFolder&& o) noexcept
    : path_(std::move(o.path_)), checkpoint_(std::move(o.checkpoint_)), lock_(std::exchange(o.lock_, -1)), made_(std::exchange(o.made_, false)) {}

RunFolder::~RunFolder() {
  if (made_) rmdir(path_.c_str());   // only when nothing was written to it
  if (lock_ >= 0) close(lock_);
}

RunFolder RunFolder::fresh(const std::string& path) {
  std::error_code error;
  if (fs::exists(path, error) && !fs::is_directory(path, error))
    throw refuse(kWhere, "--out {} is a file, needs a new or empty folder", path);
  const bool made = fs::create_directories(path, error);
  if (std::error_code ignored; !fs::is_directory(path, ignored)) throw refuse(kWhere, "--out {} cannot be made: {}", path, error.message());
  if (access(path.c_str(), R_OK | W_OK | X_OK) != 0)
    throw refuse(kWhere, "--out {} is a folder that cannot be written to, needs one that can", path);
  RunFolder folder(path);
  folder.made_ = made;
  if (holds_something(path))
    throw refuse(kWhere, "--out {} is not empty, needs a new or empty folder; to go on with the run there: --resume {}", path, path);
  return folder;
}

RunFolder RunFolder::resumed(const std::string& path) {
  std::error_code error;
  const bool one = fs::is_regular_file(path, error);
  std::string where = one ? fs::path(path).parent_path().string() : path;
  if (where.empty()) where = ".";
  if (!fs::is_directory(where, error)) throw refuse(kWhere, "--resume {} is not there, needs the folder of a run or one of its checkpoints", path);
  if (access(where.c_str(), R_OK | W_OK | X_OK) != 0)
    throw refuse(kWhere, "--resume {} is in a folder that cannot be written to, needs one that can", path);
  RunFolder folder(where);
  for (const char* name : {"config.toml", "metrics.jsonl", "last.safetensors", "best.safetensors", "curve.svg"})
    must_not_be_special(kWhere, folder.file(name));   // now, not after hours
  const std::string last = folder.file("last.safetensors");
  folder.checkpoint_ = one ? path : fs::exists(last, error) ? last : "";
  if (folder.checkpoint_.empty() && !fs::exists(folder.file("config.toml"), error))
    throw refuse(kWhere, "--resume {} holds no config.toml and no last.safetensors, needs a folder that ttr train wrote", path);
  return folder;
}

std::string RunFolder::file(const std::string& name) const { return (fs::path(path_) / name).string(); }

void RunFolder::keep_last(int64_t step, int64_t keep) const {
  if (keep == 0) return;
  const std::string kept = file(fmt::format("step-{:08}.safetensors", step));
  std::error_code error;
  fs::remove(kept, error);   // of a step that is taken again
  fs::create_hard_link(file("last.safetensors"), kept, error);
  if (error) fs::copy_file(file("last.safetensors"), kept, fs::copy_options::overwrite_existing, error);
  if (error) throw refuse(kWhere, "{} cannot be written: {}", kept, error.message());
  std::vector<std::string> numbered;
  for (const auto& entry : fs::directory_iterator(path_)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.ends_with(".safetensors")) numbered.push_back(entry.path().string());
  }
  std::sort(numbered.begin(), numbered.end());
  for (size_t i = 0; i + size_t(keep) < numbered.size(); ++i) fs::remove(numbered[i], error);
}

}  // namespace ttr
