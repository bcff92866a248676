// GPT-NeoX on disk: one query_key_value whose rows go head by head, q k v within each, and biases
// (transformers GPTNeoXForCausalLM).
#include "model/families/families.h"

namespace basin {
namespace {

std::vector<DiskModule> modules(const ModelConfig& config) {
  return {
      {"embedding", {{"gpt_neox.embed_in"}}},
      {"attention_norm", {{"input_layernorm"}}},
      {"qkv", {{"attention.query_key_value"}}, config.heads()},
      {"attention_out", {{"attention.dense"}}},
      {"sink_logit", {{"attention.sink_logit"}}},
      {"mlp_norm", {{"post_attention_layernorm"}}},
      {"up", {{"mlp.dense_h_to_4h"}}},
      {"down", {{"mlp.dense_4h_to_h"}}},
      {"final_norm", {{"gpt_neox.final_layer_norm"}}},
      {"head", {{"embed_out", 0, "lm_head"}}},
  };
}

void read_config(const ConfigJson& json, ModelConfig& config) {
  require_activation(json, "hidden_act", "gelu");
  config.attention_bias = json.boolean("attention_bias", true);
  config.use_parallel_residual = json.boolean("use_parallel_residual", true);
  config.norm_eps = json.number("layer_norm_eps", 1e-5);
  read_rope(json, json.has("rotary_emb_base") ? "rotary_emb_base" : "rope_theta", 0.25, config);
}

void write_config(const ModelConfig& config, nlohmann::ordered_json& json) {
  json["hidden_act"] = "gelu";
  json["layer_norm_eps"] = config.norm_eps;
  write_rope("rotary_emb_base", config, json);
  json["attention_bias"] = config.attention_bias;
  json["use_parallel_residual"] = config.use_parallel_residual;
  json["attention_dropout"] = 0.0;
  json["hidden_dropout"] = 0.0;
}

}  // namespace

const Family& gpt_neox_family() {
  static const Family family = {ModelType::kGptNeox,
                                "GPTNeoXForCausalLM",
                                "gpt_neox.layers.",
                                {},
                                modules,
                                read_config,
                                write_config};
  return family;
}

}  // namespace basin
