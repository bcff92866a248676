// manifest.json of a checkpoint: sizes and XXH3 checksums of all its other files. It is written
// last, so a directory without one is not whole.
//   {"files": {"model.safetensors": {"bytes": 1, "xxh3": "..", "tensors": {"lm_head": ".."}}, ..},
//    "xxh3": ".."}      the last: of what "files" holds, as JSON without white space
// "tensors" is there for safetensors files only, and like the last checksum not in old manifests.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "configs/files.h"

namespace basin {

/// What a manifest says of one file.
struct ManifestEntry {
  FileSum file;
  std::map<std::string, std::string> tensors = {};  // XXH3 of each tensor's bytes, by name
};

/// An entry as JSON text, to send it to the process that writes the manifest.
std::string to_json(const ManifestEntry& entry);
/// Throws nlohmann::json::exception for what to_json does not write.
ManifestEntry manifest_entry_from_json(const std::string& text);

class Manifest {
 public:
  /// `name`: relative to the checkpoint, with slashes. Replaces what was said of it before.
  void add(const std::string& name, ManifestEntry entry);

  /// Writes `directory`/manifest.json, durably, after the names in all directories below. Files
  /// that were not added are read for their checksums. Throws std::runtime_error when an added
  /// file is missing or has another size.
  void write(const std::filesystem::path& directory) const;

 private:
  std::map<std::string, ManifestEntry> entries_;
};

/// What is wrong with `directory`, nothing when its manifest is whole and every listed file is
/// there with its size and checksum. Names the file, and the tensors of a safetensors file.
std::optional<std::string> manifest_problem(const std::filesystem::path& directory);

/// The same of the model alone: of the files directly in `directory`, not those of its folders.
std::optional<std::string> model_problem(const std::filesystem::path& directory);

/// Whether the manifest of `directory` is whole and every listed file is there with its size: much
/// faster than manifest_problem, and blind to flipped bits.
bool has_all_files(const std::filesystem::path& directory);

/// What the manifest of `directory` says, by name; nothing where there is none. Throws
/// std::runtime_error when the manifest itself is damaged.
std::map<std::string, ManifestEntry> read_manifest(const std::filesystem::path& directory);

/// What is wrong with the file `name` of `directory`, nothing when it is as expected.
std::optional<std::string> file_problem(const std::filesystem::path& directory,
                                        const std::string& name,
                                        const ManifestEntry& expected);

/// Throws std::runtime_error unless the files directly in `directory` are what its manifest says, if
/// it has one. Those with tensors are left to whoever reads them (model/weight_files.h).
void check_listed_files(const std::filesystem::path& directory);

/// Throws std::runtime_error: `problem` of a file in `directory`, and what can be done.
[[noreturn]] void refuse_damaged(const std::filesystem::path& directory,
                                 const std::string& problem);

}  // namespace basin
