// The trainer's part of a checkpoint and the life of checkpoints in a run directory (design: "Run
// directory"). A step directory is written aside, its manifest last, then renamed: a directory
// named step-NNNNNNNN whose manifest holds is whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "model/transformer.h"
#include "train/config.h"
#include "train/optimizer.h"

namespace basin {

/// Everything that changes during a run and is no tensor.
struct TrainState {
  int64_t step = 0;     // steps done, skipped ones included: the place in the schedule
  int64_t batch = 0;    // next global batch of the data order
  int64_t skipped = 0;  // non-finite steps so far
  int64_t skipped_in_row = 0;
  double seconds = 0;              // wall clock so far, all sessions
  std::optional<double> val_loss;  // as measured at this step
};

/// What bit-exact continuation depends on besides the configuration.
struct Machine {
  std::string build;  // XXH3 of the program
  std::string torch, instruction_set, device;
  int64_t ranks = 1, threads = 1;

  /// "threads: 2 before, 4 now" for each difference.
  std::vector<std::string> changes_since(const Machine& before) const;
};
Machine this_machine(at::Device device, int64_t ranks);

/// What trainer/state.json says.
struct SavedState {
  TrainState state;
  int64_t optimizer_count = 0;
  Machine machine;
  RunConfig config;
  std::vector<std::string>
      data;  // contents of each dataset of data.train; empty in old checkpoints
};

/// Writes checkpoints of one run. Reads the tokenizer of the data at once, so that a missing file
/// is found before the training.
class CheckpointWriter {
 public:
  /// `data`: contents of each dataset of data.train.
  CheckpointWriter(const RunConfig& config, Machine machine, std::vector<std::string> data);

  /// Writes step-NNNNNNNN of `state.step` and drops checkpoints that the keep policy does not hold.
  /// Returns its path.
  std::filesystem::path save(const TrainState& state,
                             const Transformer& model,
                             const Optimizer& optimizer) const;
  /// Points `final` at the checkpoint of `step`.
  void set_final(int64_t step) const;

 private:
  void write_files(const TrainState& state,
                   const Transformer& model,
                   const Optimizer& optimizer,
                   const std::filesystem::path& directory) const;
  void prune(int64_t newest) const;

  RunConfig config_;
  Machine machine_;
  std::vector<std::string> data_;
  std::filesystem::path run_directory_;
  std::optional<Tokenizer> tokenizer_;  // absent for foreign data
};

/// Holds a run directory for one training process; made if it is not there. Throws
/// std::runtime_error when another process holds it.
class RunLock {
 public:
  explicit RunLock(const std::filesystem::path& run_directory);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int fd_ = -1;
};

std::filesystem::path step_directory(const std::filesystem::path& run_directory, int64_t step);
/// Steps of which a directory is there, whole or not, newest first.
std::vector<int64_t> list_steps(const std::filesystem::path& run_directory);
/// The newest step whose manifest holds; logs why newer ones were passed over. Nothing when there
/// is none.
std::optional<int64_t> find_newest_intact(const std::filesystem::path& run_directory);

/// Throws std::runtime_error naming file and key for what is missing or of another shape.
SavedState read_state(const std::filesystem::path& step_directory);
void load_weights(const std::filesystem::path& step_directory,
                  const Transformer& model,
                  Optimizer& optimizer);

/// Removes what a killed process left half-written.
void remove_leftovers(const std::filesystem::path& run_directory);

}  // namespace basin
