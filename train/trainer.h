// The training loop. `train_step` is the whole of one step; what surrounds it (validation, metrics,
// checkpoints, stopping) is in `run`.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "configs/clock.h"
#include "data/loader.h"
#include "model/transformer.h"
#include "train/checkpoint_saver.h"
#include "train/comm.h"
#include "train/config.h"
#include "train/forward_backward.h"
#include "train/gradient_buckets.h"
#include "train/optimizer.h"
#include "train/run_directory.h"
#include "train/run_log.h"
#include "train/saves.h"
#include "train/state.h"
#include "train/validation.h"
#include "train/weight_gather.h"

namespace basin {

/// What one step came to, the same on all ranks.
struct StepResult {
  double loss = 0;       // nats per predicted token, mean over the global batch
  double grad_norm = 0;  // before clipping
  double lr = 0;
  bool skipped = false;  // loss or norm was not finite: no update
  bool spike = false;    // the loss jumped (train.rollback): no update
  bool stop = false;     // a rank was asked to stop
  bool retry = false;    // it is time for another attempt at a checkpoint
};

class Trainer {
 public:
  enum class Outcome { kFinished, kStopped };

  /// Builds everything and takes up the newest intact checkpoint of config.run.dir. `config` must
  /// have gone through match_model_to_data. Throws std::invalid_argument when the directory holds a
  /// run of another configuration. `comm` must outlive the trainer.
  Trainer(const RunConfig& config, Comm& comm, at::Device device);
  ~Trainer();

  /// Trains to the last step, or until asked to stop, and saves. Throws std::runtime_error after
  /// train.max_skipped non-finite steps in a row, train.rollback.max rollbacks, or when the last
  /// checkpoint cannot be written.
  Outcome run();
  /// One optimizer step on the next global batch.
  StepResult train_step();

  const TrainState& state() const { return state_; }
  const Transformer& model() const { return *model_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  int64_t micro_batch() const { return micro_batch_; }
  const CheckpointSaver::Report& last_save() const { return saver_->report(); }

 private:
  at::Tensor to_device(const at::Tensor& batch) const;
  void meet_hosts();
  at::Tensor agree();
  void update(const StepResult& result, double scale);
  bool is_spike(double loss) const;
  void count(const StepResult& result);
  void forget_old_losses();

  // trainer_resume.cpp
  int64_t newest_checkpoint() const;
  at::Tensor initial_master(bool filled);
  void resume(int64_t step);
  std::vector<std::string> inexactness(const SavedState& saved) const;
  void start_anew();
  void load(const SavedState& saved, const std::filesystem::path& step_directory);
  void roll_back();
  void open_run_directory();

  void report_left_out(const StepResult& result, const std::string& why);
  void measure_and_log(const StepResult& result);
  std::optional<double> sink_metric() const;
  bool is_due(int64_t every) const { return every > 0 && state_.step % every == 0; }
  bool is_last() const { return state_.step >= config_.train.steps; }
  bool stop_requested() const;
  double session_seconds() const;

  RunConfig config_;
  Comm& comm_;
  at::Device device_;
  std::unique_ptr<RunLock> lock_;  // rank 0
  DataLoader loader_;
  std::optional<Validation> validation_;
  std::unique_ptr<Transformer> model_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<GradientBuckets> gradients_;
  std::unique_ptr<ForwardBackward> forward_backward_;
  std::unique_ptr<WeightGather> weight_gather_;  // with a sharded optimizer
  RunLog log_;
  std::unique_ptr<CheckpointSaver> saver_;  // its thread uses the log
  std::unique_ptr<Saves> saves_;
  int64_t micro_batch_ = 1;
  TrainState state_;

  Clock::time_point started_ = Clock::now();
  double seconds_before_ = 0;  // of earlier sessions
  int64_t first_step_ = 0;     // of this session
};

}  // namespace basin
