#include "train/backend.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <stdexcept>
#include <utility>

namespace basin {
namespace {

void refuse_mixture(const std::vector<RankDevice>& ranks) {
  std::vector<size_t> cpus, gpus;
  for (size_t rank = 0; rank < ranks.size(); ++rank)
    (ranks[rank].gpu.empty() ? cpus : gpus).push_back(rank);
  if (cpus.empty() || gpus.empty()) return;
  throw std::invalid_argument(fmt::format(
      "rank {} would compute on the CPU and rank {} on a GPU: ranks need devices of one "
      "kind; set train.device to cpu, or to cuda to hear what is missing",
      fmt::join(cpus, ", "),
      fmt::join(gpus, ", ")));
}

/// "ranks 0 and 2 share a GPU", of the first two that do; empty: each has one of its own.
std::string shared_gpu(const std::vector<RankDevice>& ranks) {
  std::map<std::pair<std::string, std::string>, size_t> owners;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const auto [owner, is_new] = owners.try_emplace({ranks[rank].machine, ranks[rank].gpu}, rank);
    if (!is_new) return fmt::format("ranks {} and {} share a GPU", owner->second, rank);
  }
  return "";
}

}  // namespace

Backend choose_backend(CommBackend asked, const std::vector<RankDevice>& ranks) {
  refuse_mixture(ranks);
  const bool cpus = ranks.front().gpu.empty();
  if (asked == CommBackend::kNccl && cpus)
    throw std::invalid_argument(
        "train.distributed.backend nccl: NCCL connects GPUs, and the ranks compute on CPUs: use "
        "gloo");
  if (asked == CommBackend::kGloo || cpus) return {};
  const std::string shared = shared_gpu(ranks);
  if (asked == CommBackend::kNccl && !shared.empty())
    throw std::invalid_argument(
        fmt::format("train.distributed.backend nccl: {}, and NCCL wants one for each: start fewer "
                    "ranks, or use gloo",
                    shared));
  return {.nccl = shared.empty(), .why = shared};
}

}  // namespace basin
