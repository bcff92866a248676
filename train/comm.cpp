#include "train/comm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "configs/clock.h"
#include "train/comm_nccl.h"
#include "train/failure.h"

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
  } catch (const std::exception&) {
    throw CommError(
        fmt::format("{} failed on rank {}, another rank has ended or does not answer: {}",
                    what,
                    rank,
                    describe_failure(std::current_exception()).message));
  }
}

/// Gloo between all ranks, for what lies on the host; NCCL beside it, where there is a group of it,
/// for what lies on GPUs.
class GroupComm : public Comm {
 public:
  GroupComm(c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo,
            c10::intrusive_ptr<c10d::Backend> nccl,
            int64_t nodes)
      : gloo_(std::move(gloo)), nccl_(std::move(nccl)), nodes_(nodes) {}
  /// A group with a collective that did not end is left to the end of the process: its destructor
  /// would wait for dead peers.
  ~GroupComm() override {
    if (under_way_ != 0) {
      gloo_.release();
      nccl_.release();
    } else if (nccl_) {
      nccl_->shutdown();
    }
  }
  int64_t rank() const override { return gloo_->getRank(); }
  int64_t size() const override { return gloo_->getSize(); }

  std::unique_ptr<Pending> start_all_reduce_sum(const at::Tensor& tensor) override {
    std::vector<at::Tensor> used = {is_staged(tensor) ? tensor.cpu() : tensor};
    return start("all-reduce", used[0], tensor, [&] {
      return group(used[0]).allreduce(used, c10d::AllreduceOptions());
    });
  }
  std::unique_ptr<Pending> start_reduce_scatter_sum(const at::Tensor& from,
                                                    const at::Tensor& to) override {
    at::Tensor used_from = is_staged(from) ? from.cpu() : from, used = place_for(to);
    return start("reduce-scatter", used, to, [&] {
      return group(used)._reduce_scatter_base(used, used_from, c10d::ReduceScatterOptions());
    });
  }
  std::unique_ptr<Pending> start_all_gather(const at::Tensor& from, const at::Tensor& to) override {
    at::Tensor used_from = is_staged(from) ? from.cpu() : from, used = place_for(to);
    return start("all-gather", used, to, [&] {
      return group(used)._allgather_base(used, used_from, c10d::AllgatherOptions());
    });
  }
  void broadcast(at::Tensor& tensor, int64_t root) override {
    std::vector<at::Tensor> used = {is_staged(tensor) ? tensor.cpu() : tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    start("broadcast", used[0], tensor, [&] {
      return group(used[0]).broadcast(used, options);
    })->wait();
  }
  void barrier() override {
    start("barrier", {}, {}, [&] { return gloo_->barrier(); })->wait();
  }
  // Gloo's one ring goes by ranks, whatever machines they are on.
  std::string method() const override {
    return !nccl_ ? "gloo" : nodes_ == 1 ? "nccl" : fmt::format("nccl on {} nodes", nodes_);
  }
  bool waits_on_device() const override { return nccl_ != nullptr; }
  double waited_s() const override { return waited_s_; }

 private:
  class Started : public Pending {
   public:
    Started(GroupComm& comm, const char* what, at::Tensor used, at::Tensor target)
        : comm_(comm), what_(what), used_(std::move(used)), target_(std::move(target)) {}
    void wait() override {
      const Clock::time_point began = Clock::now();
      communicate(comm_.rank(), what_, [&] { work->wait(); });
      --comm_.under_way_;
      if (!target_.is_same(used_)) target_.copy_(used_);
      comm_.waited_s_ += seconds_since(began);
    }
    c10::intrusive_ptr<c10d::Work> work;

   private:
    GroupComm& comm_;
    const char* what_;
    at::Tensor used_, target_;  // the latter gets a copy where they differ
  };

  /// Whether it goes through a copy on the host.
  bool is_staged(const at::Tensor& t) const { return t.is_cuda() && !nccl_; }
  at::Tensor place_for(const at::Tensor& t) const {
    return is_staged(t) ? at::empty_like(t, at::kCPU) : t;
  }
  c10d::Backend& group(const at::Tensor& used) const { return used.is_cuda() ? *nccl_ : *gloo_; }

  template <class Collective>
  std::unique_ptr<Pending> start(const char* what,
                                 at::Tensor used,
                                 at::Tensor target,
                                 Collective&& collective) {
    auto started = std::make_unique<Started>(*this, what, std::move(used), std::move(target));
    ++under_way_;
    communicate(rank(), what, [&] { started->work = collective(); });
    return started;
  }

  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo_;
  c10::intrusive_ptr<c10d::Backend> nccl_;  // or null
  int64_t nodes_;
  int64_t under_way_ = 0;
  double waited_s_ = 0;
};

// Gloo's barrier fails first, which says who is missing; NCCL's own watch only ends the process.
constexpr std::chrono::seconds kNcclSlack{60};

/// libbasin_nccl.so lies beside the program.
c10::intrusive_ptr<c10d::Backend> make_nccl(const Rendezvous& rendezvous,
                                            const c10::intrusive_ptr<c10d::Store>& store) {
  void* library = dlopen("libbasin_nccl.so", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    throw std::runtime_error(fmt::format(
        "train.distributed.backend nccl: this build has no NCCL ({}): build where there "
        "are a CUDA toolkit and nccl.h, or use gloo",
        dlerror()));
  }
  const auto make = reinterpret_cast<decltype(&basin_make_nccl)>(dlsym(library, "basin_make_nccl"));
  return c10::intrusive_ptr<c10d::Backend>::reclaim(
      make(store,
           {.rank = static_cast<int>(rendezvous.rank),
            .size = static_cast<int>(rendezvous.size),
            .device = *rendezvous.nccl_device,
            .timeout = rendezvous.collective_timeout + kNcclSlack}));
}

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
    const auto store =
        c10::make_intrusive<c10d::FileStore>(rendezvous.file, static_cast<int>(rendezvous.size));
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
  if (single_node) return c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1");
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  return interface && *interface ? c10d::ProcessGroupGloo::createDeviceForInterface(interface)
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
    store =
        std::make_unique<C10dStore>(c10::make_intrusive<c10d::PrefixStore>(
                                        "basin/" + rendezvous.attempt, open_c10d_store(rendezvous)),
                                    rendezvous.rank);
  });
  return store;
}

std::unique_ptr<Comm> make_group_comm(const Rendezvous& rendezvous, KeyStore& store) {
  const c10::intrusive_ptr<c10d::Store> shared = dynamic_cast<C10dStore&>(store).store();
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
  communicate(rendezvous.rank, "connecting to the other ranks", [&] {
    auto options = c10d::ProcessGroupGloo::Options::create(rendezvous.collective_timeout);
    options->devices.push_back(network_device(rendezvous.nodes == 1));
    gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(
        c10::make_intrusive<c10d::PrefixStore>("gloo/" + rendezvous.group, shared),
        static_cast<int>(rendezvous.rank),
        static_cast<int>(rendezvous.size),
        options);
  });
  c10::intrusive_ptr<c10d::Backend> nccl;
  if (rendezvous.nccl_device)
    nccl = make_nccl(rendezvous,
                     c10::make_intrusive<c10d::PrefixStore>("nccl/" + rendezvous.group, shared));
  return std::make_unique<GroupComm>(std::move(gloo), std::move(nccl), rendezvous.nodes);
}

std::unique_ptr<Comm> make_group_comm(const Rendezvous& rendezvous) {
  return make_group_comm(rendezvous, *open_store(rendezvous));
}

}  // namespace basin
