#include "model/manifest.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <exception>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>
#include <vector>

#include "model/safetensors_header.h"

namespace basin {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
constexpr const char* kManifest = "manifest.json";

Json as_json(const ManifestEntry& entry) {
  Json json = {{"bytes", entry.file.bytes}, {"xxh3", entry.file.xxh3}};
  if (!entry.tensors.empty()) json["tensors"] = entry.tensors;
  return json;
}

ManifestEntry entry_of(const Json& json) {
  return {{json.at("bytes").get<uint64_t>(), json.at("xxh3").get<std::string>()},
          json.value("tensors", std::map<std::string, std::string>())};
}

/// The entries of a manifest. One flipped bit can turn a key into another without making the JSON
/// invalid: only the known keys are let through, or the checksum could be damaged away.
std::map<std::string, ManifestEntry> parse_manifest(const std::string& text) {
  const Json manifest = Json::parse(text);
  for (const auto& [key, value] : manifest.items())
    if (key != "files" && key != "xxh3")
      throw std::runtime_error(
          fmt::format("unknown key \"{}\", a manifest has \"files\" and \"xxh3\"", key));
  const Json& files = manifest.at("files");
  if (manifest.contains("xxh3")) {
    const std::string sum = xxh3_hex(files.dump()),
                      expected = manifest.at("xxh3").get<std::string>();
    if (sum != expected)
      throw std::runtime_error(
          fmt::format("its own checksum is {}, it says {}: it is damaged", sum, expected));
  }
  std::map<std::string, ManifestEntry> entries;
  for (const auto& [name, entry] : files.items()) entries[name] = entry_of(entry);
  return entries;
}

/// Which part of a safetensors file is not what its manifest says: "its header", or tensors.
std::string damaged_part(const fs::path& path, const std::map<std::string, std::string>& tensors) {
  const MappedFile mapped(path);
  const std::string_view file(reinterpret_cast<const char*>(mapped.data()), mapped.size_bytes());
  std::vector<std::string> damaged;
  try {
    const SafetensorsHeader header =
        read_safetensors_header(path.string(), {mapped.data(), mapped.size_bytes()});
    for (const auto& [name, sum] : tensors) {
      const SafetensorsEntry& entry = header.entries.at(name);
      if (xxh3_hex(file.substr(entry.begin, entry.end - entry.begin)) != sum)
        damaged.push_back(name);
    }
  } catch (const std::exception&) {  // a damaged header would send us to the wrong bytes
    damaged.clear();
  }
  constexpr size_t kShown = 5;
  if (damaged.empty()) return "its header";
  if (damaged.size() <= kShown) return fmt::format("tensor {}", fmt::join(damaged, ", "));
  const size_t more = damaged.size() - kShown;
  damaged.resize(kShown);
  return fmt::format("tensor {} and {} more", fmt::join(damaged, ", "), more);
}

bool holds_tensors(const std::string& name) {
  return fs::path(name).extension() == ".safetensors";
}

bool lies_deeper(const std::string& name) {
  return name.find('/') != std::string::npos;
}

std::optional<std::string> problem_of(const fs::path& directory, bool with_folders) {
  std::map<std::string, ManifestEntry> entries;
  try {
    if (!fs::exists(directory / kManifest))
      return "it has no manifest.json, writing it was cut short";
    entries = parse_manifest(read_file(directory / kManifest));
  } catch (const std::exception& error) {
    return fmt::format("manifest.json: {}", error.what());
  }
  try {
    for (const auto& [name, expected] : entries)
      if (with_folders || !lies_deeper(name))
        if (const auto problem = file_problem(directory, name, expected)) return problem;
  } catch (const std::exception& error) {  // it cannot be read
    return error.what();
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> file_problem(const fs::path& directory,
                                        const std::string& name,
                                        const ManifestEntry& expected) {
  const fs::path path = directory / name;
  if (!fs::exists(path)) return fmt::format("{} is missing", name);
  if (const uint64_t bytes = fs::file_size(path); bytes != expected.file.bytes)
    return fmt::format("{} has {} bytes, its manifest says {}", name, bytes, expected.file.bytes);
  const std::string sum = xxh3_hex_of_file(path);
  if (sum == expected.file.xxh3) return std::nullopt;
  const std::string damage =
      fmt::format("the checksum of {} is {}, its manifest says {}", name, sum, expected.file.xxh3);
  return expected.tensors.empty()
             ? damage
             : fmt::format("{}: damaged is {}", damage, damaged_part(path, expected.tensors));
}

std::string to_json(const ManifestEntry& entry) {
  return as_json(entry).dump();
}

ManifestEntry manifest_entry_from_json(const std::string& text) {
  return entry_of(Json::parse(text));
}

void Manifest::add(const std::string& name, ManifestEntry entry) {
  entries_[name] = std::move(entry);
}

void Manifest::write(const fs::path& directory) const {
  for (const auto& [name, entry] : entries_) {
    const fs::path path = directory / name;
    if (!fs::exists(path))
      throw std::runtime_error(fmt::format(
          "{} is missing: another process wrote it, and all of them must see one file system",
          path.string()));
    if (const uint64_t bytes = fs::file_size(path); bytes != entry.file.bytes)
      throw std::runtime_error(
          fmt::format("{} has {} bytes, {} were written", path.string(), bytes, entry.file.bytes));
  }
  std::map<std::string, ManifestEntry> all = entries_;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_directory()) sync_directory(entry.path());
    if (!entry.is_regular_file()) continue;
    const std::string name = fs::relative(entry.path(), directory).generic_string();
    if (name != kManifest && !all.contains(name))
      all[name] = {{entry.file_size(), xxh3_hex_of_file(entry.path())}};
  }
  Json files = Json::object();
  for (const auto& [name, entry] : all) files[name] = as_json(entry);
  const std::string sum = xxh3_hex(files.dump());
  write_file(directory / kManifest,
             Json{{"files", std::move(files)}, {"xxh3", sum}}.dump(2) + "\n");
}

std::optional<std::string> manifest_problem(const fs::path& directory) {
  return problem_of(directory, true);
}

std::optional<std::string> model_problem(const fs::path& directory) {
  return problem_of(directory, false);
}

bool has_all_files(const fs::path& directory) {
  try {
    const auto entries = parse_manifest(read_file(directory / kManifest));
    return std::ranges::all_of(entries, [&](const auto& entry) {
      const auto& [name, expected] = entry;
      return fs::file_size(directory / name) == expected.file.bytes;
    });
  } catch (const std::exception&) {  // missing, or cannot be read
    return false;
  }
}

std::map<std::string, ManifestEntry> read_manifest(const fs::path& directory) {
  if (!fs::exists(directory / kManifest)) return {};
  try {
    return parse_manifest(read_file(directory / kManifest));
  } catch (const std::exception& error) {
    refuse_damaged(directory, fmt::format("manifest.json: {}", error.what()));
  }
}

void check_listed_files(const fs::path& directory) {
  for (const auto& [name, expected] : read_manifest(directory)) {
    if (lies_deeper(name) || holds_tensors(name)) continue;
    if (const auto problem = file_problem(directory, name, expected))
      refuse_damaged(directory, *problem);
  }
}

void refuse_damaged(const fs::path& directory, const std::string& problem) {
  throw std::runtime_error(
      fmt::format("{}: {}: damaged, or changed after it was saved: take another step of the run or "
                  "copy it anew; without its manifest.json it is used as it is",
                  directory.string(),
                  problem));
}

}  // namespace basin
