// The log: spdlog to stderr, one pattern for all rooms. Libraries log through spdlog::info and
// spdlog::warn; results never go here.
#pragma once

namespace basin {

/// Rank 0 logs from info up, other ranks from warn up with their rank in front. Call once, from
/// `main`.
void set_up_log(int rank);

}  // namespace basin
