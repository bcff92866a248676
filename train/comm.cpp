#include "train/comm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace basin {
namespace {

struct Done : Comm::Pending {
  void wait() override {}
};

class SingleComm : public Comm {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  std::unique_ptr<Pending> start_all_reduce_sum(const at::Tensor&) override {
    return std::make_unique<Done>();
  }
  std::unique_ptr<Pending> start_reduce_scatter_sum(const at::Tensor& from,
                                                    const at::Tensor& to) override {
    return copy(from, to);
  }
  std::unique_ptr<Pending> start_all_gather(const at::Tensor& from, const at::Tensor& to) override {
    return copy(from, to);
  }
  void broadcast(at::Tensor&, int64_t) override {}
  void barrier() override {}

 private:
  static std::unique_ptr<Pending> copy(const at::Tensor& from, const at::Tensor& to) {
    if (from.data_ptr() != to.data_ptr()) at::Tensor(to).copy_(from);
    return std::make_unique<Done>();
  }
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
  /// A group with a collective that did not end is left to the end of the process: its destructor
  /// would wait for dead peers.
  ~GlooComm() override {
    if (under_way_ != 0) group_.release();
  }
  int64_t rank() const override { return group_->getRank(); }
  int64_t size() const override { return group_->getSize(); }

  std::unique_ptr<Pending> start_all_reduce_sum(const at::Tensor& tensor) override {
    std::vector<at::Tensor> host = {tensor.cpu()};
    return start("all-reduce", host[0], tensor, [&] {
      return group_->allreduce(host, c10d::AllreduceOptions());
    });
  }
  std::unique_ptr<Pending> start_reduce_scatter_sum(const at::Tensor& from,
                                                    const at::Tensor& to) override {
    at::Tensor host_from = from.cpu(), host = on_host(to);
    return start("reduce-scatter", host, to, [&] {
      return group_->_reduce_scatter_base(host, host_from, c10d::ReduceScatterOptions());
    });
  }
  std::unique_ptr<Pending> start_all_gather(const at::Tensor& from, const at::Tensor& to) override {
    at::Tensor host_from = from.cpu(), host = on_host(to);
    return start("all-gather", host, to, [&] {
      return group_->_allgather_base(host, host_from, c10d::AllgatherOptions());
    });
  }
  void broadcast(at::Tensor& tensor, int64_t root) override {
    std::vector<at::Tensor> host = {tensor.cpu()};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    start("broadcast", host[0], tensor, [&] { return group_->broadcast(host, options); })->wait();
  }
  void barrier() override {
    start("barrier", {}, {}, [&] { return group_->barrier(); })->wait();
  }
  double waited_s() const override { return waited_s_; }

 private:
  class Started : public Pending {
   public:
    Started(GlooComm& comm, const char* what, at::Tensor host, at::Tensor target)
        : comm_(comm), what_(what), host_(std::move(host)), target_(std::move(target)) {}
    void wait() override {
      const auto began = std::chrono::steady_clock::now();
      communicate(comm_.rank(), what_, [&] { work->wait(); });
      --comm_.under_way_;
      if (target_.defined() && !target_.is_cpu()) target_.copy_(host_);
      comm_.waited_s_ +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    }
    c10::intrusive_ptr<c10d::Work> work;

   private:
    GlooComm& comm_;
    const char* what_;
    at::Tensor host_, target_;
  };

  /// Gloo works on host memory: a tensor elsewhere has a copy there, which is copied back at the
  /// end.
  static at::Tensor on_host(const at::Tensor& t) {
    return t.is_cpu() ? t : at::empty_like(t, at::kCPU);
  }

  template <class Collective>
  std::unique_ptr<Pending> start(const char* what,
                                 at::Tensor host,
                                 at::Tensor target,
                                 Collective&& collective) {
    auto started = std::make_unique<Started>(*this, what, std::move(host), std::move(target));
    ++under_way_;
    communicate(rank(), what, [&] { started->work = collective(); });
    return started;
  }

  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
  int64_t under_way_ = 0;
  double waited_s_ = 0;
};

/// A store of c10d's.
class C10dStore : public KeyStore {
 public:
  C10dStore(c10::intrusive_ptr<c10d::Store> store, int64_t rank)
      : store_(std::move(store)), rank_(rank) {}
  void set(const std::string& key, const std::string& value) override {
    communicate(rank_, "writing to the store", [&] { store_->set(key, value); });
  }
  std::string get(const std::string& key) override {
    std::string value;
    communicate(rank_, "reading the store", [&] { value = store_->get_to_str(key); });
    return value;
  }
  bool has(const std::vector<std::string>& keys) override {
    bool all = false;
    communicate(rank_, "reading the store", [&] { all = store_->check(keys); });
    return all;
  }
  const c10::intrusive_ptr<c10d::Store>& store() const { return store_; }

 private:
  c10::intrusive_ptr<c10d::Store> store_;
  int64_t rank_;
};

c10::intrusive_ptr<c10d::Store> open_c10d_store(const Rendezvous& rendezvous) {
  if (!rendezvous.file.empty()) {
    const auto store = c10::make_intrusive<c10d::FileStore>(rendezvous.file,
                                                            static_cast<int>(rendezvous.size));
    // Never destroyed: its destructor would make the file anew when another rank has removed it.
    c10::raw::intrusive_ptr::incref(store.get());
    return store;
  }
  c10d::TCPStoreOptions options;
  options.port = rendezvous.port;
  options.isServer = rendezvous.serve;
  options.timeout = rendezvous.meeting_timeout;
  options.waitWorkers = false;  // the group's own handshake waits for everybody
  if (rendezvous.listening_fd >= 0) options.masterListenFd = rendezvous.listening_fd;
  return c10::make_intrusive<c10d::TCPStore>(rendezvous.host, options);
}

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

at::Tensor Comm::all_gather_rows(const at::Tensor& row) {
  at::Tensor rows = at::empty({size(), row.numel()}, at::kDouble);
  start_all_gather(row.to(at::kDouble).contiguous().view({-1}), rows.view({-1}))->wait();
  return rows;
}

std::vector<std::string> Comm::all_gather_text(const std::string& text) {
  const at::Tensor sizes =
      all_gather_rows(at::scalar_tensor(static_cast<double>(text.size()), at::kDouble).view({1}));
  const auto longest = static_cast<int64_t>(sizes.max().item<double>());
  at::Tensor own = at::zeros({longest}, at::kByte), all = at::empty({size() * longest}, at::kByte);
  std::memcpy(own.mutable_data_ptr(), text.data(), text.size());
  start_all_gather(own, all)->wait();
  std::vector<std::string> texts;
  for (int64_t r = 0; r < size(); ++r)
    texts.emplace_back(static_cast<const char*>(all.const_data_ptr()) + r * longest,
                       static_cast<size_t>(sizes[r][0].item<double>()));
  return texts;
}

std::unique_ptr<Comm> make_single_comm() {
  return std::make_unique<SingleComm>();
}

std::unique_ptr<KeyStore> open_store(const Rendezvous& rendezvous) {
  std::signal(SIGPIPE, SIG_IGN);  // a dead peer is an error to report, not the end
  std::unique_ptr<KeyStore> store;
  const std::string where =
      rendezvous.file.empty()
          ? fmt::format("meeting the other ranks at {}:{}", rendezvous.host, rendezvous.port)
          : fmt::format("meeting the other ranks in {}", rendezvous.file);
  communicate(rendezvous.rank, where.c_str(), [&] {
    store = std::make_unique<C10dStore>(
        c10::make_intrusive<c10d::PrefixStore>("basin/" + rendezvous.attempt,
                                               open_c10d_store(rendezvous)),
        rendezvous.rank);
  });
  return store;
}

std::unique_ptr<Comm> make_gloo_comm(const Rendezvous& rendezvous, KeyStore& store) {
  std::unique_ptr<Comm> comm;
  communicate(rendezvous.rank, "connecting to the other ranks", [&] {
    auto gloo = c10d::ProcessGroupGloo::Options::create(rendezvous.collective_timeout);
    gloo->devices.push_back(network_device(rendezvous.single_node));
    comm = std::make_unique<GlooComm>(c10::make_intrusive<c10d::ProcessGroupGloo>(
        c10::make_intrusive<c10d::PrefixStore>("gloo", dynamic_cast<C10dStore&>(store).store()),
        static_cast<int>(rendezvous.rank),
        static_cast<int>(rendezvous.size),
        gloo));
  });
  return comm;
}

std::unique_ptr<Comm> make_gloo_comm(const Rendezvous& rendezvous) {
  return make_gloo_comm(rendezvous, *open_store(rendezvous));
}

}  // namespace basin
