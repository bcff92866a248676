// What changes during a run and is no tensor: trainer/state.json of a checkpoint.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "configs/files.h"
#include "train/comm.h"
#include "train/config.h"

namespace basin {

/// Everything that changes during a run and is no tensor.
struct TrainState {
  int64_t step = 0;     // steps done, skipped ones included: the place in the schedule
  int64_t batch = 0;    // next global batch of the data order
  int64_t skipped = 0;  // non-finite steps so far
  int64_t skipped_in_row = 0;
  double seconds = 0;              // wall clock so far, all sessions
  std::optional<double> val_loss;  // as measured at this step
  int64_t rollbacks = 0;
  std::vector<int64_t> left_out;  // batches, by rollbacks
  std::vector<double> losses;     // of the newest steps, where a rollback may ask for them

  /// The batch after the present one.
  void next_batch();
};

/// What bit-exact continuation depends on besides the configuration.
struct Machine {
  std::string build;  // XXH3 of the program
  std::string torch, instruction_set, device;
  int64_t ranks = 1, threads = 1;
  std::string method;  // Comm::method(); empty in old checkpoints

  /// "threads: 2 before, 4 now" for each difference.
  std::vector<std::string> changes_since(const Machine& before) const;
};
Machine this_machine(at::Device device, const Comm& comm);

/// What trainer/state.json says.
struct SavedState {
  TrainState state;
  int64_t optimizer_count = 0;
  Machine machine;
  RunConfig config;
  std::vector<std::string>
      data;  // contents of each dataset of data.train; empty in old checkpoints
  std::string heldout = {};  // the same of data.heldout
};

inline constexpr const char* kStateName = "trainer/state.json";  // relative to a step directory

FileSum write_state(const std::filesystem::path& step_directory, const SavedState& saved);
/// Throws std::runtime_error naming file and key for what is missing or of another kind.
SavedState read_state(const std::filesystem::path& step_directory);

}  // namespace basin
