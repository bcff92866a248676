// What ranks say to each other: a thin interface over c10d's backends, which appear in comm.cpp
// only. Every rank calls the same functions in the same order; tensors are contiguous, in place, on
// the CPU or on the rank's device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace basin {

/// Another rank is gone or does not answer. The process can only end: communication does not
/// recover.
struct CommError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  /// Sum over ranks, the same bits on each.
  virtual void all_reduce_sum(at::Tensor& tensor) = 0;
  virtual void broadcast(at::Tensor& tensor, int64_t root) = 0;
  virtual void barrier() = 0;

  bool is_root() const { return rank() == 0; }
  /// Rank 0's value, on every rank.
  int64_t broadcast(int64_t value);
};

/// A process on its own.
std::unique_ptr<Comm> make_single_comm();

/// Where the ranks meet.
struct Rendezvous {
  int64_t rank = 0, size = 1;
  std::string host = "127.0.0.1";
  uint16_t port = 29500;
  bool serve = false;       // this rank runs the store that the others connect to
  int listening_fd = -1;    // bound socket to serve on, from our own launcher; -1: bind `port`
  bool single_node = true;  // talk over the loopback device only
  std::string attempt = "0";      // tells apart groups that meet in one store
};

/// Gloo between processes. Blocks until all ranks are there (5 minutes at most); throws CommError
/// otherwise.
std::unique_ptr<Comm> make_gloo_comm(const Rendezvous& rendezvous);

}  // namespace basin
