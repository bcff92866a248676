// The one list of a model's tensors: the network allocates it, the cost function counts it, the
// checkpoint translates it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"

namespace basin {

/// One tensor under its internal name, e.g. {"layers.3.qkv.weight", {384, 128}, true}.
struct ParameterShape {
  std::string name;
  std::vector<int64_t> shape;
  bool decay = true;  // takes weight decay: two or more dimensions

  int64_t elements() const;
};

/// All tensors of the model, from the embedding to the head (absent when tied). `config` must have
/// no problems().
std::vector<ParameterShape> parameter_shapes(const ModelConfig& config);

/// Elements that a tensor takes in the model's flat buffer: each begins at a cache line.
int64_t aligned_elements(int64_t n);
/// Of the flat buffer, all tensors together.
int64_t flat_elements(const ModelConfig& config);

}  // namespace basin
