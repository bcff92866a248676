// This process's place among the ranks, from the plain variables of torchrun (RANK, WORLD_SIZE,
// ...), which our own launcher sets too.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "train/comm.h"

namespace basin {

/// This process's place among the ranks.
struct Placement {
  Rendezvous rendezvous;
  int64_t local_rank = 0, local_size = 1;
};

/// From RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; a single
/// process without them. Throws std::invalid_argument for values that contradict each other.
Placement find_placement();

/// Connects to the other ranks.
std::unique_ptr<Comm> make_comm(const Placement& placement);

/// Whether this process was started as a rank by someone, so that --nproc must not start more.
bool is_rank();

/// Threads that this process should use: BASIN_THREADS, else the cores it may run on divided by the
/// ranks on this machine. OMP_NUM_THREADS is not asked: torchrun sets it to 1.
int threads_per_rank();

/// The one line of `main` for a failure: "error: [rank r] ..." to stderr, or to the launcher, which
/// prints it last. `secondary`: the failure follows from another rank's.
void print_error(const std::string& message, bool secondary);

// Between our launcher and its ranks, besides torchrun's names.
inline constexpr const char* kErrorFdVariable = "BASIN_ERROR_FD";  // where a rank's last words go
inline constexpr const char* kStoreFdVariable =
    "BASIN_STORE_FD";  // rank 0's bound socket: no race for a port
inline constexpr const char* kLauncherVariable = "BASIN_LAUNCHER_PID";

}  // namespace basin
