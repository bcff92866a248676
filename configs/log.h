// The log: spdlog to stderr, one pattern for all rooms. Libraries log through spdlog::info and
// spdlog::warn; results never go here. Whether what is said arrives (full disk, closed pipe, a
// terminal that is gone) is nobody's business: the work goes on.
#pragma once

#include <cstdint>
#include <string_view>

namespace basin {

/// Rank 0 of `size` logs from info up, other ranks from warn up. Where there are several, warnings
/// have their rank in front. Replaces the log set up before.
void set_up_log(int64_t rank, int64_t size);

/// To stderr as it is, in one write, so that processes do not mix within a line; what does not
/// arrive is lost.
void write_stderr(std::string_view text) noexcept;

/// Where a standard stream was closed, the next file that is opened would take its number, and what
/// is said would go into that file. Puts something in its place to which nothing can be written.
void keep_standard_streams() noexcept;

}  // namespace basin
