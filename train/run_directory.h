// The life of checkpoints in a run directory. A step directory is written aside, its manifest last,
// then renamed: a directory named step-NNNNNNNN whose manifest holds is whole.
#pragma once

#include <cstdint>
#include <filesystem>

#include "configs/file_descriptor.h"
#include "model/step_directories.h"
#include "train/config.h"

namespace basin {

/// Holds a run directory for one training process; made if it is not there. Throws
/// std::runtime_error when another process holds it.
class RunLock {
 public:
  explicit RunLock(const std::filesystem::path& run_directory);

 private:
  FileDescriptor file_;
};

/// Where attempt number `attempt` of the process `pid` writes `step_directory`.
std::filesystem::path aside(const std::filesystem::path& step_directory,
                            int64_t pid,
                            int64_t attempt);

/// Gives a directory that is whole its name, durably; a damaged one of the same step goes.
void publish_checkpoint(const std::filesystem::path& aside,
                        const std::filesystem::path& step_directory);
/// Drops checkpoints up to `newest` that the policy does not hold.
void prune_checkpoints(const std::filesystem::path& run_directory,
                       const CheckpointConfig& keep,
                       int64_t newest);
/// Points `final` at the checkpoint of `step`.
void set_final(const std::filesystem::path& run_directory, int64_t step);
/// Removes what a killed process left half-written.
void remove_leftovers(const std::filesystem::path& run_directory);

}  // namespace basin
