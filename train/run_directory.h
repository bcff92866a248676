// The life of checkpoints in a run directory. A step directory is written aside, its manifest last,
// then renamed: a directory named step-NNNNNNNN whose manifest holds is whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>

#include "configs/file_descriptor.h"
#include "model/step_directories.h"
#include "train/comm.h"
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

/// On all ranks: throws std::invalid_argument, naming those that do not see what rank 0 writes into
/// the directory, which it holds.
void require_shared(const std::filesystem::path& run_directory, Comm& comm);

/// Where attempt number `attempt` of the process `pid` writes `step_directory`.
std::filesystem::path aside(const std::filesystem::path& step_directory,
                            int64_t pid,
                            int64_t attempt);

/// The step of the newest intact checkpoint up to `newest`, nothing when there is no checkpoint at
/// all. Damaged ones that are passed over are called step-N.damaged from then on: nothing overwrites
/// or removes them, and they take no place among those that are kept. Throws std::runtime_error
/// naming each when there are checkpoints and none is intact, and leaves them as they are.
std::optional<int64_t> settle_on_checkpoint(
    const std::filesystem::path& run_directory,
    int64_t newest = std::numeric_limits<int64_t>::max());

/// Gives a directory that is whole its name, durably; one of the same step goes.
void publish_checkpoint(const std::filesystem::path& aside,
                        const std::filesystem::path& step_directory);
/// Drops checkpoints that the policy does not hold. One that lacks a file or a part of one neither
/// counts nor is dropped.
void prune_checkpoints(const std::filesystem::path& run_directory, const CheckpointConfig& keep);
/// Points `final` at the checkpoint of `step`.
void set_final(const std::filesystem::path& run_directory, int64_t step);
/// Notes that `job` stopped on request, for attempts that its launcher makes nevertheless; that a
/// new job goes on; and what was noted last. Where nothing can be noted, such an attempt goes on.
void note_stop(const std::filesystem::path& run_directory, const std::string& job);
void forget_stop(const std::filesystem::path& run_directory);
bool has_stopped(const std::filesystem::path& run_directory, const std::string& job);
/// Removes what killed processes left half-written. To be called under the run's lock.
void remove_leftovers(const std::filesystem::path& run_directory);

}  // namespace basin
