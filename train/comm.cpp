#include "train/comm.h"

#include <ATen/ops/scalar_tensor.h>
#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace basin {
namespace {

constexpr std::chrono::minutes kMeetingTimeout{5};
constexpr std::chrono::minutes kCollectiveTimeout{
    30};  // rank 0 may be writing a large checkpoint meanwhile

class SingleComm : public Comm {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void all_reduce_sum(at::Tensor&) override {}
  void broadcast(at::Tensor&, int64_t) override {}
  void barrier() override {}
};

/// Runs `body`; whatever it throws becomes a CommError that says what this rank was doing.
template <class Body>
void communicate(int64_t rank, const char* what, Body&& body) {
  try {
    body();
  } catch (const c10::Error& error) {
    throw CommError(
        fmt::format("{} failed on rank {}, another rank has ended or does not answer: {}",
                    what,
                    rank,
                    error.what_without_backtrace()));
  } catch (const std::exception& error) {
    throw CommError(
        fmt::format("{} failed on rank {}, another rank has ended or does not answer: {}",
                    what,
                    rank,
                    error.what()));
  }
}

class GlooComm : public Comm {
 public:
  explicit GlooComm(c10::intrusive_ptr<c10d::ProcessGroupGloo> group) : group_(std::move(group)) {}
  /// A group with a dead peer is left to the end of the process: its destructor may wait for that
  /// peer.
  ~GlooComm() override {
    if (broken_) group_.release();
  }
  int64_t rank() const override { return group_->getRank(); }
  int64_t size() const override { return group_->getSize(); }

  void all_reduce_sum(at::Tensor& tensor) override {
    on_host(tensor, "all-reduce", [&](std::vector<at::Tensor>& host) {
      return group_->allreduce(host, c10d::AllreduceOptions());
    });
  }
  void broadcast(at::Tensor& tensor, int64_t root) override {
    c10d::BroadcastOptions options;
    options.rootRank = root;
    on_host(tensor, "broadcast", [&](std::vector<at::Tensor>& host) {
      return group_->broadcast(host, options);
    });
  }
  void barrier() override {
    wait("barrier", [&] { return group_->barrier(); });
  }

 private:
  /// Gloo works on host memory: a tensor elsewhere is copied there and back.
  template <class Collective>
  void on_host(at::Tensor& tensor, const char* what, Collective&& collective) {
    std::vector<at::Tensor> host = {tensor.is_cpu() ? tensor : tensor.cpu()};
    wait(what, [&] { return collective(host); });
    if (!tensor.is_cpu()) tensor.copy_(host[0]);
  }

  template <class Collective>
  void wait(const char* what, Collective&& collective) {
    broken_ = true;
    communicate(rank(), what, [&] { collective()->wait(); });
    broken_ = false;
  }

  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  bool broken_ = false;  // a collective has begun and not ended well
};

std::shared_ptr<gloo::transport::Device> network_device(bool single_node) {
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  if (interface && *interface) return c10d::ProcessGroupGloo::createDeviceForInterface(interface);
  return single_node ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                     : c10d::ProcessGroupGloo::createDefaultDevice();
}

}  // namespace

int64_t Comm::broadcast(int64_t value) {
  at::Tensor tensor = at::scalar_tensor(value, at::kLong);
  broadcast(tensor, 0);
  return tensor.item<int64_t>();
}

std::unique_ptr<Comm> make_single_comm() {
  return std::make_unique<SingleComm>();
}

std::unique_ptr<Comm> make_gloo_comm(const Rendezvous& rendezvous) {
  std::signal(SIGPIPE, SIG_IGN);  // a dead peer is an error to report, not the end
  std::unique_ptr<Comm> comm;
  const std::string where =
      fmt::format("meeting the other ranks at {}:{}", rendezvous.host, rendezvous.port);
  communicate(rendezvous.rank, where.c_str(), [&] {
    c10d::TCPStoreOptions options;
    options.port = rendezvous.port;
    options.isServer = rendezvous.serve;
    options.timeout = kMeetingTimeout;
    options.waitWorkers = false;  // the group's own handshake waits for everybody
    if (rendezvous.listening_fd >= 0) options.masterListenFd = rendezvous.listening_fd;
    c10::intrusive_ptr<c10d::Store> store =
        c10::make_intrusive<c10d::TCPStore>(rendezvous.host, options);
    store = c10::make_intrusive<c10d::PrefixStore>("basin/" + rendezvous.attempt, store);
    auto gloo = c10d::ProcessGroupGloo::Options::create(kCollectiveTimeout);
    gloo->devices.push_back(network_device(rendezvous.single_node));
    comm = std::make_unique<GlooComm>(c10::make_intrusive<c10d::ProcessGroupGloo>(
        store, static_cast<int>(rendezvous.rank), static_cast<int>(rendezvous.size), gloo));
  });
  return comm;
}

}  // namespace basin
