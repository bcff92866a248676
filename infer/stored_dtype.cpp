#include "infer/stored_dtype.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "configs/files.h"
#include "model/safetensors.h"

namespace basin {
namespace {

namespace fs = std::filesystem;

struct Dtype {
  const char* in_file;
  const char* name;
};
constexpr Dtype kDtypes[] = {{"F32", "float32"}, {"F16", "float16"}, {"BF16", "bfloat16"}};

bool holds_weights(const fs::path& file) {
  return file.extension() == ".safetensors" && file.filename().string().starts_with("model");
}

}  // namespace

std::string stored_dtype(const fs::path& directory) {
  std::map<std::string, uint64_t> bytes;
  for (const fs::directory_entry& found : fs::directory_iterator(directory)) {
    if (!holds_weights(found.path())) continue;
    const SafetensorsFile file(found.path());
    for (const auto& [name, entry] : file.entries()) bytes[entry.dtype] += entry.end - entry.begin;
  }
  const auto most =
      std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; });
  for (const Dtype& dtype : kDtypes)
    if (most != bytes.end() && most->first == dtype.in_file) return dtype.name;
  const auto config = nlohmann::json::parse(read_file(directory / "config.json"), nullptr, false);
  for (const char* key : {"dtype", "torch_dtype"})
    for (const Dtype& dtype : kDtypes)
      if (config.is_object() && config.contains(key) && config[key] == dtype.name)
        return dtype.name;
  return "float32";
}

}  // namespace basin
