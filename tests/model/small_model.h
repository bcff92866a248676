// Small models to write and read: every number differs from every other.
#pragma once

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <memory>

#include "model/transformer.h"

namespace basin {

inline ModelConfig tiny(ModelType type) {
  ModelConfig config;
  config.model_type = type;
  config.vocab_size = 50;
  config.hidden_size = 24;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 6;
  config.intermediate_size = 40;
  config.sink.kind = SinkKind::kNone;
  if (type == ModelType::kLlama)
    config.num_key_value_heads = 2;
  else
    config.partial_rotary_factor = 0.5;
  return config;
}

/// Norms, biases and sink logits included.
inline std::unique_ptr<Transformer> random_model(const ModelConfig& config,
                                                 at::ScalarType dtype = at::kFloat) {
  auto model = std::make_unique<Transformer>(config, dtype, at::kCPU);
  at::manual_seed(3);
  const at::NoGradGuard no_grad;
  model->flat().normal_();
  return model;
}

}  // namespace basin
