// What a run shows of itself: collects what its steps took, and writes a row about them to
// metrics.jsonl, TensorBoard and the console. A log that cannot be written does not end the run.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "train/comm.h"
#include "train/config.h"
#include "train/metrics.h"

namespace basin {

class RunLog {
 public:
  RunLog(const RunConfig& config, Comm& comm, at::Device device);

  /// Rank 0: begins to write, after the row of `step`.
  void open(int64_t step);
  /// One step took so long, of which this rank waited so long for others.
  void add_step(double seconds, double waited_s);
  /// Training stood still for a checkpoint.
  void add_stall(double seconds) { stalled_s_ += seconds; }
  /// On all ranks: completes `row` by the speed of the steps since the one before and by how the
  /// ranks fare, and rank 0 writes it.
  void write(MetricsRow row, double eta_s);

  /// Rank 0: `row` on the console alone.
  void show(MetricsRow row, double eta_s);
  /// Rank 0: this many micro-batches of a step are through.
  void show_part(int64_t step, size_t done, size_t of);

  /// Rank 0, from any thread: makes all rows durable. Throws std::runtime_error when it cannot.
  void sync() { metrics_->sync(); }
  /// Rank 0: forgets the rows beyond `step`.
  void cut_back(int64_t step) { report(metrics_->cut_back(step)); }
  /// Ends a line that is rewritten, before something else is printed.
  void end_line();

 private:
  void add_speed(MetricsRow& row) const;
  void add_ranks(MetricsRow& row);
  void report(const std::optional<std::string>& problem);

  RunConfig config_;
  Comm& comm_;
  at::Device device_;
  std::unique_ptr<MetricsLog> metrics_;  // rank 0
  std::unique_ptr<Console> console_;     // rank 0
  bool rows_wait_ = false;               // they could not be written
  // Since the last row
  double seconds_ = 0, waited_s_ = 0, stalled_s_ = 0;
  int64_t steps_ = 0;
};

}  // namespace basin
