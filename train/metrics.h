// What a run shows of itself: a row of metrics.jsonl, the same for TensorBoard, and a console line,
// all from one MetricsRow.
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>

#include "configs/clock.h"
#include "train/append_log.h"
#include "train/event_file.h"

namespace basin {

/// One object of metrics.jsonl; an absent number is null.
struct MetricsRow {
  int64_t step = 0;    // steps done
  int64_t tokens = 0;  // predicted tokens seen so far, sinks not counted
  std::optional<double> loss =
      {};  // nats per token of this step's global batch; null when the step was skipped
  double lr = 0;
  std::optional<double> grad_norm = {};  // before clipping; null when not finite
  double tokens_per_second = 0;  // predicted tokens over training time since the row before, what
                                 // checkpoints held up included
  std::optional<double> mfu = {};        // share of the device's peak; null where that is unknown
  std::optional<double> val_loss = {};   // nats per held-out token, when measured at this step
  std::optional<double> sink_metric =
      {};               // share of heads above the threshold, when measured at this step
  int64_t skipped = 0;  // non-finite steps so far
  // Share of training time spent waiting for other ranks; absent with one, and where the GPU waits.
  std::optional<double> communication = {};
  std::optional<int64_t> slowest_rank = {};
  std::optional<double> slowest_excess =
      {};                        // its computing time over the median of the ranks, - 1
  double seconds = 0;            // wall clock of the run so far, all sessions
  bool waits_on_device = false;  // so that nobody knows for how long
  std::optional<int64_t> peak_memory_bytes = {};  // of the device, for the console
};

std::string to_json_line(const MetricsRow& row);

/// Drops rows beyond `step` and a torn last line; a missing file is none.
void cut_metrics(const std::filesystem::path& file, int64_t step);

/// The run's metrics files.
class MetricsLog {
 public:
  /// Cuts metrics.jsonl back to `step` and begins a new event file. Throws std::runtime_error when
  /// it cannot.
  MetricsLog(const std::filesystem::path& run_directory, int64_t step);

  /// Adds a row. Returns why rows could not be written: they wait for the next call.
  std::optional<std::string> write(const MetricsRow& row);
  /// Makes all rows durable, from any thread. Throws std::runtime_error when it cannot.
  void sync();
  /// Forgets the rows beyond `step`. Returns why they are still in the file: they go before the next
  /// row is written.
  std::optional<std::string> cut_back(int64_t step);

 private:
  std::optional<std::string> flush();

  AppendLog rows_;
  EventFile events_;
  std::mutex mutex_;
  std::optional<int64_t> cut_;  // rows beyond this step are still in the file
};

/// Console lines on stderr: rewritten in place on a terminal, plain lines elsewhere.
class Console {
 public:
  explicit Console(int64_t steps);
  ~Console();

  void show(const MetricsRow& row, double eta_s);
  /// A sign of life while a step lasts: the first `done` of its `of` micro-batches are through.
  /// Nothing, where something was shown a short while ago.
  void show_part(int64_t step, size_t done, size_t of);
  /// Ends the rewritten line, so that something else can be printed.
  void end_line();

 private:
  void rewrite(const std::string& line);

  int64_t steps_;
  bool terminal_, open_ = false;
  Clock::time_point shown_ = Clock::now();
};

/// "step 20/1000  loss 3.2145  eta 3 min 20 s  12.3 k tokens/s  lr 1.00e-03  |g| 0.51  mfu n/a": what a
/// narrow terminal cuts off stands last.
std::string console_text(const MetricsRow& row, int64_t steps, double eta_s);
/// "  | validation 3.2150  | sink metric 0.250", as far as they were measured.
std::string measured_text(const MetricsRow& row);
/// "[#######.............]", in front of it on a terminal.
std::string progress_bar(int64_t step, int64_t steps);

}  // namespace basin
