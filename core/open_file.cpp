// Opening, reading and writing regular files.
#include <ttr/core/open_file.hpp>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <ttr/core/error.hpp>

namespace ttr {
namespace {

constexpr int kPatience = 2000;   // ms for somebody to come to the other end of a pipe
constexpr size_t kBlock = 1 << 20, kMostAtOnce = size_t(1) << 30;

const char* kind_of(mode_t mode) {
  return S_ISDIR(mode) ? "a directory" : S_ISFIFO(mode) ? "a pipe" : S_ISSOCK(mode) ? "a socket" : "a device";
}

void must_be_regular(const std::string& where, const std::string& path, mode_t mode, bool pipe) {
  if (S_ISREG(mode) || (pipe && S_ISFIFO(mode))) return;
  throw refuse(where, "{} is {}, needs to be a regular file{}", path, kind_of(mode), pipe ? " or a pipe" : "");
}

}  // namespace

void must_not_be_special(const std::string& where, const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) == 0) must_be_regular(where, path, status.st_mode, false);
}

// The kind is looked at twice: before, since opening alone can wait or set a device going; and after, since the name may mean another file by then.
OpenFile::OpenFile(std::string where, std::string path, int flags, bool pipe) : where_(std::move(where)), path_(std::move(path)) {
  struct stat status {};
  if (stat(path_.c_str(), &status) == 0) must_be_regular(where_, path_, status.st_mode, pipe);
  number_ = open(path_.c_str(), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
  const bool makes = flags & O_CREAT;
  if (number_ < 0)
    throw refuse(where_, "{} cannot be {} ({}), needs {}", path_, makes ? "created" : "opened", std::strerror(errno),
                 makes ? "a folder that can be written to" : "to be there and readable");
  try {
    if (fstat(number_, &status) != 0) throw refuse(where_, "{} cannot be examined: {}", path_, std::strerror(errno));
    must_be_regular(where_, path_, status.st_mode, pipe);
    pipe_ = S_ISFIFO(status.st_mode);
  } catch (...) {
    close();
    throw;
  }
}

OpenFile OpenFile::to_read(std::string where, std::string path) { return {std::move(where), std::move(path), O_RDONLY}; }
OpenFile OpenFile::to_append(std::string where, std::string path) { return {std::move(where), std::move(path), O_WRONLY | O_CREAT | O_APPEND}; }
OpenFile OpenFile::afresh(std::string where, std::string path) { return {std::move(where), std::move(path), O_WRONLY | O_CREAT | O_TRUNC}; }
OpenFile OpenFile::exclusively(std::string where, std::string path) { return {std::move(where), std::move(path), O_WRONLY | O_CREAT | O_EXCL}; }

OpenFile::OpenFile(OpenFile&& o) noexcept
    : where_(std::move(o.where_)), path_(std::move(o.path_)), number_(std::exchange(o.number_, -1)), pipe_(o.pipe_) {}
OpenFile::~OpenFile() { close(); }

void OpenFile::close() {
  if (number_ >= 0) ::close(std::exchange(number_, -1));
}

uint64_t OpenFile::size() const {
  struct stat status {};
  if (fstat(number_, &status) != 0) throw refuse(where_, "{} cannot be examined: {}", path_, std::strerror(errno));
  return uint64_t(status.st_size);
}

void OpenFile::read(uint64_t from, void* into, size_t bytes) const {
  char* at = static_cast<char*>(into);
  while (bytes > 0) {
    const ssize_t got = pread(number_, at, std::min(bytes, kMostAtOnce), off_t(from));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw refuse(where_, "{} cannot be read: {}", path_, std::strerror(errno));
    if (got == 0) throw refuse(where_, "{} ends at byte {}, needs {} more; it was cut while it was read", path_, from, bytes);
    at += got, from += uint64_t(got), bytes -= size_t(got);
  }
}

void OpenFile::write(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(number_, at, std::min(bytes, kMostAtOnce));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw refuse(where_, "{} cannot be written: {}", path_, std::strerror(errno));
    at += written, bytes -= size_t(written);
  }
}

void OpenFile::flush() {
  if (fsync(number_) != 0) throw refuse(where_, "{} cannot be flushed to its disk: {}", path_, std::strerror(errno));
}

std::string read_whole(std::string where, std::string path, bool pipe, size_t most) {
  const OpenFile file(std::move(where), std::move(path), O_RDONLY, pipe);
  const uint64_t size = file.size();   // of a pipe 0
  if (size > most) throw refuse(file.where_, "{} has {} bytes, needs at most {}", file.path_, size, most);
  std::string bytes(size_t(size) + 1, '\0');   // one more, to see the end
  size_t held = 0;
  for (;;) {
    if (held == bytes.size()) bytes.resize(held + std::max(held / 2, kBlock));
    const ssize_t got = ::read(file.number_, bytes.data() + held, std::min(bytes.size() - held, kMostAtOnce));
    if (got > 0) {
      held += size_t(got);
      if (held > most) throw refuse(file.where_, "{} has more than {} bytes, needs at most that", file.path_, most);
      continue;
    }
    if (got < 0 && errno == EINTR) continue;
    pollfd end{file.number_, POLLIN, 0};
    if (got < 0 && errno == EAGAIN && file.pipe_) {   // somebody holds the other end, and will write or leave
      poll(&end, 1, -1);
      continue;
    }
    if (got < 0) throw refuse(file.where_, "{} cannot be read: {}", file.path_, std::strerror(errno));
    if (!file.pipe_ || held > 0) break;
    // Nobody holds the other end: they are gone, or not there yet.
    const int came = poll(&end, 1, kPatience);
    if (came == 0) throw refuse(file.where_, "{} is a pipe that nobody writes to, needs a writer within {} s", file.path_, kPatience / 1000);
    if (came > 0 && !(end.revents & POLLIN)) break;   // they came and left without a byte
  }
  bytes.resize(held);
  return bytes;
}

}  // namespace ttr
