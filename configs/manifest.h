// manifest.json of a checkpoint: sizes and XXH3 checksums of all its other files. It is written
// last, so a directory without one is not whole.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace basin {

/// Lists every file below `directory` and syncs its directories.
void write_manifest(const std::filesystem::path& directory);

/// What is wrong with `directory`, nothing when every listed file is there with its size and
/// checksum.
std::optional<std::string> manifest_problem(const std::filesystem::path& directory);

}  // namespace basin
