// This process's place among the ranks and where they meet, from whatever launcher started it.
#pragma once

#include <cstdint>
#include <string>

#include "train/comm.h"
#include "train/environment.h"
#include "train/launchers.h"
#include "train/machine_limits.h"

namespace basin {

/// This process's place among the ranks.
struct Placement {
  Launcher launcher = Launcher::kNone;
  Rendezvous rendezvous;
  int64_t local_rank = 0;  // on this machine; -1: to be found out when the ranks meet
  int64_t local_size = 1;  // ranks on this machine; 0: to be found out likewise
};

/// What the command line says about it.
struct PlacementOptions {
  std::string launcher{};         // one of launcher_words(); empty: detect
  std::string rendezvous_file{};  // meet in this file of a shared file system; empty: at an address
};

/// The launcher's variables, made one. Throws std::invalid_argument for variables that contradict
/// each other, and when several machines have no address to meet at.
Placement find_placement(const Environment& environment, const PlacementOptions& options = {});

/// The same for what can do without: a single process where find_placement throws.
Placement guess_placement(const Environment& environment);

/// Threads that a process should use: BASIN_THREADS, else OMP_NUM_THREADS (but torchrun's own 1),
/// else the cores it may run on divided by the `sharers` that may run on the same ones.
int threads_per_rank(const Environment& environment,
                     int64_t sharers,
                     double cpus = available_cpus());

// From our own launcher to its ranks.
inline constexpr const char* kErrorFdVariable = "BASIN_ERROR_FD";  // where a rank's last words go
inline constexpr const char* kStoreFdVariable =
    "BASIN_STORE_FD";  // rank 0's bound socket: no race for a port

}  // namespace basin
