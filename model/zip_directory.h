// Where the files of a zip archive lie in it (APPNOTE.TXT 6.3.10), stored ones only: what
// torch.save writes. Nothing in it is trusted. Knows no LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace basin {

/// Bytes [begin, end) of the archive.
struct ByteRange {
  uint64_t begin = 0, end = 0;
  uint64_t size() const { return end - begin; }
};

/// The members of an archive that holds `file`, whole, zip64 or not. Throws std::runtime_error, one
/// line that begins with `name`, for what is damaged, contradicts itself (sizes, overlapping or
/// repeated members, bytes before or after the archive) or is not stored as it is (compressed,
/// encrypted, in several parts).
std::map<std::string, ByteRange> read_zip_directory(const std::string& name,
                                                    std::span<const std::byte> file);

}  // namespace basin
