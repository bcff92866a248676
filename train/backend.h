// How ranks talk, decided from what each of them says of its device: all decide the same.
#pragma once

#include <string>
#include <vector>

#include "train/config.h"

namespace basin {

/// What a rank says of its device.
struct RankDevice {
  std::string machine;  // as RankInfo has it
  std::string gpu;      // its UUID; empty: the rank computes on the CPU
};

struct Backend {
  bool nccl = false;  // else Gloo
  std::string why{};  // not NCCL, although there are GPUs and nobody asked for Gloo
};

/// Auto is NCCL where each of the `ranks` has a GPU of its own. Throws std::invalid_argument,
/// naming ranks, when some compute on CPUs and some on GPUs, or when what was asked for cannot be.
Backend choose_backend(CommBackend asked, const std::vector<RankDevice>& ranks);

}  // namespace basin
