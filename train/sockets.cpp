#include "train/sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <thread>

#include "configs/clock.h"
#include "configs/file_descriptor.h"
#include "configs/log.h"

namespace basin {
namespace {

constexpr int kBacklog = 4096;                // the system lowers it to what it allows
constexpr std::chrono::seconds kPatience{5};  // before a word to the user
constexpr std::chrono::milliseconds kRetry{100};

FileDescriptor open_socket(int family, int flags = 0) {
  return FileDescriptor(socket(family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
}

/// Why one address does not answer before `deadline`; empty: it does.
std::string try_connect(const addrinfo& address, Clock::time_point deadline) {
  const FileDescriptor socket = open_socket(address.ai_family, SOCK_NONBLOCK);
  if (connect(socket.get(), address.ai_addr, address.ai_addrlen) == 0) return "";
  if (errno != EINPROGRESS) return std::strerror(errno);
  pollfd wait{.fd = socket.get(), .events = POLLOUT, .revents = 0};
  const auto left =
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  if (poll(&wait, 1, static_cast<int>(std::max<int64_t>(left, 0))) <= 0)
    return "no answer (a wrong address, a machine that is down, or a firewall)";
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  return error == 0 ? "" : std::strerror(error);
}

/// The same for all addresses of a host.
std::string try_connect(const std::string& host, uint16_t port, Clock::time_point deadline) {
  addrinfo hints{}, *list = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list);
      error != 0)
    return gai_strerror(error);
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(list, freeaddrinfo);
  std::string reason = "no address";
  for (const addrinfo* address = list; address; address = address->ai_next) {
    // A host's first address may be one that drops what comes; the others want their turn.
    const auto turn = address->ai_next ? std::min(deadline, Clock::now() + kPatience) : deadline;
    reason = try_connect(*address, turn);
    if (reason.empty()) return reason;
  }
  return reason;
}

}  // namespace

int listen_on(uint16_t port) {
  FileDescriptor both = open_socket(AF_INET6);  // takes IPv4 as well
  FileDescriptor v4 = open_socket(AF_INET);
  sockaddr_in6 any6{};
  any6.sin6_family = AF_INET6;
  any6.sin6_port = htons(port);
  sockaddr_in any4{};
  any4.sin_family = AF_INET;
  any4.sin_port = htons(port);
  const auto listens = [](const FileDescriptor& socket, const auto& address) {
    const int yes = 1, no = 0;  // a port whose last connections are still winding up is free
    setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
    return bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0 &&
           listen(socket.get(), kBacklog) == 0;
  };
  if (both.is_open() && listens(both, any6)) return both.release();
  if (errno != EADDRINUSE && listens(v4, any4)) return v4.release();
  throw std::runtime_error(
      fmt::format("the ranks cannot meet at port {}: {}; give this run a port of its own with "
                  "MASTER_PORT",
                  port,
                  std::strerror(errno)));
}

std::pair<int, uint16_t> listen_on_free_port() {
  FileDescriptor socket = open_socket(AF_INET);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* const any = reinterpret_cast<sockaddr*>(&address);
  if (bind(socket.get(), any, size) != 0 || listen(socket.get(), kBacklog) != 0 ||
      getsockname(socket.get(), any, &size) != 0) {
    throw std::system_error(
        errno, std::generic_category(), "opening a port for the ranks to meet at");
  }
  return {socket.release(), ntohs(address.sin_port)};
}

void await_listener(const std::string& host, uint16_t port, std::chrono::milliseconds timeout) {
  const Clock::time_point began = Clock::now(), deadline = began + timeout;
  bool told = false;
  while (true) {
    const std::string reason = try_connect(host, port, deadline);
    if (reason.empty()) return;
    if (Clock::now() + kRetry >= deadline)
      throw std::runtime_error(
          fmt::format("cannot reach rank 0 at {}:{} within {} s: {}; is rank 0 running there, and "
                      "are MASTER_ADDR and MASTER_PORT right?",
                      host,
                      port,
                      std::chrono::duration<double>(timeout).count(),
                      reason));
    if (!std::exchange(told, told || Clock::now() > began + kPatience) && told)
      log_warn("waiting for rank 0 at {}:{}: {}", host, port, reason);
    std::this_thread::sleep_for(kRetry);
  }
}

}  // namespace basin
