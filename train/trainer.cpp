#include "train/trainer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>

#include "configs/log.h"
#include "configs/signals.h"
#include "infer/attention_maps.h"
#include "train/plan.h"
#include "train/schedule.h"

namespace basin {
namespace {

double clip_factor(double norm, double limit) {
  return limit > 0 && norm > limit ? limit / norm : 1;
}

std::optional<double> if_finite(double value) {
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

}  // namespace

Trainer::Trainer(const RunConfig& config, Comm& comm, at::Device device)
    : config_(config),
      comm_(comm),
      device_(device),
      lock_(comm.is_root() ? std::make_unique<RunLock>(config.run.dir) : nullptr),
      loader_(config.data,
              {config.train.global_batch,
               comm.rank(),
               comm.size(),
               static_cast<uint64_t>(config.train.seed)}),
      log_(config, comm, device) {
  require_shared(config.run.dir, comm);
  micro_batch_ =
      choose_micro_batch(config, config.train.global_batch / comm.size(), device.is_cpu());
  if (!config.data.heldout.empty())
    validation_.emplace(config.data, config.train.validation.tokens);
  model_ = std::make_unique<Transformer>(config.model, dtype_of(config.train.precision), device);
  model_->recompute_activations(config.train.recompute_activations);
  const DistributedConfig& distributed = config.train.distributed;
  gradients_ = std::make_unique<GradientBuckets>(
      *model_,
      comm,
      BucketOptions{.elements = static_cast<int64_t>(distributed.bucket_mib * (1 << 20) / 4),
                    .scatter = distributed.shard_optimizer,
                    .dtype = dtype_of(distributed.reduce_dtype)});
  const int64_t checkpoint = newest_checkpoint();
  optimizer_ = std::make_unique<Optimizer>(
      *model_, initial_master(/*filled=*/checkpoint < 0), config.train.optimizer, gradients_->own());
  if (distributed.shard_optimizer)
    weight_gather_ = std::make_unique<WeightGather>(*model_, comm, gradients_->buckets());
  forward_backward_ = std::make_unique<ForwardBackward>(*model_);
  if (checkpoint >= 0) resume(checkpoint);
  if (checkpoint < 0) start_anew();
  SavedState run;
  run.machine = this_machine(device_, comm_);
  run.config = config_;
  for (const IndexedDataset& dataset : loader_.datasets()) run.data.push_back(dataset.contents());
  if (validation_) run.heldout = validation_->contents();
  if (comm.is_root()) open_run_directory();
  saver_ =
      std::make_unique<CheckpointSaver>(run, *model_, *optimizer_, comm_, [this] { log_.sync(); });
  saves_ = std::make_unique<Saves>(
      *saver_, config_.train.checkpoint, comm_, [this] { log_.end_line(); });
}

Trainer::~Trainer() = default;

StepResult Trainer::train_step() {
  const at::Tensor batch = to_device(loader_.batch(state_.batch));  // (B / ranks, T + 1)
  const std::vector<at::Tensor> micro_batches = batch.split(micro_batch_);
  // With others, the last one calls hooks and is no graph: alone in its step, it needs none.
  if (micro_batches.size() > 1 || comm_.size() == 1)
    forward_backward_->prepare(micro_batches.front());
  gradients_->zero();
  forward_backward_->reset_loss();
  for (size_t i = 0; i < micro_batches.size(); ++i) {
    const bool last = i + 1 == micro_batches.size();
    if (last) gradients_->begin_reduction();
    forward_backward_->run(micro_batches[i], /*with_hooks=*/last && comm_.size() > 1);
    log_.show_part(state_.step + 1, i + 1, micro_batches.size());
  }
  gradients_->finish_reduction();
  meet_hosts();
  const at::Tensor agreed = agree();

  const double parts = static_cast<double>(std::ssize(micro_batches) *
                                           comm_.size());  // each a mean over as many tokens
  StepResult result;
  result.loss = agreed[0].item<double>() / parts;
  result.grad_norm = std::sqrt(agreed[1].item<double>()) / parts;
  result.stop = agreed[2].item<double>() > 0;
  result.retry = agreed[3].item<double>() > 0;
  saves_->advance({agreed[4].item<double>(), agreed[5].item<double>()});
  result.lr = learning_rate(config_.train, state_.step);
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.grad_norm);
  result.spike = !result.skipped && is_spike(result.loss);
  if (!result.skipped && !result.spike)
    update(result, clip_factor(result.grad_norm, config_.train.optimizer.clip) / parts);
  count(result);
  return result;
}

/// What ranks must know of each other, in one sum: loss, squared norm of the gradient, whether to
/// stop, whether to save again, and how far they are with the checkpoint under way.
at::Tensor Trainer::agree() {
  // Without shards every rank has the whole sum already, with the same bits.
  const double squares = gradients_->sum_of_squares();
  const bool counts = comm_.is_root() || weight_gather_;
  const CheckpointSaver::Progress save = saves_->progress();
  at::Tensor agreed = at::tensor({forward_backward_->loss_sum(),
                                  counts ? squares : 0.0,
                                  stop_requested() ? 1.0 : 0.0,
                                  saves_->wants_retry() ? 1.0 : 0.0,
                                  save.done,
                                  save.failed},
                                 at::kDouble);
  comm_.all_reduce_sum(agreed);
  return agreed;
}

void Trainer::update(const StepResult& result, double scale) {
  optimizer_->step(gradients_->flat(), scale, result.lr, [this](size_t part) {
    if (weight_gather_) weight_gather_->start(part);
  });
  if (!weight_gather_) return;
  weight_gather_->finish();
  meet_hosts();
}

/// Before the host waits for a GPU that waits for other ranks: a rank that is gone or hangs fails
/// this, on the host, where it is named.
void Trainer::meet_hosts() {
  if (comm_.waits_on_device()) comm_.barrier();
}

bool Trainer::is_spike(double loss) const {
  const RollbackConfig& rollback = config_.train.rollback;
  std::vector<double> before = state_.losses;
  if (rollback.factor == 0 || std::ssize(before) < rollback.window) return false;
  const auto middle = before.begin() + std::ssize(before) / 2;
  std::nth_element(before.begin(), middle, before.end());
  return loss > rollback.factor * *middle;
}

void Trainer::count(const StepResult& result) {
  if (result.skipped) report_left_out(result, "is not finite: step skipped, weights unchanged");
  if (result.spike) report_left_out(result, "is a jump of the loss (train.rollback)");
  ++state_.step;
  state_.next_batch();
  state_.skipped += result.skipped;
  state_.skipped_in_row = result.skipped ? state_.skipped_in_row + 1 : 0;
  if (config_.train.rollback.factor == 0 || result.skipped || result.spike) return;
  state_.losses.push_back(result.loss);
  forget_old_losses();
}

/// What the median of a rollback is of; none are kept for none.
void Trainer::forget_old_losses() {
  const RollbackConfig& rollback = config_.train.rollback;
  const int64_t kept = rollback.factor == 0 ? 0 : rollback.window;
  if (const int64_t old = std::ssize(state_.losses) - kept; old > 0)
    state_.losses.erase(state_.losses.begin(), state_.losses.begin() + old);
}

at::Tensor Trainer::to_device(const at::Tensor& batch) const {
  return device_.is_cpu() ? batch : batch.pin_memory().to(device_, /*non_blocking=*/true);
}

Trainer::Outcome Trainer::run() {
  if (is_last()) {
    if (comm_.is_root())
      log_info(
          "{}: all {} steps are done, nothing to do", config_.run.dir, config_.train.steps);
    return Outcome::kFinished;
  }
  while (!is_last()) {
    const Clock::time_point began = Clock::now();
    const double waited = comm_.waited_s();
    const StepResult result = train_step();
    log_.add_step(seconds_since(began), comm_.waited_s() - waited);
    if (result.spike) {
      roll_back();
      continue;
    }
    if (state_.skipped_in_row >= config_.train.max_skipped) {
      saves_->wait();
      throw std::runtime_error(
          fmt::format("{} steps in a row had a non-finite loss or gradient (train.max_skipped), "
                      "the last was step {}: start anew in another run.dir than {} with a lower "
                      "train.optimizer.lr, or look at the samples named above",
                      state_.skipped_in_row,
                      state_.step,
                      config_.run.dir));
    }
    measure_and_log(result);
    if (is_last() || result.stop) {
      saves_->save_last(state_);
      if (!is_last()) return Outcome::kStopped;
    } else {
      const Clock::time_point stands = Clock::now();
      saves_->save_if_due(state_, result.retry);
      log_.add_stall(seconds_since(stands));
    }
  }
  if (comm_.is_root()) set_final(config_.run.dir, state_.step);
  return Outcome::kFinished;
}

void Trainer::report_left_out(const StepResult& result, const std::string& why) {
  std::map<std::string, std::vector<int64_t>> samples;  // by dataset
  for (const auto& [dataset, sample] : loader_.sample_ids(state_.batch))
    samples[loader_.datasets().at(static_cast<size_t>(dataset)).name()].push_back(sample);
  std::string names;
  for (const auto& [name, numbers] : samples)
    names += fmt::format("; samples of {}: {}", name, fmt::join(numbers, " "));
  log_.end_line();
  log_warn("step {}: loss {}, gradient norm {} {}{}",
           state_.step + 1,
           result.loss,
           result.grad_norm,
           why,
           names);
}

void Trainer::measure_and_log(const StepResult& result) {
  const TrainConfig& train = config_.train;
  const bool saves =
      is_due(train.checkpoint.every) || result.retry || result.stop || is_last();
  state_.val_loss.reset();
  if (validation_ &&
      (is_due(train.validation.every) || is_last() || (train.checkpoint.keep_best > 0 && saves))) {
    state_.val_loss = validation_->loss(*model_, comm_, micro_batch_);
  }
  state_.seconds = seconds_before_ + session_seconds();
  const bool measures_sink = is_due(train.sink_metric_every);
  const bool logs = is_due(train.log_every) || is_last() || state_.val_loss || measures_sink;
  if (!logs && state_.step != first_step_ + 1) return;
  MetricsRow row;
  row.step = state_.step;
  row.tokens = state_.step * train.global_batch * config_.data.sequence_length;
  if (!result.skipped) row.loss = result.loss;
  row.lr = result.lr;
  row.grad_norm = if_finite(result.grad_norm);
  row.val_loss = state_.val_loss;
  if (measures_sink && comm_.is_root()) row.sink_metric = sink_metric();
  row.skipped = state_.skipped;
  row.seconds = state_.seconds;
  const double eta_s = session_seconds() /
                       static_cast<double>(std::max<int64_t>(1, state_.step - first_step_)) *
                       static_cast<double>(train.steps - state_.step);
  if (logs)
    log_.write(row, eta_s);
  else
    log_.show(row, eta_s);  // a sign of life after the first step
}

std::optional<double> Trainer::sink_metric() const {
  try {
    return measure_sink(
               *model_,
               validation_->samples(0, std::min(kSinkSequences, validation_->num_samples()))
                   .to(device_))
        .sink_first;
  } catch (const Interrupted&) {  // asked to stop: the step after this one saves
    return std::nullopt;
  }
}

bool Trainer::stop_requested() const {
  const double limit = duration_s(config_.train.stop_after, "train.stop_after");
  return pending_signal() != 0 || (limit > 0 && seconds_since(kProcessStart) >= limit);
}

double Trainer::session_seconds() const {
  return seconds_since(started_);
}

}  // namespace basin
