// ALiBi (arXiv 2108.12409): positions as biases of the attention scores, which fall with the
// distance between query and key at a slope of each head's own.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/config.h"
#include "model/ops.h"

namespace basin {

/// (heads): 2^(-8 (i + 1) / P) for P = heads a power of two; else those of the next smaller power,
/// then every other one of twice that power (transformers, build_mpt_alibi_tensor and falcon's
/// build_alibi_tensor, which agree).
std::vector<double> alibi_slopes(int64_t heads);

/// fp64 (H, positions) on the CPU: what a key at each position adds to its score, up to a constant
/// of each query. mpt: slope * position. falcon computes that product in bf16, slope and position
/// rounded as well, and divides it by sqrt(K): its trained models expect those steps.
at::Tensor alibi_table(const ModelConfig& config, int64_t positions);

/// Whether the table is slope * position to the last bit, as fused kernels compute it.
bool is_linear_alibi(const ModelConfig& config);

/// The table on `device`, and the slopes where they say all of it.
ops::Alibi make_alibi(const ModelConfig& config, int64_t positions, at::Device device);

}  // namespace basin
