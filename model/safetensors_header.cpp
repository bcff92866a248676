// The checks are those of the reference reader (safetensors 0.8.0), made in the order in which a
// damaged file could do harm.
#include "model/safetensors_header.h"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "configs/json_text.h"

namespace basin {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr size_t kMaxDimensions = 64;  // LibTorch's own limit in most places

constexpr SafetensorsDtype kDtypes[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
};

const SafetensorsDtype* find_dtype(std::string_view name) {
  const auto found = std::find_if(
      std::begin(kDtypes), std::end(kDtypes), [&](const auto& d) { return d.name == name; });
  return found == std::end(kDtypes) ? nullptr : found;
}

/// Knows the file's name, for messages.
class HeaderReader {
 public:
  explicit HeaderReader(const std::string& file) : file_(file) {}
  SafetensorsHeader read(std::span<const std::byte> bytes) const;

 private:
  using Entries = std::map<std::string, SafetensorsEntry>;

  [[noreturn]] void refuse(const std::string& what) const {
    throw std::runtime_error(fmt::format("{}: {}", file_, what));
  }
  [[noreturn]] void refuse(const std::string& tensor, const std::string& what) const {
    refuse(fmt::format("tensor \"{}\": {}", printable(tensor), what));
  }
  std::vector<uint64_t> read_sizes(const std::string& tensor,
                                   const nlohmann::json& entry,
                                   const char* key) const;
  uint64_t tensor_bytes(const std::string& tensor,
                        const SafetensorsDtype& dtype,
                        const std::vector<uint64_t>& shape) const;
  SafetensorsEntry read_entry(const std::string& tensor, const nlohmann::json& json) const;
  void check_metadata(const nlohmann::json& json) const;
  void check_coverage(const Entries& entries, uint64_t data_start, uint64_t file_size) const;

  const std::string& file_;
};

std::vector<uint64_t> HeaderReader::read_sizes(const std::string& tensor,
                                               const nlohmann::json& entry,
                                               const char* key) const {
  const auto found = entry.find(key);
  const bool valid = found != entry.end() && found->is_array() &&
                     std::all_of(found->begin(), found->end(), [](const auto& n) {
                       return n.is_number_unsigned();
                     });
  if (!valid) refuse(tensor, fmt::format("\"{}\" is no list of non-negative integers", key));
  if (found->size() > kMaxDimensions)
    refuse(tensor,
           fmt::format(
               "\"{}\" has {} numbers, expected at most {}", key, found->size(), kMaxDimensions));
  return found->get<std::vector<uint64_t>>();
}

/// Throws when the shape overflows or ends inside a byte.
uint64_t HeaderReader::tensor_bytes(const std::string& tensor,
                                    const SafetensorsDtype& dtype,
                                    const std::vector<uint64_t>& shape) const {
  uint64_t bits = dtype.bits;
  int64_t strides = static_cast<int64_t>(dtype.bits);  // a number, too, where a size is 0
  bool overflow = false;
  for (const uint64_t size : shape) {
    overflow = overflow || size > INT64_MAX;
    overflow = __builtin_mul_overflow(bits, size, &bits) || overflow;
    overflow = __builtin_mul_overflow(strides, std::max<uint64_t>(size, 1), &strides) || overflow;
  }
  if (overflow || bits % 8 != 0)
    refuse(tensor,
           fmt::format(
               "{} of shape ({}) is no whole number of bytes", dtype.name, fmt::join(shape, ", ")));
  return bits / 8;
}

SafetensorsEntry HeaderReader::read_entry(const std::string& tensor,
                                          const nlohmann::json& json) const {
  if (!json.is_object()) refuse(tensor, "its entry is no JSON object");
  const auto spelled = json.find("dtype");
  const SafetensorsDtype* dtype = spelled != json.end() && spelled->is_string()
                                      ? find_dtype(spelled->get_ref<const std::string&>())
                                      : nullptr;
  if (!dtype)
    refuse(tensor,
           fmt::format("unknown dtype {}",
                       spelled == json.end() ? "(none given)" : printable_json(*spelled)));
  const std::vector<uint64_t> shape = read_sizes(tensor, json, "shape"),
                              offsets = read_sizes(tensor, json, "data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1])
    refuse(tensor, fmt::format("data_offsets [{}] are no [begin, end]", fmt::join(offsets, ", ")));
  const uint64_t expected = tensor_bytes(tensor, *dtype, shape);
  if (offsets[1] - offsets[0] != expected)
    refuse(tensor,
           fmt::format("data_offsets [{}] span {} bytes, but {} of shape ({}) takes {}",
                       fmt::join(offsets, ", "),
                       offsets[1] - offsets[0],
                       dtype->name,
                       fmt::join(shape, ", "),
                       expected));
  return {std::string(dtype->name), {shape.begin(), shape.end()}, offsets[0], offsets[1]};
}

void HeaderReader::check_metadata(const nlohmann::json& json) const {
  if (!json.is_object()) refuse("__metadata__ is no JSON object");
  for (const auto& [key, value] : json.items())
    if (!value.is_string())
      refuse(fmt::format(
          "__metadata__: \"{}\" is no string but {}", printable(key), printable_json(value)));
}

/// Tensors must cover the data exactly: no hole, no overlap, no byte left over.
void HeaderReader::check_coverage(const Entries& entries,
                                  uint64_t data_start,
                                  uint64_t file_size) const {
  std::vector<Entries::const_iterator> order;
  for (auto it = entries.begin(); it != entries.end(); ++it) order.push_back(it);
  std::sort(order.begin(), order.end(), [](auto a, auto b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t covered = 0;
  for (const auto& it : order) {
    if (it->second.begin != covered)
      refuse(fmt::format("tensor \"{}\" begins at data byte {}, expected {}: tensors {}",
                         printable(it->first),
                         it->second.begin,
                         covered,
                         it->second.begin > covered ? "leave a hole" : "overlap"));
    covered = it->second.end;
  }
  if (covered != file_size - data_start)
    refuse(fmt::format(
        "the header describes {} bytes of data from byte {} on, the file has {}: it is {}",
        covered,
        data_start,
        file_size - data_start,
        covered > file_size - data_start ? "cut short" : "longer than it should be"));
}

SafetensorsHeader HeaderReader::read(std::span<const std::byte> bytes) const {
  if (bytes.size() < kSafetensorsLengthBytes)
    refuse(fmt::format("{} bytes are too few for a safetensors file", bytes.size()));
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kSafetensorsLengthBytes);
  const uint64_t room = bytes.size() - kSafetensorsLengthBytes;
  if (length > kSafetensorsMaxHeaderBytes || length > room)
    refuse(fmt::format(
        "the first 8 bytes give a header of {} bytes{}: cut short, or not a safetensors file",
        length,
        length > room ? fmt::format(" in a file of {}", bytes.size())
                      : fmt::format(", at most {} are allowed", kSafetensorsMaxHeaderBytes)));
  const char* begin = reinterpret_cast<const char*>(bytes.data()) + kSafetensorsLengthBytes;
  const nlohmann::json json =
      parse_untrusted_json({begin, length}, file_ + ": the header at byte 8");
  if (!json.is_object()) refuse("the header at byte 8 is no JSON object");
  SafetensorsHeader header;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__")
      check_metadata(value);
    else
      header.entries.emplace(name, read_entry(name, value));
  }
  const uint64_t data_start = kSafetensorsLengthBytes + length;
  check_coverage(header.entries, data_start, bytes.size());
  for (auto& [name, entry] : header.entries) entry.begin += data_start, entry.end += data_start;
  return header;
}

}  // namespace

std::span<const SafetensorsDtype> safetensors_dtypes() {
  return kDtypes;
}

SafetensorsHeader read_safetensors_header(const std::string& name,
                                          std::span<const std::byte> file) {
  return HeaderReader(name).read(file);
}

}  // namespace basin
