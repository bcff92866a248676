// MPT on disk: ALiBi, no bias anywhere, Wqkv with all q, all k, all v (transformers
// MptForCausalLM). That class ignores many of its keys: a file that sets one of those, or one that
// this program does not know, to anything else is refused.
#include <fmt/core.h>

#include "model/families/families.h"

namespace basin {
namespace {

std::vector<DiskModule> modules(const ModelConfig&) {
  return {
      {"embedding", {{"transformer.wte"}}},
      {"attention_norm", {{"norm_1"}}},
      {"qkv", {{"attn.Wqkv"}}},
      {"attention_out", {{"attn.out_proj"}}},
      {"sink_logit", {{"attn.sink_logit"}}},
      {"mlp_norm", {{"norm_2"}}},
      {"up", {{"ffn.up_proj"}}},
      {"down", {{"ffn.down_proj"}}},
      {"final_norm", {{"transformer.norm_f"}}},
      {"head", {{"lm_head"}}},
  };
}

void check_attention(const ConfigJson& attention, const ModelConfig& config) {
  if (!attention.boolean("alibi", true))
    attention.refuse("alibi",
                     "only MPT with ALiBi is supported; learned absolute positions cannot stream");
  if (attention.integer("alibi_bias_max", 8) != 8)
    attention.refuse("alibi_bias_max", "only 8 is supported, the value that transformers computes");
  for (const char* key : {"qk_ln", "qk_gn", "prefix_lm", "attn_uses_sequence_id", "rope"})
    if (attention.boolean(key, false)) attention.refuse(key, "true is not supported");
  for (const char* key : {"clip_qkv", "softmax_scale"})
    if (attention.has(key)) attention.refuse(key, "only null is supported");
  if (const std::string type = attention.text("attn_type", "multihead_attention");
      type != "multihead_attention")
    attention.refuse("attn_type",
                     fmt::format("\"{}\" is not supported, only \"multihead_attention\"", type));
  if (attention.integer("kv_n_heads", config.num_attention_heads) != config.num_attention_heads)
    attention.refuse("kv_n_heads", "grouped queries in MPT are not supported");
  // 0 means off in some files and by default in transformers; -1 too.
  if (attention.has("sliding_window_size") && attention.integer("sliding_window_size") > 0)
    attention.refuse("sliding_window_size", "not supported");
}

void read_config(const ConfigJson& json, ModelConfig& config) {
  check_attention(json.object("attn_config"), config);
  if (json.number("expansion_ratio", 4) != 4)
    json.refuse("expansion_ratio", "only 4 is supported, the value that transformers computes");
  if (!json.boolean("no_bias", true))
    json.refuse("no_bias", "biases in MPT are not supported, nor by transformers");
  if (json.has("logit_scale")) json.refuse("logit_scale", "only null is supported");
  if (const std::string norm = json.text("norm_type", "low_precision_layernorm");
      norm != "low_precision_layernorm" && norm != "layernorm")
    json.refuse("norm_type",
                fmt::format("\"{}\" is not supported, only \"low_precision_layernorm\" and "
                            "\"layernorm\"",
                            norm));
  if (const std::string ffn = json.object("ffn_config").text("ffn_type", "mptmlp"); ffn != "mptmlp")
    json.refuse("ffn_config",
                fmt::format("ffn_type \"{}\" is not supported, only \"mptmlp\"", ffn));
  // learned_pos_emb may be true: beside ALiBi it means nothing, and is transformers' default.
  config.intermediate_size = 4 * config.hidden_size;
  config.norm_eps = json.number("layer_norm_epsilon", 1e-5);
}

// attn_pdrop must be an integer, or transformers 5 does not read the file.
void write_config(const ModelConfig& config, nlohmann::ordered_json& json) {
  json["expansion_ratio"] = 4;
  json["learned_pos_emb"] = false;
  json["no_bias"] = true;
  json["norm_type"] = "low_precision_layernorm";
  json["layer_norm_epsilon"] = config.norm_eps;
  json["emb_pdrop"] = 0.0;
  json["resid_pdrop"] = 0.0;
  json["embedding_fraction"] = 1.0;
  json["logit_scale"] = nullptr;
  json["init_device"] = "cpu";
  json["attn_config"] = {{"attn_type", "multihead_attention"},
                         {"attn_impl", "torch"},
                         {"attn_pdrop", 0},
                         {"alibi", true},
                         {"alibi_bias_max", 8},
                         {"clip_qkv", nullptr},
                         {"softmax_scale", nullptr},
                         {"qk_ln", false},
                         {"prefix_lm", false},
                         {"attn_uses_sequence_id", false}};
}

}  // namespace

const Family& mpt_family() {
  static const Family family = {ModelType::kMpt,
                                "MPTForCausalLM",
                                "transformer.blocks.",
                                {.hidden_size = {"d_model"},
                                 .num_hidden_layers = {"n_layers"},
                                 .num_attention_heads = {"n_heads"},
                                 .intermediate_size = {},
                                 .max_position_embeddings = "max_seq_len",
                                 .tied = true},
                                modules,
                                read_config,
                                write_config};
  return family;
}

}  // namespace basin
