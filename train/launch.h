// `--nproc N`: starts N copies of this program as ranks and looks after them.
#pragma once

#include <cstdint>

#include "train/placement.h"

namespace basin {

/// Runs `nproc` copies of this program with this command line less --nproc, passes signals on, and
/// returns their common exit status. The first rank that fails ends all; its error is printed last.
int launch_ranks(int64_t nproc);

/// Called by a rank: it is asked to stop when our launcher ends, if it has one.
void end_with_launcher();

}  // namespace basin
