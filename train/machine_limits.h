// What this machine leaves a process: cores and memory, less where a control group says so (Linux's
// cgroup v2, in which containers and batch systems keep their jobs).
#pragma once

#include <filesystem>

namespace basin {

/// Cores that this process may run on, or the share of their time that it gets. `root` is for
/// tests.
double available_cpus(const std::filesystem::path& root = "/");

/// Bytes that can be had without swapping; the largest number when the system does not say.
double available_bytes(const std::filesystem::path& root = "/");

}  // namespace basin
