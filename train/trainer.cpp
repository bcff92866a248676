#include "train/trainer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <stdexcept>

#include "configs/files.h"
#include "configs/progress.h"
#include "configs/signals.h"
#include "configs/yaml_config.h"
#include "infer/attention_maps.h"
#include "model/cost.h"
#include "train/schedule.h"

namespace basin {
namespace {

/// Samples of a forward and backward pass: the most whose positions stay below what the device
/// works on well, dividing the rank's share.
int64_t choose_micro_batch(const RunConfig& config, int64_t rank_batch, at::Device device) {
  const int64_t given = config.train.micro_batch;
  if (given > 0 && rank_batch % given == 0) return given;
  if (given > 0) {
    throw std::invalid_argument(fmt::format(
        "train.micro_batch {} does not divide a rank's share of train.global_batch, {} of {}",
        given,
        rank_batch,
        config.train.global_batch));
  }
  const int64_t positions = config.data.sequence_length + config.model.sink.tokens();
  int64_t rows = std::clamp<int64_t>((device.is_cpu() ? 8192 : 65536) / positions, 1, rank_batch);
  while (rank_batch % rows != 0) --rows;
  return rows;
}

/// Bytes of memory that can be had without swapping; the largest number when the system does not
/// say.
double available_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string word; file >> word;)
    if (double kib = 0; word == "MemAvailable:" && file >> kib) return 1024 * kib;
  return std::numeric_limits<double>::max();
}

/// `config`, unless its model alone is more than this machine holds: LibTorch's allocator would end
/// the program.
const RunConfig& fits_into_memory(const RunConfig& config, const Comm& comm, at::Device device) {
  if (!device.is_cpu()) return config;
  const double bytes = config.train.precision == Precision::kBf16 ? 4 * 4 + 2 : 4 * 4,
               needed = bytes * static_cast<double>(count_parameters(config.model)),
               available = available_bytes();
  if (needed > available)
    throw std::runtime_error(
        fmt::format("weights, gradient and AdamW's moments of this model take {} on each of {} "
                    "rank(s), this machine has {} left: lower model.hidden_size, "
                    "model.num_hidden_layers or model.vocab_size",
                    format_bytes(needed),
                    comm.size(),
                    format_bytes(available)));
  return config;
}

/// fp32 initial weights; a bf16 model's are their rounding, so that both precisions start from the
/// same point.
at::Tensor initial_master(Transformer& model, uint64_t seed) {
  if (model.dtype() == at::kFloat) {
    model.initialize(seed);
    return model.flat();
  }
  Transformer full(model.config(), at::kFloat, model.device());
  full.initialize(seed);
  return full.flat();
}

double clip_factor(double norm, double limit) {
  return limit > 0 && norm > limit ? limit / norm : 1;
}

/// Datasets that no longer hold what the run began with: one line each.
std::vector<std::string> data_obstacles(const std::vector<std::string>& before,
                                        const std::vector<IndexedDataset>& now) {
  std::vector<std::string> out;
  for (size_t i = 0; i < std::min(before.size(), now.size()); ++i) {
    if (const std::string contents = now[i].contents(); contents != before[i])
      out.push_back(fmt::format("{}: {} before, {} now", now[i].name(), before[i], contents));
  }
  return out;
}

std::optional<double> if_finite(double value) {
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

}  // namespace

Trainer::Trainer(const RunConfig& config, Comm& comm, at::Device device)
    : config_(fits_into_memory(config, comm, device)),
      comm_(comm),
      device_(device),
      lock_(comm.is_root() ? std::make_unique<RunLock>(config.run.dir) : nullptr),
      loader_(config.data,
              {config.train.global_batch,
               comm.rank(),
               comm.size(),
               static_cast<uint64_t>(config.train.seed)}) {
  micro_batch_ = choose_micro_batch(config, config.train.global_batch / comm.size(), device);
  if (!config.data.heldout.empty())
    validation_.emplace(config.data, config.train.validation.tokens);
  model_ = std::make_unique<Transformer>(
      config.model,
      config.train.precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat,
      device);
  optimizer_ =
      std::make_unique<Optimizer>(*model_,
                                  initial_master(*model_, static_cast<uint64_t>(config.train.seed)),
                                  config.train.optimizer);
  gradients_ = std::make_unique<GradientBuckets>(*model_);
  forward_backward_ = std::make_unique<ForwardBackward>(*model_);
  resume();
  if (comm.is_root()) open_run_directory();
}

Trainer::~Trainer() = default;

StepResult Trainer::train_step() {
  const at::Tensor batch = to_device(loader_.batch(state_.batch));  // (B / ranks, T + 1)
  const std::vector<at::Tensor> micro_batches = batch.split(micro_batch_);
  forward_backward_->prepare(micro_batches.front());
  gradients_->zero();
  forward_backward_->reset_loss();
  for (const at::Tensor& samples : micro_batches) forward_backward_->run(samples);
  gradients_->reduce(comm_);
  at::Tensor agreed =
      at::tensor({forward_backward_->loss_sum(), stop_requested() ? 1.0 : 0.0}, at::kDouble);
  comm_.all_reduce_sum(agreed);

  const double parts = static_cast<double>(std::ssize(micro_batches) *
                                           comm_.size());  // each a mean over as many tokens
  StepResult result;
  result.loss = agreed[0].item<double>() / parts;
  result.stop = agreed[1].item<double>() > 0;
  result.grad_norm = gradients_->norm() / parts;
  result.lr = learning_rate(config_.train, state_.step);
  result.skipped = !std::isfinite(result.loss) || !std::isfinite(result.grad_norm);
  if (!result.skipped)
    optimizer_->step(gradients_->flat(),
                     clip_factor(result.grad_norm, config_.train.optimizer.clip) / parts,
                     result.lr);
  if (result.skipped) report_skip(result);

  ++state_.step;
  ++state_.batch;
  state_.skipped += result.skipped;
  state_.skipped_in_row = result.skipped ? state_.skipped_in_row + 1 : 0;
  return result;
}

at::Tensor Trainer::to_device(const at::Tensor& batch) const {
  return device_.is_cpu() ? batch : batch.pin_memory().to(device_, /*non_blocking=*/true);
}

Trainer::Outcome Trainer::run() {
  if (is_last()) {
    if (comm_.is_root())
      spdlog::info(
          "{}: all {} steps are done, nothing to do", config_.run.dir, config_.train.steps);
    return Outcome::kFinished;
  }
  while (!is_last()) {
    const Clock::time_point began = Clock::now();
    const StepResult result = train_step();
    stepping_seconds_ += std::chrono::duration<double>(Clock::now() - began).count();
    ++steps_since_row_;
    if (state_.skipped_in_row >= config_.train.max_skipped) {
      throw std::runtime_error(
          fmt::format("{} steps in a row had a non-finite loss or gradient (train.max_skipped), "
                      "the last was step {}: start anew in another run.dir than {} with a lower "
                      "train.optimizer.lr, or look at the samples named above",
                      state_.skipped_in_row,
                      state_.step,
                      config_.run.dir));
    }
    measure_and_log(result);
    const bool stop = result.stop && !is_last();
    if (stop || is_last() || is_due(config_.train.checkpoint.every)) save();
    if (stop) return Outcome::kStopped;
  }
  if (checkpoints_) checkpoints_->set_final(state_.step);
  return Outcome::kFinished;
}

void Trainer::resume() {
  const std::filesystem::path run_directory = config_.run.dir;
  const int64_t step =
      comm_.broadcast(comm_.is_root() ? find_newest_intact(run_directory).value_or(-1) : 0);
  if (step < 0) return;
  const std::filesystem::path directory = step_directory(run_directory, step);
  const SavedState saved = read_state(directory);
  if (const auto obstacles = resume_obstacles(saved.config, config_, step); !obstacles.empty()) {
    throw std::invalid_argument(fmt::format(
        "{} holds a run of another configuration: use another run.dir, or restore\n  {}",
        config_.run.dir,
        fmt::join(obstacles, "\n  ")));
  }
  if (const auto changed = data_obstacles(saved.data, loader_.datasets()); !changed.empty()) {
    throw std::invalid_argument(
        fmt::format("the data of {} has changed since: use another run.dir, or remove this one, or "
                    "restore\n  {}",
                    config_.run.dir,
                    fmt::join(changed, "\n  ")));
  }
  if (comm_.is_root()) spdlog::info("resuming from {}", directory.string());
  for (const std::string& change :
       this_machine(device_, comm_.size()).changes_since(saved.machine)) {
    if (comm_.is_root())
      spdlog::info("the continuation is not bit-exact, what ran it has changed: {}", change);
  }
  if (const int64_t before = saved.config.train.micro_batch, now = config_.train.micro_batch;
      before != now && comm_.is_root())
    spdlog::info(
        "the continuation is not bit-exact: train.micro_batch {} before, {} now", before, now);
  load_weights(directory, *model_, *optimizer_);
  optimizer_->set_count(saved.optimizer_count);
  state_ = saved.state;
  seconds_before_ = saved.state.seconds;
  first_step_ = state_.step;
}

void Trainer::open_run_directory() {
  const std::filesystem::path run_directory = config_.run.dir;
  remove_leftovers(run_directory);
  std::vector<std::string> data;
  for (const IndexedDataset& dataset : loader_.datasets()) data.push_back(dataset.contents());
  checkpoints_ = std::make_unique<CheckpointWriter>(
      config_, this_machine(device_, comm_.size()), std::move(data));
  if (is_last()) {  // a kill between the last checkpoint and the link
    if (!std::filesystem::exists(run_directory / "final")) checkpoints_->set_final(state_.step);
    return;
  }
  std::filesystem::remove(run_directory / "final");
  write_file(run_directory / "config.yaml", to_yaml(config_));
  metrics_ = std::make_unique<MetricsLog>(run_directory, state_.step);
  console_ = std::make_unique<Console>(config_.train.steps);
}

void Trainer::report_skip(const StepResult& result) const {
  std::map<std::string, std::vector<int64_t>> samples;  // by dataset
  for (const auto& [dataset, sample] : loader_.sample_ids(state_.batch))
    samples[loader_.datasets().at(static_cast<size_t>(dataset)).name()].push_back(sample);
  std::string names;
  for (const auto& [name, numbers] : samples)
    names += fmt::format("; samples of {}: {}", name, fmt::join(numbers, " "));
  if (console_) console_->end_line();
  spdlog::warn("step {} skipped: loss {}, gradient norm {}; weights unchanged{}",
               state_.step + 1,
               result.loss,
               result.grad_norm,
               names);
}

void Trainer::measure_and_log(const StepResult& result) {
  const TrainConfig& train = config_.train;
  const bool saves = is_due(train.checkpoint.every) || result.stop || is_last();
  state_.val_loss.reset();
  if (validation_ &&
      (is_due(train.validation.every) || is_last() || (train.checkpoint.keep_best > 0 && saves))) {
    state_.val_loss = validation_->loss(*model_, comm_, micro_batch_);
  }
  if (!comm_.is_root()) return;
  MetricsRow row;
  if (is_due(train.sink_metric_every)) row.sink_metric = sink_metric();
  state_.seconds = seconds_before_ + session_seconds();
  if (!is_due(train.log_every) && !is_last() && !state_.val_loss && !row.sink_metric) return;
  const double step_tokens = static_cast<double>(train.global_batch * config_.data.sequence_length);
  row.step = state_.step;
  row.tokens = state_.step * train.global_batch * config_.data.sequence_length;
  if (!result.skipped) row.loss = result.loss;
  row.lr = result.lr;
  row.grad_norm = if_finite(result.grad_norm);
  row.tokens_per_second = static_cast<double>(steps_since_row_) * step_tokens / stepping_seconds_;
  if (const double peak = datasheet_flops(device_) * static_cast<double>(comm_.size()); peak > 0)
    row.mfu = train_flops_per_token(config_.model, config_.data.sequence_length) *
              row.tokens_per_second / peak;
  row.val_loss = state_.val_loss;
  row.skipped = state_.skipped;
  row.seconds = state_.seconds;
  metrics_->write(row);
  console_->show(row,
                 session_seconds() / static_cast<double>(state_.step - first_step_) *
                     static_cast<double>(train.steps - state_.step));
  stepping_seconds_ = 0;
  steps_since_row_ = 0;
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

void Trainer::save() {
  if (!checkpoints_) return;
  state_.seconds = seconds_before_ + session_seconds();
  const std::filesystem::path directory = checkpoints_->save(state_, *model_, *optimizer_);
  console_->end_line();
  spdlog::info("saved {}", directory.string());
}

bool Trainer::stop_requested() const {
  const double limit = config_.train.stop_after_s();
  return pending_signal() != 0 || (limit > 0 && session_seconds() >= limit);
}

double Trainer::session_seconds() const {
  return std::chrono::duration<double>(Clock::now() - started_).count();
}

}  // namespace basin
