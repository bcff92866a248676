// Files of torch.save put together by hand, so that each part of them can lie.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace basin {

template <class T>
std::string little_endian(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// Pieces of a pickle.
namespace pickled {

inline std::string text(const std::string& s) {
  return "X" + little_endian<uint32_t>(s.size()) + s;
}
inline std::string integer(int64_t n) {
  return n >= 0 && n < 256 ? "K" + little_endian<uint8_t>(n) : "\x8a\x08" + little_endian(n);
}
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::string& items) {
  return "(" + items + "t";
}
inline std::string sizes(const std::vector<int64_t>& sizes) {
  std::string items;
  for (const int64_t n : sizes) items += integer(n);
  return tuple(items);
}
inline std::string storage(const std::string& type, const std::string& key, int64_t elements) {
  return tuple(text("storage") + global("torch", type) + text(key) + text("cpu") +
               integer(elements)) +
         "Q";
}
inline std::string ordered_dict() {
  return global("collections", "OrderedDict") + ")R";
}
/// A tensor of a given storage.
inline std::string tensor(const std::string& storage,
                          int64_t offset,
                          const std::vector<int64_t>& shape,
                          const std::vector<int64_t>& strides,
                          const std::string& more = "") {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple(storage + integer(offset) + sizes(shape) + sizes(strides) + "\x89" + ordered_dict() +
               more) +
         "R";
}
/// A whole pickle of a dictionary with these items.
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string pickle = "\x80\x02}(";
  for (const auto& [key, value] : items) pickle += text(key) + value;
  return pickle + "u.";
}

}  // namespace pickled

/// A member of a zip archive; what is set is written instead of the truth.
struct ZipMember {
  std::string name, data;
  uint16_t method = 0, flags = 0;
  std::optional<uint32_t> listed_size = {}, own_size = {}, listed_offset = {};
  std::optional<std::string> own_name = {};
  bool zip64 = false;  // sizes and offset in a zip64 record
};

/// As torch.save lays it out. `ends`: replaces what the record at the end says of count, bytes and
/// offset of the directory; `zip64`: with the long form of that record, too.
struct ZipEnd {
  std::optional<uint16_t> count = {};
  std::optional<uint32_t> bytes = {}, offset = {};
  bool zip64 = false;
};
inline std::string zip(const std::vector<ZipMember>& members, const ZipEnd& ends = {}) {
  std::string file, directory;
  for (const ZipMember& m : members) {
    const auto size = static_cast<uint32_t>(m.data.size());
    const auto offset = static_cast<uint32_t>(file.size());
    const std::string own_name = m.own_name.value_or(m.name);
    const uint32_t own_size = m.own_size.value_or(size), listed = m.listed_size.value_or(size);
    file += "PK\x03\x04" + little_endian<uint16_t>(0) + little_endian(m.flags) +
            little_endian(m.method) + std::string(8, '\0') + little_endian(own_size) +
            little_endian(own_size) + little_endian<uint16_t>(own_name.size()) +
            little_endian<uint16_t>(4) + own_name + std::string("FB\0\0", 4) + m.data;
    std::string extra;
    if (m.zip64)
      extra = little_endian<uint16_t>(1) + little_endian<uint16_t>(24) +
              little_endian<uint64_t>(listed) + little_endian<uint64_t>(listed) +
              little_endian<uint64_t>(m.listed_offset.value_or(offset));
    const uint32_t short_size = m.zip64 ? UINT32_MAX : listed,
                   short_offset = m.zip64 ? UINT32_MAX : m.listed_offset.value_or(offset);
    directory += "PK\x01\x02" + little_endian<uint32_t>(0) + little_endian(m.flags) +
                 little_endian(m.method) + std::string(8, '\0') + little_endian(short_size) +
                 little_endian(short_size) + little_endian<uint16_t>(m.name.size()) +
                 little_endian<uint16_t>(extra.size()) + std::string(10, '\0') +
                 little_endian(short_offset) + m.name + extra;
  }
  const auto offset = ends.offset.value_or(static_cast<uint32_t>(file.size())),
             bytes = ends.bytes.value_or(static_cast<uint32_t>(directory.size()));
  const auto count = ends.count.value_or(static_cast<uint16_t>(members.size()));
  file += directory;
  if (ends.zip64) {
    const uint64_t end = file.size();
    file += "PK\x06\x06" + little_endian<uint64_t>(44) + std::string(12, '\0') +
            little_endian<uint64_t>(count) + little_endian<uint64_t>(count) +
            little_endian<uint64_t>(bytes) + little_endian<uint64_t>(offset);
    file +=
        "PK\x06\x07" + little_endian<uint32_t>(0) + little_endian(end) + little_endian<uint32_t>(1);
    return file + "PK\x05\x06" + std::string(4, '\0') + std::string(12, '\xff') +
           std::string(2, '\0');
  }
  return file + "PK\x05\x06" + std::string(4, '\0') + little_endian(count) + little_endian(count) +
         little_endian(bytes) + little_endian(offset) + std::string(2, '\0');
}

}  // namespace basin
