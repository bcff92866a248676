// Tiny models of every family and sink kind, with every parameter random.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "model/transformer.h"

namespace basin {

inline ModelConfig tiny(ModelType type, SinkKind kind, int64_t count = 1) {
  ModelConfig c;
  c.model_type = type;
  c.vocab_size = 24;
  c.hidden_size = 16;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = type == ModelType::kLlama || type == ModelType::kQwen2 ? 2 : 0;
  c.intermediate_size = type == ModelType::kMpt ? 64 : 24;
  c.partial_rotary_factor = type == ModelType::kGptNeox ? 0.5 : 1;
  c.sink.kind = kind;
  c.sink.count = count;
  return c;
}

// Norms and biases too, large enough that nothing hides.
inline Transformer random_model(const ModelConfig& config,
                                at::ScalarType dtype,
                                double scale = 0.4) {
  Transformer model(config, dtype, at::kCPU);
  at::manual_seed(3);
  for (const Parameter& p : model.parameters()) {
    at::Tensor t = p.tensor;
    t.copy_(at::randn(t.sizes(), at::kDouble) * scale +
            (p.name.find("norm.weight") != std::string::npos ? 1.0 : 0.0));
    t.set_requires_grad(true);
  }
  return model;
}

inline at::Tensor samples(int64_t B, int64_t T, int64_t V) {
  at::manual_seed(4);
  return at::randint(6, V, {B, T + 1}, at::kLong);
}

inline std::vector<ModelConfig> all_kinds() {
  std::vector<ModelConfig> all;
  for (const ModelType type : {ModelType::kLlama, ModelType::kGptNeox}) {
    for (const SinkKind kind : {SinkKind::kNone, SinkKind::kZero, SinkKind::kLogit})
      all.push_back(tiny(type, kind));
    for (const int64_t count : {1, 2, 4}) all.push_back(tiny(type, SinkKind::kToken, count));
  }
  all.push_back(tiny(ModelType::kGptNeox, SinkKind::kToken));
  all.back().use_parallel_residual = false;
  all.back().attention_bias = false;
  all.push_back(tiny(ModelType::kLlama, SinkKind::kToken));
  all.back().tie_word_embeddings = true;
  for (const ModelType type : {ModelType::kQwen2, ModelType::kMpt, ModelType::kFalcon})
    all.push_back(tiny(type, SinkKind::kToken));
  all.back().num_key_value_heads = 1;  // falcon-7b
  all.push_back(tiny(ModelType::kFalcon, SinkKind::kLogit));
  all.back().num_key_value_heads = all.back().num_ln_in_parallel_attn = 2;
  all.push_back(tiny(ModelType::kFalcon, SinkKind::kZero));
  all.back().alibi = all.back().bias = true;
  all.back().use_parallel_residual = false;
  return all;
}

inline std::string describe(const ModelConfig& c) {
  return std::string(enum_name(c.model_type)) + " sink " + std::string(enum_name(c.sink.kind)) +
         " x" + std::to_string(c.sink.count);
}

}  // namespace basin
