// Llama on disk: separate q, k, v, gate and up projections, no biases (transformers
// LlamaForCausalLM). Llama 3 is a Llama with grouped queries and stretched rotary frequencies.
#include <fmt/core.h>

#include "model/families/families.h"

namespace basin {

namespace {

std::vector<DiskModule> llama_modules(const ModelConfig& config) {
  const int64_t q = config.heads() * config.head_size(),
                kv = config.kv_heads() * config.head_size(), F = config.intermediate_size;
  return {
      {"embedding", {{"model.embed_tokens"}}},
      {"attention_norm", {{"input_layernorm"}}},
      {"qkv", {{"self_attn.q_proj", q}, {"self_attn.k_proj", kv}, {"self_attn.v_proj", kv}}},
      {"attention_out", {{"self_attn.o_proj"}}},
      {"sink_logit", {{"self_attn.sink_logit"}}},
      {"mlp_norm", {{"post_attention_layernorm"}}},
      {"up", {{"mlp.gate_proj", F}, {"mlp.up_proj", F}}},
      {"down", {{"mlp.down_proj"}}},
      {"final_norm", {{"model.norm"}}},
      {"head", {{"lm_head"}}},
  };
}

}  // namespace

void read_llama_config(const ConfigJson& json, ModelConfig& config) {
  if (config.model_type != ModelType::kLlama && !json.has("num_key_value_heads"))
    json.refuse("num_key_value_heads", "missing");
  require_activation(json, "hidden_act", "silu");
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (json.boolean(key, false))
      json.refuse(
          key, fmt::format("biases in {} models are not supported", enum_name(config.model_type)));
  config.num_key_value_heads = json.integer("num_key_value_heads", config.num_attention_heads);
  config.head_dim = json.integer("head_dim", 0);
  config.norm_eps = json.number("rms_norm_eps", 1e-6);
  read_rope(json, "rope_theta", 1.0, config);
}

void write_llama_config(const ModelConfig& config, nlohmann::ordered_json& json) {
  json["num_key_value_heads"] = config.kv_heads();
  json["head_dim"] = config.head_size();
  json["hidden_act"] = "silu";
  json["rms_norm_eps"] = config.norm_eps;
  write_rope("rope_theta", config, json);
  if (config.partial_rotary_factor != 1.0)
    json["partial_rotary_factor"] = config.partial_rotary_factor;
  json["attention_dropout"] = 0.0;
}

void write_window(const ModelConfig& config, nlohmann::ordered_json& json) {
  json["sliding_window"] = nullptr;
  if (config.sliding_window > 0) json["sliding_window"] = config.sliding_window;
}

Family llama_like(ModelType type,
                  const char* architecture,
                  ReadConfig* read_config,
                  WriteConfig* write_config) {
  return {type, architecture, "model.layers.", {}, llama_modules, read_config, write_config};
}

namespace {

void write_config(const ModelConfig& config, nlohmann::ordered_json& json) {
  write_llama_config(config, json);
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
}

}  // namespace

const Family& llama_family() {
  static const Family family =
      llama_like(ModelType::kLlama, "LlamaForCausalLM", read_llama_config, write_config);
  return family;
}

}  // namespace basin
