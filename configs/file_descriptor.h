// An open file or socket, closed when its owner goes.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <utility>

namespace basin {

class FileDescriptor {
 public:
  /// Takes what open, socket and the like return; negative: none.
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
  FileDescriptor& operator=(FileDescriptor&&) = delete;

  bool is_open() const { return fd_ >= 0; }
  int get() const { return fd_; }
  /// The caller closes it.
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

/// Opens a file that is there; `flags` as for open. Throws std::runtime_error naming the path and
/// the system's reason.
FileDescriptor open_file(const std::filesystem::path& path, int flags);

}  // namespace basin
