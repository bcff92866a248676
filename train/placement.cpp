#include "train/placement.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <thread>

namespace basin {
namespace {

std::optional<int64_t> find_integer(const char* name) {
  const char* text = std::getenv(name);
  if (!text || !*text) return std::nullopt;
  int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stop != end)
    throw std::invalid_argument(
        fmt::format("environment variable {}={}: not a whole number", name, text));
  return value;
}

int64_t require_integer(const char* name, const char* because) {
  if (const auto value = find_integer(name)) return *value;
  throw std::invalid_argument(fmt::format(
      "{} is set in the environment but {} is not: set both, or neither for a single process",
      because,
      name));
}

}  // namespace

bool is_rank() {
  return std::getenv("RANK") != nullptr || std::getenv("WORLD_SIZE") != nullptr;
}

Placement find_placement() {
  Placement placement;
  if (!is_rank()) return placement;
  if (find_integer(kLauncherVariable)) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // no rank outlives its launcher
    if (getppid() != *find_integer(kLauncherVariable)) raise(SIGTERM);
  }
  Rendezvous& r = placement.rendezvous;
  r.rank = require_integer("RANK", "WORLD_SIZE");
  r.size = require_integer("WORLD_SIZE", "RANK");
  placement.local_rank = find_integer("LOCAL_RANK").value_or(r.size == 1 ? 0 : r.rank);
  placement.local_size = find_integer("LOCAL_WORLD_SIZE").value_or(r.size);
  if (r.size < 1 || r.rank < 0 || r.rank >= r.size)
    throw std::invalid_argument(
        fmt::format("RANK={} does not lie in 0..WORLD_SIZE-1, WORLD_SIZE={}", r.rank, r.size));
  if (placement.local_rank < 0 || placement.local_rank >= placement.local_size ||
      placement.local_size > r.size) {
    throw std::invalid_argument(
        fmt::format("LOCAL_RANK={}, LOCAL_WORLD_SIZE={} and WORLD_SIZE={} contradict each other",
                    placement.local_rank,
                    placement.local_size,
                    r.size));
  }
  if (r.size == 1) return placement;
  if (const char* host = std::getenv("MASTER_ADDR")) r.host = host;
  r.port = static_cast<uint16_t>(find_integer("MASTER_PORT").value_or(r.port));
  const char* agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
  r.serve = r.rank == 0 &&
            !(agent && std::string(agent) == "True");  // torchrun's agent serves the store itself
  r.listening_fd = static_cast<int>(find_integer(kStoreFdVariable).value_or(-1));
  r.single_node = placement.local_size == r.size;
  const char* id = std::getenv("TORCHELASTIC_RUN_ID");
  r.attempt =
      fmt::format("{}/{}", id ? id : "0", find_integer("TORCHELASTIC_RESTART_COUNT").value_or(0));
  return placement;
}

std::unique_ptr<Comm> make_comm(const Placement& placement) {
  return placement.rendezvous.size == 1 ? make_single_comm() : make_gloo_comm(placement.rendezvous);
}

int threads_per_rank() {
  if (const auto threads = find_integer("BASIN_THREADS")) {
    if (*threads < 1 || *threads > 4096)
      throw std::invalid_argument(fmt::format("BASIN_THREADS={}: expected 1..4096", *threads));
    return static_cast<int>(*threads);
  }
  cpu_set_t cores;
  const int64_t available = sched_getaffinity(0, sizeof(cores), &cores) == 0
                                ? CPU_COUNT(&cores)
                                : std::thread::hardware_concurrency();
  const int64_t ranks = std::max<int64_t>(
      1, find_integer("LOCAL_WORLD_SIZE").value_or(find_integer("WORLD_SIZE").value_or(1)));
  return static_cast<int>(std::max<int64_t>(1, available / ranks));
}

void print_error(const std::string& message, bool secondary) {
  const char* rank = std::getenv("RANK");
  const std::string line = rank ? fmt::format("error: [rank {}] {}\n", rank, message)
                                : fmt::format("error: {}\n", message);
  const char* fd = std::getenv(kErrorFdVariable);
  const std::string tagged = (secondary ? '2' : '1') + line;
  if (!fd || write(std::atoi(fd), tagged.data(), tagged.size()) < 0) fmt::print(stderr, "{}", line);
}

}  // namespace basin
