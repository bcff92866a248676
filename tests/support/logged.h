// What is logged while something runs.
#pragma once

#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <functional>
#include <memory>
#include <sstream>
#include <string>

namespace basin {

/// What `body`, which must not throw, logs. Nothing of it is printed.
inline std::string logged_by(const std::function<void()>& body) {
  std::ostringstream text;
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(std::make_shared<spdlog::logger>(
      "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text)));
  body();
  spdlog::set_default_logger(before);
  return text.str();
}

}  // namespace basin
