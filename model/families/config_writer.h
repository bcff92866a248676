// ModelConfig -> config.json and generation_config.json, as the family's other readers expect them.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "model/config.h"

namespace basin {

/// What save_model knows beyond the model itself.
struct ConfigExtras {
  int64_t sequence_length = 0;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> eos_token_ids;  // any of them ends a text
};

/// Whether software that knows the family computes what we compute. Others must refuse the file:
/// its model_type says basin_FAMILY.
bool loads_elsewhere(const ModelConfig& config);

nlohmann::ordered_json config_to_json(const ModelConfig& config, const ConfigExtras& extras);
nlohmann::ordered_json generation_config_to_json(const ModelConfig& config,
                                                 const ConfigExtras& extras);

}  // namespace basin
