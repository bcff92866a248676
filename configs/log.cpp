#include "configs/log.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>

namespace basin {
namespace {

/// "%*" of the pattern: the rank in front of warnings and errors.
class RankOfWarnings : public spdlog::custom_flag_formatter {
 public:
  explicit RankOfWarnings(std::string rank) : rank_(std::move(rank)) {}
  void format(const spdlog::details::log_msg& message,
              const std::tm&,
              spdlog::memory_buf_t& out) override {
    if (message.level >= spdlog::level::warn) out.append(rank_.data(), rank_.data() + rank_.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<RankOfWarnings>(rank_);
  }

 private:
  std::string rank_;
};

spdlog::level::level_enum in_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::info: return spdlog::level::info;
    case LogLevel::warning: return spdlog::level::warn;
    case LogLevel::error: break;
  }
  return spdlog::level::err;
}

}  // namespace

void log_line(LogLevel level, std::string_view text) { spdlog::log(in_spdlog(level), text); }

QuietLog::QuietLog() : before_(spdlog::get_level()) { spdlog::set_level(spdlog::level::err); }

QuietLog::~QuietLog() { spdlog::set_level(static_cast<spdlog::level::level_enum>(before_)); }

void set_up_log(int64_t rank, int64_t size) {
  const char* const no_color = std::getenv("NO_COLOR");  // https://no-color.org
  const auto colors =
      no_color != nullptr && *no_color != '\0' ? spdlog::color_mode::never : spdlog::color_mode::automatic;
  auto logger = std::make_shared<spdlog::logger>(
      "basin", std::make_shared<spdlog::sinks::stderr_color_sink_mt>(colors));
  // On a terminal a log line first wipes the progress line that may stand there.
  const std::string wipe = isatty(STDERR_FILENO) == 1 ? "\r\x1b[K" : "";
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<RankOfWarnings>('*', size == 1 ? "" : fmt::format("[rank {}] ", rank))
      .set_pattern(wipe + "%H:%M:%S %*%^%l%$: %v");
  logger->set_formatter(std::move(formatter));
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void write_stderr(std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t put = write(STDERR_FILENO, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return;
    text.remove_prefix(static_cast<size_t>(put));
  }
}

void keep_standard_streams() noexcept {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDONLY) < 0) return;
}

}  // namespace basin
