#include "model/alibi.h"

#include <ATen/ATen.h>

#include <bit>
#include <cmath>

namespace basin {

std::vector<double> alibi_slopes(int64_t heads) {
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  const auto slope = [](int64_t i, int64_t of) {
    return std::exp2(-8.0 * static_cast<double>(i + 1) / static_cast<double>(of));
  };
  std::vector<double> slopes;
  for (int64_t i = 0; i < power; ++i) slopes.push_back(slope(i, power));
  for (int64_t i = 0; power + i < heads; ++i) slopes.push_back(slope(2 * i, 2 * power));
  return slopes;
}

at::Tensor alibi_table(const ModelConfig& config, int64_t positions) {
  const at::Tensor slopes = at::tensor(alibi_slopes(config.heads()), at::kDouble).unsqueeze(1),
                   position = at::arange(positions, at::kDouble).unsqueeze(0);
  if (is_linear_alibi(config)) return slopes * position;
  return (slopes.to(at::kFloat).to(at::kBFloat16) * position.to(at::kBFloat16)).to(at::kDouble) /
         std::sqrt(static_cast<double>(config.head_size()));
}

bool is_linear_alibi(const ModelConfig& config) {
  return config.uses_alibi() && config.model_type != ModelType::kFalcon;
}

ops::Alibi make_alibi(const ModelConfig& config, int64_t positions, at::Device device) {
  ops::Alibi alibi{alibi_table(config, positions).to(device), {}};
  if (is_linear_alibi(config)) alibi.slopes = at::tensor(alibi_slopes(config.heads()), at::kFloat);
  return alibi;
}

}  // namespace basin
