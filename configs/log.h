// The log: spdlog to stderr, one pattern for all rooms. Libraries log through spdlog::info and
// spdlog::warn; results never go here.
#pragma once

#include <cstdint>

namespace basin {

/// Rank 0 of `size` logs from info up, other ranks from warn up. Where there are several, warnings
/// have their rank in front. Replaces the log set up before.
void set_up_log(int64_t rank, int64_t size);

}  // namespace basin
