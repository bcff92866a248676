#include "train/launchers.h"

#include <fmt/format.h>

#include <array>
#include <stdexcept>

#include "configs/files.h"
#include "train/slurm.h"

namespace basin {
namespace {

/// The variables in which a launcher names a process's place.
struct Names {
  Launcher launcher;
  const char *word, *name, *rank, *size, *local_rank, *local_size;
};

// Nearest to the process first: `mpirun` starts its daemons with `srun` where there is Slurm, so
// its processes carry the variables of both.
constexpr std::array kNames = {
    Names{Launcher::kOwn, "", "--nproc", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    Names{Launcher::kTorchrun,
          "torchrun",
          "torchrun",
          "RANK",
          "WORLD_SIZE",
          "LOCAL_RANK",
          "LOCAL_WORLD_SIZE"},
    Names{Launcher::kVariables,
          "variables",
          "variables",
          "RANK",
          "WORLD_SIZE",
          "LOCAL_RANK",
          "LOCAL_WORLD_SIZE"},
    Names{Launcher::kOpenMpi,
          "openmpi",
          "Open MPI",
          "OMPI_COMM_WORLD_RANK",
          "OMPI_COMM_WORLD_SIZE",
          "OMPI_COMM_WORLD_LOCAL_RANK",
          "OMPI_COMM_WORLD_LOCAL_SIZE"},
    Names{Launcher::kMvapich2,
          "mvapich2",
          "MVAPICH2",
          "MV2_COMM_WORLD_RANK",
          "MV2_COMM_WORLD_SIZE",
          "MV2_COMM_WORLD_LOCAL_RANK",
          "MV2_COMM_WORLD_LOCAL_SIZE"},
    Names{Launcher::kHydra,
          "mpich",
          "MPICH/Intel MPI",
          "PMI_RANK",
          "PMI_SIZE",
          "MPI_LOCALRANKID",
          "MPI_LOCALNRANKS"},
    Names{Launcher::kSlurm,
          "slurm",
          "Slurm",
          "SLURM_PROCID",
          "SLURM_STEP_NUM_TASKS",
          "SLURM_LOCALID",
          "SLURM_STEP_TASKS_PER_NODE"},
};

const Names& names_of(Launcher launcher) {
  for (const Names& names : kNames)
    if (names.launcher == launcher) return names;
  throw std::logic_error("this launcher has no variables");
}

/// The name of the variable with the number of Slurm's tasks.
std::string slurm_size_name(const Environment& environment) {
  return environment.text("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
}

std::string size_name(const Environment& environment, const Names& names) {
  return names.launcher == Launcher::kSlurm ? slurm_size_name(environment) : names.size;
}

/// Whether srun started this process as one of several. The shell of an allocation has SLURM_PROCID
/// and SLURM_NTASKS too, but runs in no step, or in one of the reserved ones (slurm/slurm.h: batch,
/// interactive and extern are 0xfffffffb, 0xfffffffa and 0xfffffffc).
bool is_slurm_task(const Environment& environment) {
  const auto step = environment.integer("SLURM_STEP_ID");
  return environment.text("SLURM_PROCID") && step && *step < 0xfffffff0 &&
         environment.integer(slurm_size_name(environment)).value_or(1) > 1;
}

bool is_complete(const Environment& environment, const Names& names) {
  if (names.launcher == Launcher::kSlurm) return is_slurm_task(environment);
  const bool rank = environment.text(names.rank).has_value(),
             size = environment.text(names.size).has_value();
  if (rank != size)
    throw std::invalid_argument(
        fmt::format("{} is set in the environment but {} is not: set both, or neither for a single "
                    "process (--launcher none ignores them)",
                    rank ? names.rank : names.size,
                    rank ? names.size : names.rank));
  // srun --mpi=pmi2 sets Hydra's names as well, except for those of the machine.
  const bool by_slurm = names.launcher == Launcher::kHydra && is_slurm_task(environment) &&
                        !environment.text(names.local_rank);
  return rank && !by_slurm;
}

/// RANK and WORLD_SIZE set by hand must mean what the launcher below says.
void check_against_launchers(const Environment& environment) {
  const Names& ours = names_of(Launcher::kVariables);
  for (const Names& theirs : kNames) {
    if (theirs.rank == std::string_view(ours.rank) || !is_complete(environment, theirs)) continue;
    const std::string their_size = size_name(environment, theirs);
    for (const auto& [a, b] :
         {std::pair<std::string, std::string>{ours.rank, theirs.rank}, {ours.size, their_size}}) {
      if (environment.integer(a) != environment.integer(b))
        throw std::invalid_argument(
            fmt::format("{}={} and {}={} contradict each other: {} started this process, leave out "
                        "{} and {}, or say whom to believe with --launcher variables or "
                        "--launcher {}",
                        a,
                        *environment.text(a),
                        b,
                        *environment.text(b),
                        theirs.name,
                        ours.rank,
                        ours.size,
                        theirs.word));
    }
  }
}

std::optional<int64_t> local_size_of(const Environment& environment, const Names& names) {
  if (names.launcher != Launcher::kSlurm) return environment.integer(names.local_size);
  for (const char* name : {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"}) {
    const auto list = environment.text(name);
    const auto node = environment.integer("SLURM_NODEID");
    if (!list || !node) continue;
    const std::vector<int64_t> tasks = tasks_per_node(*list);
    if (*node < 0 || *node >= std::ssize(tasks))
      throw std::invalid_argument(fmt::format(
          "SLURM_NODEID={} is not one of the {} nodes of {}={}", *node, tasks.size(), name, *list));
    return tasks[static_cast<size_t>(*node)];
  }
  return std::nullopt;
}

}  // namespace

std::string_view launcher_name(Launcher launcher) {
  return launcher == Launcher::kNone ? "single process" : names_of(launcher).name;
}

std::vector<std::string> launcher_words() {
  std::vector<std::string> out = {"none"};
  for (const Names& names : kNames)
    if (*names.word) out.push_back(names.word);
  return out;
}

Launcher launcher_from_word(const std::string& word) {
  if (word == "none") return Launcher::kNone;
  for (const Names& names : kNames)
    if (*names.word && word == names.word) return names.launcher;
  throw std::invalid_argument(fmt::format("unknown launcher {}", word));
}

Launcher detect_launcher(const Environment& environment) {
  if (environment.text(kOwnLauncherVariable)) return Launcher::kOwn;
  for (const Names& names : kNames) {
    if (names.launcher == Launcher::kOwn || !is_complete(environment, names)) continue;
    if (names.launcher == Launcher::kTorchrun && !environment.text("TORCHELASTIC_RUN_ID")) continue;
    if (names.launcher == Launcher::kVariables) check_against_launchers(environment);
    return names.launcher;
  }
  return Launcher::kNone;
}

Seat seat_of(const Environment& environment, Launcher launcher) {
  if (launcher == Launcher::kNone) return {.local_rank = 0, .local_size = 1};
  const Names& names = names_of(launcher);
  const std::string size = size_name(environment, names);
  const auto require = [&](const std::string& name) {
    if (const auto value = environment.integer(name)) return *value;
    throw std::invalid_argument(
        fmt::format("{} is not set: did {} start this process?", name, launcher_name(launcher)));
  };
  const Seat seat{require(names.rank),
                  require(size),
                  environment.integer(names.local_rank),
                  local_size_of(environment, names)};
  if (seat.size < 1 || seat.rank < 0 || seat.rank >= seat.size)
    throw std::invalid_argument(fmt::format(
        "{1}={2} does not lie in 0..{0}-1, {0}={3}", size, names.rank, seat.rank, seat.size));
  const int64_t local_size = seat.local_size.value_or(seat.size),
                local_rank = seat.local_rank.value_or(0);
  if (local_size < 1 || local_size > seat.size || local_rank < 0 || local_rank >= local_size)
    throw std::invalid_argument(fmt::format("{}={}, {}={} and {}={} contradict each other",
                                            names.local_rank,
                                            local_rank,
                                            names.local_size,
                                            local_size,
                                            size,
                                            seat.size));
  return seat;
}

std::optional<std::string> host_of_rank_0(const Environment& environment, Launcher launcher) {
  if (launcher != Launcher::kSlurm) return std::nullopt;
  for (const char* name : {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"})
    if (const auto nodes = environment.text(name)) return first_host(*nodes);
  return environment.text("SLURM_LAUNCH_NODE_IPADDR");
}

uint16_t port_of_job(const Environment& environment, Launcher launcher) {
  // Below 32768, where Linux begins to hand out ports for outgoing connections.
  const auto port = [](uint64_t number) { return static_cast<uint16_t>(10000 + number % 20000); };
  if (const auto job = environment.integer("SLURM_JOB_ID"); launcher == Launcher::kSlurm && job)
    return port(
        static_cast<uint64_t>(*job * 16 + environment.integer("SLURM_STEP_ID").value_or(0)));
  for (const char* name : {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"})
    if (const auto job = environment.text(name); launcher == Launcher::kOpenMpi && job)
      return port(std::stoull(xxh3_hex(*job), nullptr, 16));
  return 29500;  // torchrun's default
}

std::optional<RepeatedJob> repeated_job(const Environment& environment, Launcher launcher) {
  if (launcher != Launcher::kTorchrun) return std::nullopt;
  return RepeatedJob{environment.text("TORCHELASTIC_RUN_ID").value_or(""),
                     environment.integer("TORCHELASTIC_RESTART_COUNT").value_or(0) > 0};
}

std::string attempt_of_job(const Environment& environment, Launcher launcher) {
  const auto joined = [&](const char* a, const char* b, const char* c) {
    return fmt::format("{}/{}/{}",
                       environment.text(a).value_or("0"),
                       environment.text(b).value_or("0"),
                       environment.text(c).value_or("0"));
  };
  switch (launcher) {
    case Launcher::kTorchrun:
      return joined("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "");
    case Launcher::kSlurm:
      return joined("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT");
    case Launcher::kOpenMpi:
      return joined("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "");
    default:
      return "0";
  }
}

}  // namespace basin
