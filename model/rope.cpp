#include "model/rope.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace basin {

namespace {

// As Llama 3.1 does (transformers, _compute_llama3_parameters): short waves stay, long ones are stretched by `factor`, those between in part.
double stretched(double frequency, const RopeScaling& scaling) {
  if (scaling.rope_type == RopeType::kDefault) return frequency;
  if (scaling.rope_type == RopeType::kLinear) return frequency / scaling.factor;
  const double waves = static_cast<double>(scaling.original_max_position_embeddings) * frequency / (2 * std::numbers::pi);   // in the original length
  const double kept = std::clamp((waves - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0.0, 1.0);
  return kept * frequency + (1 - kept) * frequency / scaling.factor;
}

}  // namespace

std::vector<double> rotary_frequencies(const ModelConfig& config) {
  const int64_t half = config.rotary_size() / 2;
  std::vector<double> frequencies(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i)
    frequencies[static_cast<size_t>(i)] = stretched(std::pow(config.rope_theta, -static_cast<double>(i) / static_cast<double>(half)), config.rope_scaling);
  return frequencies;
}

void rotary_angles(const std::vector<double>& frequencies, int64_t position, float* cos, float* sin) {
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double angle = std::fmod(static_cast<double>(position) * frequencies[i], 2 * std::numbers::pi);
    cos[i] = static_cast<float>(std::cos(angle));
    sin[i] = static_cast<float>(std::sin(angle));
  }
}

ops::Rotary rotary_table(const ModelConfig& config, const at::Tensor& positions) {
  const int64_t half = config.rotary_size() / 2;
  if (half == 0) return {};
  const std::vector<double> frequencies = rotary_frequencies(config);
  if (positions.is_cuda()) {   // there, without waiting for it
    const at::Tensor angle_NR = at::outer(positions.to(at::kDouble), at::tensor(frequencies, at::kDouble).to(positions.device())).fmod(2 * std::numbers::pi);
    return {angle_NR.cos().to(at::kFloat), angle_NR.sin().to(at::kFloat)};
  }
  const at::Tensor at_N = positions.to(at::kCPU, at::kLong).contiguous();
  const int64_t N = at_N.numel();
  at::Tensor cos_NR = at::empty({N, half}, at::kFloat), sin_NR = at::empty({N, half}, at::kFloat);
  for (int64_t n = 0; n < N; ++n)
    rotary_angles(frequencies, at_N.const_data_ptr<int64_t>()[n], cos_NR.mutable_data_ptr<float>() + n * half, sin_NR.mutable_data_ptr<float>() + n * half);
  return {cos_NR.to(positions.device()), sin_NR.to(positions.device())};
}

at::Tensor apply_rotary(const at::Tensor& x_NHK, const ops::Rotary& rotary) {
  if (!rotary.cos.defined()) return x_NHK;
  const int64_t half = rotary.cos.size(-1), K = x_NHK.size(-1);
  const at::ScalarType math = x_NHK.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor cos = rotary.cos.to(math).unsqueeze(-2), sin = rotary.sin.to(math).unsqueeze(-2);
  const at::Tensor x = x_NHK.to(math);
  const at::Tensor x1 = x.narrow(-1, 0, half), x2 = x.narrow(-1, half, half);
  return at::cat({x1 * cos - x2 * sin, x2 * cos + x1 * sin, x.narrow(-1, 2 * half, K - 2 * half)}, -1)
      .to(x_NHK.scalar_type());
}

}  // namespace basin
