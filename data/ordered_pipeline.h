// A reader, many workers and an ordered writer: results arrive in the order of their inputs
// whatever the number of threads, and what lies between the ends is bounded. The reader has a
// thread of its own, the writer is the caller's thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "configs/signals.h"

namespace basin {

/// The three steps: `next` gives inputs until nothing is left (one thread), `work(input, worker)`
/// may run on all `threads` workers at a time, `write` takes the results in order on the caller's
/// thread. The first failure in that order, or Interrupted, stops all and is thrown.
template <class In, class Out>
class OrderedPipeline {
 public:
  std::function<std::optional<In>()> next;
  std::function<Out(In, int worker)> work;
  std::function<void(Out)> write;
  std::function<size_t(const In&)> bytes;  // of an input; none: inputs are small
  size_t max_bytes = size_t{256} << 20;    // between the ends, unless one input alone is larger
  int threads = 1;

  void run() {
    std::vector<std::thread> pool;
    try {
      pool.emplace_back([this] { read_all(); });
      for (int worker = 0; worker < threads; ++worker) {
        pool.emplace_back([this, worker] { work_all(worker); });
      }
      write_all();
    } catch (...) {
      stop(pool);
      throw;
    }
    stop(pool);
  }

 private:
  struct Slot {
    std::optional<In> in;
    std::optional<Out> out;
    std::exception_ptr error;
    bool done = false;
    size_t bytes = 0;
  };

  void read_all() {
    for (bool more = true; more;) {
      auto slot = std::make_unique<Slot>();
      try {
        slot->in = next();
      } catch (...) {
        slot->error = std::current_exception();
        slot->done = true;
      }
      std::unique_lock lock(mutex_);
      more = slot->in.has_value();
      if (more || slot->done) {
        const size_t limit = 2 * static_cast<size_t>(threads) + 2;
        slot->bytes = more && bytes ? bytes(*slot->in) : 0;
        room_.wait(lock, [&] {
          return stopped_ || order_.empty() ||
                 (order_.size() < limit && bytes_ + slot->bytes <= max_bytes);
        });
        if (stopped_) {
          return;
        }
        if (more) {
          todo_.push_back(slot.get());
          todo_grew_.notify_one();
        }
        bytes_ += slot->bytes;
        order_.push_back(std::move(slot));
      }
      if (!more) {
        finished_ = true;
        todo_grew_.notify_all();
      }
      front_done_.notify_one();
    }
  }

  void work_all(int worker) {
    std::unique_lock lock(mutex_);
    while (true) {
      todo_grew_.wait(lock, [this] { return stopped_ || finished_ || !todo_.empty(); });
      if (stopped_ || todo_.empty()) {
        return;
      }
      Slot* slot = todo_.front();
      todo_.pop_front();
      lock.unlock();
      try {
        slot->out = work(*std::exchange(slot->in, std::nullopt), worker);
      } catch (...) {
        slot->error = std::current_exception();
      }
      lock.lock();
      slot->done = true;
      front_done_.notify_one();
    }
  }

  void write_all() {
    std::unique_lock lock(mutex_);
    while (true) {
      const auto ready = [this] { return order_.empty() ? finished_ : order_.front()->done; };
      while (!front_done_.wait_for(lock, std::chrono::milliseconds(100), ready)) {
        check_interrupt();
      }
      if (order_.empty()) {
        return;
      }
      const std::unique_ptr<Slot> slot = std::move(order_.front());
      order_.pop_front();
      bytes_ -= slot->bytes;
      room_.notify_one();
      lock.unlock();
      check_interrupt();
      if (slot->error) {
        std::rethrow_exception(slot->error);
      }
      write(std::move(*slot->out));
      lock.lock();
    }
  }

  void stop(std::vector<std::thread>& pool) {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    room_.notify_all();
    todo_grew_.notify_all();
    for (std::thread& thread : pool) {
      thread.join();
    }
  }

  std::mutex mutex_;
  std::condition_variable room_, todo_grew_, front_done_;
  std::deque<std::unique_ptr<Slot>> order_;  // not yet written, oldest first
  std::deque<Slot*> todo_;                   // not yet worked on
  size_t bytes_ = 0;                         // of all in order_
  bool finished_ = false, stopped_ = false;
};

}  // namespace basin
