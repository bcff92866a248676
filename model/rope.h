// Rotary position embedding, rotate_half convention (pairs i and i + rotary/2), inv_freq_i = theta^(-2i/rotary).
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "model/config.h"
#include "model/ops.h"

namespace basin {

/// cos and sin, fp32 (positions.size, rotary/2), of int64 positions (N). Angles are computed in double and reduced before the sine, so that
/// positions beyond 2^22 stay exact. Undefined tensors when nothing rotates.
ops::Rotary rotary_table(const ModelConfig& config, const at::Tensor& positions);

/// theta^(-2i/rotary) of the rotary/2 pairs of a head, stretched as config.rope_scaling says; empty when nothing rotates.
std::vector<double> rotary_frequencies(const ModelConfig& config);
/// One position of the table: cos and sin (frequencies.size) of position * frequency.
void rotary_angles(const std::vector<double>& frequencies, int64_t position, float* cos, float* sin);

/// x (..., N, heads, K) with table rows matching N -> the same with the first rotary dimensions of each head rotated. Differentiable.
at::Tensor apply_rotary(const at::Tensor& x_NHK, const ops::Rotary& rotary);

}  // namespace basin
