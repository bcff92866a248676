#include "train/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <stdexcept>

namespace basin {
namespace {

std::string find_host(const Environment& environment, const Placement& placement) {
  if (const auto host = environment.text("MASTER_ADDR")) return *host;
  if (placement.local_size == placement.rendezvous.size) return "127.0.0.1";
  if (const auto host = host_of_rank_0(environment, placement.launcher)) return *host;
  if (placement.launcher == Launcher::kVariables && placement.local_size == 0) return "127.0.0.1";
  throw std::invalid_argument(fmt::format(
      "{} started {} ranks, {} of them on this machine, and nobody says where they meet: give all "
      "of them MASTER_ADDR, the host of rank 0 ({}), or --rdzv-file PATH, a file that does not "
      "exist yet on a file system that they share",
      launcher_name(placement.launcher),
      placement.rendezvous.size,
      placement.local_size == 0 ? "an unknown number" : std::to_string(placement.local_size),
      placement.launcher == Launcher::kHydra     ? "mpiexec -genv MASTER_ADDR HOST"
      : placement.launcher == Launcher::kOpenMpi ? "mpirun -x MASTER_ADDR=HOST"
                                                 : "export MASTER_ADDR=HOST"));
}

uint16_t find_port(const Environment& environment, Launcher launcher) {
  const int64_t port =
      environment.integer("MASTER_PORT").value_or(port_of_job(environment, launcher));
  if (port < 1 || port > 65535)
    throw std::invalid_argument(fmt::format("MASTER_PORT={}: expected 1..65535", port));
  return static_cast<uint16_t>(port);
}

constexpr int64_t kMostThreads = 4096;

/// OMP_NUM_THREADS, of "4" or "4,2" the first; nothing where OpenMP would not take it either, or
/// where it is the 1 that torchrun sets when nobody else has set it.
std::optional<int> openmp_threads(const Environment& environment) {
  const std::string text = environment.text("OMP_NUM_THREADS").value_or("");
  if (text == "1" && environment.text("TORCHELASTIC_RUN_ID")) return std::nullopt;
  int threads = 0;
  std::from_chars(text.data(), text.data() + text.size(), threads);
  return threads < 1 || threads > kMostThreads ? std::nullopt : std::optional(threads);
}

}  // namespace

Placement find_placement(const Environment& environment, const PlacementOptions& options) {
  Placement placement;
  placement.launcher = options.launcher.empty() ? detect_launcher(environment)
                                                : launcher_from_word(options.launcher);
  const Seat seat = seat_of(environment, placement.launcher);
  Rendezvous& r = placement.rendezvous;
  r.rank = seat.rank;
  r.size = seat.size;
  placement.local_rank = seat.local_rank.value_or(r.size == 1 ? 0 : -1);
  placement.local_size = seat.local_size.value_or(r.size == 1 ? 1 : 0);
  if (r.size == 1) return placement;
  r.attempt = attempt_of_job(environment, placement.launcher);
  r.file = options.rendezvous_file;
  if (!r.file.empty()) return placement;
  r.host = find_host(environment, placement);
  r.port = find_port(environment, placement.launcher);
  // torchrun's agent may serve the store itself.
  r.serve = r.rank == 0 && !(placement.launcher == Launcher::kTorchrun &&
                             environment.text("TORCHELASTIC_USE_AGENT_STORE") == "True");
  if (placement.launcher == Launcher::kOwn)
    r.listening_fd = static_cast<int>(environment.integer(kStoreFdVariable).value_or(-1));
  return placement;
}

Placement guess_placement(const Environment& environment) {
  try {
    return find_placement(environment);
  } catch (const std::invalid_argument&) {
    return {};
  }
}

int threads_per_rank(const Environment& environment, int64_t sharers, double cpus) {
  if (const auto threads = environment.integer("BASIN_THREADS")) {
    if (*threads < 1 || *threads > kMostThreads)
      throw std::invalid_argument(
          fmt::format("BASIN_THREADS={}: expected 1..{}", *threads, kMostThreads));
    return static_cast<int>(*threads);
  }
  if (const auto threads = openmp_threads(environment)) return *threads;
  return static_cast<int>(std::max(1.0, cpus / static_cast<double>(std::max<int64_t>(1, sharers))));
}

}  // namespace basin
