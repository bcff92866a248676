// The checkpoints of a run directory, by name: step-NNNNNNNN, whole when its manifest holds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace basin {

/// N of "step-N", nothing for other names.
std::optional<int64_t> step_of(const std::string& name);
std::filesystem::path step_directory(const std::filesystem::path& run_directory, int64_t step);

/// Steps of which a directory is there under the name that training gives it, whole or not, newest
/// first.
std::vector<int64_t> list_steps(const std::filesystem::path& run_directory);
/// The newest step whose manifest holds, at most `newest`; logs why newer ones were passed over.
/// Nothing when there is none.
std::optional<int64_t> find_newest_intact(const std::filesystem::path& run_directory,
                                          int64_t newest = std::numeric_limits<int64_t>::max());
/// The same, for its model to be read only: what training needs besides is not looked at, and links
/// and numbers without leading zeros count, too.
std::optional<std::filesystem::path> find_newest_model(const std::filesystem::path& run_directory);

}  // namespace basin
