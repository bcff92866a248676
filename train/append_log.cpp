#include "train/append_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "configs/file_descriptor.h"

namespace basin {
namespace {

FileDescriptor open_log(const std::filesystem::path& path) {
  return FileDescriptor(open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666));
}

bool write_whole(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t put = write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(put));
  }
  return true;
}

}  // namespace

void AppendLog::add(std::string_view record) {
  const std::lock_guard lock(mutex_);
  waiting_ += record;
}

void AppendLog::edit_waiting(const std::function<std::string(const std::string&)>& edit) {
  const std::lock_guard lock(mutex_);
  waiting_ = edit(waiting_);
}

std::optional<std::string> AppendLog::flush() {
  const std::lock_guard lock(mutex_);
  if (waiting_.empty()) return std::nullopt;
  const FileDescriptor file = open_log(path_);
  struct stat before {};
  if (!file.is_open() || fstat(file.get(), &before) != 0)
    return fmt::format("cannot open {}: {}", path_.string(), std::strerror(errno));
  if (!write_whole(file.get(), waiting_)) {
    const int reason = errno;
    if (ftruncate(file.get(), before.st_size) != 0)  // a torn record is cut off on resume
      return fmt::format("cannot write {} whole: {}", path_.string(), std::strerror(reason));
    return fmt::format("cannot write {}: {}", path_.string(), std::strerror(reason));
  }
  waiting_.clear();
  return std::nullopt;
}

void AppendLog::sync() {
  if (const auto problem = flush()) throw std::runtime_error(*problem);
  const FileDescriptor file = open_log(path_);
  if (!file.is_open() || fsync(file.get()) != 0)
    throw std::runtime_error(
        fmt::format("cannot sync {}: {}", path_.string(), std::strerror(errno)));
}

}  // namespace basin
