// The weights of a model directory on their way to the disk: one model.safetensors, or shards with
// the index by which other software finds each tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "model/manifest.h"
#include "model/safetensors.h"

namespace basin {

struct WeightsOutput {
  uint64_t max_shard_bytes = 0;                        // of the tensors in one file; 0: all in one
  std::function<void(uint64_t bytes)> on_tensor = {};  // called before each tensor with its size
};

/// Writes `sources` in their order, each file as full as the limit allows; a tensor beyond it has a
/// file of its own. One file is model.safetensors; several are model-0000I-of-0000K.safetensors
/// with model.safetensors.index.json. Returns what a manifest says of them.
Manifest write_weights(const std::filesystem::path& directory,
                       std::vector<SafetensorsSource> sources,
                       const WeightsOutput& output);

}  // namespace basin
