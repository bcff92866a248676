#include "train/run_log.h"

#include <ATen/ATen.h>

#include "configs/log.h"
#include "model/cost.h"
#include "model/device.h"
#include "train/bench.h"

namespace basin {

RunLog::RunLog(const RunConfig& config, Comm& comm, at::Device device)
    : config_(config), comm_(comm), device_(device) {}

void RunLog::open(int64_t step) {
  metrics_ = std::make_unique<MetricsLog>(config_.run.dir, step);
  console_ = std::make_unique<Console>(config_.train.steps);
  if (comm_.waits_on_device())
    log_info("waiting n/a: the GPUs wait for each other, which no rank's clock sees");
}

void RunLog::add_step(double seconds, double waited_s) {
  seconds_ += seconds;
  waited_s_ += waited_s;
  ++steps_;
}

void RunLog::add_speed(MetricsRow& row) const {
  const int64_t T = config_.data.sequence_length;
  row.tokens_per_second =
      static_cast<double>(steps_ * config_.train.global_batch * T) / (seconds_ + stalled_s_);
  if (const double peak = datasheet_flops(device_, dtype_of(config_.train.precision)) *
                          static_cast<double>(comm_.size());
      peak > 0)
    row.mfu = train_flops_per_token(config_.model, T) * row.tokens_per_second / peak;
  row.waits_on_device = comm_.waits_on_device();
  if (const int64_t bytes = peak_memory_bytes(device_); bytes > 0) row.peak_memory_bytes = bytes;
}

void RunLog::show(MetricsRow row, double eta_s) {
  if (!console_) return;
  add_speed(row);
  console_->show(row, eta_s);
}

void RunLog::write(MetricsRow row, double eta_s) {
  add_speed(row);
  add_ranks(row);
  seconds_ = waited_s_ = stalled_s_ = 0;
  steps_ = 0;
  if (!comm_.is_root()) return;
  report(metrics_->write(row));
  console_->show(row, eta_s);
}

/// Said once, not at each row.
void RunLog::report(const std::optional<std::string>& problem) {
  if (problem.has_value() == rows_wait_) return;
  console_->end_line();
  rows_wait_ = problem.has_value();
  if (problem)
    log_error("{}: rows of the log wait in memory until it can be written", *problem);
  else
    log_info("the log can be written again, nothing is lost");
}

/// The share of waiting, and who has kept the others.
void RunLog::add_ranks(MetricsRow& row) {
  if (comm_.size() == 1 || row.waits_on_device) return;
  const at::Tensor busy =
      comm_.all_gather_rows(at::tensor({seconds_ - waited_s_}, at::kDouble)).view({-1});
  row.communication = waited_s_ / seconds_;
  row.slowest_rank = busy.argmax().item<int64_t>();
  row.slowest_excess = (busy.max() / busy.median()).item<double>() - 1;
}

void RunLog::show_part(int64_t step, size_t done, size_t of) {
  if (console_) console_->show_part(step, done, of);
}

void RunLog::end_line() {
  if (console_) console_->end_line();
}

}  // namespace basin
