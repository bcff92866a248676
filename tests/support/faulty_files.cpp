// A library for LD_PRELOAD that stands between a program and its disk: it counts the calls that
// deal with files below one directory, makes one of them fail or end the process, and records them.
//   BASIN_FAULT_DIR    the directory, an absolute path; calls elsewhere are neither seen nor
//   counted BASIN_FAULT_MODE   what happens at call number BASIN_FAULT_AT (from 1):
//                      ENOSPC EIO EROFS   it fails with that error
//                      full               it and all after it that need space fail with ENOSPC
//                      short              a write writes half of what it is given, if it is a write
//                      before, after      the process ends with 137 before or after it
//                      stall              (no matter which call) a sync of what has BASIN_FAULT_STALL
//                                         in its path waits while the file DIR.stall exists
//                      none               nothing (the default)
//   BASIN_FAULT_TRACE  file to which every call is appended, as disk_trace.h reads it
// Paths relative to the working directory are not seen, those relative to a descriptor are. Of one
// process: each one that inherits the environment counts for itself.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

namespace {

constexpr int kMaxFiles = 1024;
constexpr size_t kMaxPath = 512;
char path_of_fd[kMaxFiles][kMaxPath];  // empty: not below the directory
pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
int calls = 0;

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

std::string_view setting(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

bool is_watched(std::string_view path) {
  const std::string_view directory = setting("BASIN_FAULT_DIR");
  return !directory.empty() && path.starts_with(directory) &&
         (path.size() == directory.size() || path[directory.size()] == '/');
}

std::string absolute(int directory, const char* path) {
  if (path[0] == '/' || directory < 0 || directory >= kMaxFiles || !path_of_fd[directory][0])
    return path;
  return std::string(path_of_fd[directory]) + "/" + path;
}

std::string path_of(int fd) {
  return fd >= 0 && fd < kMaxFiles ? path_of_fd[fd] : "";
}

void remember(int fd, const std::string& path) {
  if (fd < 0) return;
  if (fd >= kMaxFiles || path.size() >= kMaxPath) abort();  // the test would see nothing
  std::strcpy(path_of_fd[fd], path.c_str());
}

/// A call and what belongs to it.
struct Call {
  const char* name;
  std::string path;
  std::string other = "";  // new name, or what a link points to
  const void* data = nullptr;
  size_t bytes = 0;
  int64_t offset = -1;  // of the data, or the new size; -1: where the descriptor stands
  bool needs_space = true;
};

/// "number name result path other offset bytes", parted by tabs, a line feed, the data, a line
/// feed.
void record(const Call& call, int64_t result, int64_t offset) {
  static const int trace = [] {
    const std::string path(setting("BASIN_FAULT_TRACE"));
    return path.empty() ? -1
                        : next<int(const char*, int, ...)>("open")(
                              path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  }();
  if (trace < 0) return;
  const int error = errno;
  const size_t bytes = call.data && result > 0 ? static_cast<size_t>(result) : 0;
  std::string text = std::to_string(calls) + "\t" + call.name + "\t" + std::to_string(result) +
                     "\t" + call.path + "\t" + call.other + "\t" + std::to_string(offset) + "\t" +
                     std::to_string(bytes) + "\n";
  text.append(static_cast<const char*>(call.data), bytes).append("\n");
  if (next<ssize_t(int, const void*, size_t)>("write")(trace, text.data(), text.size()) !=
      static_cast<ssize_t>(text.size()))
    abort();
  errno = error;
}

int error_for(const Call& call) {
  const std::string_view mode = setting("BASIN_FAULT_MODE");
  const int at = std::atoi(std::string(setting("BASIN_FAULT_AT")).c_str());
  if (mode == "full") return calls >= at && call.needs_space ? ENOSPC : 0;
  if (calls != at) return 0;
  if (mode == "before") _exit(137);
  if (mode == "ENOSPC") return ENOSPC;
  if (mode == "EIO") return EIO;
  return mode == "EROFS" ? EROFS : 0;
}

bool is_now(std::string_view mode) {
  return setting("BASIN_FAULT_MODE") == mode &&
         calls == std::atoi(std::string(setting("BASIN_FAULT_AT")).c_str());
}

class Lock {
 public:
  Lock() { pthread_mutex_lock(&mutex); }
  ~Lock() { pthread_mutex_unlock(&mutex); }
};

/// Makes the call, or what is to become of it. `real` returns a number that is negative on failure.
template <typename Real>
auto through(const Call& call, const Real& real, int fd = -1) -> decltype(real()) {
  if (!is_watched(call.path) && !is_watched(call.other)) return real();
  const Lock lock;
  ++calls;
  decltype(real()) result = -1;
  if (const int error = error_for(call)) {
    if (call.name == std::string_view("close")) real();  // the descriptor goes in any case
    errno = error;
  } else {
    result = real();
  }
  const bool moved = call.offset < 0 && call.data && result > 0;
  record(call, result, moved ? lseek(fd, 0, SEEK_CUR) - result : call.offset);
  if (is_now("after")) _exit(137);
  return result;
}

template <typename Real>
int open_through(std::string path, int flags, const Real& real) {
  Call call{"open", std::move(path)};
  call.needs_space = (flags & O_CREAT) != 0;
  if (flags & O_CREAT) call.name = "create";
  if (flags & O_TRUNC) call.name = "create-empty";
  const int fd = through(call, real);
  if (is_watched(call.path)) remember(fd, call.path);
  return fd;
}

mode_t mode_argument(int flags, va_list arguments) {
  return flags & (O_CREAT | __O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

FILE* open_stream(const char* path, const char* mode, const char* name) {
  const bool reads = mode[0] == 'r';
  const int flags = reads ? (std::strchr(mode, '+') ? O_RDWR : O_RDONLY)
                          : O_WRONLY | O_CREAT | (mode[0] == 'w' ? O_TRUNC : O_APPEND);
  FILE* file = nullptr;
  open_through(path, flags, [&] {
    file = next<FILE*(const char*, const char*)>(name)(path, mode);
    return file ? fileno(file) : -1;
  });
  return file;
}

template <typename Real>
ssize_t write_through(Call call, int fd, const Real& real) {
  const size_t bytes = call.bytes;
  return through(
      call, [&] { return real(is_now("short") && bytes > 1 ? bytes / 2 : bytes); }, fd);
}

/// A call that only takes away.
Call frees(const char* name, std::string path) {
  Call call{name, std::move(path)};
  call.needs_space = false;
  return call;
}

int close_through(int fd, const auto& real) {
  const std::string path = path_of(fd);
  if (!path.empty()) path_of_fd[fd][0] = 0;  // before the system gives the number away again
  return through(frees("close", path), real);
}

/// Before a sync, without the lock: other files can be written meanwhile.
void stall(int fd) {
  const std::string path = path_of(fd), gate = std::string(setting("BASIN_FAULT_DIR")) + ".stall";
  if (setting("BASIN_FAULT_MODE") != "stall" || !is_watched(path)) return;
  if (path.find(setting("BASIN_FAULT_STALL")) == path.npos) return;
  while (access(gate.c_str(), F_OK) == 0) usleep(10'000);
}

}  // namespace

// The names, and what they take, are those of the C library.
extern "C" {

#define BASIN_OPEN(name)                                                                          \
  int name(const char* path, int flags, ...) {                                                    \
    va_list rest;                                                                                 \
    va_start(rest, flags);                                                                        \
    const mode_t mode = mode_argument(flags, rest);                                               \
    va_end(rest);                                                                                 \
    return open_through(                                                                          \
        path, flags, [&] { return next<int(const char*, int, ...)>(#name)(path, flags, mode); }); \
  }
#define BASIN_OPENAT(name)                                                               \
  int name(int directory, const char* path, int flags, ...) {                            \
    va_list rest;                                                                        \
    va_start(rest, flags);                                                               \
    const mode_t mode = mode_argument(flags, rest);                                      \
    va_end(rest);                                                                        \
    return open_through(absolute(directory, path), flags, [&] {                          \
      return next<int(int, const char*, int, ...)>(#name)(directory, path, flags, mode); \
    });                                                                                  \
  }
#define BASIN_CREAT(name)                                         \
  int name(const char* path, mode_t mode) {                       \
    return open_through(path, O_WRONLY | O_CREAT | O_TRUNC, [&] { \
      return next<int(const char*, mode_t)>(#name)(path, mode);   \
    });                                                           \
  }
#define BASIN_FOPEN(name)                          \
  FILE* name(const char* path, const char* mode) { \
    return open_stream(path, mode, #name);         \
  }
#define BASIN_PWRITE(name)                                                                   \
  ssize_t name(int fd, const void* data, size_t bytes, off_t at) {                           \
    return write_through({"write", path_of(fd), "", data, bytes, at}, fd, [&](size_t some) { \
      return next<ssize_t(int, const void*, size_t, off_t)>(#name)(fd, data, some, at);      \
    });                                                                                      \
  }
#define BASIN_FTRUNCATE(name)                                                \
  int name(int fd, off_t bytes) {                                            \
    return through({"truncate", path_of(fd), "", nullptr, 0, bytes},         \
                   [&] { return next<int(int, off_t)>(#name)(fd, bytes); }); \
  }
BASIN_OPEN(open)
BASIN_OPEN(open64)
BASIN_OPENAT(openat)
BASIN_OPENAT(openat64)
BASIN_CREAT(creat)
BASIN_CREAT(creat64)
BASIN_FOPEN(fopen)
BASIN_FOPEN(fopen64)
BASIN_PWRITE(pwrite)
BASIN_PWRITE(pwrite64)
BASIN_FTRUNCATE(ftruncate)
BASIN_FTRUNCATE(ftruncate64)

int truncate(const char* path, off_t bytes) {
  return through({"truncate", path, "", nullptr, 0, bytes},
                 [&] { return next<int(const char*, off_t)>("truncate")(path, bytes); });
}

ssize_t write(int fd, const void* data, size_t bytes) {
  return write_through({"write", path_of(fd), "", data, bytes}, fd, [&](size_t some) {
    return next<ssize_t(int, const void*, size_t)>("write")(fd, data, some);
  });
}

// Joined into one write, so that it can be cut anywhere.
ssize_t writev(int fd, const struct iovec* parts, int count) {
  if (path_of(fd).empty())
    return next<ssize_t(int, const struct iovec*, int)>("writev")(fd, parts, count);
  std::string all;
  for (int i = 0; i < count; ++i)
    all.append(static_cast<const char*>(parts[i].iov_base), parts[i].iov_len);
  return write(fd, all.data(), all.size());
}

// The report of a checkpoint comes this way; the trace says at which point.
size_t fwrite(const void* data, size_t size, size_t count, FILE* file) {
  const size_t written =
      next<size_t(const void*, size_t, size_t, FILE*)>("fwrite")(data, size, count, file);
  const std::string_view text(static_cast<const char*>(data), size * count);
  if (const size_t saved = text.find(": saved "); file == stderr && saved != text.npos) {
    const Lock lock;
    const std::string_view path = text.substr(saved + 8);
    record({"saved", std::string(path.substr(0, path.find_first_of(" \n")))}, 0, 0);
  }
  return written;
}

int fsync(int fd) {
  stall(fd);
  return through({"fsync", path_of(fd)}, [&] { return next<int(int)>("fsync")(fd); });
}

int fdatasync(int fd) {
  return through({"fsync", path_of(fd)}, [&] { return next<int(int)>("fdatasync")(fd); });
}

int rename(const char* from, const char* to) {
  return through({"rename", from, to},
                 [&] { return next<int(const char*, const char*)>("rename")(from, to); });
}

int renameat(int a, const char* from, int b, const char* to) {
  return through({"rename", absolute(a, from), absolute(b, to)}, [&] {
    return next<int(int, const char*, int, const char*)>("renameat")(a, from, b, to);
  });
}

int renameat2(int a, const char* from, int b, const char* to, unsigned flags) {
  return through({"rename", absolute(a, from), absolute(b, to)}, [&] {
    return next<int(int, const char*, int, const char*, unsigned)>("renameat2")(
        a, from, b, to, flags);
  });
}

int mkdir(const char* path, mode_t mode) {
  return through({"mkdir", path},
                 [&] { return next<int(const char*, mode_t)>("mkdir")(path, mode); });
}

int mkdirat(int directory, const char* path, mode_t mode) {
  return through({"mkdir", absolute(directory, path)}, [&] {
    return next<int(int, const char*, mode_t)>("mkdirat")(directory, path, mode);
  });
}

int unlink(const char* path) {
  return through(frees("unlink", path), [&] { return next<int(const char*)>("unlink")(path); });
}

int unlinkat(int directory, const char* path, int flags) {
  return through(frees("unlink", absolute(directory, path)), [&] {
    return next<int(int, const char*, int)>("unlinkat")(directory, path, flags);
  });
}

int rmdir(const char* path) {
  return through(frees("unlink", path), [&] { return next<int(const char*)>("rmdir")(path); });
}

int remove(const char* path) {
  return through(frees("unlink", path), [&] { return next<int(const char*)>("remove")(path); });
}

int symlink(const char* to, const char* path) {
  return through({"symlink", path, to},
                 [&] { return next<int(const char*, const char*)>("symlink")(to, path); });
}

int symlinkat(const char* to, int directory, const char* path) {
  return through({"symlink", absolute(directory, path), to}, [&] {
    return next<int(const char*, int, const char*)>("symlinkat")(to, directory, path);
  });
}

int link(const char* from, const char* to) {
  return through({"link", from, to},
                 [&] { return next<int(const char*, const char*)>("link")(from, to); });
}

int close(int fd) {
  return close_through(fd, [&] { return next<int(int)>("close")(fd); });
}

int fclose(FILE* file) {
  return close_through(fileno(file), [&] { return next<int(FILE*)>("fclose")(file); });
}
}
