#include "configs/manifest.h"

#include <fmt/format.h>

#include <exception>
#include <nlohmann/json.hpp>
#include <set>

#include "configs/files.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
constexpr const char* kManifest = "manifest.json";

}  // namespace

void write_manifest(const fs::path& directory) {
  std::set<std::string> names;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_directory()) sync_directory(entry.path());
    if (entry.is_regular_file())
      names.insert(fs::relative(entry.path(), directory).generic_string());
  }
  nlohmann::ordered_json files = nlohmann::ordered_json::object();
  for (const std::string& name : names) {
    files[name] = {{"bytes", fs::file_size(directory / name)},
                   {"xxh3", xxh3_hex_of_file(directory / name)}};
  }
  write_file(directory / kManifest,
             nlohmann::ordered_json{{"files", std::move(files)}}.dump(2) + "\n");
  sync_directory(directory);
}

std::optional<std::string> manifest_problem(const fs::path& directory) {
  if (!fs::exists(directory / kManifest))
    return "it has no manifest.json, writing it was cut short";
  try {
    const nlohmann::json manifest = nlohmann::json::parse(read_file(directory / kManifest));
    for (const auto& [name, expected] : manifest.at("files").items()) {
      const fs::path path = directory / name;
      if (!fs::exists(path)) return fmt::format("{} is missing", name);
      const uint64_t bytes = fs::file_size(path),
                     expected_bytes = expected.at("bytes").get<uint64_t>();
      if (bytes != expected_bytes)
        return fmt::format("{} has {} bytes, its manifest says {}", name, bytes, expected_bytes);
      const std::string sum = xxh3_hex_of_file(path),
                        expected_sum = expected.at("xxh3").get<std::string>();
      if (sum != expected_sum)
        return fmt::format(
            "the checksum of {} is {}, its manifest says {}", name, sum, expected_sum);
    }
  } catch (const std::exception& error) {
    return fmt::format("manifest.json: {}", error.what());
  }
  return std::nullopt;
}

}  // namespace basin
