#include "model/safetensors.h"

#include <ATen/ATen.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

namespace basin {
namespace {

constexpr uint64_t kDataAlignment = 64;

constexpr std::pair<std::string_view, at::ScalarType> kComputed[] = {
    {"BOOL", at::kBool},
    {"U8", at::kByte},
    {"I8", at::kChar},
    {"I16", at::kShort},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I32", at::kInt},
    {"F32", at::kFloat},
    {"F64", at::kDouble},
    {"I64", at::kLong},
};

/// In the reference's order.
const SafetensorsDtype& dtype_of(at::ScalarType type) {
  for (const auto& [name, computed] : kComputed)
    for (const SafetensorsDtype& dtype : safetensors_dtypes())
      if (computed == type && dtype.name == name) return dtype;
  TORCH_CHECK(false, "no safetensors dtype for ", type);
}

[[noreturn]] void refuse(const std::filesystem::path& path, const std::string& what) {
  throw std::runtime_error(fmt::format("{}: {}", path.string(), what));
}

void sort_as_reference(std::vector<SafetensorsSource>& sources) {
  std::sort(
      sources.begin(), sources.end(), [](const SafetensorsSource& a, const SafetensorsSource& b) {
        const SafetensorsDtype *left = &dtype_of(a.dtype), *right = &dtype_of(b.dtype);
        return left != right ? left > right : a.name < b.name;
      });
  std::set<std::string> names = {"__metadata__"};
  for (const SafetensorsSource& source : sources)
    if (!names.insert(source.name).second)
      throw std::invalid_argument(
          fmt::format("safetensors: tensor name \"{}\" is taken", source.name));
}

/// Length and JSON, padded with spaces up to where the data starts.
std::string header_of(const std::vector<SafetensorsSource>& sources) {
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  uint64_t offset = 0;
  for (const SafetensorsSource& source : sources) {
    const SafetensorsDtype& dtype = dtype_of(source.dtype);
    const uint64_t end =
        offset + static_cast<uint64_t>(c10::multiply_integers(source.shape)) * dtype.bits / 8;
    header[source.name] = {
        {"dtype", dtype.name}, {"shape", source.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  const uint64_t used = kSafetensorsLengthBytes + text.size();
  text.append((kDataAlignment - used % kDataAlignment) % kDataAlignment, ' ');
  const uint64_t length = text.size();
  TORCH_CHECK(length <= kSafetensorsMaxHeaderBytes, "safetensors header of ", length, " bytes");
  std::string bytes(kSafetensorsLengthBytes, '\0');
  std::memcpy(bytes.data(), &length, kSafetensorsLengthBytes);
  return bytes + text;
}

}  // namespace

at::ScalarType scalar_type_of(const std::string& dtype) {
  for (const auto& [name, type] : kComputed)
    if (name == dtype) return type;
  throw std::runtime_error(fmt::format(
      "has dtype {}, which Basin does not compute with; convert the file to F32, BF16 or F16",
      dtype));
}

SafetensorsFile::SafetensorsFile(std::filesystem::path path)
    : path_(std::move(path)),
      file_(path_),
      header_(read_safetensors_header(path_.string(), {file_.data(), file_.size_bytes()})) {}

at::Tensor SafetensorsFile::read(const std::string& name) const {
  const auto found = entries().find(name);
  if (found == entries().end()) refuse(path_, fmt::format("no tensor \"{}\"", name));
  const SafetensorsEntry& entry = found->second;
  at::Tensor tensor;
  try {
    tensor = at::empty(entry.shape, at::TensorOptions().dtype(scalar_type_of(entry.dtype)));
  } catch (const std::runtime_error& e) {
    refuse(path_, fmt::format("tensor \"{}\" {}", name, e.what()));
  }
  if (entry.end > entry.begin)
    std::memcpy(tensor.data_ptr(), file_.data() + entry.begin, entry.end - entry.begin);
  return tensor;
}

ManifestEntry write_safetensors(const std::filesystem::path& path,
                                std::vector<SafetensorsSource> sources) {
  sort_as_reference(sources);
  AtomicFile file(path);
  file.write(header_of(sources));
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
                                const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  std::vector<SafetensorsSource> sources;
  for (const auto& [name, tensor] : tensors)
    sources.push_back(
        {name, tensor.scalar_type(), tensor.sizes().vec(), [tensor = tensor] { return tensor; }});
  return write_safetensors(path, std::move(sources));
}

}  // namespace basin
