// The checks are those of the reference reader (safetensors 0.8.0), made in the order in which a
// damaged file could do harm.
#include "model/safetensors.h"

#include <ATen/ATen.h>
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>

namespace basin {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr uint64_t kLengthBytes = 8, kMaxHeaderBytes = 100'000'000, kDataAlignment = 64;

struct Dtype {
  std::string_view name;
  uint64_t bits;
  std::optional<at::ScalarType> type;  // none: known to the format only
};

// In the reference's order, by which a writer sorts from last to first.
constexpr Dtype kDtypes[] = {
    {"BOOL", 8, at::kBool},
    {"F4", 4, {}},
    {"F6_E2M3", 6, {}},
    {"F6_E3M2", 6, {}},
    {"U8", 8, at::kByte},
    {"I8", 8, at::kChar},
    {"F8_E5M2", 8, {}},
    {"F8_E4M3", 8, {}},
    {"F8_E8M0", 8, {}},
    {"F8_E4M3FNUZ", 8, {}},
    {"F8_E5M2FNUZ", 8, {}},
    {"I16", 16, at::kShort},
    {"U16", 16, {}},
    {"F16", 16, at::kHalf},
    {"BF16", 16, at::kBFloat16},
    {"I32", 32, at::kInt},
    {"U32", 32, {}},
    {"F32", 32, at::kFloat},
    {"C64", 64, {}},
    {"F64", 64, at::kDouble},
    {"I64", 64, at::kLong},
    {"U64", 64, {}},
};

const Dtype* find_dtype(std::string_view name) {
  const auto found = std::find_if(
      std::begin(kDtypes), std::end(kDtypes), [&](const Dtype& d) { return d.name == name; });
  return found == std::end(kDtypes) ? nullptr : found;
}

const Dtype& dtype_of(at::ScalarType type) {
  const auto found = std::find_if(
      std::begin(kDtypes), std::end(kDtypes), [&](const Dtype& d) { return d.type == type; });
  TORCH_CHECK(found != std::end(kDtypes), "no safetensors dtype for ", type);
  return *found;
}

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& what) {
  throw std::runtime_error(fmt::format("{}: {}", path.string(), what));
}

/// Parses the header; unlike nlohmann's default, a key that occurs twice in an object is an error.
nlohmann::json parse_header(const std::filesystem::path& path, const char* begin, const char* end) {
  std::vector<std::set<std::string>> open;
  const auto check = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    using Event = nlohmann::json::parse_event_t;
    if (event == Event::object_start) open.emplace_back();
    if (event == Event::object_end) open.pop_back();
    if (event == Event::key && !open.back().insert(value.get<std::string>()).second)
      refuse(path, fmt::format("the header names \"{}\" twice", value.get<std::string>()));
    return true;
  };
  try {
    nlohmann::json header = nlohmann::json::parse(begin, end, check);
    if (!header.is_object()) refuse(path, "the header at byte 8 is no JSON object");
    return header;
  } catch (const nlohmann::json::exception& e) {
    refuse(path, fmt::format("the header at byte 8 is no valid JSON: {}", e.what()));
  }
}

std::vector<uint64_t> read_sizes(const std::filesystem::path& path,
                                 const std::string& name,
                                 const nlohmann::json& entry,
                                 const char* key) {
  const auto found = entry.find(key);
  const bool valid = found != entry.end() && found->is_array() &&
                     std::all_of(found->begin(), found->end(), [](const auto& n) {
                       return n.is_number_unsigned();
                     });
  if (!valid)
    refuse(path,
           fmt::format("tensor \"{}\": \"{}\" is no list of non-negative integers", name, key));
  return found->get<std::vector<uint64_t>>();
}

/// Bytes of a tensor; throws when the shape overflows or ends inside a byte.
uint64_t tensor_bytes(const std::filesystem::path& path,
                      const std::string& name,
                      const Dtype& dtype,
                      const std::vector<uint64_t>& shape) {
  uint64_t bits = dtype.bits;
  bool overflow = false;
  for (const uint64_t size : shape) {
    overflow = overflow || size > INT64_MAX;
    overflow = __builtin_mul_overflow(bits, size, &bits) || overflow;
  }
  if (overflow || bits % 8 != 0)
    refuse(path,
           fmt::format("tensor \"{}\": {} of shape ({}) is no whole number of bytes",
                       name,
                       dtype.name,
                       fmt::join(shape, ", ")));
  return bits / 8;
}

SafetensorsEntry read_entry(const std::filesystem::path& path,
                            const std::string& name,
                            const nlohmann::json& json) {
  if (!json.is_object())
    refuse(path, fmt::format("tensor \"{}\": its entry is no JSON object", name));
  const auto spelled = json.find("dtype");
  const Dtype* dtype = spelled != json.end() && spelled->is_string()
                           ? find_dtype(spelled->get<std::string>())
                           : nullptr;
  if (!dtype)
    refuse(path,
           fmt::format("tensor \"{}\": unknown dtype {}",
                       name,
                       spelled == json.end() ? "(none given)" : spelled->dump()));
  const std::vector<uint64_t> shape = read_sizes(path, name, json, "shape"),
                              offsets = read_sizes(path, name, json, "data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1])
    refuse(path,
           fmt::format("tensor \"{}\": data_offsets [{}] are no [begin, end]",
                       name,
                       fmt::join(offsets, ", ")));
  const uint64_t expected = tensor_bytes(path, name, *dtype, shape);
  if (offsets[1] - offsets[0] != expected)
    refuse(
        path,
        fmt::format("tensor \"{}\": data_offsets [{}] span {} bytes, but {} of shape ({}) takes {}",
                    name,
                    fmt::join(offsets, ", "),
                    offsets[1] - offsets[0],
                    dtype->name,
                    fmt::join(shape, ", "),
                    expected));
  return {std::string(dtype->name), {shape.begin(), shape.end()}, offsets[0], offsets[1]};
}

std::map<std::string, std::string> read_metadata(const std::filesystem::path& path,
                                                 const nlohmann::json& json) {
  if (!json.is_object()) refuse(path, "__metadata__ is no JSON object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string())
      refuse(path, fmt::format("__metadata__: \"{}\" is no string but {}", key, value.dump()));
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

/// Tensors must cover the data exactly: no hole, no overlap, no byte left over.
void check_coverage(const std::filesystem::path& path,
                    const std::map<std::string, SafetensorsEntry>& entries,
                    uint64_t data_start,
                    uint64_t file_size) {
  std::vector<std::map<std::string, SafetensorsEntry>::const_iterator> order;
  for (auto it = entries.begin(); it != entries.end(); ++it) order.push_back(it);
  std::sort(order.begin(), order.end(), [](auto a, auto b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  uint64_t covered = 0;
  for (const auto& it : order) {
    if (it->second.begin != covered)
      refuse(path,
             fmt::format("tensor \"{}\" begins at data byte {}, expected {}: tensors {}",
                         it->first,
                         it->second.begin,
                         covered,
                         it->second.begin > covered ? "leave a hole" : "overlap"));
    covered = it->second.end;
  }
  if (covered != file_size - data_start)
    refuse(path,
           fmt::format(
               "the header describes {} bytes of data from byte {} on, the file has {}: it is {}",
               covered,
               data_start,
               file_size - data_start,
               covered > file_size - data_start ? "cut short" : "longer than it should be"));
}

void sort_as_reference(std::vector<SafetensorsSource>& sources) {
  std::sort(
      sources.begin(), sources.end(), [](const SafetensorsSource& a, const SafetensorsSource& b) {
        const Dtype *left = &dtype_of(a.dtype), *right = &dtype_of(b.dtype);
        return left != right ? left > right : a.name < b.name;
      });
  std::set<std::string> names = {"__metadata__"};
  for (const SafetensorsSource& source : sources)
    if (!names.insert(source.name).second)
      throw std::invalid_argument(
          fmt::format("safetensors: tensor name \"{}\" is taken", source.name));
}

/// Length and JSON, padded with spaces up to where the data starts.
std::string header_of(const std::vector<SafetensorsSource>& sources,
                      const SafetensorsMetadata& metadata) {
  nlohmann::ordered_json header;
  header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const SafetensorsSource& source : sources) {
    const Dtype& dtype = dtype_of(source.dtype);
    const uint64_t end =
        offset + static_cast<uint64_t>(c10::multiply_integers(source.shape)) * dtype.bits / 8;
    header[source.name] = {
        {"dtype", dtype.name}, {"shape", source.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  const uint64_t used = kLengthBytes + text.size();
  text.append((kDataAlignment - used % kDataAlignment) % kDataAlignment, ' ');
  const uint64_t length = text.size();
  TORCH_CHECK(length <= kMaxHeaderBytes, "safetensors header of ", length, " bytes");
  std::string bytes(kLengthBytes, '\0');
  std::memcpy(bytes.data(), &length, kLengthBytes);
  return bytes + text;
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::filesystem::path path)
    : path_(std::move(path)), file_(path_) {
  const uint64_t size = file_.size_bytes();
  if (size < kLengthBytes)
    refuse(path_, fmt::format("{} bytes are too few for a safetensors file", size));
  uint64_t length = 0;
  std::memcpy(&length, file_.data(), kLengthBytes);
  if (length > kMaxHeaderBytes || length > size - kLengthBytes)
    refuse(path_,
           fmt::format("the first 8 bytes give a header of {} bytes in a file of {}: cut short, or "
                       "not a safetensors file",
                       length,
                       size));
  const char* begin = reinterpret_cast<const char*>(file_.data()) + kLengthBytes;
  const nlohmann::json header = parse_header(path_, begin, begin + length);
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__")
      metadata_ = read_metadata(path_, value);
    else
      entries_.emplace(name, read_entry(path_, name, value));
  }
  const uint64_t data_start = kLengthBytes + length;
  check_coverage(path_, entries_, data_start, size);
  for (auto& [name, entry] : entries_) entry.begin += data_start, entry.end += data_start;
}

at::Tensor SafetensorsFile::read(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) refuse(path_, fmt::format("no tensor \"{}\"", name));
  const SafetensorsEntry& entry = found->second;
  const Dtype& dtype = *find_dtype(entry.dtype);
  if (!dtype.type)
    refuse(path_,
           fmt::format("tensor \"{}\" has dtype {}, which Basin does not compute with; convert the "
                       "file to F32, BF16 or F16",
                       name,
                       entry.dtype));
  at::Tensor tensor = at::empty(entry.shape, at::TensorOptions().dtype(*dtype.type));
  if (entry.end > entry.begin)
    std::memcpy(tensor.data_ptr(), file_.data() + entry.begin, entry.end - entry.begin);
  return tensor;
}

ManifestEntry write_safetensors(const std::filesystem::path& path,
                                std::vector<SafetensorsSource> sources,
                                SafetensorsMetadata metadata) {
  sort_as_reference(sources);
  metadata.emplace("format", "pt");
  AtomicFile file(path);
  file.write(header_of(sources, metadata));
  ManifestEntry entry;
  for (const SafetensorsSource& source : sources) {
    const at::Tensor tensor = source.make().to(at::kCPU).contiguous();
    TORCH_CHECK(
        tensor.scalar_type() == source.dtype && tensor.sizes() == at::IntArrayRef(source.shape),
        "safetensors: ",
        source.name,
        " is not as announced");
    const std::string_view bytes(static_cast<const char*>(tensor.data_ptr()), tensor.nbytes());
    file.write(bytes);
    entry.tensors[source.name] = xxh3_hex(bytes);
  }
  entry.file = file.commit();
  return entry;
}

ManifestEntry write_safetensors(const std::filesystem::path& path,
                                const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                                SafetensorsMetadata metadata) {
  std::vector<SafetensorsSource> sources;
  for (const auto& [name, tensor] : tensors)
    sources.push_back(
        {name, tensor.scalar_type(), tensor.sizes().vec(), [tensor = tensor] { return tensor; }});
  return write_safetensors(path, std::move(sources), std::move(metadata));
}

}  // namespace basin
