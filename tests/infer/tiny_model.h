// Small random models for the tests of this room.
#pragma once

#include <ATen/ATen.h>

#include <string>

#include "model/transformer.h"
#include "tests/model/family_variants.h"

namespace basin {

inline ModelConfig tiny_config(ModelType type, SinkKind kind, int64_t sink_count = 1) {
  ModelConfig c;
  c.model_type = type;
  c.vocab_size = 61;
  c.hidden_size = 32;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = type == ModelType::kLlama ? 2 : 0;
  c.intermediate_size = 48;
  c.partial_rotary_factor = type == ModelType::kLlama ? 1 : 0.5;
  c.sink.kind = kind;
  c.sink.count = sink_count;
  return c;
}

/// Every parameter random: norms around 1, matrices normal with deviation `gain` / sqrt(columns),
/// and everything else with deviation 0.3. The same numbers for every dtype, rounded.
inline Transformer random_model(const ModelConfig& config,
                                at::ScalarType dtype,
                                double gain = 1,
                                uint64_t seed = 3) {
  Transformer model(config, dtype, at::kCPU);
  at::manual_seed(seed);
  for (const Parameter& p : model.parameters()) {
    const bool is_norm = p.name.find("norm.weight") != std::string::npos,
               is_embedding = p.name == "embedding.weight";
    const double deviation = p.tensor.dim() < 2 ? 0.3
                             : is_embedding
                                 ? 1
                                 : gain / std::sqrt(static_cast<double>(p.tensor.size(1)));
    at::Tensor t = p.tensor;
    t.copy_(at::randn(t.sizes(), at::kFloat) * deviation + (is_norm ? 1.0 : 0.0));
  }
  return model;
}

/// int64 (n), no reserved ids.
inline at::Tensor random_tokens(const ModelConfig& config, int64_t n, uint64_t seed = 5) {
  at::manual_seed(seed);
  return at::randint(6, config.vocab_size, {n}, at::kLong);
}

}  // namespace basin
