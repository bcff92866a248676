// The log: spdlog to stderr, one pattern for all rooms; results never go here. Whether what is said
// arrives (full disk, closed pipe, a terminal that is gone) is nobody's business: the work goes on.
#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <string_view>
#include <utility>

namespace basin {

enum class LogLevel { info, warning, error };

/// One line of `text`.
void log_line(LogLevel level, std::string_view text);

// Formatting stays in fmt's library: spdlog's own functions compile it into every file that logs.
template <typename... Args>
void log_info(fmt::format_string<Args...> text, Args&&... args) {
  log_line(LogLevel::info, fmt::format(text, std::forward<Args>(args)...));
}
template <typename... Args>
void log_warn(fmt::format_string<Args...> text, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(text, std::forward<Args>(args)...));
}
template <typename... Args>
void log_error(fmt::format_string<Args...> text, Args&&... args) {
  log_line(LogLevel::error, fmt::format(text, std::forward<Args>(args)...));
}

/// Rank 0 of `size` logs from info up, other ranks from warn up. Where there are several, warnings
/// have their rank in front. Replaces the log set up before.
void set_up_log(int64_t rank, int64_t size);

/// While it lives, errors alone are logged.
class QuietLog {
 public:
  QuietLog();
  QuietLog(const QuietLog&) = delete;
  QuietLog& operator=(const QuietLog&) = delete;
  ~QuietLog();

 private:
  int before_;
};

/// To stderr as it is, in one write, so that processes do not mix within a line; what does not
/// arrive is lost.
void write_stderr(std::string_view text) noexcept;

/// Where a standard stream was closed, the next file that is opened would take its number, and what
/// is said would go into that file. Puts something in its place to which nothing can be written.
void keep_standard_streams() noexcept;

}  // namespace basin
