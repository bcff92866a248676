// Sizes and durations as people write them in run files and on command lines.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace basin {

/// Bytes, at least one: "12", "5GB", "1.5MiB". B, kB (or KB) to TB count in thousands, KiB to TiB
/// in 1024s. Nothing for what is no size.
std::optional<uint64_t> parse_bytes(std::string_view text);

/// Seconds: "45s", "1h30m", "2d"; 0 for "". Nothing for what is no duration.
std::optional<double> parse_duration_s(std::string_view text);

}  // namespace basin
