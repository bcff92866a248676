// A text file as a stream of bytes, whatever it is wrapped in: plain, .gz (any number of members)
// or .zst (any number of frames, windows up to 2 GiB). Memory is a few buffers and the window.
// Errors are std::runtime_error naming the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "configs/file_descriptor.h"
#include "configs/files.h"

namespace basin {

class CompressedFile {
 public:
  /// The extension decides: .gz, .zst, anything else is read as it is.
  explicit CompressedFile(const std::filesystem::path& path);
  ~CompressedFile();

  /// Fills `to` with up to `bytes` uncompressed bytes; 0 at the end. A file that ends in the middle
  /// of a member or frame is an error.
  size_t read(char* to, size_t bytes);
  /// Bytes of the file itself consumed so far.
  uint64_t file_bytes() const { return file_bytes_; }
  /// XXH3-64 of the file itself, hexadecimal; valid once `read` has returned 0.
  std::string file_hash() const { return sum_.hex(); }

 private:
  struct Decoder;
  struct GzipDecoder;
  struct ZstdDecoder;
  bool fill();

  std::filesystem::path path_;
  FileDescriptor file_;
  uint64_t file_bytes_ = 0;
  std::string buffer_;  // bytes of the file not yet decoded: [begin_, end_)
  size_t begin_ = 0, end_ = 0;
  Xxh3 sum_;                          // of the file itself
  std::unique_ptr<Decoder> decoder_;  // nullptr: plain
};

}  // namespace basin
