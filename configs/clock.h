// Elapsed time.
#pragma once

#include <chrono>

namespace basin {

using Clock = std::chrono::steady_clock;

/// When the program was loaded.
inline const Clock::time_point kProcessStart = Clock::now();

inline double seconds_since(Clock::time_point began) {
  return std::chrono::duration<double>(Clock::now() - began).count();
}

}  // namespace basin
