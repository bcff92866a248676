// Checkpoints, written while training goes on. start() copies the state and returns; a thread of
// each rank writes that rank's files aside; when all have, rank 0 writes the manifest and gives the
// directory its name. Ranks agree on how far they are through what each step sums over them anyway:
// Progress goes in, and the sum moves all of them on together.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "configs/clock.h"
#include "data/tokenizer.h"
#include "model/manifest.h"
#include "model/transformer.h"
#include "train/comm.h"
#include "train/optimizer.h"
#include "train/state.h"

namespace basin {

class CheckpointSaver {
 public:
  enum class Event { kNone, kSaved, kFailed };

  /// Ranks that have done what they had to, and that failed.
  struct Progress {
    double done = 0, failed = 0;
  };

  /// What a save that ended came to, for the log.
  struct Report {
    std::filesystem::path directory;
    int64_t step = -1;
    int64_t bytes = 0;     // of this rank
    double copy_s = 0;     // for which training stood still
    double waited_s = 0;   // the same, until it had been written
    bool saved = false;    // by all ranks
    double write_s = 0;    // beside training or while it waited
    std::string problem;   // on this rank, when it failed
  };

  /// Reads the tokenizer of the data at once, so that a missing file is found before the training.
  /// `before_publishing` is called by rank 0's thread before the checkpoint gets its name. All
  /// ranks construct at the same time; everything passed by reference must outlive the saver.
  CheckpointSaver(const SavedState& run,
                  const Transformer& model,
                  const Optimizer& optimizer,
                  Comm& comm,
                  std::function<void()> before_publishing);
  /// Waits for this rank's thread.
  ~CheckpointSaver();

  /// Copies the state, and begins to write it. Not while busy().
  void start(const TrainState& state);
  bool busy() const { return phase_ != Phase::kIdle; }

  Progress progress();
  /// `sum`: of progress() over ranks. Every rank calls this with the same sum.
  Event advance(const Progress& sum);
  /// Until the save under way has ended, on all ranks together. kNone when there is none.
  /// `meanwhile` is called again and again with the seconds waited so far.
  Event wait(const std::function<void(double)>& meanwhile);
  /// Since the save under way began to be written.
  double writing_s() const { return seconds_since(began_); }

  const Report& report() const { return report_; }

 private:
  enum class Phase { kIdle, kWriting, kPublishing };

  void copy(const TrainState& state);
  std::vector<int64_t> end_ids() const;
  void write_tokenizer() const;
  void make_copy();
  void write_files();
  void publish() const;
  void collect_entries();
  bool is_sharded() const { return run_.config.train.distributed.shard_optimizer; }
  bool has_files() const { return comm_.is_root() || is_sharded(); }
  void begin_work(bool needed, std::function<void()> work);

  SavedState run_;
  const Transformer& model_;
  const Optimizer& optimizer_;
  Comm& comm_;
  std::function<void()> before_publishing_;
  std::optional<std::filesystem::path> initial_tokenizer_;  // directory, with train.init_from only
  std::optional<Tokenizer> tokenizer_;  // absent for foreign data, where no initial model has one
  int64_t root_pid_ = 0, attempt_ = 0;

  // The copy: on the CPU, of the same layout as what it was taken from
  std::unique_ptr<Transformer> weights_;  // rank 0
  std::vector<Optimizer::Part> parts_;
  bool masters_are_weights_ = false;  // of the copy, as of an fp32 model
  std::filesystem::path aside_;

  ManifestEntry shard_entry_;  // of this rank's shard
  Manifest manifest_;          // rank 0

  Phase phase_ = Phase::kIdle;
  Report report_;
  Clock::time_point began_;
  std::future<std::string> work_;       // its problem, empty when there was none
  std::optional<std::string> problem_;  // of the work that has ended
};

}  // namespace basin
