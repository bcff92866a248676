// A training run for a benchmark: in a temporary directory, on random tokens.
#pragma once

#include <filesystem>

#include "configs/scratch_folder.h"
#include "train/config.h"

namespace basin {

class BenchRun {
 public:
  /// Writes tokens for `batches` global batches and points `config` at them and at a run directory
  /// that goes with this object; the run is at least that long.
  BenchRun(RunConfig& config, int64_t batches);

  const std::filesystem::path& directory() const { return folder_.path(); }

 private:
  ScratchFolder folder_;
};

}  // namespace basin
