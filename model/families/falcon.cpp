// Falcon on disk: one query_key_value in groups of queries with their key and value (transformers
// FalconForCausalLM). Three layouts, told apart by what the model is:
//   old decoder   one key head (multi_query) or one for each query head; one norm when parallel
//   new decoder   always parallel; any number of key heads; a norm for each of attention and MLP,
//                 or one
#include <fmt/core.h>

#include "model/families/families.h"

namespace basin {
namespace {

bool has_two_norms(const ModelConfig& config) {
  return config.parallel_residual() && config.has_mlp_norm();
}

bool is_new_decoder(const ModelConfig& config) {
  return has_two_norms(config) ||
         (config.kv_heads() != 1 && config.kv_heads() != config.num_attention_heads);
}

std::vector<DiskModule> modules(const ModelConfig& config) {
  const bool two = has_two_norms(config);
  return {
      {"embedding", {{"transformer.word_embeddings"}}},
      {"attention_norm", {{two ? "ln_attn" : "input_layernorm"}}},
      {"qkv", {{"self_attention.query_key_value"}}, config.kv_heads()},
      {"attention_out", {{"self_attention.dense"}}},
      {"sink_logit", {{"self_attention.sink_logit"}}},
      {"mlp_norm", {{two ? "ln_mlp" : "post_attention_layernorm"}}},
      {"up", {{"mlp.dense_h_to_4h"}}},
      {"down", {{"mlp.dense_4h_to_h"}}},
      {"final_norm", {{"transformer.ln_f"}}},
      {"head", {{"lm_head"}}},
  };
}

void read_config(const ConfigJson& json, ModelConfig& config) {
  require_activation(json, "activation", "gelu");
  if (json.boolean("apply_residual_connection_post_layernorm", false))
    json.refuse("apply_residual_connection_post_layernorm", "true is not supported");
  const bool new_decoder = json.boolean("new_decoder_architecture", false);
  const int64_t heads = config.num_attention_heads,
                norms = json.integer("num_ln_in_parallel_attn", new_decoder ? 2 : 1);
  config.use_parallel_residual = json.boolean("parallel_attn", true);
  if (new_decoder && !config.use_parallel_residual)
    json.refuse("parallel_attn", "the new decoder is parallel: false is not supported");
  if (norms != 1 && norms != 2)
    json.refuse("num_ln_in_parallel_attn", fmt::format("{} is neither 1 nor 2", norms));
  if (norms == 2 && !new_decoder)
    json.refuse("num_ln_in_parallel_attn", "2 norms need new_decoder_architecture: true");
  config.num_ln_in_parallel_attn = norms;
  // num_kv_heads counts in the new decoder only: transformers writes H there for any other.
  const int64_t old_kv_heads = json.boolean("multi_query", true) ? 1 : heads;
  config.num_key_value_heads = new_decoder ? json.integer("num_kv_heads", heads) : old_kv_heads;
  config.bias = json.boolean("bias", false);
  config.alibi = json.boolean("alibi", false);
  config.intermediate_size = json.integer("ffn_hidden_size", 4 * config.hidden_size);
  config.norm_eps = json.number("layer_norm_epsilon", 1e-5);
  if (!config.alibi) read_rope(json, "rope_theta", 1.0, config);
}

void write_config(const ModelConfig& config, nlohmann::ordered_json& json) {
  const bool new_decoder = is_new_decoder(config);
  json["num_kv_heads"] = config.kv_heads();
  json["ffn_hidden_size"] = config.intermediate_size;
  json["new_decoder_architecture"] = new_decoder;
  json["multi_query"] = !new_decoder && config.kv_heads() == 1;
  json["parallel_attn"] = config.parallel_residual();
  if (new_decoder) json["num_ln_in_parallel_attn"] = config.num_ln_in_parallel_attn;
  json["bias"] = config.bias;
  json["alibi"] = config.alibi;
  json["activation"] = "gelu";
  json["layer_norm_epsilon"] = config.norm_eps;
  if (!config.alibi) write_rope("rope_theta", config, json);
  json["attention_dropout"] = 0.0;
  json["hidden_dropout"] = 0.0;
}

}  // namespace

const Family& falcon_family() {
  static const Family family = {ModelType::kFalcon,
                                "FalconForCausalLM",
                                "transformer.h.",
                                {.hidden_size = {"hidden_size", "n_embed"},
                                 .num_hidden_layers = {"num_hidden_layers", "n_layer"},
                                 .num_attention_heads = {"num_attention_heads", "n_head"},
                                 .intermediate_size = {},
                                 .tied = true},
                                modules,
                                read_config,
                                write_config};
  return family;
}

}  // namespace basin
