#include "configs/log.h"

#include <fmt/core.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <memory>
#include <string>

namespace basin {

void set_up_log(int rank) {
  auto logger = std::make_shared<spdlog::logger>(
      "basin", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  // On a terminal a log line first wipes the progress line that may stand there.
  const std::string wipe = isatty(STDERR_FILENO) == 1 ? "\r\x1b[K" : "";
  const std::string who = rank == 0 ? "" : fmt::format("[rank {}] ", rank);
  logger->set_pattern(wipe + "%H:%M:%S " + who + "%^%l%$: %v");
  logger->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace basin
