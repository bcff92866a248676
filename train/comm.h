// What ranks say to each other: a thin interface over c10d's backends, which appear in comm.cpp
// only. Every rank starts the same collectives in the same order; tensors are contiguous, on the
// CPU or on the rank's device.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "train/key_store.h"

namespace basin {

/// Another rank is gone or does not answer. The process can only end: communication does not
/// recover.
struct CommError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Comm {
 public:
  /// A collective under way. Its tensors may not be touched before wait() has returned.
  class Pending {
   public:
    virtual ~Pending() = default;
    virtual void wait() = 0;
  };

  virtual ~Comm() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;

  /// Sum over ranks, in place, the same bits on each.
  virtual std::unique_ptr<Pending> start_all_reduce_sum(const at::Tensor& tensor) = 0;
  /// Rank r's part r of the sum over ranks of `from` (size() * n) into `to` (n), which may lie at
  /// its place in `from`; the rest of `from` is lost.
  virtual std::unique_ptr<Pending> start_reduce_scatter_sum(const at::Tensor& from,
                                                            const at::Tensor& to) = 0;
  /// `from` (n) of rank r into part r of `to` (size() * n); `from` may lie at its place in `to`.
  virtual std::unique_ptr<Pending> start_all_gather(const at::Tensor& from,
                                                    const at::Tensor& to) = 0;
  virtual void broadcast(at::Tensor& tensor, int64_t root) = 0;
  virtual void barrier() = 0;
  /// How ranks add up, which the bits of a sum depend on besides their number: "gloo", "nccl on 2
  /// nodes", ...; empty for a process on its own.
  virtual std::string method() const { return ""; }
  /// Whether wait() leaves the waiting for what lies on a GPU to the GPU, as NCCL does. The host
  /// then learns nothing of it, and would hang in the next number that it reads from there.
  virtual bool waits_on_device() const { return false; }
  /// Time that this process has spent waiting for collectives to end, on the host.
  virtual double waited_s() const { return 0; }

  bool is_root() const { return rank() == 0; }
  void all_reduce_sum(at::Tensor& tensor) { start_all_reduce_sum(tensor)->wait(); }
  /// Rank 0's value, on every rank.
  int64_t broadcast(int64_t value);
  /// Every rank's row (n), fp64 on the CPU, as (size(), n), on every rank.
  at::Tensor all_gather_rows(const at::Tensor& row);
  /// Every rank's text, on every rank.
  std::vector<std::string> all_gather_text(const std::string& text);
};

/// A process on its own.
std::unique_ptr<Comm> make_single_comm();

/// Where the ranks meet.
struct Rendezvous {
  int64_t rank = 0, size = 1;
  std::string host = "127.0.0.1";
  uint16_t port = 29500;
  bool serve = false;           // this rank runs the store that the others connect to
  int listening_fd = -1;        // bound socket to serve on, from our own launcher; -1: bind `port`
  int64_t nodes = 1;            // machines; 1: talk over the loopback device only
  std::string attempt = "0";    // tells apart groups that meet in one store
  std::string file{};           // meet in this file instead of at host and port; empty: no
  std::string group = "world";  // tells apart groups of one store and attempt
  std::optional<int> nccl_device{};  // index of the GPU on which this rank uses NCCL
  std::chrono::milliseconds meeting_timeout{5 * 60'000};      // for the others to come
  std::chrono::milliseconds collective_timeout{10 * 60'000};  // for one operation of the group
};

/// The store at that place, served by this process if it is to. Throws CommError when it cannot be
/// reached within meeting_timeout.
std::unique_ptr<KeyStore> open_store(const Rendezvous& rendezvous);

/// Gloo between processes that met in `store`, one of open_store, and NCCL between their GPUs where
/// nccl_device says so. Blocks until all ranks are there. Throws CommError otherwise,
/// std::runtime_error where this build has no NCCL.
std::unique_ptr<Comm> make_group_comm(const Rendezvous& rendezvous, KeyStore& store);
/// The same in a store of its own.
std::unique_ptr<Comm> make_group_comm(const Rendezvous& rendezvous);

}  // namespace basin
