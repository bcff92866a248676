// When a run saves, and what it does when it cannot: a checkpoint that fails is tried again, and a
// run does not end without its last one if there is any way. All ranks call the same functions in
// the same order.
#pragma once

#include <chrono>
#include <functional>
#include <optional>

#include "configs/clock.h"
#include "train/checkpoint_saver.h"
#include "train/config.h"

namespace basin {

class Saves {
 public:
  /// `before_line` is called before anything is logged. What is passed by reference must outlive
  /// this.
  Saves(CheckpointSaver& saver,
        const CheckpointConfig& config,
        const Comm& comm,
        std::function<void()> before_line);

  /// Rank 0: it is time for another attempt.
  bool wants_retry() const;
  /// CheckpointSaver::progress of this rank, and the sum over ranks.
  CheckpointSaver::Progress progress() { return saver_.progress(); }
  void advance(const CheckpointSaver::Progress& sum) { report(saver_.advance(sum), kGoesOn); }

  /// Starts to save `state` when its step is due, or `retry` says so.
  void save_if_due(const TrainState& state, bool retry);
  /// Until the save under way has ended. What takes long is said, and whether a stop is asked for.
  void wait() { report(await(), kGoesOn); }
  /// Returns when `state` is saved. Throws std::runtime_error after 20 attempts.
  void save_last(const TrainState& state);

 private:
  static constexpr const char* kGoesOn = "training goes on, next attempt in {}";

  void start(const TrainState& state);
  CheckpointSaver::Event await();
  /// `then`: what happens where the save has failed; {} is how long until the next attempt.
  void report(CheckpointSaver::Event event, const char* then);
  std::chrono::duration<double> retry_after() const;

  CheckpointSaver& saver_;
  CheckpointConfig config_;
  const Comm& comm_;
  std::function<void()> before_line_;
  std::optional<Clock::time_point> retry_at_;  // rank 0
};

}  // namespace basin
