// config.json -> ModelConfig, for every family and both dialects of keys. No LibTorch here.
#pragma once

#include "model/config.h"
#include "model/families/config_json.h"

namespace basin {

/// Throws std::runtime_error naming file and key for what is not supported.
ModelConfig config_from_json(const ConfigJson& json);

/// For how many positions the model was made (max_position_embeddings or its family's name for it);
/// 0 when the file does not say.
int64_t max_positions_from_json(const ConfigJson& json);

}  // namespace basin
