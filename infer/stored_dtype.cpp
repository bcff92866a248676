#include "infer/stored_dtype.h"

#include <algorithm>
#include <map>

#include "model/weight_files.h"

namespace basin {
namespace {

struct Dtype {
  const char* in_file;
  const char* name;
};
constexpr Dtype kDtypes[] = {{"F32", "float32"}, {"F16", "float16"}, {"BF16", "bfloat16"}};

}  // namespace

std::string stored_dtype(const std::filesystem::path& directory) {
  const WeightFiles files(directory);
  std::map<std::string, uint64_t> bytes;
  for (const std::string& name : files.names())
    bytes[files.dtype(name)] += files.stored_bytes(name);
  const auto most =
      std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; });
  for (const Dtype& dtype : kDtypes)
    if (most != bytes.end() && most->first == dtype.in_file) return dtype.name;
  return "float32";
}

}  // namespace basin
