// What the system is told about parts of a mapping (configs/files.h): hints, which never fail.
#pragma once

#include <cstddef>
#include <span>

namespace basin {

/// Reads these bytes and maps their pages; returns when they are there.
void fetch_pages(std::span<const std::byte> bytes);

/// Begins to read these bytes, which will be needed soon; does not wait.
void begin_to_fetch(std::span<const std::byte> bytes);

/// These bytes are not needed any more: their pages leave the process's memory. Reading them again
/// is allowed, and takes them from the file again.
void drop_pages(std::span<const std::byte> bytes);

}  // namespace basin
