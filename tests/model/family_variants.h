// One small configuration of every layout that is imported, beside plain llama and gpt_neox.
#pragma once

#include <string>
#include <vector>

#include "model/config.h"

namespace basin {

struct FamilyVariant {
  std::string name;
  ModelConfig config;
};

/// Six heads of 8 (no power of two), two layers, no sink.
inline ModelConfig variant_base(ModelType type, int64_t kv_heads) {
  ModelConfig c;
  c.model_type = type;
  c.vocab_size = 61;
  c.hidden_size = 48;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 6;
  c.num_key_value_heads = kv_heads;
  c.intermediate_size = type == ModelType::kMpt ? 4 * 48 : 80;
  c.sink.kind = SinkKind::kNone;
  return c;
}

inline ModelConfig falcon_variant(int64_t kv_heads, bool parallel, int64_t norms, bool old) {
  ModelConfig c = variant_base(ModelType::kFalcon, kv_heads);
  c.use_parallel_residual = parallel;
  c.num_ln_in_parallel_attn = norms;
  c.alibi = c.bias = old;
  return c;
}

inline std::vector<FamilyVariant> family_variants() {
  // Waves of the four frequencies: 6, 63, 628, 6283 positions. Llama 3 leaves those below 128 / 4,
  // mixes those up to 128.
  ModelConfig llama3 = variant_base(ModelType::kLlama, 2), linear = llama3;
  llama3.rope_scaling = {.rope_type = RopeType::kLlama3,
                         .factor = 8,
                         .low_freq_factor = 1,
                         .high_freq_factor = 4,
                         .original_max_position_embeddings = 128};
  linear.rope_scaling = {.rope_type = RopeType::kLinear, .factor = 4};
  return {
      {"llama3", llama3},
      {"linear", linear},
      {"mistral", variant_base(ModelType::kMistral, 2)},
      {"qwen2", variant_base(ModelType::kQwen2, 3)},
      {"mpt", variant_base(ModelType::kMpt, 0)},
      {"falcon_7b", falcon_variant(1, true, 1, false)},
      {"falcon_new", falcon_variant(2, true, 2, false)},
      {"falcon_new_one_norm", falcon_variant(3, true, 1, false)},
      {"falcon_heads_each", falcon_variant(0, true, 1, false)},
      {"falcon_alibi", falcon_variant(0, false, 1, true)},
      {"falcon_alibi_grouped", falcon_variant(2, true, 2, true)},
  };
}

}  // namespace basin
