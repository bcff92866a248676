#include "configs/signals.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace basin {
namespace {

constexpr int64_t kSameRequestMs = 1000;

// The handler may touch nothing but lock-free atomics and async-signal-safe calls.
std::atomic<int> pending{0};
std::atomic<int64_t> asked_at_ms{0};
std::atomic<pid_t> group_to_take{0};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

int64_t now_ms() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

void on_signal(int signal) {
  int none = 0;
  if (pending.load() == 0) asked_at_ms.store(now_ms());
  if (pending.compare_exchange_strong(none, signal)) return;
  if (signal == SIGHUP || now_ms() - asked_at_ms.load() < kSameRequestMs) return;
  if (const pid_t group = group_to_take.load(); group > 0) kill(-group, SIGKILL);
  _exit(128 + signal);
}

// Where a mapped page cannot be had, there is nowhere to throw from.
[[noreturn]] void on_bus_error(int) {
  constexpr std::string_view line =
      "error: bus error: a mapped file (a dataset, weights) has become shorter while it was read, "
      "its disk fails, or /dev/shm is full\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  _exit(1);
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  // No SA_RESTART: a read from a terminal or a wait for a child returns with EINTR, so that its
  // caller gets to look at the flag.
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
  struct sigaction hangup {};
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN)
    sigaction(SIGHUP, &action, nullptr);
  struct sigaction bus_error {};
  bus_error.sa_handler = on_bus_error;
  sigaction(SIGBUS, &bus_error, nullptr);
}

void take_along(pid_t group) {
  group_to_take.store(group);
}

void survive_closed_pipes() {
  struct sigaction action {};
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
}

int pending_signal() noexcept {
  return pending.load(std::memory_order_relaxed);
}

void check_interrupt() {
  if (pending_signal() != 0) throw Interrupted{};
}

}  // namespace basin
