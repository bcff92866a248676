#include "train/two_level_comm.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "configs/clock.h"
#include "train/partition.h"

namespace basin {
namespace {

// Smaller sums take the one trip over all ranks: three trips would wait longer than they save.
constexpr int64_t kLeastBytes = 64 << 10;

/// One thread that does what it is given, in order.
class Worker {
 public:
  Worker() : thread_([this] { work(); }) {}
  ~Worker() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }

  std::future<void> add(std::function<void()> body) {
    std::packaged_task<void()> task(std::move(body));
    std::future<void> done = task.get_future();
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_one();
    return done;
  }

 private:
  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return ended_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      std::packaged_task<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<void()>> tasks_;
  bool ended_ = false;
  std::thread thread_;
};

/// The groups of the two levels. The worker's tasks share them: one that hangs may outlive the
/// rest.
struct Groups {
  void all_reduce(const at::Tensor& tensor) {
    at::NoGradGuard no_grad;
    const at::Tensor flat = tensor.view({-1});
    const Range share = share_of({0, flat.numel()}, inside->rank(), inside->size());
    at::Tensor part = flat.narrow(0, share.begin, share.size());
    inside->start_reduce_scatter_sum(flat, part)->wait();
    across->all_reduce_sum(part);
    inside->start_all_gather(part, flat)->wait();
  }

  std::unique_ptr<Comm> inside, across;
};

class TwoLevelComm : public Comm {
 public:
  TwoLevelComm(std::unique_ptr<Comm> world,
               std::unique_ptr<Comm> inside,
               std::unique_ptr<Comm> across)
      : world_(std::move(world)),
        groups_(std::make_shared<Groups>()),
        worker_(std::make_unique<Worker>()) {
    groups_->inside = std::move(inside);
    groups_->across = std::move(across);
  }
  /// With a sum under way that may never end, the thread and its groups are left to the end of the
  /// process.
  ~TwoLevelComm() override {
    if (under_way_ == 0) return;
    static_cast<void>(worker_.release());
  }
  int64_t rank() const override { return world_->rank(); }
  int64_t size() const override { return world_->size(); }

  std::unique_ptr<Pending> start_all_reduce_sum(const at::Tensor& tensor) override {
    if (!takes_two_levels(tensor)) return world_->start_all_reduce_sum(tensor);
    return start([groups = groups_, tensor] { groups->all_reduce(tensor); });
  }
  std::unique_ptr<Pending> start_reduce_scatter_sum(const at::Tensor& from,
                                                    const at::Tensor& to) override {
    if (!takes_two_levels(from)) return world_->start_reduce_scatter_sum(from, to);
    const Range own = share_of({0, from.numel()}, rank(), size());
    return start([groups = groups_, from, to, own] {
      at::NoGradGuard no_grad;
      groups->all_reduce(from);
      const at::Tensor part = from.narrow(0, own.begin, own.size());
      if (part.data_ptr() != to.data_ptr()) at::Tensor(to).copy_(part);
    });
  }
  std::unique_ptr<Pending> start_all_gather(const at::Tensor& from, const at::Tensor& to) override {
    return world_->start_all_gather(from, to);
  }
  void broadcast(at::Tensor& tensor, int64_t root) override { world_->broadcast(tensor, root); }
  void barrier() override { world_->barrier(); }
  std::string method() const override {
    const int64_t machine = groups_->inside->size();
    return fmt::format("gloo on two levels, {} x {}", size() / machine, machine);
  }
  double waited_s() const override { return world_->waited_s() + waited_s_; }

 private:
  class Started : public Pending {
   public:
    Started(TwoLevelComm& comm, std::future<void> done) : comm_(comm), done_(std::move(done)) {}
    void wait() override {
      const Clock::time_point began = Clock::now();
      done_.get();
      --comm_.under_way_;
      comm_.waited_s_ += seconds_since(began);
    }

   private:
    TwoLevelComm& comm_;
    std::future<void> done_;
  };

  bool takes_two_levels(const at::Tensor& t) const {
    return t.is_cpu() && static_cast<int64_t>(t.nbytes()) >= kLeastBytes &&
           t.numel() % groups_->inside->size() == 0;
  }
  std::unique_ptr<Pending> start(std::function<void()> body) {
    ++under_way_;
    return std::make_unique<Started>(*this, worker_->add(std::move(body)));
  }

  std::unique_ptr<Comm> world_;
  std::shared_ptr<Groups> groups_;
  int64_t under_way_ = 0;
  double waited_s_ = 0;
  std::unique_ptr<Worker> worker_;  // ends before the groups that it uses
};

}  // namespace

std::unique_ptr<Comm> make_two_level_comm(std::unique_ptr<Comm> world,
                                          std::unique_ptr<Comm> inside,
                                          std::unique_ptr<Comm> across) {
  return std::make_unique<TwoLevelComm>(std::move(world), std::move(inside), std::move(across));
}

}  // namespace basin
