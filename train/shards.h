// The optimizer's tensors of a checkpoint: trainer/shard-KKKKK-of-NNNNN.safetensors, one file for
// each rank that updates a part of the weights. A parameter that lies in a shard as a whole is
// stored under its name in its shape ("master.embedding.weight", "m....", "v...."); a piece of one
// as its elements in a row, under its name and the number of its first element
// ("master.embedding.weight@4096"). Any number of ranks can read what any other number has written.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/manifest.h"
#include "model/transformer.h"
#include "train/optimizer.h"

namespace basin {

/// Relative to the step directory.
std::string shard_name(int64_t shard, int64_t shards);

/// `parts` lie on the CPU; their place in the model says which parameters they hold. Returns what a
/// manifest says of the file.
ManifestEntry write_shard(const std::filesystem::path& path,
                          const std::vector<Parameter>& parameters,
                          const std::vector<Optimizer::Part>& parts);

/// Fills `parts` from all shards of a step directory. Throws std::runtime_error naming file and
/// tensor for what is missing or of another shape.
void read_shards(const std::filesystem::path& step_directory,
                 const std::vector<Parameter>& parameters,
                 const std::vector<Optimizer::Part>& parts);

}  // namespace basin
