// Who started this process, and as which of how many: torchrun, Slurm's srun, Open MPI, MVAPICH2,
// Hydra (MPICH, Intel MPI), variables set by hand, or our own --nproc. The one rule: the launcher
// nearest to the process counts (torchrun or mpirun inside a Slurm step), and what cannot be such a
// nesting is refused.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "train/environment.h"

namespace basin {

enum class Launcher { kNone, kOwn, kTorchrun, kVariables, kOpenMpi, kMvapich2, kHydra, kSlurm };

/// A process's place among the processes of its launcher.
struct Seat {
  int64_t rank = 0, size = 1;
  std::optional<int64_t> local_rank, local_size;  // on this machine, where the launcher says
};

/// As messages name it: "torchrun", "Slurm", "single process", ...
std::string_view launcher_name(Launcher launcher);
/// What --launcher accepts, and what it means. Throws std::invalid_argument for anything else.
std::vector<std::string> launcher_words();
Launcher launcher_from_word(const std::string& word);

/// The launcher of this process. Throws std::invalid_argument for variables that contradict each
/// other, by name.
Launcher detect_launcher(const Environment& environment);

/// The place that `launcher` gave this process. Throws std::invalid_argument, naming variables,
/// when it did not or when its numbers contradict each other.
Seat seat_of(const Environment& environment, Launcher launcher);

/// Where to meet without MASTER_ADDR, as far as the launcher says: the host of rank 0.
std::optional<std::string> host_of_rank_0(const Environment& environment, Launcher launcher);
/// Where to meet without MASTER_PORT: a port that other jobs on the same machines do not take.
uint16_t port_of_job(const Environment& environment, Launcher launcher);
/// The job, where its launcher may start the ranks again after they have ended (torchrun
/// --max-restarts), and whether it has; else nothing.
struct RepeatedJob {
  std::string name;
  bool again = false;
};
std::optional<RepeatedJob> repeated_job(const Environment& environment, Launcher launcher);
/// Tells this attempt of this job apart from all others, as far as the launcher does.
std::string attempt_of_job(const Environment& environment, Launcher launcher);

// From our own launcher to its ranks, besides torchrun's names.
inline constexpr const char* kOwnLauncherVariable = "BASIN_LAUNCHER_PID";

}  // namespace basin
