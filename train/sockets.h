// The two ends of the port at which ranks meet, opened by hand: the system's reason for a refusal
// reaches the user, and every wait has an end.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace basin {

/// A socket that listens on `port` of all addresses. Throws std::runtime_error naming the port when
/// it is taken.
int listen_on(uint16_t port);

/// A socket that listens on a free port of the loopback device, and the port.
std::pair<int, uint16_t> listen_on_free_port();

/// Returns once somebody listens at host:port. Throws std::runtime_error with the last reason when
/// nobody has within `timeout`.
void await_listener(const std::string& host, uint16_t port, std::chrono::milliseconds timeout);

}  // namespace basin
