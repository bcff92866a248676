// Collectives between several machines with several ranks each, for a backend that takes all links
// for equal (Gloo): large sums are reduced inside a machine first, then between machines, each rank
// with a part of its own, then handed round inside again. Between two machines of two ranks a ring
// over all carries 1.5 times the buffer, this once (2 (n - 1) / n of a part on each of its links).
#pragma once

#include <memory>

#include "train/comm.h"

namespace basin {

/// `world`: all ranks, those of a machine in a row and as many on each. `inside`: those of this
/// rank's machine, in the same order. `across`: those that have this rank's place on their
/// machines.
std::unique_ptr<Comm> make_two_level_comm(std::unique_ptr<Comm> world,
                                          std::unique_ptr<Comm> inside,
                                          std::unique_ptr<Comm> across);

}  // namespace basin
