// Ports of this machine alone, for tests in which processes meet.
#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

namespace basin {

/// A bound socket of the loopback device.
class LoopbackPort {
 public:
  explicit LoopbackPort(int backlog) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(fd_, any, size), 0);
    EXPECT_EQ(getsockname(fd_, any, &size), 0);
    if (backlog >= 0) {
      EXPECT_EQ(listen(fd_, backlog), 0);
    }
    port_ = ntohs(address.sin_port);
  }
  ~LoopbackPort() {
    close(fd_);
    for (const int client : clients_) close(client);
  }
  LoopbackPort(const LoopbackPort&) = delete;
  LoopbackPort& operator=(const LoopbackPort&) = delete;
  uint16_t port() const { return port_; }

  /// Fills the queue of connections: whoever comes next gets no answer at all.
  void swallow() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port_);
    for (int i = 0; i < 8; ++i) {
      clients_.push_back(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
      (void)!connect(clients_.back(), reinterpret_cast<sockaddr*>(&address), sizeof(address));
    }
  }

 private:
  int fd_;
  uint16_t port_ = 0;
  std::vector<int> clients_;
};

/// A port that nobody uses at the moment.
inline uint16_t unused_port() {
  return LoopbackPort(-1).port();
}

}  // namespace basin
