#include "train/saves.h"

#include <fmt/format.h>

#include <stdexcept>
#include <thread>

#include "configs/clock.h"
#include "configs/log.h"
#include "configs/progress.h"
#include "configs/signals.h"

namespace basin {
namespace {

constexpr double kTellEveryS = 30, kTellStopAfterS = 1;  // of a wait

using Event = CheckpointSaver::Event;

}  // namespace

Saves::Saves(CheckpointSaver& saver,
             const CheckpointConfig& config,
             const Comm& comm,
             std::function<void()> before_line)
    : saver_(saver), config_(config), comm_(comm), before_line_(std::move(before_line)) {}

bool Saves::wants_retry() const {
  return retry_at_ && Clock::now() >= *retry_at_;
}

void Saves::save_if_due(const TrainState& state, bool retry) {
  const bool due = config_.every > 0 && state.step % config_.every == 0;
  if (!due && !retry) return;
  wait();  // one at a time: the disk may be slower than the training
  start(state);
  if (!config_.asynchronous) wait();
}

void Saves::start(const TrainState& state) {
  retry_at_.reset();
  saver_.start(state);
}

void Saves::save_last(const TrainState& state) {
  constexpr int kAttempts = 20;
  constexpr const char* kEnds = "the run does not end without it, next attempt in {}";
  report(await(), "the newest state is saved next");
  if (saver_.report().step == state.step && saver_.report().saved) return;  // alike on all ranks
  for (int attempt = 1;; ++attempt) {
    start(state);
    const Event event = await();
    report(event, attempt < kAttempts ? kEnds : "that was the last attempt");
    if (event == Event::kSaved) return;
    if (attempt == kAttempts) {
      throw std::runtime_error(
          fmt::format("the last checkpoint, {}, could not be written in {} attempts: {}; to go on "
                      "from the newest one that is there, run the same command again",
                      saver_.report().directory.string(),
                      kAttempts,
                      saver_.report().problem));
    }
    std::this_thread::sleep_for(retry_after());
  }
}

Event Saves::await() {
  double next_s = kTellEveryS;
  bool said_stop = false;
  return saver_.wait([&](double waited_s) {
    const bool stop = pending_signal() != 0;
    const bool is_news = stop && !said_stop && waited_s >= kTellStopAfterS;
    if (!comm_.is_root() || (waited_s < next_s && !is_news)) return;
    next_s = waited_s + kTellEveryS;
    said_stop = stop;
    before_line_();
    log_warn("still writing the checkpoint of step {} for {}, training waits{}",
             saver_.report().step,
             format_duration(saver_.writing_s()),
             stop ? "; asked to stop, which it does once that is written (a second signal "
                    "leaves at once, without it)"
                  : "");
  });
}

void Saves::report(Event event, const char* then) {
  const CheckpointSaver::Report& report = saver_.report();
  if (event == Event::kNone) return;
  before_line_();
  if (event == Event::kSaved) {
    if (comm_.is_root())
      log_info("saved {} ({}, written in {:.2f} s, training stood still for {:.3f} s)",
               report.directory.string(),
               format_bytes(static_cast<double>(report.bytes)),
               report.write_s,
               report.copy_s + report.waited_s);
    return;
  }
  if (comm_.is_root())
    retry_at_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(retry_after());
  if (comm_.is_root() || !report.problem.empty())
    log_error(
        "CHECKPOINT OF STEP {} NOT SAVED: {}; {}; make room or mend the file system",
        report.step,
        report.problem.empty() ? "another rank could not write its part" : report.problem,
        fmt::format(fmt::runtime(then), format_duration(retry_after().count())));
}

std::chrono::duration<double> Saves::retry_after() const {
  return std::chrono::duration<double>(
      duration_s(config_.retry_after, "train.checkpoint.retry_after"));
}

}  // namespace basin
