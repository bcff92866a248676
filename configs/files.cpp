// POSIX calls instead of iostreams: only they tell why something failed, and only they can sync.
#include "configs/files.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "configs/file_descriptor.h"
#include "configs/signals.h"

namespace basin {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

[[noreturn]] void fail(std::string_view action,
                       const std::filesystem::path& path,
                       int error = errno) {
  throw std::runtime_error(
      fmt::format("cannot {} {}: {}", action, path.string(), std::strerror(error)));
}

size_t read_some(int fd, char* to, size_t bytes, const std::filesystem::path& path) {
  for (;;) {
    const ssize_t got = ::read(fd, to, bytes);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) fail("read", path);
  }
}

void write_all(int fd, const char* from, size_t bytes, const std::filesystem::path& path) {
  while (bytes > 0) {
    const ssize_t put = ::write(fd, from, bytes);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail("write", path);
    from += put;
    bytes -= static_cast<size_t>(put);
  }
}

std::string to_hex(XXH64_hash_t hash) {
  return fmt::format("{:016x}", hash);
}

// A temporary of the same name belongs either to a dead run that had our process id, or to a writer
// that is alive (another machine on a shared file system, another thread). The lock, which dies
// with its owner, tells the two apart.
void remove_stale(const std::filesystem::path& temporary) {
  const FileDescriptor file(open(temporary.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.is_open()) {
    if (errno == ENOENT) return;
    fail("replace", temporary);
  }
  if (flock(file.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
    throw std::runtime_error(fmt::format(
        "cannot write {}: someone else is writing it at this moment", temporary.string()));
  if (unlink(temporary.c_str()) != 0 && errno != ENOENT) fail("replace", temporary);
}

int create_exclusively(const std::filesystem::path& temporary) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  int fd = open(temporary.c_str(), kFlags, 0666);
  if (fd < 0 && errno == EEXIST) {
    remove_stale(temporary);
    fd = open(temporary.c_str(), kFlags, 0666);
  }
  if (fd < 0) fail("create", temporary);
  flock(fd, LOCK_EX | LOCK_NB);  // a file system without locks loses only the distinction above
  return fd;
}

/// Where a new file goes that is to be `path`: the end of a chain of links, or `path` itself.
std::filesystem::path file_to_replace(const std::filesystem::path& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return path;
  if (!S_ISREG(info.st_mode))
    throw std::runtime_error(fmt::format("cannot write {}: is a {}, not a file",
                                         path.string(),
                                         S_ISDIR(info.st_mode) ? "folder"
                                         : S_ISFIFO(info.st_mode) || S_ISSOCK(info.st_mode)
                                             ? "pipe"
                                             : "device"));
  return std::filesystem::is_symlink(path) ? std::filesystem::canonical(path) : path;
}

}  // namespace

FileDescriptor open_file(const std::filesystem::path& path, int flags) {
  FileDescriptor file(open(path.c_str(), flags | O_CLOEXEC));
  if (!file.is_open()) fail("open", path);
  return file;
}

std::filesystem::path without_slash(const std::filesystem::path& path) {
  const std::filesystem::path normal = path.lexically_normal();
  return normal.has_filename() ? normal : normal.parent_path();
}

void make_writable_directory(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory.empty() ? "." : directory;
  std::vector<std::filesystem::path> missing;
  for (auto part = path; !part.empty() && !std::filesystem::exists(part); part = part.parent_path())
    missing.push_back(part);
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && access(path.c_str(), W_OK) != 0)
    error = std::error_code(errno, std::generic_category());
  if (error)
    throw std::runtime_error(
        fmt::format("cannot write into {}: {}", path.string(), error.message()));
  for (const auto& made : missing) sync_directory(made.parent_path());
}

void make_writable_place(const std::filesystem::path& path) {
  make_writable_directory(file_to_replace(path).parent_path());
}

void write_stdout(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0)
    return;
  const int reason = errno;
  check_interrupt();
  throw std::runtime_error(
      fmt::format("cannot write to standard output: {}", std::strerror(reason)));
}

std::string read_file(const std::filesystem::path& path) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  struct stat info {};
  if (fstat(file.get(), &info) != 0) fail("read", path);
  // One byte more than the size, so that the end is seen without a second round; pipes report size
  // 0 and grow from there.
  std::string bytes(static_cast<size_t>(info.st_size) + 1, '\0');
  size_t filled = 0;
  while (const size_t got =
             read_some(file.get(), bytes.data() + filled, bytes.size() - filled, path)) {
    filled += got;
    if (filled == bytes.size()) bytes.resize(2 * bytes.size() + kBufferBytes);
  }
  bytes.resize(filled);
  return bytes;
}

FileSum write_file(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  return file.commit();
}

void sync_directory(const std::filesystem::path& directory) {
  const std::filesystem::path place = directory.empty() ? std::filesystem::path(".") : directory;
  const FileDescriptor file = open_file(place, O_RDONLY | O_DIRECTORY);
  // Some network file systems cannot sync a directory; there is nothing more that could be done
  // there.
  if (fsync(file.get()) != 0 && errno != EINVAL && errno != ENOTSUP) fail("sync", place);
}

std::string xxh3_hex(std::string_view bytes) {
  return to_hex(XXH3_64bits(bytes.data(), bytes.size()));
}

std::string xxh3_hex_of_file(const std::filesystem::path& path) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  Xxh3 sum;
  std::string block(kBufferBytes, '\0');
  while (const size_t got = read_some(file.get(), block.data(), block.size(), path))
    sum.update(block.data(), got);
  return sum.hex();
}

struct Xxh3::State {
  State() : get(XXH3_createState()) {}
  ~State() { XXH3_freeState(get); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  XXH3_state_t* get;
};

Xxh3::Xxh3() : state_(std::make_unique<State>()) {
  XXH3_64bits_reset(state_->get);
}

Xxh3::~Xxh3() = default;

void Xxh3::update(const void* data, size_t bytes) {
  XXH3_64bits_update(state_->get, data, bytes);
}

std::string Xxh3::hex() const {
  return to_hex(XXH3_64bits_digest(state_->get));
}

AtomicFile::AtomicFile(std::filesystem::path path)
    : path_(file_to_replace(path)),
      temporary_(path_.string() + ".tmp." + std::to_string(getpid())),
      fd_(create_exclusively(temporary_)) {}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  unlink(temporary_.c_str());
  close(fd_);
}

void AtomicFile::write(const void* data, size_t bytes) {
  if (fd_ < 0) throw std::logic_error("write to " + path_.string() + " after its commit");
  const auto* from = static_cast<const char*>(data);
  size_bytes_ += bytes;
  if (buffer_.size() + bytes < kBufferBytes) {
    buffer_.append(from, bytes);
    return;
  }
  put(buffer_.data(), buffer_.size());
  buffer_.clear();
  if (bytes < kBufferBytes)
    buffer_.append(from, bytes);
  else
    put(from, bytes);
}

void AtomicFile::put(const void* data, size_t bytes) {
  write_all(fd_, static_cast<const char*>(data), bytes, temporary_);
  sum_.update(data, bytes);
}

bool is_abandoned(const std::filesystem::path& path) {
  constexpr std::string_view kMark = ".tmp.";
  const std::string name = path.filename().string();
  const size_t at = name.rfind(kMark), pid = at + kMark.size();
  if (at == name.npos || pid == name.size() ||
      name.find_first_not_of("0123456789", pid) != name.npos)
    return false;
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  return file.is_open() && std::filesystem::is_regular_file(path) &&
         flock(file.get(), LOCK_EX | LOCK_NB) == 0;
}

void remove_stale_temporaries(const std::filesystem::path& path) {
  const std::filesystem::path place = path.has_parent_path() ? path.parent_path() : ".";
  const std::string beginning = path.filename().string() + ".tmp.";
  for (const auto& entry : std::filesystem::directory_iterator(place))
    if (entry.path().filename().string().starts_with(beginning) && is_abandoned(entry.path()))
      unlink(entry.path().c_str());
}

FileSum AtomicFile::commit() {
  if (fd_ < 0) throw std::logic_error("second commit of " + path_.string());
  put(buffer_.data(), buffer_.size());
  buffer_.clear();
  if (fsync(fd_) != 0) fail("sync", temporary_);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename to", path_);
  // The name is taken from here on: the destructor has nothing left to remove, whatever follows. A
  // failed close says what fsync did not.
  if (close(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail("close", path_);
  sync_directory(path_.parent_path());
  return {size_bytes_, sum_.hex()};
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  const FileDescriptor file = open_file(path, O_RDONLY);
  struct stat info {};
  if (fstat(file.get(), &info) != 0) fail("map", path);
  if (S_ISDIR(info.st_mode)) fail("map", path, EISDIR);
  size_bytes_ = static_cast<size_t>(info.st_size);
  if (size_bytes_ == 0) return;
  void* address = mmap(nullptr, size_bytes_, PROT_READ, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) fail("map", path);
  data_ = static_cast<const std::byte*>(address);
  // From front to back: the system reads twice as far ahead, and the mapping shares that.
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  madvise(address, size_bytes_, MADV_SEQUENTIAL);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_bytes_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

}  // namespace basin
