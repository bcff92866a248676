// The central directory at the end of the archive says what there is; a member's own header in
// front of its bytes only has to agree with it.
#include "model/zip_directory.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "configs/json_text.h"

namespace basin {
namespace {

constexpr uint32_t kMemberMagic = 0x04034b50, kEntryMagic = 0x02014b50, kEndMagic = 0x06054b50,
                   kEnd64Magic = 0x06064b50, kLocator64Magic = 0x07064b50;
constexpr uint64_t kMemberBytes = 30, kEntryBytes = 46, kEndBytes = 22, kEnd64Bytes = 56,
                   kLocator64Bytes = 20, kMaxCommentBytes = 0xFFFF;
constexpr uint32_t kElsewhere = 0xFFFFFFFF;  // a 32-bit field whose value is in the zip64 record
constexpr uint16_t kZip64Record = 1, kEncrypted = 1, kSizesFollow = 8;

/// One record of the central directory.
struct Entry {
  std::string name;
  uint16_t flags = 0;
  uint64_t size = 0, header = 0;  // bytes; where its own header lies
};

struct Directory {
  uint64_t begin = 0, end = 0, count = 0;
};

class ZipReader {
 public:
  ZipReader(const std::string& name, std::span<const std::byte> file) : name_(name), file_(file) {}

  std::map<std::string, ByteRange> read() const;

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw std::runtime_error(fmt::format("{}: {}", name_, what));
  }
  [[noreturn]] void refuse(const Entry& entry, const std::string& what) const {
    refuse(fmt::format("\"{}\" in the archive: {}", printable(entry.name), what));
  }
  /// The number at `offset`; the caller has made sure that it lies in the file.
  template <class T>
  T at(uint64_t offset) const {
    T value;
    std::memcpy(&value, file_.data() + offset, sizeof(T));
    return value;
  }
  std::string text(uint64_t offset, uint64_t bytes) const {
    return {reinterpret_cast<const char*>(file_.data()) + offset, bytes};
  }
  /// Whether [offset, offset + bytes) lies in front of `limit`.
  static bool fits(uint64_t offset, uint64_t bytes, uint64_t limit) {
    return offset <= limit && bytes <= limit - offset;
  }

  uint64_t find_end() const;
  Directory read_end() const;
  void read_end64(uint64_t end, Directory& directory) const;
  Entry read_entry(uint64_t at, uint64_t limit, uint64_t& next) const;
  void read_zip64_record(uint64_t extra, uint64_t extra_bytes, Entry& entry) const;
  ByteRange find_bytes(const Entry& entry, uint64_t limit) const;
  void check_overlap(std::vector<std::pair<ByteRange, std::string>> members) const;

  const std::string& name_;
  std::span<const std::byte> file_;
};

/// Offset of the record that ends the archive and, with its comment, the file.
uint64_t ZipReader::find_end() const {
  if (file_.size() >= kEndBytes) {
    const uint64_t last = file_.size() - kEndBytes,
                   first = last - std::min<uint64_t>(last, kMaxCommentBytes);
    for (uint64_t offset = last + 1; offset-- > first;)
      if (at<uint32_t>(offset) == kEndMagic && at<uint16_t>(offset + 20) == last - offset)
        return offset;
  }
  refuse("no zip archive, or one that is cut short: no end of its directory is found");
}

Directory ZipReader::read_end() const {
  const uint64_t end = find_end();
  const bool in_parts = at<uint16_t>(end + 4) != 0 || at<uint16_t>(end + 6) != 0 ||
                        at<uint16_t>(end + 8) != at<uint16_t>(end + 10);
  Directory directory;
  directory.count = at<uint16_t>(end + 10);
  const uint64_t bytes = at<uint32_t>(end + 12);
  directory.begin = at<uint32_t>(end + 16);
  directory.end = end;
  const bool has_locator =
      end >= kLocator64Bytes && at<uint32_t>(end - kLocator64Bytes) == kLocator64Magic;
  if (has_locator) {
    read_end64(end - kLocator64Bytes, directory);
    return directory;
  }
  if (in_parts) refuse("a zip archive in several parts");
  if (!fits(directory.begin, bytes, end) || directory.begin + bytes != end)
    refuse(
        fmt::format("the directory of the archive should take {} bytes from byte {} on, up to "
                    "byte {}: damaged, or bytes were added in front",
                    bytes,
                    directory.begin,
                    end));
  return directory;
}

/// `locator`: offset of the record that says where the zip64 end of the directory is.
void ZipReader::read_end64(uint64_t locator, Directory& directory) const {
  const auto end = at<uint64_t>(locator + 8);
  if (!fits(end, kEnd64Bytes, locator) || at<uint32_t>(end) != kEnd64Magic)
    refuse(fmt::format("no zip64 end of the directory at byte {}: damaged", end));
  if (at<uint32_t>(end + 16) != 0 || at<uint32_t>(end + 20) != 0 ||
      at<uint64_t>(end + 24) != at<uint64_t>(end + 32))
    refuse("a zip archive in several parts");
  directory.count = at<uint64_t>(end + 32);
  directory.begin = at<uint64_t>(end + 48);
  directory.end = end;
  const auto bytes = at<uint64_t>(end + 40);
  if (!fits(directory.begin, bytes, end) || directory.begin + bytes != end)
    refuse(
        fmt::format("the directory of the archive should take {} bytes from byte {} on, up to "
                    "byte {}: damaged, or bytes were added in front",
                    bytes,
                    directory.begin,
                    end));
}

/// The record at `offset`; `next` becomes where the one behind it begins.
Entry ZipReader::read_entry(uint64_t offset, uint64_t limit, uint64_t& next) const {
  if (!fits(offset, kEntryBytes, limit) || at<uint32_t>(offset) != kEntryMagic)
    refuse(fmt::format("no record of the archive's directory at byte {}: damaged", offset));
  const uint64_t name_bytes = at<uint16_t>(offset + 28), extra_bytes = at<uint16_t>(offset + 30),
                 comment_bytes = at<uint16_t>(offset + 32), name_at = offset + kEntryBytes;
  if (!fits(name_at, name_bytes + extra_bytes + comment_bytes, limit))
    refuse(fmt::format("the record of the archive's directory at byte {} is cut short", offset));
  next = name_at + name_bytes + extra_bytes + comment_bytes;

  Entry entry{text(name_at, name_bytes), at<uint16_t>(offset + 8)};
  const auto method = at<uint16_t>(offset + 10);
  if ((entry.flags & kEncrypted) != 0) refuse(entry, "is encrypted");
  if (method != 0)
    refuse(entry, fmt::format("is compressed (method {}), which torch.save does not do", method));
  const auto compressed = at<uint32_t>(offset + 20), size = at<uint32_t>(offset + 24);
  if (compressed != size) refuse(entry, fmt::format("has {} bytes but takes {}", size, compressed));
  entry.size = size;
  entry.header = at<uint32_t>(offset + 42);
  read_zip64_record(name_at + name_bytes, extra_bytes, entry);
  return entry;
}

/// Replaces what did not fit into 32 bits, from the record among the extra fields. Its order: size,
/// compressed size, offset, each only if it did not fit.
void ZipReader::read_zip64_record(uint64_t extra, uint64_t extra_bytes, Entry& entry) const {
  const bool wants_size = entry.size == kElsewhere, wants_header = entry.header == kElsewhere;
  if (!wants_size && !wants_header) return;
  const uint64_t end = extra + extra_bytes;
  while (fits(extra, 4, end)) {
    const auto id = at<uint16_t>(extra);
    const uint64_t bytes = at<uint16_t>(extra + 2);
    extra += 4;
    if (!fits(extra, bytes, end)) break;
    if (id == kZip64Record) {
      const uint64_t needed = (wants_size ? 16 : 0) + (wants_header ? 8 : 0);
      if (bytes < needed) break;
      if (wants_size) {
        entry.size = at<uint64_t>(extra);
        if (at<uint64_t>(extra + 8) != entry.size)
          refuse(entry,
                 fmt::format("has {} bytes but takes {}", entry.size, at<uint64_t>(extra + 8)));
        extra += 16;
      }
      if (wants_header) entry.header = at<uint64_t>(extra);
      return;
    }
    extra += bytes;
  }
  refuse(entry, "its zip64 record is missing or cut short");
}

/// Behind the member's own header, which must agree with the directory. All in front of `limit`.
ByteRange ZipReader::find_bytes(const Entry& entry, uint64_t limit) const {
  const uint64_t header = entry.header;
  if (!fits(header, kMemberBytes, limit) || at<uint32_t>(header) != kMemberMagic)
    refuse(entry, fmt::format("is not at byte {}, where the directory has it", header));
  const uint64_t name_bytes = at<uint16_t>(header + 26), extra_bytes = at<uint16_t>(header + 28),
                 name_at = header + kMemberBytes;
  if (!fits(name_at, name_bytes + extra_bytes, limit)) refuse(entry, "its header is cut short");
  if (text(name_at, name_bytes) != entry.name)
    refuse(entry, fmt::format("calls itself \"{}\"", printable(text(name_at, name_bytes))));
  const auto own_size = at<uint32_t>(header + 22);
  const bool says_size = (at<uint16_t>(header + 6) & kSizesFollow) == 0 && own_size != kElsewhere;
  if (says_size && own_size != entry.size)
    refuse(
        entry,
        fmt::format("has {} bytes by the directory, {} by its own header", entry.size, own_size));
  const uint64_t begin = name_at + name_bytes + extra_bytes;
  if (!fits(begin, entry.size, limit))
    refuse(entry,
           fmt::format("{} bytes from byte {} on would end past the data, at byte {}",
                       entry.size,
                       begin,
                       limit));
  return {begin, begin + entry.size};
}

void ZipReader::check_overlap(std::vector<std::pair<ByteRange, std::string>> members) const {
  std::sort(members.begin(), members.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.begin, a.first.end) < std::pair(b.first.begin, b.first.end);
  });
  for (size_t i = 1; i < members.size(); ++i)
    if (members[i].first.begin < members[i - 1].first.end)
      refuse(fmt::format("\"{}\" and \"{}\" in the archive overlap",
                         printable(members[i - 1].second),
                         printable(members[i].second)));
}

std::map<std::string, ByteRange> ZipReader::read() const {
  const Directory directory = read_end();
  std::map<std::string, ByteRange> files;
  std::vector<std::pair<ByteRange, std::string>> spans;  // with each member's header
  uint64_t offset = directory.begin, count = 0;
  for (; offset < directory.end; ++count) {
    const Entry entry = read_entry(offset, directory.end, offset);
    const ByteRange bytes = find_bytes(entry, directory.begin);
    if (!files.emplace(entry.name, bytes).second) refuse(entry, "occurs twice");
    spans.push_back({{entry.header, bytes.end}, entry.name});
  }
  if (count != directory.count)
    refuse(fmt::format(
        "the archive's directory has {} records, {} are announced", count, directory.count));
  check_overlap(std::move(spans));
  return files;
}

}  // namespace

std::map<std::string, ByteRange> read_zip_directory(const std::string& name,
                                                    std::span<const std::byte> file) {
  return ZipReader(name, file).read();
}

}  // namespace basin
