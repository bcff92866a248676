// Files that are either whole or absent: written aside, synced, renamed. Errors are
// std::runtime_error naming the path and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace basin {

/// `path` in normal form and without a slash behind it, so that its filename() is its last name.
std::filesystem::path without_slash(const std::filesystem::path& path);

/// The whole file as bytes.
std::string read_file(const std::filesystem::path& path);

/// Size and checksum of what a file holds.
struct FileSum {
  uint64_t bytes = 0;
  std::string xxh3;  // as xxh3_hex gives it
};

/// Replaces `path` by `bytes`, atomically and durably.
FileSum write_file(const std::filesystem::path& path, std::string_view bytes);

/// Makes renames and new names in `directory` durable.
void sync_directory(const std::filesystem::path& directory);

/// Makes `directory` if it is not there, durably. Throws std::runtime_error when nothing can be written into
/// it: to be found out before hours of work, not after.
void make_writable_directory(const std::filesystem::path& directory);

/// A result to standard output, at once. Throws std::runtime_error when it does not arrive (full
/// disk, closed pipe), Interrupted when a stop request broke the write off.
void write_stdout(std::string_view text);

/// XXH3-64 as 16 hexadecimal digits.
std::string xxh3_hex(std::string_view bytes);
std::string xxh3_hex_of_file(const std::filesystem::path& path);

/// XXH3-64 of bytes that come in parts.
class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  void update(const void* data, size_t bytes);
  /// Of the bytes so far.
  std::string hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Throws std::runtime_error unless a file can be written at `path`, making its directory: to be found
/// out before hours of work, not after. A device, a pipe and a folder are no file.
void make_writable_place(const std::filesystem::path& path);

/// A file under construction: bytes go to `PATH.tmp.<pid>`, `commit` publishes them under `path`,
/// and without it the destructor removes them. Where `path` is a link, the file that it leads to is
/// replaced. Throws std::runtime_error for a device, a pipe or a folder at `path`.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  uint64_t size_bytes() const { return size_bytes_; }
  /// Flushes, syncs, renames. Nothing may be written afterwards. The sum is of the bytes given to
  /// write(): what the disk made of them shows when they are read.
  FileSum commit();

 private:
  void put(const void* data, size_t bytes);

  std::filesystem::path path_, temporary_;
  std::string buffer_;
  Xxh3 sum_;  // of all bytes but those in the buffer
  uint64_t size_bytes_ = 0;
  int fd_ = -1;
};

/// Whether this is the `NAME.tmp.<pid>` of an AtomicFile whose writer is no more: nobody holds its
/// lock.
bool is_abandoned(const std::filesystem::path& path);
/// Removes those that writers of `path` left.
void remove_stale_temporaries(const std::filesystem::path& path);

/// A read-only mapping of a whole file; an empty file maps to size 0.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::byte* data() const { return data_; }
  size_t size_bytes() const { return size_bytes_; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace basin
